//! A private Postgres: a throw-away server made from the installed binaries, for the demo, the
//! bench and the tests.
//!
//! `initdb` and `pg_ctl` come from `PATH` or the places where packages put them. Started as root it
//! drops to an unprivileged uid, since Postgres refuses root. It listens on loopback with a random
//! password. A guard process (a shell waiting on a pipe) stops the server and removes its directory
//! when the owner ends, however it ends: dropping, Ctrl-C and `kill -9` all clean up.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The uid and gid of `nobody`, which exist on every Linux without asking a user database.
const NOBODY: u32 = 65_534;
/// Seconds that `pg_ctl` may wait for a start or a stop. A start takes about a second; a busy
/// machine may need many times that.
const WAIT_SECONDS: &str = "60";
/// Tries to find a free port: between choosing and binding it another process may take it.
const PORT_TRIES: u32 = 5;
/// The superuser of the private server.
const SUPERUSER: &str = "veilwatch";

/// Why a private Postgres could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// No `initdb` and `pg_ctl`.
    #[error(
        "no PostgreSQL server binaries found in PATH or /usr/lib/postgresql/*/bin: install the package `postgresql`, or name a running server with --database"
    )]
    NotInstalled,
    /// A file could not be made.
    #[error("could not prepare a directory for the private postgres: {0}")]
    Directory(#[source] io::Error),
    /// A program could not be started at all.
    #[error("could not run {program}: {source}")]
    Spawn {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// The end of what it said.
        said: String,
    },
}

/// How the private server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// `fsync` on: as durable as a real server (bench). Off: quicker (tests, demo).
    pub durable: bool,
    /// Shared buffers in MiB.
    pub shared_buffers_mb: u32,
    /// `max_connections`.
    pub max_connections: u32,
    /// Further settings, `name=value`.
    pub settings: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durable: false,
            shared_buffers_mb: 64,
            max_connections: 100,
            settings: Vec::new(),
        }
    }
}

/// How to stop the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Disconnects everybody, then a checkpoint.
    Fast,
    /// As in a crash: the next start recovers from the log.
    Immediate,
}

/// A running private Postgres. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct PrivatePostgres {
    bin: PathBuf,
    base: PathBuf,
    port: u16,
    password: String,
    drop_to: Option<(u32, u32)>,
    options: Options,
    guard: Child,
}

impl PrivatePostgres {
    /// Makes a cluster and starts it.
    pub fn start(options: Options) -> Result<Self, PrivateError> {
        let bin = find_binaries().ok_or(PrivateError::NotInstalled)?;
        let drop_to = rustix::process::geteuid()
            .is_root()
            .then_some((NOBODY, NOBODY));
        let base = make_base(drop_to).map_err(PrivateError::Directory)?;
        let password = random_word();
        let guard = match start_guard(&bin, &base, drop_to) {
            Ok(guard) => guard,
            Err(source) => {
                let _ = fs::remove_dir_all(&base);
                return Err(PrivateError::Spawn {
                    program: "sh",
                    source,
                });
            }
        };
        // From here on dropping `server` cleans up, also on the error paths below.
        let mut server = Self {
            bin,
            base,
            port: 0,
            password,
            drop_to,
            options,
            guard,
        };
        server.initdb()?;
        let mut tries = 0;
        loop {
            server.port = free_port().map_err(PrivateError::Directory)?;
            match server.resume() {
                Ok(()) => return Ok(server),
                Err(e) => {
                    tries += 1;
                    if tries == PORT_TRIES {
                        return Err(e);
                    }
                }
            }
        }
    }

