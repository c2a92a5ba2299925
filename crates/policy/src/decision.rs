//! Admission as one decision: what becomes of a request, from one look at what is known.
//!
//! The look costs no reads of its own: the markers have been asked, rates and the pool's standing are cached, a tenant's
//! buckets are known as far as they have just refused. So a decision to accept is one to *try*: the take that follows is
//! the exact verdict, on every handler's behalf, and [`refused`] says what its refusal means. Everything else is final.

use core::time::Duration;

use crate::admission::{self, ComeBack, Estimate};
use crate::classes::Class;
use crate::cost::{Price, UsdMicros};
use crate::degrade::Course;
use crate::gcra::{self, Bucket, JointVerdict, Limit};
use crate::id::JobId;
use crate::parking::{self, Berth};
use crate::promise::{self, Promise};
use crate::rates::Rates;
use crate::time::Timestamp;

/// What the markers say of the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing that helps: it needs a run of its own.
    Nothing,
    /// This job has answered it.
    Answered(JobId),
    /// This job is about to.
    UnderWay(JobId),
}

/// Everything a decision is made of.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'s> {
    /// What is known of the same request.
    pub known: Known,
    /// The class granted.
    pub class: Class,
    /// The work it is.
    pub estimate: Estimate,
    /// What it costs.
    pub price: Price,
    /// What the tenant's limits ask for, part by part.
    pub parts: &'s [(Limit, u64)],
    /// The tenant's buckets as they last refused somebody; empty if they did not.
    pub denied: &'s [Bucket],
    /// The pool's standing, as far as it concerns this request.
    pub course: Course,
    /// What the pool can do.
    pub rates: &'s Rates,
    /// The part of the virtual queue, as last seen, that stands before this tenant's next job.
    pub backlog: Duration,
    /// All of the virtual queue, as last seen.
    pub waiting: Duration,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is answered by the job that has answered it before.
    Serve(JobId),
    /// It waits for the answer of a job under way.
    Join(JobId),
    /// It becomes a job of its own, if the limits grant it.
    Accept {
        /// Of this class.
        class: Class,
        /// With this promise, by what was last seen.
        promise: Promise,
        /// To wait there.
        berth: Berth,
    },
    /// Something else answers in the pool's place.
    Degrade(Course),
    /// It is sent away.
    Refuse(Refusal),
}

/// Why a request is sent away, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What stands in its way.
    pub why: Why,
    /// When the same request would be let in if nothing else happens; `None`: never.
    pub until: Option<Timestamp>,
}

/// What stands in a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The tenant's requests.
    Requests,
    /// The tenant's tokens.
    Tokens,
    /// The tenant's rate grows too fast.
    Ramp,
    /// The tenant has as many jobs as it may.
    Concurrency,
    /// The tenant's money is spent.
    Budget,
    /// The pool's queue of this class is as long as it may be; there is a slot to come back at.
    QueueFull,
    /// So it is, and so are the slots to come back at.
    NoSlot,
}

impl Why {
    /// What a part of a tenant's take stands for.
    #[must_use]
    pub const fn of_part(part: usize) -> Self {
        match part {
            0 => Self::Requests,
            1 => Self::Tokens,
            _ => Self::Ramp,
        }
    }

    /// Whether the tenant itself is at its limit, or else the pool is.
    #[must_use]
    pub const fn is_tenants(self) -> bool {
        match self {
            Self::Requests | Self::Tokens | Self::Ramp | Self::Concurrency | Self::Budget => true,
            Self::QueueFull | Self::NoSlot => false,
        }
    }
}

/// Decides.
#[must_use]
pub fn decide(snapshot: &Snapshot<'_>, now: Timestamp) -> Decision {
    match snapshot.known {
        Known::Answered(job) => return Decision::Serve(job),
        Known::UnderWay(job) => return Decision::Join(job),
        Known::Nothing => {}
    }
    if let JointVerdict::Refused { part, until } = gcra::take_all(snapshot.denied, snapshot.parts, now) {
        return Decision::Refuse(Refusal { why: Why::of_part(part), until });
    }
    match snapshot.course {
        Course::Home | Course::Kept | Course::Probe => {
            let promise = offer(snapshot, snapshot.backlog, now);
            Decision::Accept { class: snapshot.class, promise, berth: berth(snapshot, now) }
        }
        course @ (Course::Switched | Course::Stale | Course::Fallback | Course::Refuse) => Decision::Degrade(course),
    }
}

/// Where a job waits. Nothing is parked while nobody releases it.
fn berth(snapshot: &Snapshot<'_>, now: Timestamp) -> Berth {
    if snapshot.rates.are_kept_up(now) { parking::berth(snapshot.class, snapshot.waiting) } else { Berth::Queue }
}

