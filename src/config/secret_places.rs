//! Where the secrets of a configuration stand: which files, and which in the configuration itself.

use std::path::PathBuf;

use super::Source;

/// A secret's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPlace {
    /// Full key, such as `deliver.sink[0].secret_file`.
    pub key: String,
    /// The file that has it. None: it stands in the configuration itself.
    pub file: Option<PathBuf>,
}

/// Keys whose value is a secret. A URL is one if it has a password, or is all that is needed to post.
const INLINE: [&str; 4] = ["password", "secret", "gateway_keys", "url"];
/// Keys that name a file with a secret.
const FILES: [&str; 5] = [
    "password_file",
    "secret_file",
    "gateway_keys_file",
    "url_file",
    "key_file",
];

/// The places, in the order of the keys.
pub fn secret_places(source: &Source<'_>) -> Vec<SecretPlace> {
    let table: toml::Table = source.text.parse().unwrap_or_default();
    let mut out = Vec::new();
    walk(source, "", &table, &mut out);
    out
}

fn walk(source: &Source<'_>, path: &str, table: &toml::Table, out: &mut Vec<SecretPlace>) {
    for (name, value) in table {
        let key = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        match value {
            toml::Value::Table(t) => walk(source, &key, t, out),
            toml::Value::Array(list) => {
                for (i, item) in list.iter().enumerate() {
                    if let toml::Value::Table(t) = item {
                        walk(source, &format!("{key}[{i}]"), t, out);
                    }
                }
            }
            toml::Value::String(text) if FILES.contains(&name.as_str()) => out.push(SecretPlace {
                key,
                file: Some(source.dir.join(text)),
            }),
            toml::Value::String(text) if INLINE.contains(&name.as_str()) => {
                let harmless = name == "url" && path == "store" && !has_password(text);
                if !harmless {
                    out.push(SecretPlace { key, file: None });
                }
            }
            _ => {}
        }
    }
}

/// Whether a Postgres address has one.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let before_host = rest.rsplit_once('@').map_or("", |(user, _)| user);
    before_host.contains(':') || rest.contains("password=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::no_env;
    use std::path::Path;

    #[test]
    fn files_and_what_stands_in_the_open() {
        let text = r#"
[ingest]
password_file = "kafka.password"
[store]
url = "postgres://u:p@h/d"
[seal]
key_file = "/etc/seal.key"
[[deliver.sink]]
url = "https://hooks.slack.com/x"
[[deliver.sink]]
secret_file = "s"
"#;
        let source = Source {
            text,
            dir: Path::new("/conf"),
            env: &no_env(),
        };
        let places: Vec<(String, Option<String>)> = secret_places(&source)
            .into_iter()
            .map(|p| (p.key, p.file.map(|f| f.to_string_lossy().into_owned())))
            .collect();
        let at = |key: &str, file: Option<&str>| (key.to_owned(), file.map(ToOwned::to_owned));
        assert_eq!(
            places,
            [
                at("deliver.sink[0].url", None),
                at("deliver.sink[1].secret_file", Some("/conf/s")),
                at("ingest.password_file", Some("/conf/kafka.password")),
                at("seal.key_file", Some("/etc/seal.key")),
                at("store.url", None),
            ]
        );
        let none = Source {
            text: "[store]\nurl = \"postgres://u@h/d\"",
            ..source
        };
        assert_eq!(secret_places(&none), []);
    }
}
