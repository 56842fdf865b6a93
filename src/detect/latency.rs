//! Latency per model version and route, normalised by prompt length. Home: merged minute.

use crate::event::Event;

/// Highest latency told apart, in units of 10 µs: ten minutes.
const MAX_UNITS: u64 = 60_000_000;
/// Values below this many units have a bucket each; above, 64 buckets an octave (1.6 %).
const LINEAR: u64 = 128;
/// Buckets of the value.
const VALUE_BITS: u32 = 11;
/// Buckets of the prompt length: half octaves up to 2^31 tokens.
const PROMPT_BITS: u32 = 6;
/// Answers shorter than this say nothing about the time per token.
const MIN_OUTPUT: u64 = 8;

/// What a sample measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
}

/// Adds the event's samples.
pub(super) fn samples(event: &Event, out: &mut Vec<u32>) {
    let Some(ttft) = event.ttft_ms else { return };
    let prompt = prompt_bucket(event.usage.input);
    out.push(code(Measure::Ttft, prompt, value_bucket(ttft)));
    let output = event.usage.output;
    if let Some(total) = event.total_ms
        && output >= MIN_OUTPUT
        && total >= ttft
    {
        let tpot = (total - ttft) / (output - 1) as f64;
        out.push(code(Measure::Tpot, prompt, value_bucket(tpot)));
    }
}

/// Packs measure, prompt bucket and value bucket; sorted codes are grouped by measure and prompt.
pub fn code(measure: Measure, prompt: u32, value: u32) -> u32 {
    (measure as u32) << (VALUE_BITS + PROMPT_BITS) | prompt << VALUE_BITS | value
}

/// Unpacks a code; `None` if it is none.
pub fn parts(code: u32) -> Option<(Measure, u32, u32)> {
    let measure = match code >> (VALUE_BITS + PROMPT_BITS) {
        0 => Measure::Ttft,
        1 => Measure::Tpot,
        _ => return None,
    };
    let prompt = code >> VALUE_BITS & ((1 << PROMPT_BITS) - 1);
    Some((measure, prompt, code & ((1 << VALUE_BITS) - 1)))
}

/// The bucket of a latency in milliseconds; negative and broken values are 0.
pub fn value_bucket(ms: f64) -> u32 {
    let units = (ms * 100.0).clamp(0.0, MAX_UNITS as f64);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped above; NaN becomes 0"
    )]
    let v = units as u64;
    if v < LINEAR {
        return small(v);
    }
    let shift = u64::BITS - v.leading_zeros() - 7;
    64 * shift + small(v >> shift)
}

fn small(v: u64) -> u32 {
    u32::try_from(v).unwrap_or(u32::MAX)
}

/// The middle of a bucket, in milliseconds.
pub fn bucket_ms(bucket: u32) -> f64 {
    if u64::from(bucket) < LINEAR {
        return f64::from(bucket) / 100.0;
    }
    let shift = (bucket - 64) / 64;
    let base = u64::from(bucket - 64 * shift);
    ((base << shift) as f64 + (1u64 << shift) as f64 / 2.0) / 100.0
}

/// The half octave of a prompt length.
pub fn prompt_bucket(tokens: u64) -> u32 {
    let t = tokens.min(1 << 30) + 1;
    let octave = t.ilog2();
    // Above √2 × 2^octave: the upper half. Squares stay below 2^62.
    let upper = t * t >= 1u64 << (2 * octave + 1);
    2 * octave + u32::from(upper)
}

/// The middle of a prompt bucket, in tokens.
pub fn bucket_tokens(bucket: u32) -> f64 {
    (f64::from(bucket) / 2.0 + 0.25).exp2() - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_monotone_and_within_two_percent() {
        let mut last = 0;
        for i in 0..40_000 {
            let ms = 0.3 * 1.0005f64.powi(i);
            if ms > 600_000.0 {
                break;
            }
            let b = value_bucket(ms);
            assert!(b >= last && b < 1 << VALUE_BITS);
            last = b;
            let error = (bucket_ms(b) - ms).abs() / ms;
            assert!(error < 0.02 || ms < 1.3, "{ms}: {error}");
        }
        assert_eq!(value_bucket(f64::NAN), 0);
        assert_eq!(value_bucket(-1.0), 0);
        assert!(value_bucket(1e300) < 1 << VALUE_BITS);
    }

    #[test]
    fn prompts_fit_their_bucket() {
        for tokens in [0u64, 1, 2, 3, 100, 1_000, 128_000, 2_000_000] {
            let b = prompt_bucket(tokens);
            assert!(b < 1 << PROMPT_BITS);
            let ratio = (bucket_tokens(b) + 1.0) / (tokens as f64 + 1.0);
            assert!((0.80..1.25).contains(&ratio), "{tokens}: {ratio}");
        }
        let c = code(Measure::Tpot, 9, 700);
        assert_eq!(parts(c), Some((Measure::Tpot, 9, 700)));
        assert_eq!(parts(u32::MAX), None);
    }
}
