//! `veilwatch key`: Create, list and destroy seal keys.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use serde_json::json;
use zeroize::Zeroizing;

use crate::config::keyfile;
use crate::event::Kid;
use crate::seal::key::{Key, Purpose};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a key from the system's randomness and print its line, or add it to a key file.
    New {
        /// Put it first into this file (it becomes the active key of its purpose; the others
        /// overlap). The file is created with mode 0600 if it is absent.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// `identity`, `identity:TENANT` or `content`; absent: identity and content.
        #[arg(long, value_name = "PURPOSE")]
        purpose: Option<String>,
    },
    /// Print the ids and purposes of a key file, never the keys.
    List {
        /// The key file.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
    },
    /// Remove a key from a key file and report what can no longer be linked. There is no way back.
    Destroy {
        /// The key id.
        kid: String,
        /// The key file.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
    },
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::New { key_file, purpose } => create(key_file.as_deref(), purpose.as_deref()),
        Verb::List { key_file } => list(&key_file),
        Verb::Destroy { kid, key_file } => destroy(&kid, &key_file),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// 32 bytes of the system's randomness.
pub fn random_secret() -> anyhow::Result<[u8; 32]> {
    let mut secret = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut secret)
        .map_err(|_| anyhow!("the system gives no randomness"))?;
    Ok(secret)
}

fn create(file: Option<&Path>, purpose: Option<&str>) -> anyhow::Result<()> {
    let purpose = match purpose {
        None => Purpose::All,
        Some(p) => Purpose::parse(p).with_context(|| {
            "the purpose is `identity`, `identity:TENANT` or `content`; leave it out for identity and content"
        })?,
    };
    let key = Key::derived(random_secret()?, purpose);
    let Some(file) = file else {
        let mut out = std::io::stdout().lock();
        out.write_all(key.line().as_bytes())?;
        eprintln!("keep this line in a file of mode 0600, away from whoever reads the sealed data");
        return Ok(());
    };
    let old = if file.exists() {
        read_text(file)?
    } else {
        Zeroizing::new(String::new())
    };
    let text = Zeroizing::new(format!("{}{}", *key.line(), *old));
    replace(file, &text)?;
    print_json(&json!({
        "kid": key.kid().as_str(),
        "purpose": key.purpose().to_string(),
        "key_file": file.display().to_string(),
        "active": true,
    }))
}

fn list(file: &Path) -> anyhow::Result<()> {
    let keys = keyfile::read(file).map_err(anyhow::Error::msg)?;
    let mut seen = std::collections::BTreeSet::new();
    for k in keys.all() {
        print_json(&json!({
            "kid": k.kid().as_str(),
            "purpose": k.purpose().to_string(),
            "active": seen.insert(k.purpose().clone()),
        }))?;
    }
    Ok(())
}

fn read_text(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    keyfile::read_text(file).map_err(|(what, remedy)| anyhow::anyhow!("{what}; {remedy}"))
}

