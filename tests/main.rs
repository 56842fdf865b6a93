//! The integration tests, one binary (each further one would link the whole program again).
mod architecture;
mod chaos;
mod decode;
mod deliver;
mod engine;
mod faults;
mod ingest;
mod pipeline;
mod planted;
mod postgres;
mod quality;
mod reference;
mod rig;
mod rules;
mod seal;
mod store;
mod values;
