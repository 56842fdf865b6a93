//! What sealing a kilobyte costs, with all rules and with few.

use std::time::Duration;

use super::figures::Figure;
use crate::event::{Role, Side};
use crate::rule::{self, Known, RuleSet};
use crate::seal::engine::{Engine, known_validators};
use crate::seal::model::Model;
use crate::seal::{Keys, Scratch, Sealer};

/// A kilobyte of ordinary prose with a number, a mail address and a code in it.
fn kilobyte() -> String {
    let line = "Please look at order 48213 for me, the parcel should have arrived on Tuesday but the tracking page \
                still says it waits in the depot; my address is jo.miller@example.org and the agent said yesterday \
                that the reference is AB-77-1029. ";
    line.chars().cycle().take(1024).collect()
}

/// Measures sealing.
pub(super) fn sealing(out: &mut impl FnMut(Figure)) -> anyhow::Result<()> {
    let text = kilobyte();
    let all = cost(Engine::built_in(), &text);
    out(Figure::new("seal_us_per_kb", Some(all), "us").against(40.0));
    let names = known_validators();
    let known = Known {
        validators: Some(&names),
        compiled_in: false,
        ..Known::default()
    };
    let sources = rule::pack::sources();
    let total = RuleSet::built_in(&Known {
        compiled_in: true,
        ..known.clone()
    })
    .rules()
    .len();
    // Ten rules: the first files that load on their own, with the lists they may name.
    let lists: Vec<_> = sources
        .iter()
        .filter(|s| s.path.contains("/lists/"))
        .cloned()
        .collect();
    let few = sources
        .iter()
        .filter(|s| s.path.contains("secret/"))
        .take(10)
        .cloned()
        .chain(lists)
        .collect::<Vec<_>>();
    let (small, _) = rule::load(&few, &[], &known).map_err(|p| {
        anyhow::anyhow!(
            "ten rules do not load: {}",
            p.first()
                .map_or_else(String::new, crate::rule::diagnostic::Diagnostic::line)
        )
    })?;
    let ten = cost(Engine::new(&small, Model::shipped().ok()), &text);
    out(Figure::new("rules_cost_ratio", Some(all / ten), "x")
        .against(1.5)
        .note(format!(
            "sealing with {total} rules against {}",
            small.rules().len()
        )));
    Ok(())
}

/// Time that this thread has used: what others do on the machine does not count.
fn thread_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(t.tv_sec).unwrap_or(0),
        u32::try_from(t.tv_nsec).unwrap_or(0),
    )
}

/// Microseconds to seal the text, the best of several passes.
fn cost(engine: Engine, text: &str) -> f64 {
    let sealer = Sealer::new(Keys::development(), std::sync::Arc::new(engine));
    let mut scratch = Scratch::default();
    let mut best = f64::MAX;
    for _ in 0..10 {
        let started = thread_time();
        for _ in 0..200 {
            std::hint::black_box(sealer.sketch(
                std::hint::black_box(text),
                Role::User,
                Side::Request,
                &mut scratch,
            ));
        }
        let took = thread_time().saturating_sub(started);
        best = best.min(took.as_secs_f64() * 1e6 / 200.0);
    }
    best
}
