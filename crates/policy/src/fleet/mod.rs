//! The fleet's plan: what to launch, what to drain, what to hand back, each with its reason.
//!
//! One pure function of what is observed, what was kept of earlier plans, the limits and now. The need
//! ([`demand`]) is met with spot ([`placement`]); on demand stands in only when spot has been short for a minute, when
//! none is to be had, or when work is due before spot could come, and goes when spot has been back for ten. Workers under notice do not count, so their
//! successors start at once, elsewhere, because losing one bars its offering. Up is quick, at most doubling in a minute;
//! down waits until less has been needed for a quarter of an hour, and takes a tenth in five minutes. Only workers that
//! have nothing left are handed back.
//!
//! Planning again after a plan was carried out moves nothing: every step changes the very counts that asked for it.
//!
//! Edge cases: with no history the pool keeps one worker until it has been idle for a quarter of an hour; from zero one
//! request is reason enough for one worker; a clock that steps back makes waits longer, never steps twice; launches that
//! never come stop counting after three times their usual lead.

pub mod autoscaler;
pub mod demand;
pub mod flight;
pub mod offering;
pub mod orders;
mod placement;
pub mod report;
pub mod roll;
pub mod score;
mod state;
pub mod tuning;

use core::time::Duration;
use std::collections::BTreeMap;

use crate::time::Timestamp;

use demand::{Load, Need, need};
use offering::{Instance, Market, Offering, OfferingId, Stage};
use placement::{Gap, Room, fill, surplus};
use report::{DrainReason, LaunchReason, Short, Step};
use tuning::Choice;

/// Scale-in usually waits until less has been needed for so long; so does scaling to zero.
pub const CALM: Duration = Duration::from_secs(900);

/// On demand stands in when spot has been short for so long.
pub const SPOT_SHORT_FOR: Duration = Duration::from_secs(60);

/// What stood in goes when spot has been back for so long.
pub const SPOT_BACK_FOR: Duration = Duration::from_secs(600);

/// Less than this part of its target and spot is short.
const SHORT: f64 = 0.85;
/// More than this part and spot is back.
const BACK: f64 = 0.95;
/// Capacity may stand this much above the need: the width of the band in which nothing moves.
const BAND: f64 = 1.1;

const RISE_WINDOW: Duration = Duration::from_secs(60);
const FALL_WINDOW: Duration = Duration::from_secs(300);
const FALL: f64 = 0.9;

/// What a pool may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Workers that stay whatever comes, 0 to scale to zero.
    pub least_workers: u32,
    /// Workers at most, those under notice aside: their successors start while they still serve.
    pub most_workers: u32,
    /// Workers on demand at most.
    pub most_on_demand: u32,
    /// What all of them may cost an hour.
    pub usd_micros_per_hour: u64,
    /// How long less must have been needed before a worker goes, usually [`CALM`].
    pub calm: Duration,
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The load: forecast, seen, waiting.
    pub load: Load<'a>,
    /// The workers there are.
    pub instances: &'a [Instance],
    /// What can be had.
    pub offerings: &'a [Offering],
    /// How long a launch takes to serve: measured, nine in ten.
    pub lead: Duration,
    /// Quantile and utilisation to use.
    pub choice: Choice,
}

/// What is kept from plan to plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// What was needed lately, oldest first.
    needed: Vec<(Timestamp, f64)>,
    /// When somebody came last, or the pool began.
    busy: Option<Timestamp>,
    short_since: Option<Timestamp>,
    back_since: Option<Timestamp>,
    /// What stood when the minute of this rise began.
    rise: Option<(Timestamp, f64)>,
    /// When these five minutes of falling began, and the most that stood since.
    fall: Option<(Timestamp, f64)>,
    /// When something was launched last: what has just been bought is not sold.
    launched: Option<Timestamp>,
}

/// What to do, and what for.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is needed, by cause.
    pub need: Need,
    /// Tokens a second that the plan aims at.
    pub target: f64,
    /// The steps.
    pub steps: Vec<Step>,
    /// What could not be had.
    pub short: Option<Short>,
    /// To be handed in with the next plan.
    pub memory: Memory,
    /// When to plan again at the latest.
    pub look_again: Timestamp,
}

