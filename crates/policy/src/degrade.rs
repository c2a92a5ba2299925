//! The tiers of degradation of a pool: what the whole deployment knows of its health, and what that means for new work.
//!
//! Health is counted in slots of ten seconds by everybody who sees a job end, and summed over windows. A tier is
//! entered when a window holds both enough events and a high enough share of errors, so that three failures at night
//! change nothing; it is left at a much lower share, one tier at a time, and not before a minimum stay: on constant
//! input the tier settles and stays. After a step down only what happened since counts, so that the errors that led up
//! do not lead up again.
//!
//! Tier 3 is the open breaker. Its probes are requests with leased permits ([`crate::breaker::Probes`]); twenty
//! successes in a row lead to tier 2. A pool opened because its workers died needs no probes: a worker that is ready
//! has removed the cause. A pool that has no workers because nobody wants any is not sick: its requests are held, with
//! a promise that counts the boot in.
//!
//! Dwell is counted, not measured: the 95th percentile lies above the target exactly if more than 5 % of the starts
//! were late.

use core::time::Duration;

use crate::breaker::{Outcome, Permit, Probed, Probes};
use crate::classes::Class;
use crate::time::Timestamp;

/// The length of the slots in which health is counted.
pub const SLOT: Duration = Duration::from_secs(10);

/// The longest window that is looked at: what a reader of slots must fetch.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(300);

/// How long a tier is kept at least before a step down.
pub const LEAST_STAY: Duration = Duration::from_secs(60);

/// How long each tier is kept on the way down from an open breaker.
pub const RECOVERY_STAY: Duration = Duration::from_secs(120);

/// How many probes must succeed in a row.
pub const PROBES_NEEDED: u32 = 20;

/// How many probes may be under way at once.
pub const MOST_PROBES: usize = 5;

/// How long a probe may take before its permit is given to another: a long answer's time.
pub const PROBE_LEASE: Duration = Duration::from_secs(120);

/// The share of urgent requests that an open breaker lets through, and how long it goes without a probe before it takes
/// the next P0 or P1 request whatever the draw: a quiet pool finds back too.
pub const PROBE_SHARE: f64 = 0.05;
/// See [`PROBE_SHARE`].
pub const PROBE_GAP: Duration = Duration::from_secs(5);

/// The share of new work that stays when the rest is switched to another pool: a pool that gets nothing cannot show
/// that it has recovered.
pub const HOME_SHARE: f64 = 0.1;

/// How long after its last sign of life a deployment is without workers before the breaker opens.
pub const WITHOUT_WORKERS: Duration = Duration::from_secs(60);

/// A wait between being queued and being started that is longer than this counts as late: twice the target of the class.
#[must_use]
pub const fn late(class: Class) -> Option<Duration> {
    match class {
        Class::P0 => Some(Duration::from_secs(4)),
        Class::P1 => Some(Duration::from_secs(20)),
        // These wait by design.
        Class::P2 | Class::P3 => None,
    }
}

/// The tiers, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// All is well.
    #[default]
    Normal,
    /// New work goes to another pool where there is one, batch work pauses, answers are capped.
    Switch,
    /// Stale answers are served first; what cannot wait is computed, the rest waits or is refused.
    Cached,
    /// The breaker is open: fallbacks alone, and probes.
    Open,
    /// An operator has closed the pool until a moment.
    Manual,
}

impl Tier {
    /// All tiers, best first.
    pub const ALL: [Self; 5] = [Self::Normal, Self::Switch, Self::Cached, Self::Open, Self::Manual];

    /// 0 to 4, as `x-penstock-tier` says it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Switch => 1,
            Self::Cached => 2,
            Self::Open => 3,
            Self::Manual => 4,
        }
    }

    /// The tier of that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.number() == number)
    }

    const fn below(self) -> Self {
        match self {
            Self::Normal | Self::Switch => Self::Normal,
            Self::Cached => Self::Switch,
            Self::Open | Self::Manual => Self::Cached,
        }
    }
}

