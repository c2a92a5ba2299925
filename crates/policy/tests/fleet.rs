//! What a plan keeps to: the same again for the same, nothing again after it was carried out, never beyond the limits,
//! and rest under constant load. `PROPTEST_CASES=100000` runs as many cases.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::fleet::demand::{Backlog, Load};
use penstock_policy::fleet::offering::{Device, Instance, Market, Offering, OfferingId, Stage};
use penstock_policy::fleet::report::{DrainReason, LaunchReason, Step};
use penstock_policy::fleet::score::Score;
use penstock_policy::fleet::tuning::Choice;
use penstock_policy::fleet::{CALM, Limits, Memory, Observed, Plan, plan};
use penstock_policy::forecast::{self, Forecast, Forecaster, LocalTime};
use penstock_policy::time::Timestamp;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_millis(1_704_067_200_000);
const LEAD: Duration = Duration::from_secs(90);

fn offering(at: usize, market: Market, device: Device, units: f64, usd: u64) -> Offering {
    let id = OfferingId(format!("{market:?}-{at}"));
    Offering {
        id,
        market,
        device,
        tokens_per_second: units,
        usd_micros_per_hour: usd,
        score: Score::default(),
        most: 50,
    }
}

fn market() -> Vec<Offering> {
    vec![
        offering(0, Market::Spot, Device::Gpu, 1000.0, 350_000),
        offering(1, Market::Spot, Device::GpuSlice { of: 4 }, 240.0, 100_000),
        offering(2, Market::OnDemand, Device::Gpu, 1000.0, 800_000),
    ]
}

const LIMITS: Limits =
    Limits { least_workers: 0, most_workers: 40, most_on_demand: 10, usd_micros_per_hour: 30_000_000, calm: CALM };

/// A pool whose plans are carried out at once.
struct Pool {
    offerings: Vec<Offering>,
    instances: Vec<Instance>,
    memory: Memory,
    limits: Limits,
    named: u32,
}

impl Pool {
    fn new() -> Self {
        Self { offerings: market(), instances: Vec::new(), memory: Memory::default(), limits: LIMITS, named: 0 }
    }

    fn plan(&self, tokens_per_second: f64, backlog: [Backlog; 4], forecast: Option<&Forecast>, now: Timestamp) -> Plan {
        let load = Load { forecast, tokens_per_second, backlog };
        let (instances, offerings) = (&self.instances, &self.offerings);
        let observed = Observed { load, instances, offerings, lead: LEAD, choice: Choice::CAUTIOUS };
        plan(&observed, &self.memory, &self.limits, now)
    }

    fn apply(&mut self, plan: &Plan, now: Timestamp) {
        self.memory = plan.memory.clone();
        for step in &plan.steps {
            match step {
                Step::Launch { offering, count, .. } => {
                    for _ in 0..*count {
                        self.named += 1;
                        let (id, offering) = (format!("i-{:05}", self.named), offering.clone());
                        let stage = Stage::Launching;
                        self.instances.push(Instance { id, offering, stage, since: now, running: 0 });
                    }
                }
                Step::Drain { instance, .. } => {
                    let found = self.instances.iter_mut().find(|found| found.id == *instance).unwrap();
                    assert_eq!(found.stage, Stage::Ready, "only who serves is drained");
                    found.stage = Stage::Draining;
                }
                Step::Release { instance } => {
                    let place = self.instances.iter().position(|found| found.id == *instance).unwrap();
                    assert_eq!(self.instances[place].stage, Stage::Drained, "only who has nothing left is handed back");
                    self.instances.remove(place);
                }
            }
        }
    }

    /// Launches become ready after the lead, draining ends in a minute.
    fn time_passes(&mut self, now: Timestamp) {
        for instance in &mut self.instances {
            if instance.stage == Stage::Launching && now.since(instance.since) >= LEAD {
                instance.stage = Stage::Ready;
            } else if instance.stage == Stage::Draining {
                instance.stage = Stage::Drained;
            }
        }
    }

    fn tick(&mut self, tokens_per_second: f64, now: Timestamp) -> Plan {
        self.time_passes(now);
        let plan = self.plan(tokens_per_second, [Backlog::default(); 4], None, now);
        self.apply(&plan, now);
        plan
    }

    fn units(&self) -> f64 {
        let counts = self.instances.iter().filter(|instance| instance.stage.counts());
        counts
            .map(|instance| {
                self.offerings.iter().find(|offering| offering.id == instance.offering).unwrap().tokens_per_second
            })
            .sum()
    }
}

fn after(secs: u64) -> Timestamp {
    NOW.after(Duration::from_secs(secs))
}

