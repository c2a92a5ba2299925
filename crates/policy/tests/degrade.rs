//! Properties of the breaker and of the tiers, over time that passes.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use core::time::Duration;

use penstock_policy::breaker::{self, Breaker, Config, Decision, Outcome, Permit, State};
use penstock_policy::classes::Class;
use penstock_policy::degrade::{
    Counts, Course, Evidence, LEAST_STAY, LONGEST_WINDOW, MOST_PROBES, Order, PROBE_LEASE, PROBES_NEEDED, Reason, SLOT,
    Standing, Tier, Workers, come_back, course, evaluate, probe, probed, withdrawn,
};
use penstock_policy::time::Timestamp;
use proptest::prelude::*;

const BEGIN: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn seconds(n: u64) -> Timestamp {
    BEGIN.after(Duration::from_secs(n))
}

/// A pool whose health is counted slot by slot and evaluated at the end of each.
struct Pool {
    slots: Vec<(Timestamp, Counts)>,
    standing: Standing,
    now: Timestamp,
    workers: Workers,
    /// Every change: when, from, to.
    moves: Vec<(u64, Tier, Tier)>,
}

impl Pool {
    fn new() -> Self {
        let standing = Standing::default();
        Self { slots: Vec::new(), standing, now: BEGIN, workers: Workers::Ready, moves: Vec::new() }
    }

    fn slot(&mut self, counts: Counts) {
        self.slots.push((self.now, counts));
        self.now = self.now.after(SLOT);
        let oldest = self.now.before(LONGEST_WINDOW);
        self.slots.retain(|(begin, _)| *begin >= oldest);
        let next = evaluate(&self.standing, &Evidence { slots: &self.slots, workers: self.workers }, self.now);
        if next.tier != self.standing.tier {
            self.moves.push((self.now.since(BEGIN).as_secs(), self.standing.tier, next.tier));
        }
        self.standing = next;
    }

    fn minutes(&mut self, n: u64, counts: Counts) {
        (0..n * 6).for_each(|_| self.slot(counts));
    }

    /// Lets `count` probes through, of which `outcome` says how they end; waits half a second for each.
    fn probes(&mut self, count: u32, outcome: Outcome) {
        for _ in 0..count {
            self.now = self.now.after(Duration::from_millis(500));
            let (permit, next) = probe(&self.standing, self.now);
            self.standing = next;
            self.standing = probed(&self.standing, permit.unwrap(), outcome, self.now).unwrap();
        }
    }
}

fn counts(ok: u64, errors: u64) -> Counts {
    Counts { ok, errors, ..Counts::default() }
}

#[test]
fn a_burst_of_errors_opens_within_a_slot_and_the_way_back_is_one_tier_at_a_time() {
    let mut pool = Pool::new();
    pool.minutes(5, counts(100, 0));
    pool.slot(counts(10, 200));
    assert_eq!(pool.standing.tier, Tier::Open, "{:?}", pool.standing.reason);
    pool.minutes(2, counts(0, 0));
    assert_eq!(pool.standing.tier, Tier::Open, "no traffic proves nothing");
    pool.probes(PROBES_NEEDED - 1, Outcome::Success);
    pool.slot(counts(0, 0));
    assert_eq!(pool.standing.tier, Tier::Open, "nineteen are not twenty");
    pool.probes(1, Outcome::Failure);
    pool.probes(PROBES_NEEDED - 1, Outcome::Success);
    pool.slot(counts(0, 0));
    assert_eq!(pool.standing.tier, Tier::Open, "in a row");
    pool.probes(1, Outcome::Success);
    pool.slot(counts(0, 0));
    assert_eq!(pool.standing.tier, Tier::Cached);
    let back = pool.now;
    pool.minutes(5, counts(100, 0));
    let moves: Vec<(Tier, Tier)> = pool.moves.iter().map(|(_, from, to)| (*from, *to)).collect();
    assert_eq!(
        moves,
        [
            (Tier::Normal, Tier::Open),
            (Tier::Open, Tier::Cached),
            (Tier::Cached, Tier::Switch),
            (Tier::Switch, Tier::Normal)
        ]
    );
    let since_back = |index: usize| pool.moves[index].0 - back.since(BEGIN).as_secs();
    assert_eq!((since_back(2), since_back(3)), (120, 240), "two minutes each");
}

#[test]
fn each_tier_is_entered_at_its_published_threshold_and_not_below() {
    for (ok, errors, minutes, tier) in [
        // Just above 5 % of at least 200 in five minutes; just at it; above it, but too few.
        (94, 6, 5, Tier::Switch),
        (95, 5, 5, Tier::Normal),
        (3, 1, 5, Tier::Normal),
        // 15 % of at least 100 in two minutes.
        (84, 16, 2, Tier::Cached),
        (85, 15, 2, Tier::Switch),
        // 30 % of at least 50 in thirty seconds.
        (69, 31, 1, Tier::Open),
        (70, 30, 1, Tier::Cached),
        (2, 2, 1, Tier::Normal),
    ] {
        let mut pool = Pool::new();
        pool.minutes(minutes, counts(ok, errors));
        assert_eq!(pool.standing.tier, tier, "{errors} of {} a slot for {minutes} min", ok + errors);
    }
}

