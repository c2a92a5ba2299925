//! One run of a scenario under one policy: who comes, what happens next, until everybody has an end.

use std::collections::VecDeque;

use penstock_policy::breaker::Permit;
use penstock_policy::classes::Class;
use penstock_policy::degrade::{Counts as Health, Standing};
use penstock_policy::gcra::{Bucket, Limit};
use penstock_policy::promise::Promise;
use penstock_policy::time::Timestamp;

use super::client::Client;
use super::demand::Demand;
use super::door::{self, Door};
use super::events::{Event, Events};
use super::fleet::{Bill, Fleet};
use super::kept::Kept;
use super::learning::{Learning, Staff};
use super::load::{Arrivals, Load};
use super::moment::Moment;
use super::policy::Policy;
use super::queue::{Place, Queue};
use super::scaling::Scaler;
use super::scenario::{InvalidScenario, Scenario};
use super::slab::Slab;
use super::tally::{End, Story, Tally};
use super::timeline::Sample;
use crate::chance::Chance;
use penstock_policy::forecast::Step;

/// How often the control loop runs under load, in seconds.
pub(super) const TICK_SECS: f64 = 10.0;

/// Steps that loads are forecast in, in seconds.
pub(super) const FORECAST_SECS: u32 = 300;

/// After the last arrival everybody has so long to come to an end.
const AFTERMATH_SECS: f64 = 30.0 * 3600.0;

/// A job that was let in.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) waiters: Vec<u32>,
    pub(super) class: Class,
    pub(super) tenant: u16,
    pub(super) question: Option<u32>,
    pub(super) estimate: u64,
    pub(super) prompt_steps: f64,
    /// Steps it takes in all, its prompt's aside, and those still to do.
    pub(super) steps: f64,
    pub(super) left: f64,
    pub(super) created: Moment,
    pub(super) started: Option<Moment>,
    pub(super) place: Place,
    pub(super) at: Where,
    pub(super) promise: Option<Promise>,
    pub(super) permit: Option<Permit>,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// On its way: to the queue, or back to it.
    Between,
    Waiting,
    Running(u32),
    /// Nobody wants it any more; its message is still to come.
    Cancelled,
}

/// Somebody else who answers.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pub(super) limit: Limit,
    pub(super) bucket: Bucket,
    pub(super) secs: f64,
    pub(super) usd_per_million_tokens: f64,
    pub(super) usd: f64,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The policy.
    pub policy: Policy,
    /// What became of everybody.
    pub tally: Tally,
    /// What the workers cost.
    pub bill: Bill,
    /// What answers from elsewhere cost, in dollars.
    pub elsewhere_usd: f64,
    /// How it went.
    pub timeline: Vec<Sample>,
    /// How long it lasted, in seconds, until everybody had an end.
    pub secs: f64,
    /// Events that were worked through.
    pub events: u64,
}

/// What a scenario's files hold, read once for all policies.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The scenario.
    pub scenario: Scenario,
    /// Its load.
    pub load: Load,
    /// What the load asks for.
    pub demand: Demand,
}

impl Prepared {
    /// Reads what the scenario names.
    ///
    /// # Errors
    /// [`InvalidScenario`]: a field makes no sense, or a file cannot be read.
    pub fn new(scenario: Scenario) -> Result<Self, InvalidScenario> {
        scenario.check()?;
        let load = Load::of(&scenario)?;
        let demand = Demand::of(&load, scenario.repeats.kept_secs, &scenario.worker.profile());
        if demand.requests == 0 {
            let should = "a load in which somebody comes".to_owned();
            return Err(InvalidScenario::Field { name: "load", should });
        }
        Ok(Self { scenario, load, demand })
    }

    /// What a worker counts as, in estimated tokens a second.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let worker = &self.scenario.worker;
        worker.tokens_per_second.unwrap_or_else(|| self.demand.served_by(&worker.profile()))
    }
}

