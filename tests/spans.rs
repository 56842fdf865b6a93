//! What exactly is cut out as a value: neither quotes and field names beside it, nor part of it.

use std::sync::LazyLock;

use veilwatch::event::{Role, Side};
use veilwatch::seal::engine::{Engine, Scratch};

static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::built_in);

/// Kinds and texts of the values found.
fn values(text: &str) -> Vec<(String, String)> {
    let scratch = &mut Scratch::default();
    let scan = ENGINE.scan(text, Role::User, Side::Request, scratch);
    let part = |start: usize, end: usize| text.chars().skip(start).take(end - start).collect();
    scan.values
        .iter()
        .map(|v| (v.entity.to_string(), part(v.start, v.end)))
        .collect()
}

fn only(text: &str, kind: &str, value: &str) {
    assert_eq!(
        values(text),
        [(kind.to_owned(), value.to_owned())],
        "{text}"
    );
}

#[test]
fn an_address_ends_where_its_quotes_and_names_begin() {
    for text in [
        "say 'bob@example.org' to her",
        "say **bob@example.org** to her",
        "say `bob@example.org` to her",
        "say {bob@example.org} to her",
        "email=bob@example.org",
        "user=bob@example.org&x=1",
        "see /bob@example.org",
        "#bob@example.org",
        "- bob@example.org",
        "-bob@example.org",
    ] {
        only(text, "EMAIL_ADDRESS", "bob@example.org");
    }
    for mail in ["o'neil@example.org", "a.b-c_d+e%f@mail.example.org"] {
        only(&format!("to {mail}, please"), "EMAIL_ADDRESS", mail);
    }
}

#[test]
fn who_logs_in_where_is_no_address() {
    for text in [
        "clone git@github.com:foo/bar.git now",
        "git remote add origin git@ssh.dev.example.com:v3/org/project",
        "ssh://git@github.com/foo/bar.git",
        "scp ann@host.example.com:/tmp/log .",
    ] {
        assert_eq!(values(text), [], "{text}");
    }
    // One login does not hide the addresses beside it.
    let text = "http://app:pw123456@10.0.0.5/ is down, ask bob@example.org";
    let mails = values(text);
    let mails: Vec<_> = mails.iter().filter(|(k, _)| k == "EMAIL_ADDRESS").collect();
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert_eq!(mails[0].1, "bob@example.org");
}

#[test]
fn international_addresses_are_found() {
    for mail in ["用户@例子.中国", "user@例子.中国", "иван.петров@пример.рф"]
    {
        only(&format!("email: {mail}, ok"), "EMAIL_ADDRESS", mail);
    }
}

#[test]
fn office_numbers_are_found_whole() {
    for (word, number) in [
        ("Telefon:", "030 90182-0"),
        ("Fax", "0211 / 123 456"),
        ("Tel.", "030 / 12 34 56 -78"),
        ("Telefax", "(030) 90182-0"),
        ("тел.", "8 916 123-45-67"),
        ("телефон", "8(495)123-45-67"),
    ] {
        only(&format!("{word} {number}, ok"), "PHONE_NUMBER", number);
    }
}

#[test]
fn a_passport_is_of_no_country_but_the_one_named() {
    for text in [
        "passport no. X1234567 Germany",
        "US passport no. K1234567",
        "German passport number X1234567",
    ] {
        assert!(
            values(text).iter().all(|(kind, _)| kind != "IN_PASSPORT"),
            "{text}"
        );
    }
    only("my passport is K1234567", "IN_PASSPORT", "K1234567");
}

#[test]
fn a_password_is_of_sql_only_in_sql() {
    only("password = 'hunter2'", "generic-password", "hunter2");
    only(
        "create user ann password 'Xy7#kQ2!mn'",
        "sql-password",
        "Xy7#kQ2!mn",
    );
}

#[test]
fn of_a_service_account_file_the_key_is_the_value() {
    let key = concat!(
        "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
        "\\n-----END PRIVATE KEY-----"
    );
    let id = "3f2b1c4d5e6f708192a3b4c5d6e7f8091a2b3c4d";
    let file = format!(
        r#"{{"type": "service_account", "project_id": "p-1", "private_key_id": "{id}", "private_key": "{key}\n"}}"#
    );
    only(&file, "gcp-service-account", key);
    let cut = file.split("\"private_key\"").next().unwrap_or_default();
    only(cut, "gcp-service-account", id);
}