/// Plans a pool's fleet.
#[must_use]
pub fn plan(observed: &Observed<'_>, memory: &Memory, limits: &Limits, now: Timestamp) -> Plan {
    let standing = Standing::of(observed, now);
    let need = need(&observed.load, observed.choice, observed.lead, standing.total(), now);
    let mut memory = memory.clone();
    let target = target(observed, &need, &mut memory, &standing, limits.calm, now);
    memory.rise = window(memory.rise, RISE_WINDOW, standing.total(), now);
    let fall = window(memory.fall, FALL_WINDOW, standing.total(), now);
    // Measured from the most that stood: what came meanwhile does not let another worker go each time.
    memory.fall = fall.map(|(at, units)| (at, units.max(standing.total())));
    memory.short_since = since(memory.short_since, standing.spot < SHORT * target.units, now);
    memory.back_since = since(memory.back_since, standing.spot >= BACK * target.wanted, now);

    let drained = observed.instances.iter().filter(|instance| instance.stage == Stage::Drained);
    let mut steps: Vec<Step> = drained.map(|instance| Step::Release { instance: instance.id.clone() }).collect();
    let planning =
        Planning { observed, limits, now, need: &need, memory: &memory, standing: &standing, target: &target };
    let (launches, short) = planning.launches();
    let moved = !launches.is_empty();
    steps.extend(launches);
    if !moved && memory.launched.is_none_or(|launched| now.since(launched) >= RISE_WINDOW) {
        steps.extend(planning.drains());
    }
    if moved {
        memory.launched = Some(now);
    }
    let calm = steps.is_empty() && need.backlog.iter().all(|waits| *waits <= 0.0);
    let look_again = now.after(Duration::from_secs(if calm { 60 } else { 10 }));
    Plan { need, target: target.units, steps, short, memory, look_again }
}

/// What stands or comes, in tokens a second.
struct Standing<'a> {
    of: BTreeMap<&'a OfferingId, &'a Offering>,
    spot: f64,
    on_demand: f64,
    /// Capacity that the market is taking back.
    noticed: f64,
    workers: u32,
}

impl<'a> Standing<'a> {
    fn of(observed: &'a Observed<'_>, now: Timestamp) -> Self {
        let of: BTreeMap<_, _> = observed.offerings.iter().map(|offering| (&offering.id, offering)).collect();
        let mut standing = Self { of, spot: 0.0, on_demand: 0.0, noticed: 0.0, workers: 0 };
        for instance in observed.instances {
            let Some(offering) = standing.of.get(&instance.offering) else { continue };
            if instance.counts(now, observed.lead) {
                standing.workers += 1;
                match offering.market {
                    Market::Spot => standing.spot += offering.tokens_per_second,
                    Market::OnDemand => standing.on_demand += offering.tokens_per_second,
                }
            } else if instance.stage == Stage::Noticed {
                standing.noticed += offering.tokens_per_second;
            }
        }
        standing
    }

    fn total(&self) -> f64 {
        self.spot + self.on_demand
    }

    fn units(&self, instance: &Instance) -> f64 {
        self.of.get(&instance.offering).map_or(0.0, |offering| offering.tokens_per_second)
    }
}

/// What is aimed at, in tokens a second.
struct Target {
    /// What is wanted, as far as capacity may rise now.
    units: f64,
    /// What is wanted.
    wanted: f64,
    /// Nobody comes and nobody is expected.
    idle: bool,
}

