//! Turns text into a sketch: normalise, match, score, fingerprint, key. Text ends here.
pub mod value;
