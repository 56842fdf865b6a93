//! Postgres: one fenced transaction per batch, and everything else that touches SQL.

pub mod private;