    /// Connection URL of a database (`postgres` always exists).
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, &self.password, database)
    }

    /// Connection URL as another role.
    pub fn url_as(&self, role: &str, password: &str, database: &str) -> String {
        format!(
            "postgres://{role}:{password}@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Directory of the server's socket and files.
    pub fn directory(&self) -> &Path {
        &self.base
    }

    /// Process id of the server, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.base.join("data/postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Stops the server and keeps its data.
    pub fn stop(&self, how: Stop) -> Result<(), PrivateError> {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.run(
            "pg_ctl",
            &["-D", "data", "-w", "-t", WAIT_SECONDS, "-m", mode, "stop"],
        )
    }

    /// Starts the server again, on the same port.
    pub fn resume(&self) -> Result<(), PrivateError> {
        let fsync = if self.options.durable { "on" } else { "off" };
        let mut settings = format!(
            "-c listen_addresses=127.0.0.1 -p {} -k {} -c fsync={fsync} -c full_page_writes={fsync} \
             -c shared_buffers={}MB -c max_connections={} -c password_encryption=scram-sha-256 \
             -c timezone=UTC -c log_timezone=UTC -c max_wal_size=1GB",
            self.port,
            self.base.display(),
            self.options.shared_buffers_mb,
            self.options.max_connections,
        );
        for s in &self.options.settings {
            settings.push_str(" -c ");
            settings.push_str(s);
        }
        self.run(
            "pg_ctl",
            &[
                "-D",
                "data",
                "-w",
                "-t",
                WAIT_SECONDS,
                "-l",
                "server.log",
                "-o",
                &settings,
                "start",
            ],
        )
    }

    /// Crashes the server and starts it again.
    pub fn crash_and_resume(&self) -> Result<(), PrivateError> {
        self.stop(Stop::Immediate)?;
        self.resume()
    }

    /// Copies the data directory aside. The server must be stopped.
    pub fn save_copy(&self) -> Result<(), PrivateError> {
        self.copy("data", "copy")
    }

    /// Puts the copy back in place of the data directory: what a failover to a lagging replica does
    /// to committed work. The server must be stopped.
    pub fn restore_copy(&self) -> Result<(), PrivateError> {
        self.copy("copy", "data")
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), PrivateError> {
        self.exec("rm", Path::new("rm"), &["-rf", "--", to])?;
        self.exec("cp", Path::new("cp"), &["-a", "--", from, to])
    }

    fn initdb(&self) -> Result<(), PrivateError> {
        let file = self.base.join("password");
        fs::write(&file, &self.password)
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))
            .and_then(|()| {
                self.drop_to
                    .map_or(Ok(()), |(u, g)| chown(&file, Some(u), Some(g)))
            })
            .map_err(PrivateError::Directory)?;
        self.run(
            "initdb",
            &[
                "-D",
                "data",
                "-U",
                SUPERUSER,
                "-A",
                "scram-sha-256",
                "--pwfile=password",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            ],
        )?;
        fs::remove_file(&file).map_err(PrivateError::Directory)
    }

    fn run(&self, program: &'static str, args: &[&str]) -> Result<(), PrivateError> {
        self.exec(program, &self.bin.join(program), args)
    }

    fn exec(&self, program: &'static str, path: &Path, args: &[&str]) -> Result<(), PrivateError> {
        let spawn = |source| PrivateError::Spawn { program, source };
        // To a file, not a pipe: the server that pg_ctl leaves behind would keep a pipe open.
        let said_path = self.base.join("said");
        let said = fs::File::create(&said_path).map_err(PrivateError::Directory)?;
        let mut command = Command::new(path);
        command
            .args(args)
            .current_dir(&self.base)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(said.try_clone().map_err(spawn)?)
            .stderr(said);
        // The caller's own client settings must not reach the server.
        for name in ["PGDATA", "PGPORT", "PGHOST", "PGOPTIONS"] {
            command.env_remove(name);
        }
        if let Some((uid, gid)) = self.drop_to {
            command.uid(uid).gid(gid);
        }
        let status = command.status().map_err(spawn)?;
        if status.success() {
            return Ok(());
        }
        let mut said = fs::read_to_string(&said_path).unwrap_or_default();
        if program == "pg_ctl" {
            said.push_str(&fs::read_to_string(self.base.join("server.log")).unwrap_or_default());
        }
        let tail: Vec<&str> = said.lines().rev().take(4).collect();
        Err(PrivateError::Failed {
            program,
            said: tail.into_iter().rev().collect::<Vec<_>>().join("; "),
        })
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // Closing the pipe is the order to clean up; waiting makes it done when this returns.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Waits for the end of its input, then stops the server and removes everything.
const GUARD: &str = r#"cat >/dev/null 2>&1
"$1/pg_ctl" -D "$2/data" -m immediate -w -t 60 stop >/dev/null 2>&1
cd / && rm -rf -- "$2""#;

fn start_guard(bin: &Path, base: &Path, drop_to: Option<(u32, u32)>) -> io::Result<Child> {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(GUARD)
        .arg("veilwatch-postgres-guard")
        .arg(bin)
        .arg(base)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Its own group: Ctrl-C in the terminal must reach the owner, not the guard.
        .process_group(0);
    if let Some((uid, gid)) = drop_to {
        command.uid(uid).gid(gid);
    }
    command.spawn()
}

/// A directory that the server's uid owns and can reach: each parent must be searchable for it, so
/// a temporary directory below a private home is passed over. Socket paths are at most 107 bytes.
fn make_base(drop_to: Option<(u32, u32)>) -> io::Result<PathBuf> {
    let mut places = vec![std::env::temp_dir()];
    places.extend(["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from));
    let mut last = io::Error::other("no temporary directory is usable");
    for place in places {
        if place.as_os_str().len() > 70 || (drop_to.is_some() && !searchable(&place)) {
            continue;
        }
        let base = place.join(format!("veilwatch-pg-{}", random_word()));
        let made = fs::create_dir(&base)
            .and_then(|()| fs::set_permissions(&base, fs::Permissions::from_mode(0o700)))
            .and_then(|()| drop_to.map_or(Ok(()), |(u, g)| chown(&base, Some(u), Some(g))));
        match made {
            Ok(()) => return Ok(base),
            Err(e) => {
                let _ = fs::remove_dir(&base);
                last = e;
            }
        }
    }
    Err(last)
}

/// Whether strangers may pass through every directory of the path.
fn searchable(path: &Path) -> bool {
    path.ancestors()
        .all(|p| fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o001 != 0))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn random_word() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The directory that holds `initdb` and `pg_ctl`: newest packaged version first when `PATH` has none.
fn find_binaries() -> Option<PathBuf> {
    let usable = |dir: &Path| dir.join("initdb").is_file() && dir.join("pg_ctl").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(dir) = std::env::split_paths(&path).find(|d| usable(d)) {
        return Some(dir);
    }
    let mut packaged: Vec<(u32, PathBuf)> =
        ["/usr/lib/postgresql", "/usr/local/opt", "/opt/homebrew/opt"]
            .iter()
            .filter_map(|root| fs::read_dir(root).ok())
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let version = name
                    .to_str()?
                    .trim_start_matches("postgresql@")
                    .parse()
                    .ok()?;
                Some((version, entry.path().join("bin")))
            })
            .filter(|(_, dir)| usable(dir))
            .collect();
    packaged.extend(
        [
            "/usr/pgsql-18/bin",
            "/usr/pgsql-17/bin",
            "/usr/pgsql-16/bin",
            "/usr/pgsql-15/bin",
        ]
        .iter()
        .map(|dir| (0, PathBuf::from(dir)))
        .filter(|(_, dir)| usable(dir)),
    );
    packaged.sort();
    packaged.pop().map(|(_, dir)| dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_crashes_resumes_and_cleans_up() {
        let server = PrivatePostgres::start(Options::default()).expect("private postgres");
        let (pid, base) = (server.pid().expect("pid"), server.directory().to_path_buf());
        server.crash_and_resume().expect("resumes");
        assert_ne!(server.pid(), Some(pid));
        assert!(base.exists());
        drop(server);
        assert!(!base.exists(), "the directory is removed");
    }
}
