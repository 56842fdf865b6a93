//! Measuring the program: the seeded workload, the reference run, the bench and the chaos run.

pub mod anomaly;
pub mod ceiling;
pub mod figures;
pub mod measure;
mod product;
pub mod template;
pub mod workload;