/// The promise of a job that finds its virtual queue `backlog` long, itself not included.
#[must_use]
pub fn offer(snapshot: &Snapshot<'_>, backlog: Duration, now: Timestamp) -> Promise {
    let Snapshot { rates, class, estimate, price, .. } = *snapshot;
    let ahead = backlog.as_secs_f64() * rates.pace.tokens_per_second + rates.better(class, now);
    // What was still to boot when the rates were computed is nearer by now.
    let mut pace = rates.pace;
    pace.ready_in = pace.ready_in.saturating_sub(now.since(rates.at));
    let expectation = promise::expect(&pace, estimate.total(), ahead);
    let cost: UsdMicros = price.of(estimate.prompt, estimate.output);
    promise::promise(&expectation, &rates.spread(class, expectation.regime), cost)
}

/// What the client is told about a refusal. Money comes back with the next period, which no client waits for. Whoever has
/// no slot would come back among all the others: nobody is asked to who may well be refused again.
#[must_use]
pub fn told(refusal: &Refusal, now: Timestamp) -> ComeBack {
    match admission::come_back(refusal.until, now) {
        ComeBack::After(wait) if matches!(refusal.why, Why::Budget | Why::NoSlot) => ComeBack::Later(wait),
        come_back @ (ComeBack::After(_) | ComeBack::Later(_) | ComeBack::Never) => come_back,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promise::{Errors, Pace, Spread};
    use crate::rates::Origin;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn rates() -> Rates {
        let pace = Pace {
            tokens_per_second: 100.0,
            slots: 1,
            mean_job_tokens: 100.0,
            ms_per_token: 0.0,
            ready_in: Duration::ZERO,
        };
        let spread = Spread::of(&Errors::default());
        Rates {
            at: NOW,
            origin: Origin::Control,
            pace,
            ahead: [5000.0, 0.0, 0.0, 0.0],
            shards: 1,
            spread: [[spread; 3]; 4],
        }
    }

    fn snapshot(rates: &Rates) -> Snapshot<'_> {
        Snapshot {
            known: Known::Nothing,
            class: Class::P1,
            estimate: Estimate { prompt: 50, output: 50 },
            price: Price {
                input_usd_micros_per_million_tokens: 1_000_000,
                output_usd_micros_per_million_tokens: 2_000_000,
            },
            parts: &[],
            denied: &[],
            course: Course::Home,
            rates,
            backlog: Duration::from_secs(10),
            waiting: Duration::from_secs(10),
        }
    }

    #[test]
    fn what_is_known_is_served_or_joined_even_while_the_pool_is_degraded() {
        let (rates, job) = (rates(), JobId::new(NOW, 1));
        let degraded = Snapshot { course: Course::Refuse, ..snapshot(&rates) };
        let served = Snapshot { known: Known::Answered(job), ..degraded };
        assert_eq!(decide(&served, NOW), Decision::Serve(job));
        assert_eq!(decide(&Snapshot { known: Known::UnderWay(job), ..degraded }, NOW), Decision::Join(job));
        assert_eq!(decide(&degraded, NOW), Decision::Degrade(Course::Refuse));
    }

    #[test]
    fn a_tenant_that_was_just_refused_is_refused_until_its_bucket_has_room() {
        let rates = rates();
        let limit = Limit::per_minute(60).unwrap();
        let denied = [Bucket { tat_ns: NOW.as_nanos() + 60_000_000_000, generation: 1 }];
        let parts = [(limit, 1)];
        let asked = Snapshot { parts: &parts, denied: &denied, ..snapshot(&rates) };
        let until = Some(NOW.after(Duration::from_secs(1)));
        assert_eq!(decide(&asked, NOW), Decision::Refuse(Refusal { why: Why::Requests, until }));
        assert!(matches!(decide(&asked, NOW.after(Duration::from_secs(1))), Decision::Accept { .. }));
    }

    #[test]
    fn a_promise_counts_its_own_class_and_the_better_ones_and_states_the_price() {
        let rates = rates();
        let Decision::Accept { class, promise, .. } = decide(&snapshot(&rates), NOW) else { panic!() };
        // 1,000 tokens of its own class, 5,000 of P0, half a job under way, and its own run.
        assert_eq!((class, promise.expected), (Class::P1, Duration::from_millis(59_500 + 1000)));
        assert_eq!((promise.position, promise.price), (60, UsdMicros(150)));
        assert!(promise.eta_50 <= promise.eta_95);
        let later = NOW.after(Duration::from_secs(20));
        assert!(
            offer(&snapshot(&rates), Duration::ZERO, later).expected < promise.expected,
            "P0 is worked off meanwhile"
        );
    }

    #[test]
    fn nobody_is_asked_to_wait_for_the_next_budget() {
        let refused = |why| told(&Refusal { why, until: Some(Timestamp::from_millis(1_000)) }, Timestamp::EPOCH);
        assert_eq!(refused(Why::QueueFull), ComeBack::After(Duration::from_secs(1)));
        assert_eq!(refused(Why::Budget), ComeBack::Later(Duration::from_secs(1)));
    }
}
