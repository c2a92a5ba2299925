//! Parked work: what may wait outside the queue, and what of it goes into the queue now.
//!
//! A queue that holds hours of work can be neither reordered nor cancelled at a reasonable price, and every message in it
//! ages. So the queues of the flexible classes hold about [`DRAIN`] of the pool's work and the rest is *parked*: stored, by
//! tenant and due moment. Each control tick moves as much as has drained.
//!
//! Who is next: within a tenant the earliest due moment. Between tenants deficit round robin (Shreedhar and Varghese,
//! "Efficient fair queueing using deficit round robin", 1996) in its form with a quantum of one job: the next is of the
//! tenant that was given the fewest tokens, so equal tokens go to whoever has work parked. Jobs that would be late if they
//! were served last are *pressing* and go first, the earliest due moment of all tenants ahead, which keeps every deadline
//! that can be kept; but at most [`PRESSING_PART`] of the room is theirs, because in overload the earliest due moment first
//! keeps none (Locke, "Best-effort decision making for real-time scheduling", 1986) and would let one tenant's short
//! deadlines stop all others.
//!
//! Batch work fills valleys: what room it has is what the better classes leave of [`DRAIN`]. Pressing jobs have the whole.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::classes::Class;
use crate::id::{JobId, TenantId};
use crate::time::Timestamp;

/// Work that a queue of a flexible class holds, in time the pool needs for it.
pub const DRAIN: Duration = Duration::from_secs(120);

/// Work that it holds while there are no workers, whose rate is a guess then: enough for the first of them to begin with.
const UNSTAFFED: Duration = Duration::from_secs(30);

/// The part of the room that pressing jobs may take.
pub const PRESSING_PART: f64 = 0.75;

/// A job is pressing this much before it would be late if it were served last.
const MARGIN: Duration = Duration::from_secs(15 * 60);

/// How far the time that all waiting work takes may be off.
const CAUTION: f64 = 2.0;

/// Parked jobs that one second between two counts of them pays for: counting reads each.
const COUNTED_PER_SECOND: u64 = 1000;

/// Where an accepted job goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Berth {
    /// Into its queue.
    #[default]
    Queue,
    /// Stored beside it, until it is released.
    Parked,
}

/// Where a job of `class` goes that finds `backlog` of work of its class waiting. Urgent classes are never parked: they are
/// refused before they wait so long.
#[must_use]
pub fn berth(class: Class, backlog: Duration) -> Berth {
    match class {
        Class::P0 | Class::P1 => Berth::Queue,
        Class::P2 | Class::P3 if backlog > DRAIN => Berth::Parked,
        Class::P2 | Class::P3 => Berth::Queue,
    }
}

/// The classes whose work may be parked, in the order in which it is released.
pub const FLEXIBLE: [Class; 2] = [Class::P2, Class::P3];

/// A parked job, as far as the choice looks at it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parked {
    /// When running it stops to make sense.
    pub due: Timestamp,
    /// The job.
    pub job: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The work it is estimated to be, in tokens.
    pub tokens: u64,
}

/// How a class of a pool stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// The class.
    pub class: Class,
    /// Tokens a second that the pool makes, or is assumed to make when its workers come.
    pub tokens_per_second: f64,
    /// How long until there are workers; zero if there are.
    pub ready_in: Duration,
    /// Tokens in the class's queue.
    pub queued: f64,
    /// Tokens of better classes that wait or run, in their queues.
    pub better: f64,
    /// Tokens of this class, and of better ones, that are parked.
    pub parked: f64,
}

/// How much may be released.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Tokens, if all of them are pressing but for [`PRESSING_PART`].
    pub whole: f64,
    /// Tokens of jobs that are not pressing.
    pub usual: f64,
    /// Jobs due before this moment are pressing.
    pub pressing: Timestamp,
}

/// The room in a class's queue.
#[must_use]
pub fn room(load: &Load, now: Timestamp) -> Room {
    let rate = load.tokens_per_second.max(1e-3);
    let drain = if load.ready_in.is_zero() { DRAIN } else { UNSTAFFED };
    let full = rate * drain.as_secs_f64();
    let whole = (full - load.queued).max(0.0);
    let usual = match load.class {
        Class::P0 | Class::P1 | Class::P2 => whole,
        Class::P3 => (full * valley(load.better / full) - load.queued).max(0.0),
    };
    let all = (load.queued + load.better + load.parked).max(0.0) / rate;
    let last = Duration::try_from_secs_f64(all * CAUTION).unwrap_or(Duration::MAX);
    Room { whole, usual, pressing: now.after(last.saturating_add(MARGIN)) }
}

/// The part of the room that batch work may fill while better classes fill `pressure` of it: what they leave.
#[must_use]
pub fn valley(pressure: f64) -> f64 {
    if pressure.is_finite() { (1.0 - pressure).clamp(0.0, 1.0) } else { 0.0 }
}

/// Tokens that each tenant with parked work was given beyond the one that was given the fewest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(pub BTreeMap<TenantId, u64>);

