//! A fleet of a few workers on recorded spot markets: the planner itself, beside a single zone and an even spread.
//!
//! A pool is a zone and a type; the record says whether a launch succeeds, or how many workers fit. A pool that drops
//! takes back what stands above; a worker is ready some minutes after its launch and paid for from the launch on.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_policy::fleet::demand::{Backlog, Load};
use penstock_policy::fleet::offering::{Device, Instance, Market, Offering, OfferingId, Stage};
use penstock_policy::fleet::report::Step;
use penstock_policy::fleet::score::{Event, Score};
use penstock_policy::fleet::tuning::Choice;
use penstock_policy::fleet::{Limits, Memory, Observed, plan};
use penstock_policy::time::Timestamp;

use crate::trace::TraceError;

/// The price of spot relative to on demand, where nothing else is known.
pub const SPOT_PRICE: f64 = 0.35;

/// How often the planner runs.
const TICK_SECS: i64 = 20;

/// How long a worker that is taken back still serves.
const NOTICE_SECS: i64 = 120;

/// Recorded markets.
#[derive(Clone, Debug)]
pub struct Markets {
    /// For each pool its name and its changes: from which second on how many workers fit.
    pub pools: Vec<(String, Vec<(i64, u32)>)>,
    /// How long the record lasts, in seconds.
    pub secs: i64,
}

impl Markets {
    /// Reads lines of `pool,t_s,available`; a record of 0 and 1 says whether any number fits.
    ///
    /// # Errors
    /// [`TraceError`]: a line is not of that form.
    pub fn parse(text: &str) -> Result<Self, TraceError> {
        let mut pools: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
        for (at, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
            let mut fields = line.split(',').map(str::trim);
            let bad = || TraceError::NoNumber { line: at + 1, text: line.to_owned() };
            let pool = fields.next().ok_or_else(bad)?.to_owned();
            let mut number = || fields.next().and_then(|text| text.parse::<i64>().ok()).ok_or_else(bad);
            let change = (number()?, number()?);
            pools.entry(pool).or_default().push(change);
        }
        let most = pools.values().flatten().map(|(_, available)| *available).max().unwrap_or(0);
        let secs = pools.values().filter_map(|changes| changes.last()).map(|(at, _)| *at).min().unwrap_or(0);
        let fits = |available: i64| match u32::try_from(available) {
            Ok(1) if most <= 1 => u32::MAX,
            Ok(fits) => fits,
            Err(_) => 0,
        };
        let pools = pools
            .into_iter()
            .map(|(pool, changes)| (pool, changes.into_iter().map(|(at, available)| (at, fits(available))).collect()))
            .collect();
        if secs < 86_400 {
            return Err(TraceError::Short { needed: 86_400, found: usize::try_from(secs).unwrap_or(0) });
        }
        Ok(Self { pools, secs })
    }

    /// How many workers fit a pool at a second.
    pub(crate) fn fits(&self, pool: usize, at: i64) -> u32 {
        let changes = &self.pools[pool].1;
        let after = changes.partition_point(|(from, _)| *from <= at);
        after.checked_sub(1).map_or(0, |last| changes[last].1)
    }

    /// The share of the time that a launch would have succeeded, by pool.
    #[must_use]
    pub fn openness(&self) -> Vec<f64> {
        let ticks = self.secs / TICK_SECS;
        let open = |pool: usize| (0..ticks).filter(|tick| self.fits(pool, tick * TICK_SECS) > 0).count();
        (0..self.pools.len()).map(|pool| open(pool) as f64 / ticks as f64).collect()
    }
}

/// How a fleet is bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// On demand alone.
    OnDemand,
    /// Spot in the pool that was open most (known afterwards), nothing else.
    BestZone,
    /// Spot spread evenly with so many more than needed, on demand for what is not ready: SpotHedge-like.
    Spread(u32),
    /// The planner.
    Planned,
}

impl Policy {
    /// Those that are compared.
    pub const ALL: [Self; 5] = [Self::Planned, Self::OnDemand, Self::BestZone, Self::Spread(1), Self::Spread(2)];

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::BestZone => "best_single_zone",
            Self::Spread(1) => "spothedge_like_1",
            Self::Spread(_) => "spothedge_like_2",
            Self::Planned => "penstock",
        }
    }
}

