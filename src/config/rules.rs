//! `[rules]`: where rule files stand, their texts, and whether they have changed since they were read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::reader::Section;
use crate::account::Prices;
use crate::rule::Source;

/// The rule files of a process, read. Without a directory the compiled-in rules are meant.
#[derive(Clone, Default)]
pub struct RuleFiles {
    /// Where the rules stand that replace the compiled-in ones.
    pub dir: Option<PathBuf>,
    /// Their texts, in the order of their names.
    pub files: Vec<Arc<Source>>,
    /// Files that tune rules by id: paths and texts.
    pub(super) override_paths: Vec<PathBuf>,
    /// Their texts.
    pub overrides: Vec<Arc<Source>>,
    /// Where the price table stands, if it was named.
    named_prices: Option<PathBuf>,
    /// The price table that replaces the shipped one: the one named, else `prices.json` in `dir`.
    pub prices: Option<Prices>,
    /// The state of all of them just before they were read.
    pub stamp: Stamp,
}

/// What a change of the files is recognised by: path, time of change and length of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, Option<SystemTime>, u64)>);

/// A file or folder that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {error}", path.display())]
pub struct Unreadable {
    path: PathBuf,
    error: std::io::Error,
}

impl RuleFiles {
    /// Whether there is anything on disk that could change.
    pub fn on_disk(&self) -> bool {
        self.dir.is_some() || !self.override_paths.is_empty() || self.named_prices.is_some()
    }

    /// The state of the files now, without reading them.
    ///
    /// # Errors
    /// A folder or file that cannot be looked at.
    pub fn stamp_now(&self) -> Result<Stamp, Unreadable> {
        let mut stamp = stamp(self.dir.as_deref(), &self.override_paths)?;
        if let Some(path) = self.price_path() {
            stamp.0.push(stamp_of(path)?);
        }
        Ok(stamp)
    }

    fn price_path(&self) -> Option<PathBuf> {
        let beside = || self.dir.as_deref().map(|d| d.join("prices.json"));
        let beside = || beside().filter(|p| p.exists());
        self.named_prices.clone().or_else(beside)
    }

    fn take_prices(&mut self) -> Result<(), Unreadable> {
        let Some(path) = self.price_path() else {
            return Ok(());
        };
        self.stamp.0.push(stamp_of(path.clone())?);
        let unreadable = |error| Unreadable {
            path: path.clone(),
            error,
        };
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        let prices = Prices::from_json(&text)
            .map_err(|e| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, e)))?;
        self.prices = Some(prices);
        Ok(())
    }

    /// The same places, read again.
    ///
    /// # Errors
    /// A folder or file that cannot be read.
    pub fn again(&self) -> Result<Self, Unreadable> {
        let mut again = Self::load(self.dir.clone(), self.override_paths.clone())?;
        again.named_prices.clone_from(&self.named_prices);
        again.take_prices()?;
        Ok(again)
    }

    fn load(dir: Option<PathBuf>, override_paths: Vec<PathBuf>) -> Result<Self, Unreadable> {
        let stamp = stamp(dir.as_deref(), &override_paths)?;
        let paths = dir
            .as_deref()
            .map(rule_paths)
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            stamp,
            dir,
            files: paths.iter().map(|p| text(p)).collect::<Result<_, _>>()?,
            overrides: override_paths
                .iter()
                .map(|p| text(p))
                .collect::<Result<_, _>>()?,
            override_paths,
            named_prices: None,
            prices: None,
        })
    }
}

impl std::fmt::Debug for RuleFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.dir {
            Some(dir) => write!(f, "{} ({} files)", dir.display(), self.files.len())?,
            None => f.write_str("compiled in")?,
        }
        write!(f, ", {} override files", self.overrides.len())?;
        f.write_str(match self.prices {
            Some(_) => ", prices of their own",
            None => "",
        })
    }
}

/// Reads `[rules]`.
pub(super) fn read(s: Section<'_, '_>) -> RuleFiles {
    let dir = s.path("dir");
    let overrides = s.paths("overrides");
    let remedy = "check the path, or remove it to use the compiled-in rules";
    // Each key apart, so that both mistakes are told at once.
    let mut files = RuleFiles::load(dir, Vec::new()).unwrap_or_else(|e| {
        s.problem("dir", e.to_string(), remedy);
        RuleFiles::default()
    });
    if let (Some(dir), true) = (&files.dir, files.files.is_empty()) {
        let what = format!("{} has no .yml files", dir.display());
        s.problem("dir", what, remedy);
    }
    let tuned = RuleFiles::load(None, overrides).unwrap_or_else(|e| {
        s.problem("overrides", e.to_string(), "check the path");
        RuleFiles::default()
    });
    files.stamp.0.extend(tuned.stamp.0);
    files.override_paths = tuned.override_paths;
    files.overrides = tuned.overrides;
    files.named_prices = s.path("prices");
    if let Err(e) = files.take_prices() {
        s.problem(
            "prices",
            format!("{}: {}", e.path.display(), e.error),
            "`veilwatch prices check FILE` tells what a table needs",
        );
    }
    s.finish();
    files
}

