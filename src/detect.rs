//! Runs the detectors over sealed events. Pure: no I/O, no clock, no randomness.
