//! The page that `config show` writes: one line a key, in TOML's own spelling, without the values of secrets.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::config::Source;
use crate::config::duration::show_duration;
use crate::telemetry::Secret;

/// The TOML as it grows.
pub(super) struct Page<'s> {
    pub(super) out: String,
    pub(super) source: &'s Source<'s>,
}

impl Page<'_> {
    pub(super) fn section(&mut self, name: &str) {
        let _ = writeln!(self.out, "\n[{name}]");
    }
    pub(super) fn list(&mut self, name: &str) {
        let _ = writeln!(self.out, "\n[[{name}]]");
    }
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.out, "# {text}");
    }
    pub(super) fn value(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.out, "{key} = {value}");
    }
    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.value(key, quoted(text));
    }
    pub(super) fn maybe(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }
    pub(super) fn strings<S: AsRef<str>>(&mut self, key: &str, list: impl IntoIterator<Item = S>) {
        let list: Vec<String> = list.into_iter().map(|s| quoted(s.as_ref())).collect();
        self.value(key, format_args!("[{}]", list.join(", ")));
    }
    pub(super) fn table(&mut self, key: &str, table: &BTreeMap<String, String>) {
        let pairs = table.iter();
        let pairs: Vec<String> = pairs.map(|(k, v)| format!("{k} = {}", quoted(v))).collect();
        let inner = pairs.join(", ");
        if inner.is_empty() {
            self.value(key, "{}");
        } else {
            self.value(key, format_args!("{{ {inner} }}"));
        }
    }
    pub(super) fn duration(&mut self, key: &str, d: Duration) {
        self.text(key, &show_duration(d));
    }
    pub(super) fn maybe_duration(&mut self, key: &str, d: Option<Duration>) {
        if let Some(d) = d {
            self.duration(key, d);
        }
    }
    /// `allow_plaintext`, which is a check's answer and not part of the checked configuration.
    pub(super) fn allowed(&mut self, written: Option<&toml::Table>) {
        let key = "allow_plaintext";
        if let Some(b) = written
            .and_then(|t| t.get(key))
            .and_then(toml::Value::as_bool)
        {
            self.value(key, b);
        }
    }
    /// A path as it was written, from the root, so that it holds wherever this page is saved.
    pub(super) fn written_path(&mut self, written: Option<&toml::Table>, key: &str) {
        if let Some(path) = written
            .and_then(|t| t.get(key))
            .and_then(toml::Value::as_str)
        {
            self.text(key, &absolute(&self.source.dir.join(path)));
        }
    }
    /// Where a secret stands, in the order in which it is looked for.
    pub(super) fn secret(
        &mut self,
        written: Option<&toml::Table>,
        key: &str,
        variable: &str,
        secret: Option<&Secret>,
    ) {
        let file = format!("{key}_file");
        if secret.is_none() {
        } else if self.source.env.contains_key(variable) {
            self.note(&format!("{key}: from {variable}, not shown"));
        } else if written.is_some_and(|t| t.contains_key(&file)) {
            self.written_path(written, &file);
        } else {
            self.note(&format!(
                "{key}: not shown, since it stands in the configuration itself; {file} or {variable} keeps it elsewhere"
            ));
        }
    }
}

/// A basic string of TOML. JSON's escapes are all among its own.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007F")
}

pub(super) fn absolute(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_string_lossy().into_owned()
}

pub(super) fn dollars(pico: i128) -> String {
    const DOLLAR: i128 = 1_000_000_000_000;
    let text = format!("{}.{:012}", pico / DOLLAR, pico % DOLLAR);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

/// A Postgres address without its password. None where it cannot be told what of it is one.
pub(super) fn without_password(url: &str) -> Option<String> {
    /// What says where and how, and never who may.
    const HARMLESS: [&str; 8] = [
        "sslmode",
        "sslrootcert",
        "host",
        "port",
        "user",
        "dbname",
        "application_name",
        "statement-cache-capacity",
    ];
    let (scheme, rest) = url.split_once("://")?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let plain = |s: &str| !s.contains([':', '@', '/', '#']);
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = user.split(':').next().unwrap_or_default();
    if !plain(path) || !plain(user) || host.contains('#') {
        return None;
    }
    let mut out = format!("{scheme}://{user}");
    if !user.is_empty() {
        out.push('@');
    }
    out += host;
    if place.contains('/') {
        out.push('/');
        out += path;
    }
    let kept: Vec<&str> = query
        .split('&')
        .filter(|q| HARMLESS.contains(&q.split('=').next().unwrap_or_default()))
        .collect();
    if !kept.is_empty() {
        out.push('?');
        out += &kept.join("&");
    }
    Some(out)
}
