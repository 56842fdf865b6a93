//! The demo: broker, Postgres, gateways, attacks, mailbox and console on one machine.

pub mod gateway;
pub mod mailbox;
pub mod receiver;
pub mod script;
pub mod traffic;
