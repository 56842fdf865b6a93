//! The rule files that are compiled into the program: `build.rs` packs `rules/` into one text.

use std::sync::Arc;

use super::Source;

const PACK: &str = include_str!(concat!(env!("OUT_DIR"), "/rules.pack"));

/// The compiled-in files, in the order of their paths.
pub fn sources() -> Vec<Arc<Source>> {
    // Each file stands behind a line `path length`; lengths are bytes.
    let mut files = Vec::new();
    let mut rest = PACK;
    while let Some((head, body)) = rest.split_once('\n') {
        let Some((path, length)) = head.rsplit_once(' ') else {
            break;
        };
        let Ok(length) = length.parse::<usize>() else {
            break;
        };
        let Some((text, after)) = body.split_at_checked(length) else {
            break;
        };
        files.push(Arc::new(Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }));
        rest = after;
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_pack_is_read() {
        let total: usize = sources()
            .iter()
            .map(|s| s.text.len() + s.path.len() + 2 + s.text.len().to_string().len())
            .sum();
        assert_eq!(total, PACK.len());
    }
}
