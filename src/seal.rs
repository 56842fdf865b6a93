//! Turns text into a sketch: normalise, match, score, fingerprint, key. Text ends here.

pub mod canonical;
pub mod digest;
pub mod key;
pub mod print;
pub mod text;
pub mod model;
pub mod value;

pub use key::{Domain, Key, Keys};
