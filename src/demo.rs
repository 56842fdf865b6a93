//! The demo: broker, Postgres, gateways, attacks, mailbox and console on one machine.