impl Given {
    /// Forgets who has nothing parked any more; newcomers stand where the one stands that was given the fewest.
    fn among(&mut self, tenants: impl Iterator<Item = TenantId>) {
        let old = core::mem::take(&mut self.0);
        let tenants: Vec<TenantId> = tenants.collect();
        let least = tenants.iter().filter_map(|tenant| old.get(tenant)).min().copied().unwrap_or(0);
        let of = |tenant: TenantId| {
            let given = old.get(&tenant).map_or(0, |given| given - least);
            (tenant, given)
        };
        self.0 = tenants.into_iter().map(of).collect();
    }

    fn give(&mut self, job: &Parked) {
        let given = self.0.entry(job.tenant.clone()).or_default();
        *given = given.saturating_add(job.tokens.max(1));
    }
}

/// Chooses what is released now, `most` jobs at most, in the order in which they are to be sent. `parked` holds, of every
/// tenant with parked work, its jobs with the earliest due moments, in any order. Jobs that are past due are left alone.
///
/// Takes O(n log n) of `n` parked jobs. The last job chosen may be larger than the room that is left.
#[must_use]
pub fn choose(room: &Room, given: &mut Given, parked: &[Parked], most: usize, now: Timestamp) -> Vec<Parked> {
    let mut waiting: Vec<&Parked> = parked.iter().filter(|job| job.due > now).collect();
    waiting.sort_unstable();
    waiting.dedup_by_key(|job| job.job);
    given.among(waiting.iter().map(|job| job.tenant.clone()));
    let mut chosen: Vec<Parked> = Vec::new();
    let mut used = 0.0;
    let pressing = waiting.partition_point(|job| job.due < room.pressing);
    let mut rest: Vec<&Parked> = Vec::with_capacity(waiting.len());
    for (at, job) in waiting.into_iter().enumerate() {
        if at < pressing && used < room.whole * PRESSING_PART && chosen.len() < most {
            used += job.tokens.max(1) as f64;
            given.give(job);
            chosen.push(job.clone());
        } else {
            rest.push(job);
        }
    }
    let room = room.usual.min(room.whole - used);
    chosen.extend(in_turn(&rest, given, room, most.saturating_sub(chosen.len())));
    chosen
}

/// Tenants take turns, the one that was given the fewest tokens first; `waiting` is sorted by due moment.
fn in_turn(waiting: &[&Parked], given: &mut Given, room: f64, most: usize) -> Vec<Parked> {
    let mut of_tenant: BTreeMap<&TenantId, Vec<&Parked>> = BTreeMap::new();
    // Backwards, so that the earliest is the last and is taken off the end.
    for job in waiting.iter().rev() {
        of_tenant.entry(&job.tenant).or_default().push(job);
    }
    let turn = |jobs: &Vec<&Parked>, given: &Given| {
        jobs.last().map(|job| (given.0.get(&job.tenant).copied().unwrap_or(0), (*job).clone()))
    };
    let mut turns: BTreeSet<(u64, Parked)> = of_tenant.values().filter_map(|jobs| turn(jobs, given)).collect();
    let (mut chosen, mut used) = (Vec::new(), 0.0);
    while used < room
        && chosen.len() < most
        && let Some((_, job)) = turns.pop_first()
    {
        used += job.tokens.max(1) as f64;
        given.give(&job);
        if let Some(jobs) = of_tenant.get_mut(&job.tenant) {
            jobs.pop();
            turns.extend(turn(jobs, given));
        }
        chosen.push(job);
    }
    chosen
}

