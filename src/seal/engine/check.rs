//! Checks around an anchor: from the place of a rule's rarest literal, does the text go on as the
//! regex needs, and did it come that way?
//!
//! Two automata, built when they are first needed and filled as texts need their states: one reads
//! on from the literal, one reads back from it. Both begin where the literal stands and stop at the
//! first letter that cannot be, so that a harmless mention costs a few steps. What passes is
//! searched by the regex itself.

use std::sync::OnceLock;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::Hir;

use super::regex::REACH;
use crate::rule::anchor::{Anchor, relaxed};
use crate::rule::extent::{ORDINARY_RUN, ordinary, trimmed};
use crate::rule::pattern::SIZE_LIMIT;
use crate::seal::reading::scout::stretches;

/// Memory for the states of one automaton, in bytes.
const STATES: usize = 128 << 10;
/// Memory for the states of all automata in one thread, in bytes; beyond it all are forgotten and
/// filled again.
const ALL_STATES: usize = 32 << 20;

/// States seen so far, one thread's.
#[derive(Debug, Default)]
pub(super) struct Caches {
    by_check: Vec<Option<Box<Cache>>>,
    bytes: usize,
    /// Bytes that were followed or searched so far: a measure of work.
    pub followed: usize,
}

impl Caches {
    fn of(&mut self, id: u32, dfa: &DFA) -> &mut Cache {
        if self.bytes > ALL_STATES {
            self.by_check.clear();
            self.bytes = 0;
        }
        let at = id as usize;
        if self.by_check.len() <= at {
            self.by_check.resize_with(at + 1, || None);
        }
        let bytes = &mut self.bytes;
        self.by_check[at].get_or_insert_with(|| {
            let cache = dfa.create_cache();
            *bytes += cache.memory_usage();
            Box::new(cache)
        })
    }

    /// An automaton's memory has grown.
    fn grown(&mut self, before: usize, after: usize) {
        self.bytes += after.saturating_sub(before);
    }
}

/// One direction of a check.
#[derive(Debug)]
struct Way {
    id: u32,
    /// The expression without counting.
    hir: Hir,
    /// Longest stretch of text that the expression itself covers, bytes.
    reach: usize,
    /// The same in ordinary text: ASCII without long runs.
    ordinary: usize,
    back: bool,
    built: OnceLock<Option<DFA>>,
}

impl Way {
    fn new(id: u32, hir: &Hir, back: bool) -> Option<Self> {
        // What the far end may do without cannot fail.
        let hir = trimmed(hir, back);
        let reach = hir.properties().maximum_len().unwrap_or(usize::MAX);
        let ordinary = ordinary(&hir).unwrap_or(usize::MAX).min(reach);
        let hir = relaxed(&hir);
        // What matches the empty text says nothing.
        let asks =
            hir.properties().minimum_len() != Some(0) || !hir.properties().look_set().is_empty();
        asks.then_some(Self {
            id,
            hir,
            reach,
            ordinary,
            back,
            built: OnceLock::new(),
        })
    }

    fn dfa(&self) -> Option<&DFA> {
        self.built
            .get_or_init(|| {
                let config = thompson::Config::new()
                    .reverse(self.back)
                    .which_captures(thompson::WhichCaptures::None)
                    .nfa_size_limit(Some(SIZE_LIMIT));
                let nfa = thompson::Compiler::new()
                    .configure(config)
                    .syntax(syntax::Config::new())
                    .build_from_hir(&self.hir)
                    .ok()?;
                DFA::builder()
                    .configure(
                        DFA::config()
                            .cache_capacity(STATES)
                            .skip_cache_capacity_check(true)
                            .unicode_word_boundary(true)
                            // It never gives up: what it may cost is bounded by the reach.
                            .minimum_cache_clear_count(None),
                    )
                    .build_from_nfa(nfa)
                    .ok()
            })
            .as_ref()
    }

