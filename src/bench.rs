//! Measuring the program: the seeded workload, the reference run, the bench and the chaos run.

pub mod anomaly;
mod applied;
pub mod ceiling;
mod feed;
pub mod figures;
pub mod measure;
mod product;
mod restart;
mod sealing;
pub mod stage;
pub mod template;
pub mod workload;
