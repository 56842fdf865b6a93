//! Files that a verb is given whole: opened and read with an error that says what to name instead.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Opens a file. `what` it should be is part of the error: `a price table`.
///
/// # Errors
/// It is a folder, missing, or not readable.
pub fn open(path: &Path, what: &str) -> anyhow::Result<File> {
    let file = File::open(path).with_context(|| unreadable(path, what))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        bail!("{} is a folder; name {what}", path.display());
    }
    Ok(file)
}

/// Reads a text of at most `max` bytes; `-` is standard input.
///
/// # Errors
/// As [`open`], or it is longer, or not UTF-8.
pub fn text(path: &Path, what: &str, max: u64) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let limited = max.saturating_add(1);
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(limited)
            .read_to_end(&mut bytes)
    } else {
        open(path, what)?.take(limited).read_to_end(&mut bytes)
    }
    .with_context(|| unreadable(path, what))?;
    if bytes.len() as u64 > max {
        bail!(
            "{} is larger than {} MiB; name {what}",
            path.display(),
            max >> 20
        );
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!(
            "{} is not UTF-8 at byte {at}; convert it with iconv",
            path.display()
        )
    })
}

/// The entries of a folder, in no order.
///
/// # Errors
/// It is missing, not readable, or not a folder.
pub fn folder(path: &Path, what: &str) -> anyhow::Result<Vec<PathBuf>> {
    let failed = || unreadable(path, what);
    std::fs::read_dir(path)
        .with_context(failed)?
        .map(|entry| Ok(entry.with_context(failed)?.path()))
        .collect()
}

fn unreadable(path: &Path, what: &str) -> String {
    format!("cannot read {}; name {what}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file_and_what_it_should_be() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("f");
        std::fs::write(&file, b"ab\xff").expect("write");
        let said = |path: &Path, max| {
            let e = text(path, "a price table", max).expect_err("refused");
            format!("{e:#}")
        };
        let none = said(&dir.path().join("none"), 9);
        assert!(none.contains("name a price table: No such file"), "{none}");
        assert!(said(dir.path(), 9).contains("is a folder; name a price table"));
        assert!(said(&file, 9).contains("not UTF-8 at byte 2"));
        assert!(said(&file, 2).contains("larger than"));
        assert!(folder(&file, "a folder").is_err());
    }
}