#[test]
fn late_starts_switch_and_time_outs_count_as_errors() {
    let mut pool = Pool::new();
    pool.minutes(5, Counts { ok: 20, started: 20, late: 1, ..Counts::default() });
    assert_eq!(pool.standing.tier, Tier::Normal, "5 % are late: the 95th percentile is just in time");
    pool.minutes(5, Counts { ok: 20, started: 20, late: 2, ..Counts::default() });
    assert_eq!(pool.standing.tier, Tier::Switch);
    assert!(matches!(pool.standing.reason, Reason::Late { .. }));
    let mut pool = Pool::new();
    pool.slot(Counts { ok: 50, timeouts: 50, ..Counts::default() });
    assert_eq!(pool.standing.tier, Tier::Open);
}

#[test]
fn night_traffic_does_not_flap() {
    let mut pool = Pool::new();
    // Four requests an hour, every second one fails, for a day.
    for quarter in 0..96 {
        pool.slot(counts(u64::from(quarter % 2 == 0), u64::from(quarter % 2 == 1)));
        (0..89).for_each(|_| pool.slot(Counts::default()));
    }
    assert_eq!(pool.moves, []);
}

#[test]
fn workers_that_died_open_the_breaker_after_a_minute_and_one_that_is_ready_leads_back() {
    let mut pool = Pool::new();
    pool.minutes(1, counts(5, 0));
    pool.workers = Workers::Lost { seen: pool.now };
    pool.minutes(1, counts(0, 0));
    assert_eq!((pool.standing.tier, pool.standing.reason), (Tier::Open, Reason::NoWorker));
    pool.minutes(10, counts(0, 0));
    assert_eq!(pool.standing.tier, Tier::Open);
    pool.workers = Workers::Ready;
    pool.slot(counts(0, 0));
    assert_eq!((pool.standing.tier, pool.standing.reason), (Tier::Cached, Reason::Recovering));
    let mut idle = Pool::new();
    idle.workers = Workers::NotWanted;
    idle.minutes(60, counts(0, 0));
    assert_eq!(idle.moves, [], "a pool that is scaled to zero is not sick");
}

#[test]
fn an_order_holds_until_its_moment_and_says_it() {
    let until = seconds(600);
    let standing = Standing { order: Some((Order::Refuse, until)), ..Standing::default() };
    assert_eq!(course(&standing, Class::P0, 0.0, BEGIN), Course::Refuse);
    assert_eq!(standing.tier(BEGIN), Tier::Manual);
    assert!(come_back(&standing, 0.5, BEGIN) >= until);
    assert_eq!(course(&standing, Class::P0, 0.0, until), Course::Home);
}

#[test]
fn urgent_work_probes_an_open_pool_and_a_quiet_pool_is_probed_by_the_default_class_too() {
    let open = Standing { tier: Tier::Open, since: BEGIN, probed: BEGIN, ..Standing::default() };
    assert_eq!(course(&open, Class::P0, 0.049, seconds(1)), Course::Probe);
    assert_eq!(course(&open, Class::P0, 0.051, seconds(1)), Course::Fallback);
    assert_eq!(course(&open, Class::P1, 0.0, seconds(1)), Course::Fallback);
    assert_eq!(course(&open, Class::P1, 0.9, seconds(5)), Course::Probe);
    assert_eq!(course(&open, Class::P2, 0.0, seconds(50)), Course::Fallback);
}

#[test]
fn leaked_probes_are_regained_and_stale_generations_are_ignored() {
    let mut standing = Standing { tier: Tier::Open, since: BEGIN, ..Standing::default() };
    let mut leaked = Vec::new();
    for _ in 0..MOST_PROBES {
        let (permit, next) = probe(&standing, BEGIN);
        leaked.push(permit.unwrap());
        standing = next;
    }
    assert_eq!(probe(&standing, seconds(PROBE_LEASE.as_secs() - 1)).0, None);
    let after = seconds(PROBE_LEASE.as_secs());
    assert!(probe(&standing, after).0.is_some());
    assert_eq!(probed(&standing, leaked[0], Outcome::Success, after), None, "its lease has ended");
    let failed = probed(&standing, leaked[0], Outcome::Failure, BEGIN).unwrap();
    assert_eq!(probed(&failed, leaked[1], Outcome::Success, BEGIN), None, "it is of an earlier generation");
}

#[test]
fn a_probe_that_taught_nothing_makes_room_for_another_and_counts_for_nothing() {
    let mut standing = Standing { tier: Tier::Open, since: BEGIN, ..Standing::default() };
    let mut last = None;
    for _ in 0..MOST_PROBES {
        let (permit, next) = probe(&standing, BEGIN);
        (last, standing) = (permit, next);
    }
    assert_eq!(probe(&standing, BEGIN).0, None);
    let freed = withdrawn(&standing, last.unwrap()).unwrap();
    assert_eq!((freed.probes.successes, probe(&freed, BEGIN).0.is_some()), (0, true));
    assert_eq!(withdrawn(&freed, last.unwrap()), None);
}