fn target(
    observed: &Observed<'_>,
    need: &Need,
    memory: &mut Memory,
    standing: &Standing<'_>,
    calm: Duration,
    now: Timestamp,
) -> Target {
    let here = observed.load.tokens_per_second > 0.0 || need.backlog.iter().any(|waits| *waits > 0.0);
    if here || memory.busy.is_none() {
        memory.busy = Some(now);
    }
    memory.needed.retain(|(at, _)| now.since(*at) < calm && *at < now);
    memory.needed.push((now, need.total()));
    let units = || observed.offerings.iter().map(|offering| offering.tokens_per_second).filter(|units| *units > 0.0);
    let (smallest, largest) = (units().fold(f64::INFINITY, f64::min), units().fold(0.0, f64::max));
    let quiet = memory.busy.is_none_or(|busy| now.since(busy) >= calm);
    // A forecast of next to nothing is nothing: a tenth of the smallest worker.
    if quiet && need.total() < 0.1 * smallest {
        return Target { units: 0.0, wanted: 0.0, idle: true };
    }
    // Somebody is here or was just now: one worker at least.
    let wanted = memory.needed.iter().map(|(_, units)| *units).fold(1e-3, f64::max);
    let began = memory.rise.filter(|(at, _)| now.since(*at) < RISE_WINDOW).map_or(standing.total(), |(_, units)| units);
    Target { units: wanted.min(2.0 * began.max(largest)), wanted, idle: false }
}

fn window(kept: Option<(Timestamp, f64)>, length: Duration, standing: f64, now: Timestamp) -> Option<(Timestamp, f64)> {
    kept.filter(|(at, _)| now.since(*at) < length).or(Some((now, standing)))
}

fn since(kept: Option<Timestamp>, holds: bool, now: Timestamp) -> Option<Timestamp> {
    if holds { kept.or(Some(now)) } else { None }
}

fn lasted(since: Option<Timestamp>, wait: Duration, now: Timestamp) -> bool {
    since.is_some_and(|since| now.since(since) >= wait)
}

/// The parts of one decision.
struct Planning<'a> {
    observed: &'a Observed<'a>,
    limits: &'a Limits,
    now: Timestamp,
    need: &'a Need,
    memory: &'a Memory,
    standing: &'a Standing<'a>,
    target: &'a Target,
}

