//! Packs the rule files under `rules/` into one text that `rule::pack` compiles in.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `rules/` that hold rule files; the rest (corpus, model, prices) is not packed.
const FOLDERS: [&str; 5] = ["injection", "lists", "overrides", "pii", "secret"];

fn main() {
    // sqlx::migrate! reads the folder when it is compiled, and nothing else tells cargo so.
    println!("cargo:rerun-if-changed=migrations");
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("rules");
    let mut files = Vec::new();
    for folder in FOLDERS {
        let dir = root.join(folder);
        println!("cargo:rerun-if-changed={}", dir.display());
        collect(&dir, &mut files);
    }
    files.sort();
    let mut pack = String::new();
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let path = file.strip_prefix(&root).unwrap_or(&file);
        let path = path.to_string_lossy().replace('\\', "/");
        pack.push_str(&format!("rules/{path} {}\n{text}", text.len()));
    }
    fs::write(PathBuf::from(env("OUT_DIR")).join("rules.pack"), pack).expect("write rules.pack");
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            files.push(path);
        }
    }
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
