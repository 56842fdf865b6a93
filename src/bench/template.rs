//! Events of workload `reference-1`, made once and stamped many times: the producer shares the
//! machine with what is measured, so it must cost little.
//!
//! A template is one event with fixed-width holes for id, sequence number, start time and, where
//! users must be distinct, the user. Padding is white space, which JSON allows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::workload::{Made, Shape, Workload};
use crate::event::{Time, hash16};

/// Users that differ by a multiple of this share gateway, team, tenant, model and partition: the
/// least common multiple of what the workload takes a user's number modulo (4, 8, 16 and 50).
const CLASS: u32 = 400;
/// Templates of each class without a finding, and with one.
const PLAIN: u32 = 80;
const WITH_FINDING: u32 = 2;
/// Digits of the number in an id, and of a sequence number.
const DIGITS: usize = 12;

#[derive(Debug)]
struct Template {
    text: Vec<u8>,
    partition: usize,
    lane: usize,
    total_ms: i64,
    id: usize,
    seq: usize,
    at: usize,
    user: usize,
    finding: bool,
}

/// Templates of one kind and class, taken in turns.
#[derive(Debug, Default)]
struct Turns {
    all: Vec<Template>,
    next: usize,
}

/// The templates and the running numbers.
#[derive(Debug)]
pub struct Templates {
    /// Without a finding and with one, by class of the user.
    classes: Vec<[Turns; 2]>,
    /// With a critical finding.
    probes: Turns,
    /// Draws users and findings by the workload's law.
    workload: Workload,
    /// Kafka key of the present event: key id and user.
    key: Vec<u8>,
    /// Users' names.
    names: Vec<[u8; NAME]>,
    number: u64,
    seq: Vec<u64>,
    minutes: Minutes,
    distinct: bool,
}

/// Characters of a pseudonym behind its key id.
const NAME: usize = 22;

/// A stamped event.
#[derive(Debug)]
pub struct Stamped<'a> {
    /// Partition of its user.
    pub partition: usize,
    /// Kafka key.
    pub key: &'a [u8],
    /// The event.
    pub value: &'a [u8],
    /// Whether a finding of one event follows.
    pub finding: bool,
    /// Its number; the id ends with it.
    pub number: u64,
}

fn find(text: &[u8], what: &str) -> usize {
    let at = text.windows(what.len()).position(|w| w == what.as_bytes());
    at.map_or(0, |a| a + what.len())
}

fn name(mac: [u8; 16]) -> [u8; NAME] {
    let mut out = [0; NAME];
    // Sixteen bytes are twenty-two characters.
    let _ = URL_SAFE_NO_PAD.encode_slice(mac, &mut out);
    out
}

impl Templates {
    /// Makes them from the seeded workload. `distinct`: every event has a user of its own.
    pub fn new(shape: Shape, boot: &str, distinct: bool) -> Self {
        let now = Time(0).plus_ms(1_800_000_000_000);
        let turns = |finding_every: u32, n: u32, class: u32| {
            let mut w = Workload::new(
                Shape {
                    seed: shape.seed + u64::from(class),
                    // The law is drawn from elsewhere.
                    users: 1,
                    finding_every,
                    ..shape
                },
                boot,
            );
            Turns {
                all: (0..n)
                    .map(|_| template(w.event_of(class, now), now))
                    .collect(),
                next: 0,
            }
        };
        let mut workload = Workload::new(shape, boot);
        let probes = (0..CLASS)
            .map(|class| template(workload.probe_of(class, now), now))
            .collect();
        let users = if distinct { 0 } else { u64::from(shape.users) };
        Self {
            classes: (0..CLASS)
                .map(|class| [turns(0, PLAIN, class), turns(1, WITH_FINDING, class)])
                .collect(),
            probes: Turns {
                all: probes,
                next: 0,
            },
            key: b"b1:".iter().copied().chain([0; NAME]).collect(),
            names: (0..users)
                .map(|n| name(workload.pseudonym("user", n).mac))
                .collect(),
            workload,
            number: 0,
            seq: vec![0; 4 * usize::try_from(shape.partitions.max(1)).unwrap_or(1)],
            minutes: Minutes::default(),
            distinct,
        }
    }

    /// The next event; it ends at `now`.
    pub fn stamp(&mut self, now: Time) -> Stamped<'_> {
        let (user, finding) = self.workload.draw();
        let (class, who) = if self.distinct {
            (self.number % u64::from(CLASS), None)
        } else {
            (
                u64::from(user % CLASS),
                self.names.get(user as usize).copied(),
            )
        };
        // The class is reduced modulo the number of classes, a constant above zero.
        let class = usize::try_from(class).unwrap_or_default();
        self.stamped(Some((class, usize::from(finding))), who, now)
    }

    /// An event of a new user with a critical finding; it ends at `now`.
    pub fn probe(&mut self, now: Time) -> Stamped<'_> {
        self.stamped(None, None, now)
    }

    /// From the class's templates, or the probes; of the user, or a new one.
    fn stamped(
        &mut self,
        from: Option<(usize, usize)>,
        who: Option<[u8; NAME]>,
        now: Time,
    ) -> Stamped<'_> {
        self.number += 1;
        let number = self.number;
        let who = who.unwrap_or_else(|| name(hash16("bench user", &[&number.to_le_bytes()]).0));
        let turns = match from {
            Some((class, finding)) => &mut self.classes[class][finding],
            None => &mut self.probes,
        };
        let at = turns.next;
        turns.next = (at + 1) % turns.all.len();
        let t = &mut turns.all[at];
        let seq = self.seq.get_mut(t.lane).map_or(0, |s| {
            *s += 1;
            *s - 1
        });
        put(&mut t.text, t.id, &digits::<DIGITS>(number, b'0'));
        put(&mut t.text, t.seq, &digits::<DIGITS>(seq, b' '));
        put(
            &mut t.text,
            t.at,
            &self.minutes.stamp(now.minus_ms(t.total_ms)),
        );
        put(&mut t.text, t.user, &who);
        put(&mut self.key, 3, &who);
        Stamped {
            partition: t.partition,
            key: &self.key,
            value: &t.text,
            finding: t.finding,
            number,
        }
    }
}