/// What a policy came to.
#[derive(Clone, Copy, Debug)]
pub struct SpotOutcome {
    /// Share of the time with all workers that are needed.
    pub availability: f64,
    /// Mean share of the capacity that was missing.
    pub shortfall: f64,
    /// Cost relative to on demand alone.
    pub cost: f64,
    /// Workers taken back a day.
    pub losses_per_day: f64,
}

/// One worker on the recorded market.
struct Worker {
    instance: Instance,
    /// Which pool; `None` is on demand.
    pool: Option<usize>,
    gone_at: Option<i64>,
}

/// Runs `needed` workers that take `cold_secs` to be ready on recorded markets.
#[must_use]
pub fn run(markets: &Markets, policy: Policy, needed: u32, cold_secs: i64) -> SpotOutcome {
    let openness = markets.openness();
    let best = (0..openness.len()).max_by(|a, b| openness[*a].total_cmp(&openness[*b])).unwrap_or(0);
    let mut fleet = Fleet {
        markets,
        scores: vec![Score::default(); markets.pools.len()],
        workers: Vec::new(),
        launched: 0,
        memory: Memory::default(),
        needed,
        cold_secs,
        best,
    };
    let (mut full, mut short, mut cost, mut lost, mut ticks) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for at in (0..markets.secs).step_by(20) {
        // Every policy but the planner lets its workers die without using the notice.
        let notice = if policy == Policy::Planned { NOTICE_SECS } else { 0 };
        lost += f64::from(fleet.market_moves(at, notice));
        match policy {
            Policy::Planned => fleet.planned(at),
            Policy::OnDemand => fleet.simple(at, 0, needed),
            Policy::BestZone => fleet.simple(at, needed, 0),
            Policy::Spread(over) => {
                let ready = fleet.ready(at, true);
                fleet.simple(at, needed + over, needed.saturating_sub(ready));
            }
        }
        let ready = fleet.ready(at, false);
        full += f64::from(u8::from(ready >= needed));
        short += f64::from(needed.saturating_sub(ready)) / f64::from(needed);
        cost += fleet.workers.iter().map(|worker| if worker.pool.is_some() { SPOT_PRICE } else { 1.0 }).sum::<f64>();
        ticks += 1.0;
    }
    SpotOutcome {
        availability: full / ticks,
        shortfall: short / ticks,
        cost: cost / ticks / f64::from(needed),
        losses_per_day: lost / (markets.secs as f64 / 86_400.0),
    }
}

struct Fleet<'a> {
    markets: &'a Markets,
    scores: Vec<Score>,
    workers: Vec<Worker>,
    launched: u64,
    memory: Memory,
    needed: u32,
    cold_secs: i64,
    best: usize,
}

fn moment(at: i64) -> Timestamp {
    Timestamp::from_millis(at * 1000)
}