/// How long a count of `jobs` parked jobs is gone by.
#[must_use]
pub const fn counted_for(jobs: u64) -> Duration {
    Duration::from_millis(jobs.saturating_mul(1000) / COUNTED_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn job(n: u64, tenant: &str, due_secs: u64, tokens: u64) -> Parked {
        let tenant = TenantId::new(tenant).unwrap();
        Parked { due: NOW.after(Duration::from_secs(due_secs)), job: JobId::new(NOW, u128::from(n)), tenant, tokens }
    }

    fn wide(tokens: f64) -> Room {
        Room { whole: tokens, usual: tokens, pressing: NOW }
    }

    fn load(class: Class) -> Load {
        Load { class, tokens_per_second: 100.0, ready_in: Duration::ZERO, queued: 2000.0, better: 0.0, parked: 0.0 }
    }

    #[test]
    fn flexible_work_is_parked_once_its_queue_is_two_minutes_long_and_urgent_work_never() {
        let long = DRAIN + Duration::from_millis(1);
        assert_eq!(Class::ALL.map(|class| berth(class, DRAIN)), [Berth::Queue; 4]);
        assert_eq!(
            Class::ALL.map(|class| berth(class, long)),
            [Berth::Queue, Berth::Queue, Berth::Parked, Berth::Parked]
        );
    }

    #[test]
    fn batch_work_fills_what_better_classes_leave_and_flexible_work_fills_its_own_queue() {
        let busy = Load { better: 6000.0, ..load(Class::P3) };
        assert_eq!(room(&load(Class::P3), NOW).usual, 10_000.0);
        assert_eq!(room(&busy, NOW).usual, 4000.0);
        assert_eq!(room(&Load { better: 1e9, ..busy }, NOW).usual, 0.0);
        assert_eq!(room(&Load { class: Class::P2, ..busy }, NOW).usual, 10_000.0);
        assert_eq!(room(&Load { queued: 1e9, ..busy }, NOW).whole, 0.0);
        let unstaffed = Load { ready_in: Duration::from_secs(9), ..load(Class::P2) };
        assert_eq!(room(&unstaffed, NOW).whole, 1000.0, "their rate is a guess");
    }

    #[test]
    fn what_would_be_late_if_it_came_last_goes_first_even_at_a_peak() {
        // An hour of parked work at 100 tokens a second.
        let peak = Load { better: 1e6, parked: 360_000.0, queued: 0.0, ..load(Class::P3) };
        let jobs = [job(1, "patient", 86_400, 10), job(2, "late", 3600, 10)];
        let chosen = choose(&room(&peak, NOW), &mut Given::default(), &jobs, 10, NOW);
        assert_eq!(chosen, [jobs[1].clone()]);
    }

    #[test]
    fn tenants_with_parked_work_are_given_equal_tokens_over_many_ticks() {
        let mut jobs: Vec<Parked> = (0..300).map(|n| job(n, "many", 50_000 + n, 100)).collect();
        jobs.extend((300..330).map(|n| job(n, "few", 80_000, 200)));
        let mut given = Given::default();
        for _ in 0..40 {
            let chosen = choose(&wide(100.0), &mut given, &jobs, 100, NOW);
            jobs.retain(|job| !chosen.contains(job));
        }
        let left = |tenant: &str| jobs.iter().filter(|job| job.tenant.as_str() == tenant).count();
        // Of forty ticks, equal tokens: two jobs of `many` for one of `few`.
        assert!((272..=275).contains(&left("many")), "{}", left("many"));
        assert!((16..=18).contains(&left("few")), "{}", left("few"));
    }

    #[test]
    fn a_newcomer_does_not_catch_up_on_what_others_were_given_before_it_came() {
        let mut given = Given::default();
        let old: Vec<Parked> = (0..100).map(|n| job(n, "old", 5000, 100)).collect();
        assert_eq!(choose(&wide(5000.0), &mut given, &old, 100, NOW).len(), 50);
        let both: Vec<Parked> = old[50..].iter().cloned().chain((100..150).map(|n| job(n, "new", 9000, 100))).collect();
        let chosen = choose(&wide(1000.0), &mut given, &both, 100, NOW);
        assert_eq!(chosen.iter().filter(|job| job.tenant.as_str() == "old").count(), 5);
    }

    #[test]
    fn what_is_past_due_is_left_alone() {
        let jobs = [job(1, "a", 0, 10), job(2, "a", 60, 10)];
        assert_eq!(choose(&wide(1e6), &mut Given::default(), &jobs, 10, NOW), [jobs[1].clone()]);
    }

    proptest! {
        #[test]
        fn a_choice_keeps_to_its_room_takes_nothing_twice_and_is_fair(
            specs in proptest::collection::vec((0u64..4, 1u64..40_000, 1u64..500), 0..120),
            whole in 0.0f64..20_000.0, usual in 0.0f64..20_000.0, pressing in 0u64..20_000, most in 0usize..80,
        ) {
            let jobs: Vec<Parked> = (0..)
                .zip(&specs)
                .map(|(n, (tenant, due, tokens))| job(n, &format!("t{tenant}"), *due, *tokens))
                .collect();
            let room = Room { whole, usual: usual.min(whole), pressing: NOW.after(Duration::from_secs(pressing)) };
            let mut given = Given::default();
            let chosen = choose(&room, &mut given, &jobs, most, NOW);
            prop_assert!(chosen.len() <= most);
            let tokens: u64 = chosen.iter().map(|job| job.tokens).sum();
            // One job may overshoot each of the two parts.
            prop_assert!(tokens as f64 <= whole + 1000.0);
            let mut ids: Vec<JobId> = chosen.iter().map(|job| job.job).collect();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), chosen.len());
            // Within a tenant, what stays is due no earlier than what goes.
            for stays in jobs.iter().filter(|job| !chosen.contains(job)) {
                prop_assert!(chosen.iter().filter(|goes| goes.tenant == stays.tenant).all(|goes| goes <= stays));
            }
            // Nobody with work left was given less than another, beyond one job, unless deadlines pressed.
            if pressing == 0 {
                for stays in jobs.iter().filter(|job| !chosen.contains(job)) {
                    let own = given.0[&stays.tenant];
                    prop_assert!(given.0.values().all(|other| *other <= own + 500), "{given:?}");
                }
            }
            let mut again = Given::default();
            let mut reversed = jobs;
            reversed.reverse();
            prop_assert_eq!(chosen, choose(&room, &mut again, &reversed, most, NOW));
        }
    }
}