fn stamp(dir: Option<&Path>, overrides: &[PathBuf]) -> Result<Stamp, Unreadable> {
    let mut paths = dir.map(rule_paths).transpose()?.unwrap_or_default();
    paths.extend(overrides.iter().cloned());
    let stamps = paths.into_iter().map(stamp_of);
    Ok(Stamp(stamps.collect::<Result<_, _>>()?))
}

fn stamp_of(path: PathBuf) -> Result<(PathBuf, Option<SystemTime>, u64), Unreadable> {
    match path.metadata() {
        Ok(m) => Ok((path, m.modified().ok(), m.len())),
        Err(error) => Err(Unreadable { path, error }),
    }
}

/// Below `rules/`, but no rules.
const NOT_RULES: [&str; 1] = ["corpus"];
/// Deeper folders are not looked into: a link to a folder above would have no end.
const MAX_DEPTH: usize = 8;
/// Entries that are looked at before the folder is taken for another one than was meant: a hundred times as
/// many as the shipped rules have.
const MAX_ENTRIES: usize = 100_000;

/// All rule files below a directory, in the order of their names.
///
/// # Errors
/// A folder that cannot be read, or has too much in it to be one of rules.
pub fn rule_paths(dir: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let mut out = Vec::new();
    walk(dir, 0, &mut { MAX_ENTRIES }, &mut out)?;
    out.sort();
    Ok(out)
}

fn walk(
    dir: &Path,
    depth: usize,
    left: &mut usize,
    out: &mut Vec<PathBuf>,
) -> Result<(), Unreadable> {
    let unreadable = |error| Unreadable {
        path: dir.to_owned(),
        error,
    };
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        *left = left.checked_sub(1).ok_or_else(|| {
            unreadable(std::io::Error::other(format!(
                "more than {MAX_ENTRIES} files up to here: name the folder with the rule files"
            )))
        })?;
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if path.is_dir() {
            if !NOT_RULES.contains(&name) && !name.starts_with('.') {
                walk(&path, depth + 1, left, out)?;
            }
        } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            out.push(path);
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<Arc<Source>, Unreadable> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Arc::new(Source {
            path: path.to_string_lossy().into_owned(),
            text,
        })),
        Err(error) => Err(Unreadable {
            path: path.to_owned(),
            error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_price_table_is_seen_and_read_again() {
        let dir = tempfile::tempdir().expect("folder");
        std::fs::write(dir.path().join("a.yml"), "").expect("file");
        let mut files = RuleFiles::load(Some(dir.path().to_owned()), Vec::new()).expect("read");
        files.take_prices().expect("no table");
        assert!(files.prices.is_none());
        assert_eq!(files.stamp_now().expect("stamp"), files.stamp);
        // A table appears, is broken, is mended.
        let table = dir.path().join("prices.json");
        std::fs::write(&table, "{").expect("file");
        assert_ne!(files.stamp_now().expect("stamp"), files.stamp);
        let error = files.again().map(|_| ()).expect_err("broken").to_string();
        assert!(error.contains("prices.json"), "{error}");
        std::fs::write(&table, include_str!("../../rules/prices.json")).expect("file");
        let again = files.again().expect("read");
        assert!(again.prices.is_some());
        assert_eq!(again.stamp_now().expect("stamp"), again.stamp);
    }

    #[test]
    fn a_link_to_a_folder_above_has_an_end() {
        let dir = tempfile::tempdir().expect("folder");
        let below = dir.path().join("injection");
        std::fs::create_dir(&below).expect("folder");
        std::fs::write(below.join("a.yml"), "").expect("file");
        std::os::unix::fs::symlink(dir.path(), below.join("up")).expect("link");
        let found = rule_paths(dir.path()).expect("ends");
        assert_eq!(found.len(), MAX_DEPTH / 2, "{found:?}");
        assert!(found.is_sorted());
    }
}
