//! `deploy/`: what the compose file and the Dockerfile name exists in the product. No container engine
//! is needed: they are parsed, and held against the files, the configuration and the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use sqlx::{Connection as _, PgConnection};
use veilwatch::config::{Config, Source, no_env};
use veilwatch::store::private::{Options, PrivatePostgres};
use veilwatch::store::{Store, StoreConfig};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
    secrets: BTreeMap<String, Secret>,
    volumes: BTreeMap<String, Option<()>>,
}

#[derive(Deserialize)]
struct Secret {
    environment: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Service {
    image: String,
    build: Build,
    command: Vec<String>,
    environment: BTreeMap<String, serde_json::Value>,
    secrets: Vec<Mounted>,
    volumes: Vec<String>,
    ports: Vec<String>,
    depends_on: BTreeMap<String, serde_json::Value>,
    healthcheck: Option<Health>,
    read_only: bool,
    cap_drop: Vec<String>,
}

/// A secret as it is mounted: under its own name, or another.
#[derive(Deserialize)]
#[serde(untagged)]
enum Mounted {
    Own(String),
    Other { source: String, target: String },
}

impl Mounted {
    fn source(&self) -> &str {
        match self {
            Self::Own(name) | Self::Other { source: name, .. } => name,
        }
    }
    fn target(&self) -> &str {
        match self {
            Self::Own(name) | Self::Other { target: name, .. } => name,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Build {
    context: String,
    dockerfile: String,
}

#[derive(Deserialize)]
struct Health {
    test: Vec<String>,
}

fn compose() -> Compose {
    serde_saphyr::from_str(&read("deploy/compose.yaml")).expect("compose.yaml")
}

/// The instructions of the Dockerfile, continuation lines joined.
fn dockerfile() -> Vec<(String, String)> {
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    text.lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        .filter_map(|l| l.split_once(' '))
        .map(|(word, rest)| (word.to_owned(), rest.trim().to_owned()))
        .collect()
}

fn instruction(name: &str) -> String {
    let all = dockerfile();
    let found = all.iter().rev().find(|(word, _)| word == name);
    found.unwrap_or_else(|| panic!("no {name}")).1.clone()
}

/// The configuration of the compose file. Its secret is a file in the container; here its value.
fn config() -> Config {
    let text = read("deploy/config.compose.toml").replace(
        "url_file = \"/run/secrets/store_url\"",
        "url = \"postgres://veilwatch_run:x@postgres/veilwatch\"",
    );
    let env = no_env();
    let source = Source {
        text: &text,
        dir: Path::new("/etc/veilwatch"),
        env: &env,
    };
    Config::parse(&source).unwrap_or_else(|p| panic!("config.compose.toml: {p:?}"))
}

#[test]
fn every_path_port_and_secret_of_the_compose_file_exists() {
    let c = compose();
    let config = config();
    let own = &c.services["veilwatch"];
    let deploy = root().join("deploy");
    let context = deploy.join(&own.build.context);
    assert!(context.join(&own.build.dockerfile).is_file() && context.join("Cargo.toml").is_file());
    assert!(
        own.read_only && own.cap_drop == ["ALL"],
        "the product runs with nothing"
    );

    // Mounted files: from the repository to where the image's command reads them.
    let command: Vec<String> = serde_json::from_str(&instruction("CMD")).expect("CMD in JSON form");
    let path = command.last().expect("a path");
    let mounts: Vec<Vec<&str>> = own.volumes.iter().map(|v| v.split(':').collect()).collect();
    assert!(
        mounts.iter().any(|m| m[1] == path),
        "{path} is not mounted: {mounts:?}"
    );
    for m in &mounts {
        assert!(deploy.join(m[0]).is_file(), "{}", m[0]);
        assert_eq!(m.get(2), Some(&"ro"));
    }
    // Ports: published on loopback only, and the one that the product listens on.
    let port = config.http.port().to_string();
    assert_eq!(own.ports, [format!("127.0.0.1:{port}:{port}")]);
    assert!(
        config.http.ip().is_unspecified(),
        "a container's loopback is its own"
    );
    // Secrets: declared, handed over, read from the right file, and set in the comment's commands.
    let file = read("deploy/config.compose.toml");
    for service in [own, &c.services["migrate"]] {
        for secret in &service.secrets {
            let name = secret.target();
            assert!(
                file.contains(&format!("\"/run/secrets/{name}\"")),
                "{name} is read by nobody"
            );
        }
    }
    let head = read("deploy/compose.yaml");
    for service in c.services.values() {
        for secret in &service.secrets {
            let variable = &c.secrets[secret.source()].environment;
            assert!(
                head.contains(&format!("export {variable}=")),
                "{variable} is not explained"
            );
        }
        for name in service.environment.values().filter_map(|v| v.as_str()) {
            if let Some(secret) = name.strip_prefix("/run/secrets/") {
                assert!(
                    service.secrets.iter().any(|s| s.target() == secret),
                    "{name}"
                );
            }
        }
        for volume in service
            .volumes
            .iter()
            .filter(|v| !v.starts_with(['.', '/']))
        {
            let name = volume.split(':').next().unwrap_or_default();
            assert!(c.volumes.contains_key(name), "{name}");
        }
    }
    // What it waits for can say that it is healthy.
    for (needed, how) in &own.depends_on {
        let service = &c.services[needed];
        let ends = how["condition"] == "service_completed_successfully";
        assert!(
            service.healthcheck.is_some() || ends,
            "{needed} has no health check"
        );
        assert!(!service.image.ends_with(":latest") && service.image.contains(':'));
    }
}

#[test]
fn kafka_and_postgres_are_those_that_the_configuration_names() {
    let c = compose();
    let config = config();
    let kafka = &c.services["kafka"];
    for broker in config.ingest.brokers.split(',') {
        let advertised = kafka.environment["KAFKA_ADVERTISED_LISTENERS"].as_str();
        let mut listeners = advertised.unwrap_or_default().split(',');
        assert_eq!(
            listeners.next(),
            Some(format!("PLAINTEXT://{broker}").as_str())
        );
        // Those on the machine itself come in by a port that is published on loopback only.
        let host = listeners
            .next()
            .and_then(|l| l.strip_prefix("HOST://127.0.0.1:"));
        let port = host.expect("a listener for the host");
        assert_eq!(kafka.ports, [format!("127.0.0.1:{port}:{port}")]);
        let health = kafka.healthcheck.as_ref().expect("health").test.join(" ");
        for t in &config.ingest.topics {
            assert!(
                health.contains(&format!("--topic {} ", t.name)),
                "{} is not created",
                t.name
            );
        }
    }
    assert_eq!(
        kafka.environment["KAFKA_LOG_MESSAGE_TIMESTAMP_TYPE"],
        "LogAppendTime"
    );
    let postgres = &c.services["postgres"];
    let user = postgres.environment["POSTGRES_USER"]
        .as_str()
        .expect("a user");
    let database = postgres.environment["POSTGRES_DB"]
        .as_str()
        .expect("a database");
    let head = read("deploy/compose.yaml");
    let url =
        format!("VEILWATCH_OWNER_URL=\"postgres://{user}:$POSTGRES_PASSWORD@postgres/{database}\"");
    assert!(head.contains(&url), "{url}");
    let major: u32 = postgres
        .image
        .rsplit(':')
        .next()
        .and_then(|v| v.parse().ok())
        .expect("a major");
    assert!(major >= 15, "older than the statements need");
}

#[test]
fn the_image_builds_what_it_runs_and_runs_what_exists() {
    let all = dockerfile();
    // The same packages that the script for developers asks for.
    let prepare = read("deploy/dev/prepare");
    let install = all.iter().find(|(w, _)| w == "RUN").expect("RUN").1.clone();
    for package in ["make", "g++", "pkg-config", "libssl-dev"] {
        assert!(
            install.contains(package) && prepare.contains(package),
            "{package}"
        );
    }
    let ignored = read(".dockerignore");
    for line in ignored
        .lines()
        .filter(|l| !l.starts_with('#') && !l.contains('*'))
    {
        assert!(
            !read("build.rs").contains(&format!("\"{line}\"")),
            "the build needs {line}"
        );
    }
    let binary = instruction("ENTRYPOINT");
    let binary: Vec<String> = serde_json::from_str(&binary).expect("ENTRYPOINT in JSON form");
    let copy = all
        .iter()
        .rev()
        .find(|(w, _)| w == "COPY")
        .expect("COPY")
        .1
        .clone();
    assert!(copy.ends_with(&binary[0]) && copy.contains("target/release/veilwatch"));
    let user: Vec<u32> = instruction("USER")
        .split(':')
        .map(|n| n.parse().expect("a number"))
        .collect();
    assert!(
        user.iter().all(|n| *n > 0),
        "not root, and by number for `runAsNonRoot`"
    );

    // The command line is one that the program takes: an absent file is what it complains about.
    let command: Vec<String> = serde_json::from_str(&instruction("CMD")).expect("CMD in JSON form");
    let out = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .args(&command[..command.len() - 1])
        .arg("/nonexistent/veilwatch.toml")
        .output()
        .expect("the program");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("/nonexistent/veilwatch.toml"), "{said}");
}

/// The logins' script as the database's image runs it, with a password of ours.
fn logins(password: &str) -> String {
    let script = read("deploy/sql/logins.sql");
    let (commands, rest): (Vec<&str>, Vec<&str>) =
        script.lines().partition(|l| l.starts_with('\\'));
    assert_eq!(commands, ["\\set password `cat /run/secrets/run`"]);
    rest.join("\n")
        .replace(":'password'", &format!("'{password}'"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_runs_as_a_login_that_owns_nothing() {
    let c = compose();
    let (own, migrate, postgres) = (
        &c.services["veilwatch"],
        &c.services["migrate"],
        &c.services["postgres"],
    );
    // Who has the superuser's password: the database and what migrates, and nobody that goes on running.
    for (name, service) in &c.services {
        let sources: Vec<&str> = service.secrets.iter().map(Mounted::source).collect();
        let superuser = sources
            .iter()
            .any(|s| ["postgres", "owner_url"].contains(s));
        assert_eq!(superuser, ["migrate", "postgres"].contains(&name.as_str()));
    }
    let waits = &own.depends_on["migrate"]["condition"];
    assert_eq!(waits, "service_completed_successfully");
    let head = read("deploy/compose.yaml");
    let url = "VEILWATCH_STORE_URL=\"postgres://veilwatch_run:$VEILWATCH_RUN_PASSWORD@";
    assert!(head.contains(url) && c.secrets["run"].environment == "VEILWATCH_RUN_PASSWORD");
    let script = "./sql/logins.sql:/docker-entrypoint-initdb.d/10-logins.sql:ro";
    assert!(postgres.volumes.iter().any(|v| v == script));
    assert!(!config().store.migrate, "its login may not");

    // As the containers do it, in their order, on a database of its own.
    let server = PrivatePostgres::start(Options::default()).expect("postgres");
    let run = |sql: String, url: String| async move {
        let mut conn = PgConnection::connect(&url).await.expect("connect");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut conn)
            .await
    };
    let owner = server.url("postgres");
    run(logins("secret"), owner.clone()).await.expect("logins");
    let words: Vec<&str> = migrate.command.iter().map(String::as_str).collect();
    let (args, config) = words.split_at(words.len() - 2);
    assert_eq!(config, ["--config", "/etc/veilwatch/veilwatch.toml"]);
    let out = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .args(args)
        .args(["--database", &owner])
        .output()
        .expect("the program");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let login = server.url_as("veilwatch_run", "secret", "postgres");
    let store = Store::connect(StoreConfig::new(login.clone())).await;
    store.expect("the monitor's login connects");
    for refused in [
        "CREATE TABLE vw.mine (a int)",
        "DELETE FROM vw.audit_batch",
        "UPDATE vw.audit_batch SET n = 0",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "CREATE ROLE other SUPERUSER",
    ] {
        let done = run(refused.to_owned(), login.clone()).await;
        let code = done.expect_err(refused);
        let code = code
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        assert_eq!(code.as_deref(), Some("42501"), "{refused}");
    }
}