#[test]
fn one_request_wakes_a_pool_and_a_quiet_quarter_of_an_hour_puts_it_to_sleep() {
    let mut pool = Pool::new();
    pool.memory = pool.plan(0.0, [Backlog::default(); 4], None, NOW).memory;
    let begin = CALM.as_secs() + 10;
    assert_eq!(pool.tick(0.0, after(begin)).target, 0.0);
    let waiting = [Backlog { tokens: 50.0, due: None }, Backlog::default(), Backlog::default(), Backlog::default()];
    let woken = pool.plan(0.0, waiting, None, after(begin + 10));
    assert!(
        matches!(&woken.steps[..], [Step::Launch { count: 1, reason: LaunchReason::Need(_), .. }]),
        "{:?}",
        woken.steps
    );
    pool.apply(&woken, after(begin + 10));
    let mut slept = None;
    for secs in (begin + 20..begin + 2000).step_by(10) {
        let plan = pool.tick(0.0, after(secs));
        if let Some(Step::Drain { reason, .. }) = plan.steps.first() {
            slept = slept.or(Some((secs, *reason)));
        }
    }
    let (secs, reason) = slept.unwrap();
    assert_eq!(reason, DrainReason::Idle);
    assert!(secs >= begin + 10 + CALM.as_secs() && pool.instances.is_empty());
}

#[test]
fn a_worker_under_notice_is_replaced_at_once_and_elsewhere() {
    let mut pool = Pool::new();
    for secs in (0..600).step_by(10) {
        pool.tick(700.0, after(secs));
    }
    assert!(pool.units() >= 700.0);
    let lost = pool.instances[0].offering.clone();
    pool.instances[0].stage = Stage::Noticed;
    for offering in pool.offerings.iter_mut().filter(|offering| offering.id == lost) {
        offering.score = offering.score.after(penstock_policy::fleet::score::Event::Lost, after(600));
    }
    let plan = pool.plan(700.0, [Backlog::default(); 4], None, after(600));
    assert!(!plan.steps.is_empty());
    for step in &plan.steps {
        let Step::Launch { offering, reason, .. } = step else { panic!("{step}") };
        assert!(*offering != lost && *reason == LaunchReason::Notice, "{step}");
    }
}

#[test]
fn on_demand_stands_in_where_no_spot_is_to_be_had_and_goes_when_spot_is_back() {
    let mut pool = Pool::new();
    for offering in pool.offerings.iter_mut().filter(|offering| offering.market == Market::Spot) {
        offering.score = Score::new(0.5, after(1000));
    }
    let stands_in = pool.tick(700.0, after(0));
    assert!(
        matches!(&stands_in.steps[..], [Step::Launch { reason: LaunchReason::SpotShort, .. }]),
        "{:?}",
        stands_in.steps
    );
    let mut gone = None;
    for secs in (10..3000).step_by(10) {
        let plan = pool.tick(700.0, after(secs));
        if plan.steps.iter().any(|step| matches!(step, Step::Drain { reason: DrainReason::SpotBack, .. })) {
            gone = Some(secs);
        }
    }
    assert!(gone.is_some_and(|secs| secs >= 1600), "{gone:?}");
}

#[test]
fn on_demand_stands_in_when_launches_of_spot_have_not_come_for_a_minute() {
    let mut pool = Pool::new();
    let mut bought = None;
    for secs in (0..120).step_by(10) {
        let plan = pool.tick(700.0, after(secs));
        if plan.steps.iter().any(|step| matches!(step, Step::Launch { reason: LaunchReason::SpotShort, .. })) {
            bought = bought.or(Some(secs));
        }
        // Every launch of spot fails.
        pool.instances.retain(|instance| instance.offering.0.starts_with("OnDemand"));
    }
    assert_eq!(bought, Some(60));
}

#[test]
fn work_that_is_due_before_spot_could_come_gets_on_demand() {
    let pool = Pool::new();
    let mut backlog = [Backlog::default(); 4];
    backlog[Class::P1.index()] = Backlog { tokens: 20_000.0, due: Some(after(60)) };
    let plan = pool.plan(10.0, backlog, None, NOW);
    let due = |step: &Step| matches!(step, Step::Launch { reason: LaunchReason::Due(Class::P1), .. });
    assert!(plan.steps.iter().any(due), "{:?}", plan.steps);
}

fn daily() -> Forecast {
    let mut forecaster = Forecaster::new(forecast::Step::new(3600).unwrap());
    for hour in 0..240u32 {
        // Busy by day, nearly nothing by night; midnight is next.
        let load = if (8..20).contains(&(hour % 24)) { 1000.0 } else { 100.0 };
        let at = NOW.after(Duration::from_secs(3600) * hour);
        forecaster.observe(at, forecast::Load::Offered(load * 3600.0), &LocalTime::utc());
    }
    forecaster.forecast(&LocalTime::utc())
}

