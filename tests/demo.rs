//! `veilwatch demo` as a stranger runs it: everything that is put in is found, nothing else is, the books
//! agree to the token, and nothing stays behind, however it ends.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::{started, wait};

/// Ends the demo on the way out of a failed test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Demo {
    /// Starts one whose files and processes are told by the directory. The seed is the test's own, so that
    /// the ordinary traffic around the attacks is the same in each run.
    fn start(tmp: &Path) -> (Self, BufReader<ChildStdout>) {
        // Postgres is not run by root: its uid must reach the directory.
        std::fs::set_permissions(tmp, std::fs::Permissions::from_mode(0o777)).expect("opened");
        let mut child = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
            .args(["demo", "--for", "45s", "--no-open", "--seed", "7"])
            .args(["--format", "json"])
            .env("TMPDIR", tmp)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .expect("starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        (Self(child), out)
    }
}

fn line(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in the line {text}"))
}

/// Nothing of it runs and nothing of it lies there.
fn left_nothing(tmp: &Path, group: u32) {
    wait("everything ends", || started(tmp, group).is_empty());
    let left: Vec<_> = std::fs::read_dir(tmp)
        .expect("listed")
        .map(|e| e.expect("entry").file_name())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn it_finds_what_it_puts_in_and_nothing_else() {
    let tmp = tempfile::tempdir().expect("a directory");
    let (mut demo, out) = Demo::start(tmp.path());
    let lines: Vec<Value> = out.lines().map(|l| line(&l.expect("read"))).collect();
    let status = demo.0.wait().expect("ends");
    let told = || {
        let all: Vec<String> = lines.iter().map(ToString::to_string).collect();
        all.join("\n")
    };
    let summary = lines.iter().find(|l| l["kind"] == "summary");
    let Some(account) = summary.map(|l| &l["account"]) else {
        panic!("no account among\n{}", told());
    };

    let outcomes = account["outcomes"].as_array().expect("outcomes");
    assert_eq!(
        outcomes.len(),
        13,
        "eleven attacks and faults, two controls"
    );
    for o in outcomes {
        assert_eq!(o["injected"], true, "never put in: {o}\n{}", told());
        assert_eq!(o["unjudged"], false, "closed too early: {o}\n{}", told());
        assert_eq!(
            o["incident"].is_string(),
            o["must"].as_bool().expect("must"),
            "missed, or a false alarm: {o}\n{}",
            told()
        );
    }
    assert_eq!(account["besides"], serde_json::json!([]), "{}", told());

    let number = |name: &str| {
        account[name]
            .as_i64()
            .unwrap_or_else(|| panic!("{name} in {account}"))
    };
    assert!(number("published") > 100, "hardly any traffic: {account}");
    assert_eq!(number("published"), number("applied"));
    assert!(number("tokens") > 0, "{account}");
    assert_eq!(number("tokens"), number("ledger"), "to the token");
    assert_eq!((number("garbage"), number("dead_letters")), (2, 2));
    assert!(number("micro_usd") > 0, "{account}");
    // Both real receivers had them; the demo makes the webhook refuse once.
    assert!(number("mails") > 0 && number("calls") > 0, "{account}");
    assert_eq!((number("forged"), number("retried")), (0, 1));
    assert!(status.success(), "{status}");
    left_nothing(tmp.path(), demo.0.id());
}

#[test]
fn interrupted_it_leaves_nothing() {
    let tmp = tempfile::tempdir().expect("a directory");
    let (mut demo, out) = Demo::start(tmp.path());
    let mut lines = out.lines().map(|l| line(&l.expect("read")));
    lines
        .find(|l| l["kind"] == "traffic")
        .expect("the traffic begins");
    assert!(
        !started(tmp.path(), demo.0.id()).is_empty(),
        "its parts can be seen"
    );
    let pid = i32::try_from(demo.0.id()).expect("a process id");
    let pid = Pid::from_raw(pid).expect("not zero");
    // Once ends the traffic, with an account of what was judged by then; twice ends at once.
    kill_process(pid, Signal::INT).expect("sent");
    let heard = lines.find(|l| l["kind"] == "interrupt");
    assert!(heard.is_some(), "the first is heard");
    kill_process(pid, Signal::INT).expect("sent");
    assert!(
        lines.any(|l| l["kind"] == "end"),
        "says that it has taken all down"
    );
    let status = demo.0.wait().expect("ends");
    assert_eq!(status.code(), Some(3), "no account was made");
    left_nothing(tmp.path(), demo.0.id());
}