fn any_counts() -> impl Strategy<Value = Counts> {
    (0u64..300, 0u64..300, 0u64..30, 0u64..50, 0u64..50).prop_map(|(ok, errors, timeouts, started, late)| Counts {
        ok,
        errors,
        timeouts,
        started: started.max(late),
        late,
    })
}

proptest! {
    #[test]
    fn on_constant_input_the_tier_settles_and_stays(counts in any_counts()) {
        let mut pool = Pool::new();
        for _ in 0..6 * 60 {
            pool.slot(counts);
            if pool.standing.tier == Tier::Open && counts.bad() * 3 >= counts.all() {
                // Probes fare as everything else does: one of three at least fails.
                pool.probes(2, Outcome::Success);
                pool.probes(1, Outcome::Failure);
            }
        }
        let worsening = pool.moves.iter().all(|(_, from, to)| to > from);
        prop_assert!(worsening && pool.moves.len() <= 3, "{:?}", pool.moves);
    }

    #[test]
    fn tiers_are_kept_for_the_least_stay_and_left_one_at_a_time(
        story in proptest::collection::vec((any_counts(), 1usize..12, any::<bool>()), 1..60),
    ) {
        let mut pool = Pool::new();
        for (counts, slots, proving) in story {
            for _ in 0..slots {
                if proving && pool.standing.tier == Tier::Open {
                    pool.probes(PROBES_NEEDED, Outcome::Success);
                }
                pool.slot(counts);
            }
        }
        let mut entered = 0;
        for (at, from, to) in &pool.moves {
            if to < from {
                prop_assert_eq!(from.number() - to.number(), 1);
                prop_assert!(at - entered >= LEAST_STAY.as_secs(), "{:?}", pool.moves);
            }
            entered = *at;
        }
    }

    #[test]
    fn evaluating_twice_changes_nothing(story in proptest::collection::vec(any_counts(), 1..40)) {
        let mut pool = Pool::new();
        for counts in story {
            pool.slot(counts);
            let again = evaluate(&pool.standing, &Evidence { slots: &pool.slots, workers: pool.workers }, pool.now);
            prop_assert_eq!(&again, &pool.standing);
        }
    }

    #[test]
    fn whoever_is_refused_is_told_a_time_between_ten_and_fifty_five_seconds(
        tier in 0u8..4, since in 0u64..400, draw in 0.0f64..1.0, recovering: bool,
    ) {
        let tier = Tier::from_number(tier).unwrap();
        let standing = Standing { tier, since: BEGIN, recovering, ..Standing::default() };
        let wait = come_back(&standing, draw, seconds(since)).since(seconds(since));
        prop_assert!((10..=55).contains(&wait.as_secs()) && wait <= Duration::from_secs(55), "{wait:?}");
    }

    /// Random calls, answers late or never, time passing: the breaker keeps its promises.
    #[test]
    fn a_local_breaker_keeps_its_promises_whatever_happens(
        story in proptest::collection::vec((0u64..3000, any::<bool>(), 0usize..4, any::<bool>()), 1..400),
    ) {
        let config = Config::LOCAL;
        let (mut breaker, mut now) = (Breaker::default(), BEGIN);
        let mut out: Vec<(Timestamp, Permit)> = Vec::new();
        let mut opened: Option<Timestamp> = None;
        for (pause, fails, which, answers) in story {
            now = now.after(Duration::from_millis(pause));
            let before = breaker.clone();
            let (decision, next) = breaker::ask(breaker, &config, now);
            breaker = next;
            match decision {
                Decision::Go(permit) => out.push((now, permit)),
                Decision::Refuse { until } => {
                    prop_assert!(until > now && until.since(now) <= config.longest_wait);
                    if let State::Open { .. } = before.state {
                        prop_assert!(now.since(opened.unwrap()) < config.longest_wait);
                    }
                }
            }
            if breaker.state == State::HalfOpen {
                let live = out.iter().filter(|(given, permit)| {
                    permit.generation == breaker.probes.generation && permit.probe > 0 && now.since(*given) < config.lease
                });
                prop_assert!(live.count() <= config.permits, "never more probes than permits");
            }
            if answers && !out.is_empty() {
                let (_, permit) = out.remove(which % out.len());
                let outcome = if fails { Outcome::Failure } else { Outcome::Success };
                let stale = permit.generation != breaker.probes.generation;
                let before = breaker.clone();
                breaker = breaker::report(breaker, permit, outcome, &config, now);
                prop_assert!(!stale || breaker == before, "a stale generation is ignored");
            }
            if matches!(breaker.state, State::Open { .. }) && breaker.since == now {
                opened = Some(now);
            }
        }
        // Whatever was leaked: a minute later a call goes through.
        let (decision, _) = breaker::ask(breaker, &config, now.after(Duration::from_secs(60)));
        prop_assert!(matches!(decision, Decision::Go(_)));
    }
}
