//! Keys whose values must not be seen: in files with a checked mode, or in variables of the environment.

use super::Section;
use crate::config::keyfile;
use crate::telemetry::Secret;

impl Section<'_, '_> {
    /// The content of a file that nobody but its owner may read: a key file.
    pub fn key_file(&self, key: &str) -> Option<Secret> {
        match keyfile::read_text(&self.path(key)?) {
            Ok(text) => Some(Secret::new(text.as_str())),
            Err((what, remedy)) => {
                self.problem(key, what, remedy);
                None
            }
        }
    }

    /// The content of a file that strangers may not read.
    fn secret_file(&self, key: &str) -> Option<String> {
        match keyfile::read_secret(&self.path(key)?) {
            Ok(text) => Some(text.to_string()),
            Err((what, remedy)) => {
                self.problem(key, what, remedy);
                None
            }
        }
    }

    /// A secret: from the environment variable `env`, else the file `<key>_file`, else `key`.
    pub fn secret(&self, key: &str, env: &str) -> Option<Secret> {
        let file_key = format!("{key}_file");
        let plain = self.str(key);
        if plain.is_some() && self.has(&file_key) {
            self.problem(
                key,
                format!("both {key} and {file_key} are given"),
                format!("keep {file_key}"),
            );
        }
        let file = self.secret_file(&file_key);
        let variable = self.reader.source.env.get(env).cloned();
        if variable.is_some() {
            let mut variables = self.variables.borrow_mut();
            variables.insert(key.to_owned(), env.to_owned());
            variables.insert(file_key.clone(), env.to_owned());
        }
        let from_env = variable.is_some();
        let found = variable.or(file).or(plain)?;
        let found = found.trim_end_matches(['\r', '\n']);
        if found.is_empty() {
            let remedy = if from_env {
                "write the value into it, or unset it".to_owned()
            } else {
                format!("write it to a file and name it in {file_key}, or set {env}")
            };
            self.problem(key, "is empty", remedy);
            return None;
        }
        Some(Secret::new(found))
    }
}
