//! Veilwatch: out-of-band security monitoring of LLM traffic.
//!
//! ```text
//!  text in memory only │ sealed from here on: the types have no field for text
//!  gateway ─► seal ────┼─► Kafka ─► ingest ─► decode ─► detect ─► account ─► decide ─► store ─► deliver
//! ```
//!
//! The modules stand in the order of the data; a module uses only what stands before it
//! (`tests/architecture.rs` checks that). `event rule seal decode detect account decide` are pure:
//! no I/O, no clock, no randomness. Open [`pipeline`] second: it joins the stages.

pub mod event;
pub mod rule;
pub mod seal;
pub mod telemetry;

pub mod ingest;

pub mod decode;

pub mod detect;

pub mod account;

pub mod decide;

pub mod store;

pub mod deliver;

pub mod config;

pub mod pipeline;

pub mod replay;

pub mod demo;

pub mod bench;

pub mod cli;