/// A run under way.
pub(super) struct Simulation<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) policy: Policy,
    pub(super) now: Moment,
    pub(super) events: Events,
    arrivals: core::iter::Peekable<Arrivals<'a>>,
    /// Clients who wait, by class in the order in which they hang up: when, who, and its number.
    pub(super) patience: [VecDeque<(Moment, u32, u32)>; 4],
    pub(super) clients: Slab<Client>,
    pub(super) serial: u32,
    pub(super) jobs: Slab<Job>,
    pub(super) door: Door,
    pub(super) kept: Kept,
    pub(super) queues: [Queue; 4],
    pub(super) fleet: Fleet,
    /// Workers that take something: by room for urgent work, and for any.
    pub(super) urgent_room: std::collections::BTreeSet<(usize, u32)>,
    pub(super) any_room: std::collections::BTreeSet<(usize, u32)>,
    pub(super) scaler: Scaler,
    pub(super) learning: Learning,
    pub(super) standing: Standing,
    pub(super) health: std::collections::BTreeMap<Timestamp, Health>,
    pub(super) last_seen: Option<Moment>,
    pub(super) signed_off: bool,
    pub(super) waiting_since: Option<Moment>,
    pub(super) elsewhere: Option<Elsewhere>,
    pub(super) chance: Chance,
    pub(super) manners: Chance,
    pub(super) tally: Tally,
    pub(super) flow: super::controlling::Flow,
    pub(super) timeline: Vec<Sample>,
    worked: u64,
}

/// Runs a scenario under a policy; `progress` hears the share of its time that is done.
///
/// # Errors
/// [`InvalidScenario`]: a file cannot be read, or a limit makes no sense.
pub fn run(prepared: &Prepared, policy: Policy, mut progress: impl FnMut(f64)) -> Result<Outcome, InvalidScenario> {
    let mut simulation = Simulation::new(prepared, policy)?;
    simulation.begin();
    let whole = prepared.load.secs();
    while simulation.step() {
        if simulation.worked % 65_536 == 0 {
            progress((simulation.now.secs() / whole).min(0.99));
        }
    }
    progress(1.0);
    Ok(simulation.outcome())
}

impl<'a> Simulation<'a> {
    fn new(prepared: &'a Prepared, policy: Policy) -> Result<Self, InvalidScenario> {
        let scenario = &prepared.scenario;
        let mut limits = Vec::new();
        for tenant in &scenario.tenants {
            limits.push(tenant.limits()?);
        }
        if policy.door == door::Kind::Limiter && scenario.tenants.iter().all(|tenant| tenant.is_unlimited()) {
            limits = policy.usual_limits(prepared);
        }
        limits.resize(prepared.load.names.len(), super::scenario::TenantSpec::default().limits()?);
        let fleet = Fleet::new(scenario, prepared.tokens_per_second())?;
        let mut learning = Learning::default();
        let staff = Staff {
            tokens_per_second: fleet.tokens_per_second,
            slots: u32::try_from(scenario.worker.slots).unwrap_or(u32::MAX),
            ready_in: core::time::Duration::ZERO,
        };
        let rates = learning.rates(&staff, [0; 4], prepared.demand.tokens, Moment::default().timestamp());
        let step = Step::new(FORECAST_SECS)
            .map_err(|_| InvalidScenario::Field { name: "step", should: "a whole part of an hour".to_owned() })?;
        let elsewhere = match scenario.fallback {
            None => None,
            Some(there) => Some(Elsewhere {
                limit: Limit::new(
                    there.requests_per_second,
                    core::time::Duration::from_secs(1),
                    there.requests_per_second,
                )
                .map_err(|_| InvalidScenario::Field {
                    name: "fallback.requests_per_second",
                    should: "1 or more".to_owned(),
                })?,
                bucket: Bucket::default(),
                secs: there.answer_secs,
                usd_per_million_tokens: there.usd_per_million_tokens,
                usd: 0.0,
            }),
        };
        Ok(Self {
            prepared,
            policy,
            now: Moment::default(),
            events: Events::default(),
            arrivals: prepared.load.arrivals().peekable(),
            patience: Default::default(),
            clients: Slab::default(),
            serial: 0,
            jobs: Slab::default(),
            door: Door::new(policy.door, limits, rates),
            kept: Kept::new(scenario.repeats.kept_secs),
            queues: Default::default(),
            fleet,
            urgent_room: std::collections::BTreeSet::new(),
            any_room: std::collections::BTreeSet::new(),
            scaler: Scaler::new(policy.fleet, &scenario.market, step),
            learning,
            standing: Standing { since: Moment::default().timestamp(), ..Standing::default() },
            health: std::collections::BTreeMap::new(),
            last_seen: None,
            signed_off: true,
            waiting_since: None,
            elsewhere,
            chance: Chance::of(scenario.seed, "door"),
            manners: Chance::of(scenario.seed, "manners"),
            tally: Tally::default(),
            flow: super::controlling::Flow::default(),
            timeline: Vec::new(),
            worked: 0,
        })
    }

