//! The sealer: one text in, one sketch out, and nothing of the text in it.

use super::digest;
use super::key::{Domain, Keys};
use super::print::{self, Printer, Prints, Words};
use crate::event::{MAX_PRINTS, MAX_RESPONSE_PRINTS, Pseudonym, Role, Side, Sketch};

/// Seals texts and identities with one key ring and one set of rules. Shared by all threads; what a
/// thread needs of its own is in [`Scratch`].
pub struct Sealer {
    keys: Keys,
    printer: Printer,
}

/// Memory reused from text to text.
#[derive(Default)]
pub struct Scratch {
    words: Words,
    prints: Prints,
}

impl Sealer {
    /// A sealer with a key ring.
    pub fn new(keys: Keys) -> Self {
        Self {
            printer: Printer::new(keys.active_content()),
            keys,
        }
    }

    /// The key ring.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Pseudonym of an identity under the active key of its tenant.
    pub fn pseudonym(&self, domain: Domain, tenant: Option<&str>, value: &str) -> Pseudonym {
        self.keys.pseudonym(domain, tenant, value)
    }

    /// Describes a text.
    pub fn sketch(&self, text: &str, _role: Role, side: Side, scratch: &mut Scratch) -> Sketch {
        let key = self.keys.active_content();
        let folded: String = text
            .chars()
            .flat_map(|c| crate::rule::fold::fold(c).as_slice().to_vec())
            .collect();
        scratch.prints.clear();
        self.printer
            .add(&folded, &mut scratch.words, &mut scratch.prints);
        let max = match side {
            Side::Request => MAX_PRINTS,
            Side::Response => MAX_RESPONSE_PRINTS,
        };
        Sketch {
            kid: key.kid(),
            digest: Some(digest::digest(key, &folded)),
            bytes: text.len() as u64,
            chars: text.chars().count() as u64,
            words: print::count_words(text) as u64,
            prints: scratch.prints.smallest(max),
            ..Sketch::default()
        }
    }
}
