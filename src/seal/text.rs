//! A text in memory: wiped when it is dropped, and without any way to print it.
//!
//! ```compile_fail
//! let text = veilwatch::seal::text::Text::from("a prompt".to_owned());
//! println!("{text:?}");
//! ```
//! ```compile_fail
//! let text = veilwatch::seal::text::Text::from("a prompt".to_owned());
//! println!("{text}");
//! ```
//! ```compile_fail
//! let text = veilwatch::seal::text::Text::from("a prompt".to_owned());
//! let _ = serde_json::to_string(&text);
//! ```

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// A prompt, a completion, a document. No `Debug`, no `Display`, no `Serialize`, no `Clone`: the only
/// way on is [`crate::seal::Sealer`].
pub struct Text(Zeroizing<String>);

impl Text {
    /// The text, for sealing and scanning only.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Text {
    fn from(s: String) -> Self {
        Self(Zeroizing::new(s))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_from_json_and_measured() {
        let t: Text = serde_json::from_str("\"planted \\u00e9\"").expect("string");
        assert_eq!((t.len(), t.is_empty()), (10, false));
        assert_eq!(t.expose(), "planted é");
    }

    #[test]
    fn a_wrong_type_is_refused_without_naming_the_value() {
        // The caller turns serde's message into a reason; here only that nothing else parses.
        assert!(serde_json::from_str::<Text>("7").is_err());
    }
}
