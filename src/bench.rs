//! Measuring the program: the seeded workload, the reference run, the bench and the chaos run.

pub mod workload;