    /// Whether the text can go this way from `at`; true if it cannot be told. Takes its steps from
    /// `left`.
    fn goes(&self, text: Around<'_>, at: usize, caches: &mut Caches, left: &mut usize) -> bool {
        let Some(dfa) = self.dfa() else { return true };
        let reach = if text.ordinary {
            self.ordinary
        } else {
            self.reach
        };
        let text = text.text.as_bytes();
        let most = REACH.min(*left).min(reach);
        let cache = caches.of(self.id, dfa);
        let before = cache.memory_usage();
        let input = Input::new(text).anchored(Anchored::Yes);
        let (mut steps, mut next) = (0, at);
        let start = if self.back {
            dfa.start_state_reverse(cache, &input.range(..at))
        } else {
            dfa.start_state_forward(cache, &input.range(at..))
        };
        let Ok(mut state) = start else { return true };
        let goes = loop {
            if state.is_tagged() {
                if state.is_dead() {
                    break false;
                }
                if state.is_match() || state.is_quit() {
                    break true;
                }
            }
            let ended = if self.back {
                next == 0
            } else {
                next == text.len()
            };
            if ended {
                break dfa
                    .next_eoi_state(cache, state)
                    .map_or(true, |state| state.is_match() || state.is_quit());
            }
            if steps == most {
                // Beyond its reach the expression itself has ended.
                break most != reach
                    || dfa
                        .next_state(
                            cache,
                            state,
                            if self.back {
                                text[next - 1]
                            } else {
                                text[next]
                            },
                        )
                        .map_or(true, |state| state.is_match() || state.is_quit());
            }
            steps += 1;
            let byte = if self.back {
                next -= 1;
                text[next]
            } else {
                next += 1;
                text[next - 1]
            };
            match dfa.next_state(cache, state, byte) {
                Ok(new) => state = new,
                Err(_) => break true,
            }
        };
        let after = cache.memory_usage();
        caches.grown(before, after);
        caches.followed += steps;
        *left -= steps;
        goes
    }
}

/// The text around an anchor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'t> {
    pub text: &'t str,
    /// It is ASCII, and no run without a blank is longer than [`ORDINARY_RUN`].
    pub ordinary: bool,
}

/// What must stand around an anchor.
#[derive(Debug)]
pub(super) struct Check {
    /// Bytes before the literal at which both ways begin; one of these.
    leads: &'static [usize],
    /// The way that is shorter in ordinary text comes first.
    ways: [Option<Way>; 2],
}

impl Check {
    /// The check of an anchor; `next` numbers the automata.
    pub(super) fn new(anchor: &Anchor, next: &mut u32) -> Self {
        let leads: &[usize] = match anchor.lead {
            Some(0) => &[0],
            Some(_) => &[1],
            None => &[0, 1],
        };
        let mut way = |hir: &Hir, back: bool| {
            let way = Way::new(*next, hir, back);
            *next += u32::from(way.is_some());
            way
        };
        let mut ways = [way(&anchor.ahead, false), way(&anchor.behind, true)];
        ways.sort_by_key(|way| way.as_ref().map_or(0, |w| w.ordinary));
        Self { leads, ways }
    }

    /// Whether the regex may match around a literal that begins at `at`.
    /// Takes its steps from `left`; without any left it holds.
    pub(super) fn holds(
        &self,
        text: Around<'_>,
        at: usize,
        caches: &mut Caches,
        left: &mut usize,
    ) -> bool {
        let mut from = |from: usize| {
            let mut ways = self.ways.iter().flatten();
            ways.all(|way| way.goes(text, from, caches, left))
        };
        let mut places = self.leads.iter().filter_map(|lead| at.checked_sub(*lead));
        places.any(&mut from)
    }
}

/// Whether no run without a blank in a folded text is longer than [`ORDINARY_RUN`].
pub(super) fn short_runs(folded: &str) -> bool {
    stretches(folded.as_bytes(), ORDINARY_RUN + 1, &NO_BLANK).is_empty()
}

const NO_BLANK: [bool; 256] = {
    let mut class = [true; 256];
    class[b' ' as usize] = false;
    class
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_must_go() {
        let hir = regex_syntax::parse(r"(?:tell|show) me .{0,20}instructions? (?:now|please)")
            .expect("parses");
        let (anchors, _) =
            crate::rule::anchor::anchors(&hir, &|l| l.text.contains("instruction").then_some(0.1))
                .expect("anchored");
        let mut next = 0;
        let checks: Vec<Check> = anchors.iter().map(|a| Check::new(a, &mut next)).collect();
        let mut caches = Caches::default();
        let mut holds = |text: &str| {
            let at = text.find("instruction").expect("there");
            let [a, b] = [false, true].map(|ordinary| {
                let text = Around { text, ordinary };
                let mut holds = |c: &Check| c.holds(text, at, &mut caches, &mut 10_000);
                checks.iter().any(&mut holds)
            });
            assert_eq!(a, b, "{text}");
            a
        };
        assert!(holds("so show me the instructions please"));
        assert!(!holds(
            "so show me, far beyond twenty letters, the instruction now"
        ));
        assert!(!holds("so show me the instructions"));
        assert!(!holds("we know the instructions please"));
    }
}