    fn begin(&mut self) {
        self.open_for_business();
        for (number, loss) in self.prepared.scenario.market.losses.iter().enumerate() {
            let at = super::shape::seconds(&loss.at).unwrap_or(0.0);
            self.events.at(Moment::from_secs(at), Event::Loss(number));
        }
        self.events.at(Moment::from_secs(TICK_SECS), Event::Tick);
    }

    /// Does what happens next; `false` once everybody has an end.
    fn step(&mut self) -> bool {
        self.worked += 1;
        let arrival = self.arrivals.peek().map(|arrival| arrival.at);
        let hangs_up = (0..4).filter_map(|class| self.patience[class].front().map(|(at, _, _)| (*at, class))).min();
        let event = self.events.next_at();
        let first = [arrival, hangs_up.map(|(at, _)| at), event].into_iter().flatten().min();
        let Some(first) = first else { return false };
        if arrival.is_none() && self.clients.len() == 0 {
            return false;
        }
        if first.secs() > self.prepared.load.secs() + AFTERMATH_SECS {
            return false;
        }
        self.now = self.now.max(first);
        if event == Some(first) {
            if let Some((_, event)) = self.events.pop() {
                self.happens(event);
            }
        } else if arrival == Some(first) {
            if let Some(arrival) = self.arrivals.next() {
                self.comes(arrival);
            }
        } else if let Some((_, class)) = hangs_up
            && let Some((_, client, serial)) = self.patience[class].pop_front()
        {
            self.hangs_up(client, serial);
        }
        true
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Loss(number) => {
                let loss = &self.prepared.scenario.market.losses[number];
                let (share, notice) = (loss.share, loss.notice);
                if self.policy.loses_workers() {
                    for unit in self.fleet.lose(share, self.now) {
                        self.lose(unit, notice);
                    }
                }
            }
            Event::Ready(unit) => self.ready(unit),
            Event::GiveBack(unit) => self.gives_back(unit),
            Event::Gone(unit) => self.gone(unit, 0.0),
            Event::Turn(unit, turn) => self.turn(unit, turn),
            Event::Ask(client) => self.asks(client),
            Event::Queued(job) | Event::Reappears(job) => self.queued(job),
            Event::Elsewhere(client) => self.ends(client, End::Fallback),
        }
    }

    /// A client's story ends.
    pub(super) fn ends(&mut self, client: u32, end: End) {
        let Some(gone) = self.clients.remove(client) else { return };
        if gone.job.is_some() && gone.arrival.class <= Class::P1 {
            self.flow.connected = self.flow.connected.saturating_sub(1);
        }
        self.tally.end(&Story {
            class: gone.arrival.class,
            end,
            secs: gone.asked_for(self.now),
            refused: gone.refused,
            told: gone.told,
        });
    }

    fn outcome(mut self) -> Outcome {
        // Whoever still waits after all that time has lost.
        let left: Vec<u32> = self.clients.numbers().collect();
        for client in left {
            self.ends(client, End::Lost);
        }
        Outcome {
            policy: self.policy,
            tally: self.tally,
            bill: self.fleet.bill(self.now),
            elsewhere_usd: self.elsewhere.map_or(0.0, |there| there.usd),
            timeline: self.timeline,
            secs: self.now.secs(),
            events: self.worked,
        }
    }
}
