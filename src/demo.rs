//! The demo: broker, Postgres, gateways, attacks, mailbox and console on one machine.
//!
//! [`stage`] sets everything up, [`history`] teaches the baselines fourteen days through the pure
//! core, [`traffic`] and [`gateway`] publish what ordinary people ask, [`script`] says what goes
//! wrong and when, [`show`] runs it with a commentary, [`closing`] holds what was found against what
//! was put in. [`mailbox`] and [`receiver`] are real servers; [`console`] is a page to
//! look at, [`board`] what it shows.

pub mod board;
pub mod closing;
pub mod console;
pub mod gateway;
pub mod history;
mod live;
pub mod mailbox;
pub mod receiver;
pub mod scene;
pub mod script;
pub mod show;
pub mod stage;
pub mod traffic;

use std::sync::Arc;

use crate::seal::Sealer;
use crate::seal::key::Keys;

/// Why the demo cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", why.as_ref().map(|w| format!(": {w}")).unwrap_or_default())]
pub struct DemoError {
    what: String,
    why: Option<String>,
}

impl DemoError {
    /// A step that failed, and its cause.
    pub fn new(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self {
            what: what.into(),
            why: Some(why.to_string()),
        }
    }
    /// A sentence.
    pub fn said(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: None,
        }
    }
}

/// The three gateways: two seal, the third publishes texts.
pub fn gateways(keys: &Arc<Keys>, sealer: &Arc<Sealer>, boot: &str) -> [gateway::Gateway; 3] {
    let make = |name, sealer| gateway::Gateway::new(name, boot, Arc::clone(keys), sealer);
    [
        make("gw-eu-1", Some(sealer)),
        make("gw-eu-2", Some(sealer)),
        make("gw-us-1", None),
    ]
}

/// The gateway that a user goes through.
pub fn gateway_of(user: usize) -> usize {
    user % 3
}
