//! Reading files that hold secrets: a key file is refused unless its owner alone may read it, any other
//! if strangers may read it or others than the owner may write it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::seal::Keys;

/// Where container engines mount secrets, readable by all who are in the container: the program alone.
const MOUNTED: &str = "/run/secrets/";

/// Reads and parses a key file. The error says what to do, and never quotes the file.
pub fn read(path: &Path) -> Result<Keys, String> {
    let text = read_text(path).map_err(|(what, remedy)| format!("{what}; {remedy}"))?;
    Keys::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads a key file's text after checking its mode.
///
/// # Errors
/// What is wrong, and what to do; never what stands in the file.
pub fn read_text(path: &Path) -> Result<Zeroizing<String>, (String, String)> {
    let shown = path.display();
    let unread = |e: std::io::Error| {
        let remedy = if e.kind() == std::io::ErrorKind::NotFound {
            format!("make one with `veilwatch key new --key-file {shown}`")
        } else {
            "check the path and its permissions".to_owned()
        };
        (format!("cannot read key file {shown}: {e}"), remedy)
    };
    let file = File::open(path).map_err(unread)?;
    // Of the file that is open: the name may mean another one a moment later.
    let meta = file.metadata().map_err(unread)?;
    /// A file of 64 keys has 8 KiB; more is not a key file.
    const MAX_BYTES: u64 = 64 * 1024;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err((
            format!("{shown} is not a key file"),
            "name the file that `veilwatch key new --key-file F` made".to_owned(),
        ));
    }
    let mode = mode(&meta);
    if mode & 0o077 != 0 {
        return Err((
            format!("key file {shown} has mode {mode:04o}, so others may read it"),
            format!("run `chmod 600 {shown}`"),
        ));
    }
    text(file).map_err(unread)
}

/// Reads a file with another secret: a password, an address with one, gateways' keys. The group may
/// read it, as mounts need it.
///
/// # Errors
/// What is wrong, and what to do; never what stands in the file.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, (String, String)> {
    let shown = path.display();
    let unread = |e: std::io::Error| {
        (
            format!("cannot read {shown}: {e}"),
            "check the path and its permissions".to_owned(),
        )
    };
    let file = File::open(path).map_err(unread)?;
    let mode = mode(&file.metadata().map_err(unread)?);
    let open = if path.starts_with(MOUNTED) {
        0o022
    } else {
        0o027
    };
    if mode & open != 0 {
        return Err((
            format!("{shown} has mode {mode:04o}: others may read or write it"),
            format!("run `chmod 600 {shown}` (a mounted secret: mode 0440)"),
        ));
    }
    text(file).map_err(unread)
}

fn text(mut file: File) -> std::io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(unix)]
fn mode(meta: &std::fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    meta.permissions().mode() & 0o777
}
#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    #[cfg(unix)]
    fn others_may_not_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("seal.key");
        let key = crate::seal::Key::derived([1; 32], crate::seal::key::Purpose::All);
        fs::write(&path, key.line().as_bytes()).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let e = read(&path).expect_err("refused");
        assert!(e.contains("0640") && e.contains("chmod 600"), "{e}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        assert_eq!(read(&path).expect("reads").all().len(), 1);
        assert!(
            read(&dir.path().join("none"))
                .expect_err("absent")
                .contains("key new")
        );
    }
    #[test]
    #[cfg(unix)]
    fn a_mistake_has_one_remedy() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("seal.key");
        let (what, remedy) = read_text(&path).expect_err("absent");
        assert!(what.starts_with("cannot read key file") && remedy.contains("key new"));
        fs::write(&path, "k").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        let (what, remedy) = read_text(&path).expect_err("open to all");
        assert!(!what.contains("chmod") && remedy.starts_with("run `chmod 600"));
        let text = "[ingest]\nbrokers = \"127.0.0.1:9092\"\ntopics = [{ name = \"t\", mode = \"trusted\" }]\n\
                    [store]\nurl = \"postgres://u@127.0.0.1/x\"\n[seal]\nkey_file = \"seal.key\"\n";
        let source = crate::config::Source {
            text,
            dir: dir.path(),
            env: &crate::config::no_env(),
        };
        let problems = crate::config::Config::parse(&source).expect_err("open to all");
        let said = problems[0].to_string();
        assert!(
            said.contains("run `chmod 600") && !said.contains("key new"),
            "{said}"
        );
    }
    #[test]
    #[cfg(unix)]
    fn secrets_are_refused_where_strangers_may_read_them() {
        use std::os::unix::fs::PermissionsExt as _;

        use crate::config::{Config, Source, no_env};
        let dir = tempfile::tempdir().expect("dir");
        let key = crate::seal::Key::derived([1; 32], crate::seal::key::Purpose::All);
        let files = [
            ("seal.key", key.line().to_string()),
            ("gateways.keys", format!("g1 gw {}\n", "BwcH".repeat(11))),
        ];
        for (name, text) in &files {
            fs::write(dir.path().join(name), text).expect("write");
        }
        let config = |modes: [u32; 2]| {
            for ((name, _), mode) in files.iter().zip(modes) {
                let to = fs::Permissions::from_mode(mode);
                fs::set_permissions(dir.path().join(name), to).expect("chmod");
            }
            let text = "[ingest]\nbrokers = \"127.0.0.1:9092\"\ntopics = [{ name = \"t\", mode = \"trusted\" }]\n\
                        gateway_keys_file = \"gateways.keys\"\n[store]\nurl = \"postgres://u@127.0.0.1/x\"\n\
                        [seal]\nkey_file = \"seal.key\"\n";
            let dir = dir.path();
            let env = &no_env();
            let problems = Config::parse(&Source { text, dir, env })
                .err()
                .unwrap_or_default();
            let mut keys: Vec<String> = problems.into_iter().map(|p| p.key).collect();
            keys.sort();
            keys.dedup();
            keys
        };
        assert_eq!(config([0o600, 0o640]), Vec::<String>::new());
        assert_eq!(
            config([0o644, 0o644]),
            ["ingest.gateway_keys_file", "seal.key_file"]
        );
        assert_eq!(
            config([0o640, 0o660]),
            ["ingest.gateway_keys_file", "seal.key_file"]
        );
    }
}
