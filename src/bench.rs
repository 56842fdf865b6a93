//! Measures speed, memory and scale as ratios against ceilings of the same run.
