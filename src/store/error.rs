//! What can go wrong between us and Postgres, and whether trying again may help.
//!
//! A message names the operation and the server's own words. Values never stand in it: the server
//! puts them into `DETAIL`, which is not shown.

use std::fmt;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is not one.
    #[error(
        "the address of postgres (store.url, or --database) is not one: {0}; write postgres://user@host:5432/database"
    )]
    Url(String),
    /// Nobody answers.
    #[error(
        "could not reach postgres at {at}: {said}; check that it runs, and its address (store.url, or --database)"
    )]
    Unreachable {
        /// Host and port, or socket.
        at: String,
        /// The cause.
        said: String,
    },
    /// The server refuses the login.
    #[error(
        "postgres at {at} refused user `{user}`: {said}; check the user and password (store.url, its url_file, or --database)"
    )]
    Refused {
        /// Host and port.
        at: String,
        /// The role.
        user: String,
        /// The server's words.
        said: String,
    },
    /// The server does not speak TLS, and the host is not this machine.
    #[error(
        "postgres at {at} could not be reached over TLS with a verified certificate: {said}; add ?sslrootcert=FILE to its address (store.url, or --database), or ?sslmode=disable if the network is trusted"
    )]
    Tls {
        /// Host and port.
        at: String,
        /// The cause.
        said: String,
    },
    /// The server is too old.
    #[error("postgres {found} is too old: version {needed} or later is needed")]
    TooOld {
        /// What it is.
        found: String,
        /// What is needed.
        needed: u32,
    },
    /// The schema is missing or behind.
    #[error(
        "the database is at schema version {found}, this program needs {needed}: run `veilwatch db migrate`"
    )]
    NotMigrated {
        /// Highest version applied, 0 for none.
        found: i64,
        /// Highest version this program knows.
        needed: i64,
    },
    /// A migration failed.
    #[error("migration failed: {0}")]
    Migration(String),
    /// A statement failed.
    #[error("{what}: {cause}")]
    Statement {
        /// What was being done.
        what: &'static str,
        /// What the server or the connection said.
        cause: Cause,
    },
    /// A row does not say what this program wrote.
    #[error("{what} in the database cannot be read: {said}")]
    Corrupt {
        /// Which row.
        what: &'static str,
        /// Why.
        said: String,
    },
    /// Somebody else holds the lease.
    #[error("the lease `{0}` is held by another process")]
    LeaseLost(&'static str),
    /// What was asked for is not there or not possible.
    #[error("{0}")]
    Refusal(String),
    /// The task that ran the transaction ended without an answer.
    #[error("the transaction's task ended early: {0}")]
    Task(String),
}

/// Why a statement failed.
#[derive(Debug, Clone)]
pub struct Cause {
    /// SQLSTATE, where the server answered.
    pub code: Option<String>,
    /// In words; without values.
    pub said: String,
    /// The connection broke: the outcome of a COMMIT is unknown.
    pub connection: bool,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)?;
        match &self.code {
            Some(code) => write!(f, " (SQLSTATE {code})"),
            None => Ok(()),
        }
    }
}

impl From<&sqlx::Error> for Cause {
    fn from(e: &sqlx::Error) -> Self {
        match e {
            sqlx::Error::Database(db) => {
                let code = db.code().map(std::borrow::Cow::into_owned);
                let connection = code
                    .as_deref()
                    .is_some_and(|c| c.starts_with("08") || c == "40003" || c.starts_with("57P"));
                Self {
                    code,
                    said: db.message().to_owned(),
                    connection,
                }
            }
            // Decoding errors quote columns and types of ours, not values.
            e => Self {
                code: None,
                said: e.to_string(),
                connection: matches!(
                    e,
                    sqlx::Error::Io(_)
                        | sqlx::Error::Tls(_)
                        | sqlx::Error::Protocol(_)
                        | sqlx::Error::PoolTimedOut
                        | sqlx::Error::PoolClosed
                        | sqlx::Error::WorkerCrashed
                ),
            },
        }
    }
}

impl StoreError {
    /// A failed statement.
    pub(crate) fn statement(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |e| Self::Statement {
            what,
            cause: Cause::from(&e),
        }
    }

    /// SQLSTATE, where the server gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Statement { cause, .. } => cause.code.as_deref(),
            _ => None,
        }
    }

    /// The connection broke, so a COMMIT under way may or may not have happened.
    pub fn is_connection(&self) -> bool {
        match self {
            Self::Statement { cause, .. } => cause.connection,
            Self::Unreachable { .. } => true,
            _ => false,
        }
    }

    /// The same batch may succeed if it is tried again: deadlock, serialisation, lock and statement
    /// timeouts, lost connections, a server that starts, stops or is full.
    pub fn is_transient(&self) -> bool {
        self.is_too_slow() || self.is_passing()
    }

    /// The server ended a statement or transaction that took too long. Once is load; the same work again
    /// and again is too much at once.
    pub fn is_too_slow(&self) -> bool {
        self.code().is_some_and(|c| matches!(c, "57014" | "25P04"))
    }

    /// Whether the database as a whole does not take what we write until somebody mends it, whatever the
    /// content: a standby or a read-only database, a right that is missing, tables of another version. The
    /// work waits; it is not at fault.
    pub fn is_waiting(&self) -> bool {
        self.code()
            .is_some_and(|c| matches!(c, "25006" | "42501" | "42P01" | "42703" | "42883" | "3F000"))
    }

    fn is_passing(&self) -> bool {
        if self.is_connection() {
            return true;
        }
        self.code().is_some_and(|c| {
            matches!(c, "40001" | "40P01" | "55P03" | "25P03") || c.starts_with("53")
        })
    }
}

/// Turns the error of a first connection into one that says what to do.
pub(crate) fn connect_error(at: String, user: &str, e: &sqlx::Error) -> StoreError {
    match e {
        sqlx::Error::Database(db) => {
            let said = db.message().to_owned();
            match db.code().as_deref() {
                Some(c) if c.starts_with("28") => StoreError::Refused {
                    at,
                    user: user.to_owned(),
                    said,
                },
                Some("3D000") => StoreError::Refusal(format!(
                    "{said} at {at}: create it (CREATE DATABASE …), then run `veilwatch db migrate`"
                )),
                _ => StoreError::Unreachable { at, said },
            }
        }
        sqlx::Error::Tls(e) => StoreError::Tls {
            at,
            said: e.to_string(),
        },
        e => StoreError::Unreachable {
            at,
            said: e.to_string(),
        },
    }
}

impl StoreError {
    /// Whether the role lacks a right, which only an administrator can give it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Statement { cause, .. } if cause.code.as_deref() == Some("42501"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_code(code: &str) -> StoreError {
        StoreError::Statement {
            what: "test",
            cause: Cause {
                code: Some(code.to_owned()),
                said: "said".to_owned(),
                connection: code.starts_with("08") || code.starts_with("57P"),
            },
        }
    }

    #[test]
    fn transient_by_sqlstate() {
        for code in [
            "40P01", "40001", "55P03", "57014", "57P01", "08006", "53100",
        ] {
            assert!(with_code(code).is_transient(), "{code}");
        }
        for code in ["23505", "42P01", "22P02", "42501"] {
            assert!(!with_code(code).is_transient(), "{code}");
        }
        for code in ["25006", "42501", "42P01", "42703"] {
            assert!(with_code(code).is_waiting(), "{code}");
        }
        for code in ["23505", "22P02", "40P01"] {
            assert!(!with_code(code).is_waiting(), "{code}");
        }
    }
}