/// Why a tier is what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is wrong.
    #[default]
    Healthy,
    /// So many of so many events within a window were errors.
    Errors {
        /// Errors and time-outs.
        bad: u64,
        /// All events.
        all: u64,
    },
    /// So many of so many starts were late.
    Late {
        /// Starts after twice the target.
        late: u64,
        /// All starts.
        all: u64,
    },
    /// All workers have died.
    NoWorker,
    /// The window before the step down was calm enough.
    Calm,
    /// Enough probes succeeded, or a worker has come back.
    Recovering,
}

impl Reason {
    /// A stable word for logs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Errors { .. } => "errors",
            Self::Late { .. } => "late",
            Self::NoWorker => "no_worker",
            Self::Calm => "calm",
            Self::Recovering => "recovering",
        }
    }
}

/// What happened in one slot, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that ended well, or by the client's fault.
    pub ok: u64,
    /// Failures of engines and workers, leases that lapsed.
    pub errors: u64,
    /// Jobs that were not begun or did not say a word in time.
    pub timeouts: u64,
    /// Jobs of P0 and P1 that were started.
    pub started: u64,
    /// Those of them that had waited for more than [`late`].
    pub late: u64,
}

impl Counts {
    /// Events that say whether the pool works.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.ok.saturating_add(self.bad())
    }

    /// Those that say it does not.
    #[must_use]
    pub const fn bad(&self) -> u64 {
        self.errors.saturating_add(self.timeouts)
    }

    /// Adds another slot's.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            ok: self.ok.saturating_add(other.ok),
            errors: self.errors.saturating_add(other.errors),
            timeouts: self.timeouts.saturating_add(other.timeouts),
            started: self.started.saturating_add(other.started),
            late: self.late.saturating_add(other.late),
        }
    }

    fn bad_above(&self, percent: u64) -> bool {
        self.bad() > 0 && self.bad() * 100 > self.all() * percent
    }

    fn late_above(&self, percent: u64) -> bool {
        self.late > 0 && self.late * 100 > self.started * percent
    }
}

/// What the deployment knows of a pool's workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// At least one takes work.
    Ready,
    /// The last one to be seen did not sign off.
    Lost {
        /// When it was last seen.
        seen: Timestamp,
    },
    /// There are none, and none has died: not started yet, or sent home.
    NotWanted,
}

/// What an evaluation looks at.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// Slots by their beginning, in any order; at least those of [`LONGEST_WINDOW`].
    pub slots: &'a [(Timestamp, Counts)],
    /// The workers.
    pub workers: Workers,
}

impl Evidence<'_> {
    /// The sum of the slots that began within `window` and not before `from`.
    fn sum(&self, window: Duration, from: Timestamp, now: Timestamp) -> Counts {
        let first = now.before(window).max(from);
        let slots = self.slots.iter().filter(|(begin, _)| *begin >= first && *begin <= now);
        slots.fold(Counts::default(), |sum, (_, counts)| sum.plus(*counts))
    }
}

/// What an operator has ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Refuse everything.
    Refuse,
    /// Answer everything by fallbacks.
    Fallbacks,
}

/// A pool's standing, as published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The tier by evidence.
    pub tier: Tier,
    /// Since when.
    pub since: Timestamp,
    /// Slots that began earlier do not count any more.
    pub counts_from: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The way down from an open breaker, on which each tier is kept for [`RECOVERY_STAY`].
    pub recovering: bool,
    /// The probes of an open breaker.
    pub probes: Probes,
    /// When the last probe was let through.
    pub probed: Timestamp,
    /// An operator's order, and when it ends.
    pub order: Option<(Order, Timestamp)>,
}

impl Standing {
    /// The order in force.
    #[must_use]
    pub fn ordered(&self, now: Timestamp) -> Option<(Order, Timestamp)> {
        self.order.filter(|(_, until)| *until > now)
    }

