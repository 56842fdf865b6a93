//! Turns text into a sketch: normalise, match, score, fingerprint, key. Text ends here.

pub mod canonical;
pub mod digest;
pub mod engine;
pub mod key;
pub mod model;
pub mod print;
pub mod reading;
pub mod registered;
pub mod sketch;
mod swar;
pub mod text;
pub mod value;
pub mod verdict;

pub use key::{Domain, Key, Keys};
pub use sketch::{Scratch, Sealer};
