//! The integration tests, one binary (each further one would link the whole program again).
mod architecture;
mod decode;
mod deliver;
mod ingest;
mod postgres;
mod seal;
mod store;