    /// The tier in force: an operator's order comes before evidence.
    #[must_use]
    pub fn tier(&self, now: Timestamp) -> Tier {
        if self.ordered(now).is_some() { Tier::Manual } else { self.tier }
    }

    fn moved(&self, tier: Tier, reason: Reason, now: Timestamp) -> Self {
        let mut next = Self { tier, reason, since: now, ..self.clone() };
        if tier < self.tier {
            next.counts_from = now;
            next.recovering = tier != Tier::Normal && (self.recovering || self.tier == Tier::Open);
        } else {
            next.recovering = false;
        }
        if tier == Tier::Open || self.tier == Tier::Open {
            next.probes.begin_anew();
        }
        next
    }
}

/// Evaluates a pool's standing; the same standing comes back if nothing is to change.
#[must_use]
pub fn evaluate(standing: &Standing, evidence: &Evidence<'_>, now: Timestamp) -> Standing {
    if let Some((tier, reason)) = worse(standing, evidence, now) {
        return standing.moved(tier, reason, now);
    }
    if now.since(standing.since) < LEAST_STAY {
        return standing.clone();
    }
    match calmer(standing, evidence, now) {
        Some(reason) => standing.moved(standing.tier.below(), reason, now),
        None => standing.clone(),
    }
}

/// A tier worse than the present one that the evidence calls for.
fn worse(standing: &Standing, evidence: &Evidence<'_>, now: Timestamp) -> Option<(Tier, Reason)> {
    let sum = |seconds| evidence.sum(Duration::from_secs(seconds), standing.counts_from, now);
    let called = if let Workers::Lost { seen } = evidence.workers
        && now.since(seen) >= WITHOUT_WORKERS
    {
        Some((Tier::Open, Reason::NoWorker))
    } else {
        let errors = |counts: Counts| Reason::Errors { bad: counts.bad(), all: counts.all() };
        let (open, cached, switch) = (sum(30), sum(120), sum(300));
        if open.all() >= 50 && open.bad_above(30) {
            Some((Tier::Open, errors(open)))
        } else if cached.all() >= 100 && cached.bad_above(15) {
            Some((Tier::Cached, errors(cached)))
        } else if switch.all() >= 200 && switch.bad_above(5) {
            Some((Tier::Switch, errors(switch)))
        } else if switch.started >= 200 && switch.late_above(5) {
            Some((Tier::Switch, Reason::Late { late: switch.late, all: switch.started }))
        } else {
            None
        }
    };
    called.filter(|(tier, _)| *tier > standing.tier)
}

/// Why the present tier may be left for the next better one.
fn calmer(standing: &Standing, evidence: &Evidence<'_>, now: Timestamp) -> Option<Reason> {
    let (stay, percent) = match standing.tier {
        Tier::Normal | Tier::Manual => return None,
        Tier::Open => {
            let revived = standing.reason == Reason::NoWorker && evidence.workers == Workers::Ready;
            let proven = standing.probes.successes >= PROBES_NEEDED;
            return (revived || proven).then_some(Reason::Recovering);
        }
        Tier::Cached => (Duration::from_secs(180), 7),
        Tier::Switch => (Duration::from_secs(300), 2),
    };
    let stay = if standing.recovering { RECOVERY_STAY } else { stay };
    let counts = evidence.sum(stay, standing.counts_from, now);
    // At a rate that would lead up again the step down is not taken: late starts count as they do on the way up.
    let failing = counts.bad() > 0 && counts.bad() * 100 >= counts.all() * percent;
    let calm = !failing && !counts.late_above(5);
    (calm && now.since(standing.since) >= stay).then_some(Reason::Calm)
}

/// What becomes of a request, by the tier of the pool it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The pool computes it.
    Home,
    /// Another pool computes it if there is one, else this one; answers are capped.
    Switched,
    /// This pool computes it, capped, though the rest is switched.
    Kept,
    /// A stale answer if there is one; else as [`Course::Switched`].
    Stale,
    /// A probe, if a permit is given; else a fallback.
    Probe,
    /// A fallback, the pool itself excepted; if there is none, a refusal.
    Fallback,
    /// A refusal.
    Refuse,
}

