//! Reading a key file: refused unless its owner alone may read it.

use std::fs;
use std::path::Path;

use zeroize::Zeroizing;

use crate::seal::Keys;

/// Reads and parses a key file. The error says what to do, and never quotes the file.
pub fn read(path: &Path) -> Result<Keys, String> {
    let text = read_text(path)?;
    Keys::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads a key file's text after checking its mode.
pub fn read_text(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|e| {
        format!("cannot read key file {shown}: {e}; make one with `veilwatch key new --key-file {shown}`")
    })?;
    /// A file of 64 keys has 8 KiB; more is not a key file.
    const MAX_BYTES: u64 = 64 * 1024;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err(format!(
            "{shown} is not a key file; name the file that `veilwatch key new --key-file F` made"
        ));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!(
                "key file {shown} has mode {mode:04o}, so others may read it; run `chmod 600 {shown}`"
            ));
        }
    }
    fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|e| format!("cannot read key file {shown}: {e}"))
}

#[cfg(test)]
mod tests {
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
}