fn destroy(kid: &str, file: &Path) -> anyhow::Result<()> {
    let wanted = Kid::parse(kid).context("a key id has 2 to 16 characters of [a-z0-9]")?;
    let text = read_text(file)?;
    let mut kept = Zeroizing::new(String::with_capacity(text.len()));
    let mut purposes = Vec::new();
    for line in text.lines() {
        let mut columns = line.split_whitespace();
        if columns.next() == Some(wanted.as_str()) {
            purposes.push(
                columns
                    .nth(1)
                    .map_or(Purpose::All, |p| Purpose::parse(p).unwrap_or(Purpose::All)),
            );
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    if purposes.is_empty() {
        bail!(
            "{} holds no key {wanted}; `veilwatch key list` prints those it holds",
            file.display()
        );
    }
    // First the keys that stay are safe under the name, then the old bytes are overwritten through the
    // handle that still reaches them: the other way round a full disk would destroy all of them. What
    // the file system or a backup kept is beyond this program, and the report says so.
    let failed = || format!("cannot overwrite key file {}", file.display());
    let mut old = fs::OpenOptions::new()
        .write(true)
        .open(file)
        .with_context(failed)?;
    let len = old.metadata().with_context(failed)?.len();
    replace(file, &kept)?;
    old.write_all(&vec![b'\n'; usize::try_from(len).unwrap_or(text.len())])
        .and_then(|()| old.sync_all())
        .with_context(|| {
            format!(
                "key {wanted} is no longer in {}, but the old bytes could not be overwritten on the disk",
                file.display()
            )
        })?;
    let report = unlinkable(&purposes);
    let remaining = keyfile::read(file).map_or_else(|e| vec![e], |_| Vec::new());
    print_json(&json!({
        "destroyed": wanted.as_str(),
        "purposes": purposes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "no_longer_linkable": report,
        "copies": "backups of this file, and gateways that hold the same key, are not reached",
        "remaining": remaining,
    }))
}

/// What ends with a key, by its purposes.
fn unlinkable(purposes: &[Purpose]) -> Vec<String> {
    let mut out = Vec::new();
    let identity: Vec<_> = purposes
        .iter()
        .filter(|p| **p != Purpose::Content)
        .collect();
    if let Some(p) = identity.first() {
        let whose = match p {
            Purpose::Tenant(t) => format!("of tenant {t}"),
            _ => "of every tenant without a key of its own".to_owned(),
        };
        out.push(format!(
            "users, sessions, API keys, networks, tool arguments and sources {whose}: stored pseudonyms can be neither computed from an identity nor joined with new ones"
        ));
        out.push("budgets, baselines and incidents under these pseudonyms stay, belong to nobody who can be named, and end with their retention".to_owned());
    }
    if purposes
        .iter()
        .any(|p| matches!(p, Purpose::All | Purpose::Content))
    {
        out.push("values: a secret or personal value seen before is not recognised again; stored values end 7 days after their last use".to_owned());
        out.push("digests and prints: hunt, watch and campaigns no longer match texts sealed under this key; registered texts must be registered again".to_owned());
        out.push("audit leaves of trusted topics made with this key cannot be recomputed from the records".to_owned());
    }
    out
}

/// Writes a file of mode 0600 beside the old one and takes its name.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let dir = match file.parent() {
        Some(d) if !d.as_os_str().is_empty() => d,
        _ => Path::new("."),
    };
    let failed = || format!("cannot write key file {}", file.display());
    if !dir.is_dir() {
        bail!(
            "{}: there is no folder {}; make it first",
            failed(),
            dir.display()
        );
    }
    // The name of the file in between would only confuse.
    let mut new = tempfile::NamedTempFile::new_in(dir).map_err(|e| {
        let (dir, why) = (dir.display(), e.kind());
        anyhow!(
            "{}: {why} in the folder {dir}; name one that you may write to",
            failed()
        )
    })?;
    new.write_all(text.as_bytes()).with_context(failed)?;
    new.as_file().sync_all().with_context(failed)?;
    new.persist(file).with_context(failed)?;
    // The name too must outlive a crash.
    fs::File::open(dir)
        .and_then(|d| d.sync_all())
        .with_context(failed)
}

fn print_json(v: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{v}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_becomes_active_and_a_destroyed_one_is_gone() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("seal.key");
        create(Some(&file), None).expect("first");
        let first = keyfile::read(&file).expect("reads").all()[0].kid();
        create(Some(&file), None).expect("second");
        let keys = keyfile::read(&file).expect("reads");
        assert_eq!(keys.all()[1].kid(), first);
        assert_ne!(keys.active_content().kid(), first);
        let secret = fs::read_to_string(&file).expect("text");
        let secret = secret
            .lines()
            .nth(1)
            .and_then(|l| l.split(' ').nth(1))
            .expect("secret")
            .to_owned();
        destroy(first.as_str(), &file).expect("destroys");
        assert!(!fs::read_to_string(&file).expect("text").contains(&secret));
        assert_eq!(keyfile::read(&file).expect("reads").all().len(), 1);
        let e = destroy(first.as_str(), &file)
            .expect_err("gone")
            .to_string();
        assert!(e.contains("key list"), "{e}");
    }

    #[test]
    fn the_report_follows_the_purpose() {
        let t = unlinkable(&[Purpose::Tenant("acme".into())]).join("\n");
        assert!(t.contains("tenant acme") && !t.contains("digests"));
        let c = unlinkable(&[Purpose::Content]).join("\n");
        assert!(!c.contains("users,") && c.contains("digests"));
    }
}
