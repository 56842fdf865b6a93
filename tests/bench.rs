//! `veilwatch bench` leaves nothing behind, however it ends.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A start with a cluster and a first migration, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends the bench on the way out of a failed test.
struct Bench(Child);

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(tmp: &Path) -> Bench {
    let child = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .args(["bench", "--only", "rounds", "--events", "1000000000"])
        .env("TMPDIR", tmp)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("starts");
    Bench(child)
}

/// What a program started, and what that started: of its process group, or with the directory in its command
/// line or environment. Our own processes let nobody but root read their environment, and Postgres' backends
/// leave the group.
pub fn started(tmp: &Path, group: u32) -> BTreeSet<String> {
    let dir = tmp.display().to_string();
    let (variable, group) = (format!("TMPDIR={dir}"), group.to_string());
    let all = std::fs::read_dir("/proc").expect("a process table");
    all.flatten()
        .filter_map(|p| {
            let read = |name| std::fs::read(p.path().join(name)).unwrap_or_default();
            let stat = String::from_utf8_lossy(&read("stat")).into_owned();
            // `pid (name) state parent group …`; one that has ended and was not waited for yet is a Z.
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let state = fields.next()?;
            let of_group = fields.nth(1)? == group;
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let of_environment = || {
                read("environ")
                    .split(|b| *b == 0)
                    .any(|v| v == variable.as_bytes())
            };
            let is = of_group || line.contains(&dir) || of_environment();
            (is && state != "Z").then_some(line)
        })
        .collect()
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ends_with(signal: Signal) -> (tempfile::TempDir, Bench) {
    let tmp = tempfile::tempdir().expect("a directory");
    // Postgres is not run by root: its uid must reach the directory.
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(tmp.path(), open).expect("opened");
    let mut bench = start(tmp.path());
    wait("broker, database, program and ceiling", || {
        assert!(bench.0.try_wait().expect("a child").is_none(), "it ended");
        let all = started(tmp.path(), bench.0.id());
        ["--until-eof", "postgres", " run ", "--ceiling"]
            .iter()
            .all(|part| all.iter().any(|line| line.contains(part)))
    });
    let pid = i32::try_from(bench.0.id()).expect("a process id");
    let pid = Pid::from_raw(pid).expect("a process id");
    kill_process(pid, signal).expect("signalled");
    (tmp, bench)
}

#[test]
fn a_signal_ends_program_broker_and_database_and_removes_their_files() {
    let (tmp, mut bench) = ends_with(Signal::TERM);
    let status = bench.0.wait().expect("ends");
    assert!(!status.success());
    let mut said = String::new();
    let err = bench.0.stderr.as_mut().expect("piped");
    err.read_to_string(&mut said).expect("text");
    assert!(said.contains("stopped by a signal"), "{said}");
    // The clients of librdkafka may take a moment to end with their process.
    wait("everything ends", || {
        started(tmp.path(), bench.0.id()).is_empty()
    });
    let left = std::fs::read_dir(tmp.path()).expect("there").count();
    assert_eq!(left, 0, "files are removed");
}

#[test]
fn killed_it_leaves_no_process_either() {
    let (tmp, mut bench) = ends_with(Signal::KILL);
    bench.0.wait().expect("ends");
    wait("everything ends", || {
        started(tmp.path(), bench.0.id()).is_empty()
    });
}