/// Decides by tier, class and a draw in `[0, 1)`.
#[must_use]
pub fn course(standing: &Standing, class: Class, draw: f64, now: Timestamp) -> Course {
    if let Some((order, _)) = standing.ordered(now) {
        return match order {
            Order::Refuse => Course::Refuse,
            Order::Fallbacks => Course::Fallback,
        };
    }
    match standing.tier {
        Tier::Normal | Tier::Manual => Course::Home,
        Tier::Switch if draw < HOME_SHARE => Course::Kept,
        Tier::Switch => Course::Switched,
        Tier::Cached => match class {
            Class::P0 | Class::P1 | Class::P2 => Course::Stale,
            Class::P3 => Course::Refuse,
        },
        Tier::Open => {
            let drawn = class == Class::P0 && draw < PROBE_SHARE;
            let waited = class <= Class::P1 && now.since(standing.probed) >= PROBE_GAP;
            if drawn || waited { Course::Probe } else { Course::Fallback }
        }
    }
}

/// Whether workers of the pool leave this class in its queue for now.
#[must_use]
pub fn pauses(tier: Tier, class: Class) -> bool {
    match tier {
        Tier::Normal => false,
        Tier::Switch => class == Class::P3,
        Tier::Cached | Tier::Open => class >= Class::P2,
        // What was accepted before the order is still answered.
        Tier::Manual => class >= Class::P2,
    }
}

/// Asks for a probe's permit; the new standing is to be published before the probe goes.
#[must_use]
pub fn probe(standing: &Standing, now: Timestamp) -> (Option<Permit>, Standing) {
    let mut next = standing.clone();
    let permit = match standing.tier {
        Tier::Open => next.probes.give(MOST_PROBES, PROBE_LEASE, now),
        Tier::Normal | Tier::Switch | Tier::Cached | Tier::Manual => None,
    };
    if permit.is_some() {
        next.probed = now;
    }
    (permit, next)
}

/// Counts a probe's outcome; `None` if it is stale and changes nothing. The step down is [`evaluate`]'s.
#[must_use]
pub fn probed(standing: &Standing, permit: Permit, outcome: Outcome, now: Timestamp) -> Option<Standing> {
    let mut next = standing.clone();
    match next.probes.report(permit, outcome, PROBES_NEEDED, now) {
        Probed::Stale => None,
        Probed::Counted | Probed::Proven | Probed::Failed => Some(next),
    }
}

/// Takes a probe's permit back of which nothing was learned; `None` if it is not out any more.
#[must_use]
pub fn withdrawn(standing: &Standing, permit: Permit) -> Option<Standing> {
    let mut next = standing.clone();
    next.probes.withdraw(permit);
    Some(next).filter(|next| next != standing)
}

/// When a refused client should come back: not before the tier can have changed, between 10 and 55 s from now (older
/// clients ignore longer waits), spread by a draw in `[0, 1)` so that the refused do not return as one wave. An
/// operator's order says its own end.
#[must_use]
pub fn come_back(standing: &Standing, draw: f64, now: Timestamp) -> Timestamp {
    const SOONEST: Duration = Duration::from_secs(10);
    const SPREAD: Duration = Duration::from_secs(10);
    const LATEST: Duration = Duration::from_secs(55);
    let jitter = SPREAD.mul_f64(draw.clamp(0.0, 1.0));
    if let Some((_, until)) = standing.ordered(now) {
        return until.after(jitter);
    }
    let stay = if standing.recovering { RECOVERY_STAY } else { LEAST_STAY };
    let earliest = standing.since.after(stay).max(now.after(SOONEST));
    earliest.after(jitter).min(now.after(LATEST.saturating_sub(SPREAD)).after(jitter))
}