#[test]
fn batch_work_is_poured_into_the_valley_and_hurried_only_as_it_must() {
    let (pool, forecast) = (Pool::new(), daily());
    let midnight = forecast.from();
    let p3 = |tokens: f64, hours: u64| {
        let mut backlog = [Backlog::default(); 4];
        let due = Some(midnight.after(Duration::from_secs(3600 * hours)));
        backlog[Class::P3.index()] = Backlog { tokens, due };
        pool.plan(100.0, backlog, Some(&forecast), midnight).need.backlog[Class::P3.index()]
    };
    let (late, soon) = (p3(1.8e6, 8), p3(1.8e6, 1));
    assert!((20.0..120.0).contains(&late), "{late}");
    assert!(soon > 3.0 * late && soon <= 1000.0, "{soon} after {late}");
}

fn offerings() -> impl Strategy<Value = Vec<Offering>> {
    let one = (any::<bool>(), 1u8..8, 50.0..3000.0f64, 50_000u64..3_000_000, 0.0..1.0f64, any::<bool>(), 0u32..12);
    prop::collection::vec(one, 1..6).prop_map(|all| {
        let made = all.into_iter().enumerate().map(|(at, (spot, of, units, usd, score, open, most))| {
            let market = if spot { Market::Spot } else { Market::OnDemand };
            let barred = if open { Timestamp::EPOCH } else { after(10_000) };
            let device = if of == 1 { Device::Gpu } else { Device::GpuSlice { of } };
            Offering { most, score: Score::new(score, barred), ..offering(at, market, device, units, usd) }
        });
        made.collect()
    })
}

fn instances() -> impl Strategy<Value = Vec<(u8, u8, u64, u32)>> {
    prop::collection::vec((0u8..6, 0u8..5, 0u64..4000, 0u32..9), 0..20)
}

fn backlog() -> impl Strategy<Value = [Backlog; 4]> {
    let one = (prop_oneof![Just(0.0), 0.0..1e6f64], prop::option::of(0u64..100_000));
    prop::array::uniform4(one.prop_map(|(tokens, due)| Backlog { tokens, due: due.map(after) }))
}

proptest! {
    #[test]
    fn plans_repeat_move_nothing_twice_and_stay_within_limits(
        offerings in offerings(),
        found in instances(),
        backlog in backlog(),
        loads in prop::collection::vec((prop_oneof![Just(0.0), 0.0..20_000.0f64], 0u64..2_000), 1..8),
        limits in (0u32..4, 0u32..30, 0u32..8, 0u64..40_000_000),
    ) {
        let stages = [Stage::Launching, Stage::Ready, Stage::Noticed, Stage::Draining, Stage::Drained];
        let instances = found.into_iter().enumerate().map(|(at, (which, stage, age, running))| Instance {
            id: format!("a-{at}"),
            offering: offerings[usize::from(which) % offerings.len()].id.clone(),
            stage: stages[usize::from(stage)],
            since: NOW.before(Duration::from_secs(age)),
            running,
        }).collect();
        let limits = Limits {
            least_workers: limits.0.min(limits.1), most_workers: limits.1, most_on_demand: limits.2,
            usd_micros_per_hour: limits.3, calm: CALM,
        };
        let mut pool = Pool { offerings, instances, memory: Memory::default(), limits, named: 0 };
        let mut now = NOW;
        for (tokens, gap) in loads {
            now = now.after(Duration::from_secs(gap));
            pool.time_passes(now);
            let before = spent(&pool);
            let plan = pool.plan(tokens, backlog, None, now);
            prop_assert_eq!(&plan, &pool.plan(tokens, backlog, None, now), "the same input gives the same plan");
            pool.apply(&plan, now);
            let (workers, on_demand, usd) = spent(&pool);
            prop_assert!(workers <= limits.most_workers.max(before.0), "{workers} workers");
            prop_assert!(on_demand <= limits.most_on_demand.max(before.1), "{on_demand} on demand");
            prop_assert!(usd <= limits.usd_micros_per_hour.max(before.2), "{usd} an hour");
            let again = pool.plan(tokens, backlog, None, now);
            prop_assert!(again.steps.is_empty(), "{:?} after {:?}", again.steps, plan.steps);
        }
    }

    #[test]
    fn under_constant_load_a_pool_comes_to_rest(offerings in offerings(), tokens in 0.0..8_000.0f64, least in 0u32..3) {
        let mut pool = Pool { offerings, limits: Limits { least_workers: least, ..LIMITS }, ..Pool::new() };
        for secs in (0..9_000).step_by(30) {
            let plan = pool.tick(tokens, after(secs));
            if secs >= 6_000 {
                prop_assert!(plan.steps.is_empty(), "at {secs}: {:?}", plan.steps);
            }
        }
    }
}

/// Workers, those on demand, and what they cost an hour; those under notice aside.
fn spent(pool: &Pool) -> (u32, u32, u64) {
    let stay = pool.instances.iter().filter(|instance| instance.stage != Stage::Noticed);
    stay.fold((0, 0, 0), |(workers, on_demand, usd), instance| {
        let offering = pool.offerings.iter().find(|offering| offering.id == instance.offering).unwrap();
        let stands_in = u32::from(offering.market == Market::OnDemand);
        (workers + 1, on_demand + stands_in, usd + offering.usd_micros_per_hour)
    })
}