impl Fleet<'_> {
    /// Workers become ready, pools drop, notices run out; says how many were taken back.
    fn market_moves(&mut self, at: i64, notice: i64) -> u32 {
        self.workers.retain(|worker| worker.gone_at.is_none_or(|gone| gone > at));
        for worker in &mut self.workers {
            let since = worker.instance.since.as_secs();
            if worker.instance.stage == Stage::Launching && at - since >= self.cold_secs {
                worker.instance.stage = Stage::Ready;
            }
        }
        let mut lost = 0;
        for pool in 0..self.scores.len() {
            let fits = usize::try_from(self.markets.fits(pool, at)).unwrap_or(usize::MAX);
            let mut held: Vec<usize> = (0..self.workers.len())
                .filter(|worker| self.workers[*worker].pool == Some(pool) && self.workers[*worker].gone_at.is_none())
                .collect();
            // The youngest go first.
            held.sort_by_key(|worker| self.workers[*worker].instance.since);
            for worker in held.split_off(held.len().min(fits)) {
                let serves = self.workers[worker].instance.stage == Stage::Ready;
                self.workers[worker].gone_at = Some(at + if serves { notice } else { 0 });
                self.workers[worker].instance.stage = Stage::Noticed;
                self.scores[pool] = self.scores[pool].after(Event::Lost, moment(at));
                lost += 1;
            }
            if !held.is_empty() {
                let survived = Event::Survived(Duration::from_secs(TICK_SECS.unsigned_abs()));
                self.scores[pool] = self.scores[pool].after(survived, moment(at));
            }
        }
        self.workers.retain(|worker| worker.gone_at.is_none_or(|gone| gone > at));
        lost
    }

    fn ready(&self, at: i64, spot_only: bool) -> u32 {
        let serves = |worker: &&Worker| {
            let stage = worker.instance.stage;
            (stage == Stage::Ready || stage == Stage::Noticed)
                && worker.gone_at.is_none_or(|gone| gone > at)
                && (!spot_only || worker.pool.is_some())
        };
        u32::try_from(self.workers.iter().filter(serves).count()).unwrap_or(u32::MAX)
    }

    fn held(&self, pool: Option<usize>) -> u32 {
        let count = self.workers.iter().filter(|worker| worker.pool == pool && worker.gone_at.is_none()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn launch(&mut self, pool: Option<usize>, at: i64) -> bool {
        if let Some(pool) = pool {
            if self.markets.fits(pool, at) <= self.held(Some(pool)) {
                self.scores[pool] = self.scores[pool].after(Event::Failed, moment(at));
                return false;
            }
            self.scores[pool] = self.scores[pool].after(Event::Launched, moment(at));
        }
        self.launched += 1;
        let instance = Instance {
            id: format!("i-{:06}", self.launched),
            offering: OfferingId(pool.map_or("on-demand".to_owned(), |pool| self.markets.pools[pool].0.clone())),
            stage: Stage::Launching,
            since: moment(at),
            running: 1,
        };
        self.workers.push(Worker { instance, pool, gone_at: None });
        true
    }

    /// The policies that are no planner: `spot` workers in one pool or spread evenly, and `on_demand` ones.
    fn simple(&mut self, at: i64, spot: u32, on_demand: u32) {
        let have = self.workers.iter().filter(|worker| worker.pool.is_some()).count();
        let single = on_demand == 0 && spot == self.needed;
        for _ in have..usize::try_from(spot).unwrap_or(0) {
            let open = (0..self.scores.len()).filter(|pool| self.scores[*pool].open(moment(at)));
            let pool = open.filter(|pool| !single || *pool == self.best).min_by_key(|pool| self.held(Some(*pool)));
            let Some(pool) = pool else { break };
            self.launch(Some(pool), at);
        }
        while self.held(None) < on_demand {
            self.launch(None, at);
        }
        while self.held(None) > on_demand {
            let Some(last) = self.workers.iter().rposition(|worker| worker.pool.is_none()) else { break };
            self.workers.remove(last);
        }
    }

    /// The planner's steps, carried out.
    fn planned(&mut self, at: i64) {
        let offering = |id: &str, market, usd_micros_per_hour, score| Offering {
            id: OfferingId(id.to_owned()),
            market,
            device: Device::Gpu,
            tokens_per_second: 1.0,
            usd_micros_per_hour,
            score,
            most: u32::MAX,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a price")]
        let spot_price = (SPOT_PRICE * 1e6) as u64;
        let mut offerings: Vec<Offering> = (0..self.scores.len())
            .map(|pool| offering(&self.markets.pools[pool].0, Market::Spot, spot_price, self.scores[pool]))
            .collect();
        offerings.push(offering("on-demand", Market::OnDemand, 1_000_000, Score::new(1.0, Timestamp::EPOCH)));
        let instances: Vec<Instance> = self.workers.iter().map(|worker| worker.instance.clone()).collect();
        let choice = Choice::CAUTIOUS;
        let observed = Observed {
            load: Load {
                forecast: None,
                tokens_per_second: f64::from(self.needed) * choice.utilisation() * 0.999,
                backlog: [Backlog::default(); 4],
            },
            instances: &instances,
            offerings: &offerings,
            lead: Duration::from_secs(self.cold_secs.unsigned_abs()),
            choice,
        };
        let limits = Limits {
            least_workers: 0,
            most_workers: 4 * self.needed,
            most_on_demand: self.needed,
            usd_micros_per_hour: u64::MAX,
            calm: penstock_policy::fleet::CALM,
        };
        let plan = plan(&observed, &self.memory, &limits, moment(at));
        self.memory = plan.memory;
        for step in plan.steps {
            match step {
                Step::Launch { offering, count, .. } => {
                    let pool = self.markets.pools.iter().position(|(name, _)| *name == offering.0);
                    for _ in 0..count {
                        if !self.launch(pool, at) {
                            break;
                        }
                    }
                }
                // These workers have nothing that lasts.
                Step::Drain { instance, .. } | Step::Release { instance } => {
                    self.workers.retain(|worker| worker.instance.id != instance);
                }
            }
        }
    }
}
