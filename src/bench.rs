//! Measuring the program: the seeded workload, the reference run, the bench and the chaos run.

pub mod anomaly;
mod applied;
pub mod ceiling;
mod feed;
pub mod figures;
pub mod measure;
mod product;
pub mod stage;
pub mod template;
pub mod workload;
