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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use crate::config::{Config, Source};

    const SMALLEST: &str = "[ingest]\nbrokers = \"127.0.0.1:9092\"\ntopics = [{ name = \"e\", mode = \"sealed\" }]\n\
                            [store]\nurl = \"postgres://u:hunter2@127.0.0.1/v\"\n";

    #[test]
    fn a_wrong_variable_is_named_and_no_line_of_the_file() {
        let said = |variable: &str, value: &str| {
            let env = BTreeMap::from([(variable.to_owned(), value.to_owned())]);
            let dir = Path::new(".");
            let text = SMALLEST;
            let problems = Config::parse(&Source {
                text,
                dir,
                env: &env,
            })
            .expect_err("wrong");
            let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let said = said.join("\n");
            assert!(
                !said.contains("line 4") && !said.contains("hunter3"),
                "{said}"
            );
            said
        };
        let url = said("VEILWATCH_STORE_URL", "mysql://u:hunter3@127.0.0.1/v");
        let expected = "VEILWATCH_STORE_URL (for store.url): is not a Postgres address; write ";
        assert!(url.starts_with(expected), "{url}");
        let empty = said("VEILWATCH_STORE_URL", "");
        assert!(
            empty.contains("(for store.url): is empty; write the value"),
            "{empty}"
        );
        assert_eq!(
            said("VEILWATCH_INGEST_PASSWORD", "hunter3"),
            "VEILWATCH_INGEST_PASSWORD (for ingest.password): has no effect without SASL; set security = \"sasl_ssl\", or remove it"
        );
        let keys = said("VEILWATCH_INGEST_GATEWAY_KEYS", "hunter3");
        assert!(
            keys.starts_with("VEILWATCH_INGEST_GATEWAY_KEYS (for ingest.gateway_keys): "),
            "{keys}"
        );
    }
}
