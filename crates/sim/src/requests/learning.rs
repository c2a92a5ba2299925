//! What the ends of jobs teach, minute by minute: how much work jobs are, how long they run, how far promises err; and
//! what follows from it: the rates that are published.

use core::time::Duration;
use std::collections::BTreeMap;

use penstock_policy::classes::Class;
use penstock_policy::promise::{Pace, Promise, Regime, bin};
use penstock_policy::rates::{self, Erred, Origin, Rates};
use penstock_policy::time::Timestamp;

/// Spans that are looked back upon: an hour.
const SPANS: i64 = 60;

#[derive(Clone, Debug, Default)]
struct Span {
    jobs: [u64; 4],
    estimated: [u64; 4],
    run_ms: f64,
    errors: BTreeMap<(Class, Regime, i32), u64>,
}

/// What was learned in the last hour.
#[derive(Clone, Debug, Default)]
pub struct Learning {
    spans: BTreeMap<i64, Span>,
}

/// The workers there are, for who publishes.
#[derive(Clone, Copy, Debug)]
pub struct Staff {
    /// Estimated tokens a second with all slots busy.
    pub tokens_per_second: f64,
    /// Their slots.
    pub slots: u32,
    /// How long until there is one; zero if there is.
    pub ready_in: Duration,
}

impl Learning {
    /// A job has its answer: it was estimated at so many tokens, ran for so long, and took `whole` from its acceptance.
    pub fn ended(
        &mut self,
        class: Class,
        estimated: u64,
        run: Duration,
        promise: Option<&Promise>,
        whole: Duration,
        now: Timestamp,
    ) {
        let span = self.spans.entry(span_of(now)).or_default();
        span.jobs[class.index()] += 1;
        span.estimated[class.index()] += estimated;
        span.run_ms += run.as_secs_f64() * 1000.0;
        if let Some(promise) = promise {
            *span.errors.entry((class, promise.regime, bin(promise.expected, whole))).or_default() += 1;
        }
    }

    /// What is published: by what is there, what waits or runs, and what was learned. Jobs nobody has seen ended are
    /// taken for `usual` tokens.
    pub fn rates(&mut self, staff: &Staff, depths: [u64; 4], usual: f64, now: Timestamp) -> Rates {
        let newest = span_of(now);
        self.spans.retain(|span, _| *span > newest - SPANS);
        let sum = |of: fn(&Span, usize) -> u64, class: usize| -> f64 {
            self.spans.values().map(|span| of(span, class) as f64).sum()
        };
        let jobs: [f64; 4] = core::array::from_fn(|class| sum(|span, class| span.jobs[class], class));
        let tokens: [f64; 4] = core::array::from_fn(|class| sum(|span, class| span.estimated[class], class));
        let (all, estimated): (f64, f64) = (jobs.iter().sum(), tokens.iter().sum());
        let run_ms: f64 = self.spans.values().map(|span| span.run_ms).sum();
        let pace = Pace {
            tokens_per_second: staff.tokens_per_second,
            slots: staff.slots,
            mean_job_tokens: if all > 0.0 { estimated / all } else { usual },
            ms_per_token: if estimated > 0.0 { run_ms / estimated } else { 0.0 },
            ready_in: staff.ready_in,
        };
        let mean =
            core::array::from_fn(
                |class| {
                    if jobs[class] > 0.0 { tokens[class] / jobs[class] } else { pace.mean_job_tokens }
                },
            );
        let spread = rates::spreads(self.spans.iter().flat_map(|(span, seen)| {
            let spans_ago = u32::try_from(newest - span).unwrap_or(0);
            seen.errors.iter().map(move |((class, regime, bin), count)| Erred {
                spans_ago,
                class: *class,
                regime: *regime,
                bin: *bin,
                count: *count,
            })
        }));
        Rates {
            at: now,
            origin: Origin::Control,
            pace,
            ahead: rates::ahead(depths, mean, &pace),
            shards: rates::shards(pace.tokens_per_second / pace.mean_job_tokens.max(1.0)),
            spread,
        }
    }
}

fn span_of(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(60_000)
}