/// Length of a time in an event.
const AT: usize = "2026-11-21T07:00:00.123Z".len();
/// Length of what all times of a minute begin with.
const MINUTE: usize = "2026-11-21T07:00:".len();

/// Times as text. Only the calendar is work, and it is the same for a whole minute; calls last so long that
/// a few are in use at a time.
#[derive(Debug, Default)]
struct Minutes([Option<(i64, [u8; AT])>; 4]);

impl Minutes {
    fn stamp(&mut self, at: Time) -> [u8; AT] {
        let (minute, ms) = (at.0.div_euclid(60_000), at.0.rem_euclid(60_000));
        // Of four slots.
        let slot = &mut self.0[usize::try_from(minute.rem_euclid(4)).unwrap_or(0)];
        let (_, mut text) = match *slot {
            Some(known) if known.0 == minute => known,
            _ => {
                let mut text = [0; AT];
                put(&mut text, 0, Time(minute * 60_000).to_string().as_bytes());
                *slot.insert((minute, text))
            }
        };
        let ms = u64::try_from(ms).unwrap_or(0);
        put(&mut text, MINUTE, &digits::<2>(ms / 1_000, b'0'));
        put(&mut text, MINUTE + 3, &digits::<3>(ms % 1_000, b'0'));
        text
    }
}

/// A number in so many characters, from the right; what is left is padded.
fn digits<const N: usize>(mut n: u64, pad: u8) -> [u8; N] {
    let mut out = [pad; N];
    for place in out.iter_mut().rev() {
        // A digit fits.
        *place = b'0' + u8::try_from(n % 10).unwrap_or(0);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out
}

fn put(text: &mut [u8], at: usize, what: &[u8]) {
    if let Some(hole) = text.get_mut(at..at + what.len()) {
        hole.copy_from_slice(what);
    }
}

fn template(made: Made, now: Time) -> Template {
    // The generator's numbers become holes of fixed width.
    let seq_at = find(made.value.as_bytes(), "\"seq\":");
    let digits = made.value[seq_at..]
        .bytes()
        .take_while(u8::is_ascii_digit)
        .count();
    let mut text = made.value.clone().into_bytes();
    text.splice(seq_at..seq_at + digits, [b' '; DIGITS]);
    let field = |name: &str| find(&text, name);
    let total: f64 = {
        let rest = &made.value[find(made.value.as_bytes(), "\"total_ms\":")..];
        let end = rest.find([',', '}']).unwrap_or(rest.len());
        rest[..end].parse().unwrap_or(0.0)
    };
    let total_ms = now.plus_ms_f64(total).since_ms(now);
    let gateway = field("\"gateway\":\"gw-");
    let gateway = text
        .get(gateway)
        .map_or(0, |c| usize::from(c.saturating_sub(b'0')));
    let partition = usize::try_from(made.partition).unwrap_or(0);
    Template {
        id: field("\"id\":\"") + made.id.len() - DIGITS,
        seq: field("\"seq\":"),
        at: field("\"at\":\""),
        user: field("\"user\":\"b1:"),
        lane: gateway + 4 * partition,
        partition,
        total_ms,
        finding: made.finding,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoder, RawRecord};

    #[test]
    fn holes_are_filled_as_formatting_fills_them() {
        let mut minutes = Minutes::default();
        for ms in [0, 1, 59_999, 60_000, 1_795_262_400_000, 1_795_262_399_999] {
            for at in [ms, ms - 61_001, ms + 3_600_000] {
                let at = Time(at);
                assert_eq!(minutes.stamp(at), at.to_string().as_bytes(), "{at}");
            }
        }
        for n in [0, 7, 10, 999, 123_456_789_012] {
            assert_eq!(digits::<12>(n, b'0'), format!("{n:012}").as_bytes());
            assert_eq!(digits::<12>(n, b' '), format!("{n:>12}").as_bytes());
        }
    }

    #[test]
    fn stamped_events_decode_with_whole_sequences() {
        let shape = Shape {
            partitions: 2,
            users: 100,
            ..Shape::default()
        };
        let mut t = Templates::new(shape, "b0", true);
        let mut decoder = Decoder::sealed();
        let mut users = std::collections::BTreeSet::new();
        let mut lanes = std::collections::BTreeMap::<_, u64>::new();
        let now = Time(1_790_000_000_000);
        for i in 0..400 {
            let s = t.stamp(now);
            let raw = RawRecord {
                topic: "t",
                partition: 0,
                offset: i,
                append: now,
                key: None,
                value: Some(s.value),
                headers: &[],
            };
            let e = decoder.decode(&raw).expect("an event");
            assert_eq!(e.end(now), (now, false));
            users.insert(e.user);
            let next = lanes.entry((e.gateway.clone(), e.lane)).or_default();
            assert_eq!(e.seq, Some(*next));
            *next += 1;
        }
        assert_eq!(users.len(), 400);
    }
}