impl Planning<'_> {
    /// What to launch, and what cannot be had.
    fn launches(&self) -> (Vec<Step>, Option<Short>) {
        let (mut counts, mut room, mut on_demand) = self.room();
        let lacking = self.limits.least_workers.saturating_sub(self.standing.workers);
        let gap = |standing: f64| Gap { tokens_per_second: (self.target.units - standing).max(0.0), workers: lacking };
        // Who has on-demand workers only to stand in still wants spot for all of it.
        let (mut missing, mut of_spot) = (gap(self.standing.total()), gap(self.standing.spot));
        let mut steps = Vec::new();
        if let Some(reason) = self.stands_in(of_spot, &counts, room) {
            let before = on_demand.workers;
            let (bought, left) = self.fill(missing, Market::OnDemand, &mut counts, &mut on_demand);
            room.workers -= before - on_demand.workers;
            room.usd_micros_per_hour = on_demand.usd_micros_per_hour;
            of_spot.workers = left.workers;
            missing = left;
            steps.extend(bought.into_iter().map(|(offering, count)| Step::Launch { offering, count, reason }));
        }
        let reason = if self.standing.noticed > 0.0 {
            LaunchReason::Notice
        } else if lacking > 0 {
            LaunchReason::Need(demand::Cause::Floor)
        } else {
            LaunchReason::Need(self.need.cause())
        };
        let (bought, left) = self.fill(of_spot, Market::Spot, &mut counts, &mut room);
        steps.extend(bought.into_iter().map(|(offering, count)| Step::Launch { offering, count, reason }));
        let tokens_per_second = missing.tokens_per_second.min(left.tokens_per_second);
        let short = (tokens_per_second > placement::NOTHING).then_some(if room.workers == 0 {
            Short::Limits { tokens_per_second }
        } else {
            Short::NothingToBuy { tokens_per_second }
        });
        (steps, short)
    }

    /// Whether and why on demand is bought: for what is due, when launches of spot have not come for a minute, and at once
    /// when spot is short and none is to be had.
    fn stands_in(&self, gap: Gap, counts: &BTreeMap<OfferingId, u32>, room: Room) -> Option<LaunchReason> {
        if let Some(class) = self.need.threatened {
            return Some(LaunchReason::Due(class));
        }
        let (_, left) = self.fill(gap, Market::Spot, &mut counts.clone(), &mut { room });
        let short = self.memory.short_since.is_some() || left.workers > 0;
        let none = short && room.workers > 0 && !left.is_closed();
        (none || lasted(self.memory.short_since, SPOT_SHORT_FOR, self.now)).then_some(LaunchReason::SpotShort)
    }

    fn fill(
        &self,
        gap: Gap,
        market: Market,
        counts: &mut BTreeMap<OfferingId, u32>,
        room: &mut Room,
    ) -> (BTreeMap<OfferingId, u32>, Gap) {
        fill(gap, market, self.observed.offerings, counts, room, self.now)
    }

    /// How many of each offering there are, and what may be bought: of all, and on demand. Who is under notice or goes
    /// with this very plan is not counted.
    fn room(&self) -> (BTreeMap<OfferingId, u32>, Room, Room) {
        let mut counts: BTreeMap<OfferingId, u32> = BTreeMap::new();
        let (mut workers, mut on_demand, mut usd) = (0, 0, 0u64);
        let stay = |instance: &&Instance| !matches!(instance.stage, Stage::Noticed | Stage::Drained);
        for instance in self.observed.instances.iter().filter(stay) {
            workers += 1;
            let Some(offering) = self.standing.of.get(&instance.offering) else { continue };
            *counts.entry(offering.id.clone()).or_default() += 1;
            on_demand += u32::from(offering.market == Market::OnDemand);
            usd = usd.saturating_add(offering.usd_micros_per_hour);
        }
        let usd_micros_per_hour = self.limits.usd_micros_per_hour.saturating_sub(usd);
        let workers = self.limits.most_workers.saturating_sub(workers);
        let on_demand = workers.min(self.limits.most_on_demand.saturating_sub(on_demand));
        (counts, Room { workers, usd_micros_per_hour }, Room { workers: on_demand, usd_micros_per_hour })
    }

    /// Who goes: first what stood in for spot, then what is too much.
    fn drains(&self) -> Vec<Step> {
        let Target { wanted, idle, .. } = *self.target;
        let back = lasted(self.memory.back_since, SPOT_BACK_FOR, self.now);
        let mut falling = Falling::new(self);
        // Until spot has been back for a while, what stands in goes only where it is too much by itself.
        if idle {
            falling.take(Market::OnDemand, self.standing.total(), DrainReason::Idle);
        } else if back {
            falling.take(Market::OnDemand, self.standing.total(), DrainReason::SpotBack);
        } else if self.standing.on_demand > BAND * wanted {
            falling.take(Market::OnDemand, self.standing.on_demand, DrainReason::Surplus);
        }
        if idle || self.standing.spot > BAND * wanted {
            let reason = if idle { DrainReason::Idle } else { DrainReason::Surplus };
            falling.take(Market::Spot, self.standing.spot, reason);
        }
        falling.steps
    }
}

/// How far capacity may fall now.
struct Falling<'a> {
    planning: &'a Planning<'a>,
    /// Workers above the floor.
    leave: u32,
    may_fall: f64,
    /// Nothing has gone yet in these five minutes: one worker may, however large.
    first: bool,
    steps: Vec<Step>,
}

impl<'a> Falling<'a> {
    fn new(planning: &'a Planning<'a>) -> Self {
        let total = planning.standing.total();
        let began = planning.memory.fall.map_or(total, |(_, units)| units);
        let leave = planning.standing.workers.saturating_sub(planning.limits.least_workers);
        Self { planning, leave, may_fall: total - FALL * began, first: total >= began, steps: Vec::new() }
    }

    fn take(&mut self, market: Market, standing: f64, reason: DrainReason) {
        let Planning { observed, standing: all, target, .. } = self.planning;
        for instance in surplus(target.wanted, standing, market, observed.instances, &all.of) {
            let units = all.units(instance);
            if self.leave > 0 && (target.idle || self.first || units <= self.may_fall) {
                self.leave -= 1;
                self.first = false;
                self.may_fall -= units;
                self.steps.push(Step::Drain { instance: instance.id.clone(), reason });
            }
        }
    }
}
