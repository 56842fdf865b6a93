//! Durations as operators write them: a whole number and one unit.

use std::time::Duration;

/// Parses `500ms`, `30s`, `5m`, `4h`, `7d`.
pub fn parse_duration(s: &str) -> Option<Duration> {
    let split = s.find(|c: char| !c.is_ascii_digit())?;
    let (n, unit) = s.split_at(split);
    let n: u64 = n.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(n.checked_mul(ms)?))
}

/// Prints a duration the way [`parse_duration`] reads it.
pub fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    for (unit, n) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if ms >= n && ms.is_multiple_of(n) {
            return format!("{}{unit}", ms / n);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for s in ["500ms", "30s", "5m", "4h", "7d", "0ms"] {
            let d = parse_duration(s).expect(s);
            assert_eq!(show_duration(d), s);
        }
        for s in ["", "5", "s", "5 s", "-5s", "5w", "99999999999999999999d"] {
            assert_eq!(parse_duration(s), None, "{s}");
        }
    }
}
