//! The control loop: every ten seconds it looks at what is there, publishes rates, evaluates the breaker, forecasts,
//! plans, and carries the plan out.

use core::time::Duration;

use penstock_policy::admission::WORKER_SILENCE;
use penstock_policy::classes::Class;
use penstock_policy::degrade::{self, Evidence, LONGEST_WINDOW, Workers};
use penstock_policy::fleet::demand::Backlog;
use penstock_policy::fleet::offering::Stage;
use penstock_policy::promise;

use super::events::Event;
use super::learning::Staff;
use super::load::Arrival;
use super::scaling::View;
use super::simulation::{FORECAST_SECS, Simulation, TICK_SECS};
use super::timeline::Sample;

/// The last minute, in ticks.
const MINUTE: usize = 6;

/// What flowed since the last tick, and lately.
#[derive(Debug, Default)]
pub(super) struct Flow {
    came: u64,
    tokens: u64,
    pub(super) accepted: u64,
    pub(super) hits: u64,
    pub(super) refused: u64,
    /// Clients of P0 and P1 that wait now.
    pub(super) connected: u32,
    /// Offered tokens of the last ticks.
    minute: std::collections::VecDeque<u64>,
    /// Offered tokens of the current step of forecasts.
    step: u64,
}

impl Flow {
    pub(super) const fn came(&mut self) {
        self.came += 1;
    }

    /// Somebody asked for the first time for something that needs a run.
    pub(super) const fn offered_tokens(&mut self, arrival: &Arrival) {
        self.tokens += arrival.estimate();
    }

    fn tick(&mut self) {
        self.minute.push_back(self.tokens);
        if self.minute.len() > MINUTE {
            self.minute.pop_front();
        }
        self.step += self.tokens;
        (self.came, self.tokens, self.accepted, self.hits, self.refused) = (0, 0, 0, 0, 0);
    }

    fn tokens_per_second(&self) -> f64 {
        self.minute.iter().sum::<u64>() as f64 / (TICK_SECS * self.minute.len().max(1) as f64)
    }
}

impl Simulation<'_> {
    /// The fleet that there is when it begins.
    pub(super) fn open_for_business(&mut self) {
        let view = self.view();
        let utilisation = self.prepared.scenario.market.begin_utilisation;
        let count = self.scaler.begins_with(self.prepared.demand.begins_with(), utilisation, &view);
        let zones = self.fleet.zones();
        for number in 0..count {
            let zone = usize::try_from(number).unwrap_or(0) % zones;
            let id = self.fleet.add(zone, Stage::Ready, self.now);
            self.changed(id);
        }
        self.publish();
    }

    pub(super) fn tick(&mut self) {
        self.sample();
        self.flow.tick();
        for unit in self.fleet.market_moves(TICK_SECS, self.now) {
            if self.policy.loses_workers() {
                self.lose(unit, true);
            }
        }
        self.evaluate();
        self.publish();
        if self.now.secs() % f64::from(FORECAST_SECS) < TICK_SECS / 2.0 {
            let tokens = core::mem::take(&mut self.flow.step);
            self.scaler.step_over(tokens as f64, &self.fleet, self.now);
        }
        self.scale();
        self.events.at(self.now.plus(TICK_SECS), Event::Tick);
    }

    fn depths(&self) -> [u64; 4] {
        let mut depths: [u64; 4] = core::array::from_fn(|class| self.queues[class].len() as u64);
        for unit in self.fleet.units.values() {
            for (depth, busy) in depths.iter_mut().zip(unit.worker.busy()) {
                *depth += busy as u64;
            }
        }
        depths
    }

    fn publish(&mut self) {
        let ready = self.fleet.units.values().filter(|unit| unit.stage == Stage::Ready).count();
        let waiting = self.queues.iter().any(|queue| !queue.is_empty());
        let ready_in = if ready > 0 {
            self.waiting_since = None;
            Duration::ZERO
        } else {
            let boot = self.fleet.boot_p90();
            let since = if waiting { *self.waiting_since.get_or_insert(self.now) } else { self.now };
            let left = boot - self.now.since(since);
            Duration::from_secs_f64(if left > 0.0 { left } else { boot / 4.0 })
        };
        let slots = self.prepared.scenario.worker.slots * ready.max(1);
        let staff = Staff {
            tokens_per_second: self.fleet.tokens_per_second * ready.max(1) as f64,
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            ready_in,
        };
        let now = self.now.timestamp();
        let rates = self.learning.rates(&staff, self.depths(), self.prepared.demand.tokens, now);
        self.door.publish(rates, now);
    }

    fn evaluate(&mut self) {
        let now = self.now.timestamp();
        let first = now.before(LONGEST_WINDOW + degrade::SLOT);
        self.health = self.health.split_off(&first);
        let slots: Vec<_> = self.health.iter().map(|(begin, counts)| (*begin, *counts)).collect();
        let ready = self.fleet.units.values().any(|unit| unit.stage == Stage::Ready);
        let workers = if ready {
            self.last_seen = Some(self.now);
            Workers::Ready
        } else {
            match self.last_seen.filter(|_| !self.signed_off) {
                Some(seen) => Workers::Lost { seen: seen.timestamp() },
                None => Workers::NotWanted,
            }
        };
        let next = degrade::evaluate(&self.standing, &Evidence { slots: &slots, workers }, now);
        let moved = next.tier != self.standing.tier;
        self.standing = next;
        if moved {
            // Classes that were left in their queues may be taken again.
            self.place_all();
        }
        debug_assert!(WORKER_SILENCE < LONGEST_WINDOW, "who is silent is seen within the window");
    }

    fn view(&self) -> View<'_> {
        let mean = self.prepared.demand.tokens;
        let backlog = core::array::from_fn(|class| {
            let queue = &self.queues[class];
            let first = queue.first().and_then(|job| self.jobs.get(job));
            let due = first.map(|job| job.created.timestamp().after(job.class.patience()));
            Backlog { tokens: queue.len() as f64 * mean, due }
        });
        View {
            fleet: &self.fleet,
            tokens_per_second: self.flow.tokens_per_second(),
            backlog,
            demand: &self.prepared.demand,
            now: self.now,
        }
    }

    fn scale(&mut self) {
        let view = View {
            fleet: &self.fleet,
            tokens_per_second: self.flow.tokens_per_second(),
            backlog: self.view().backlog,
            demand: &self.prepared.demand,
            now: self.now,
        };
        let orders = self.scaler.orders(&view);
        for (offering, count) in orders.launch {
            for _ in 0..count {
                let Some((id, ready)) = self.fleet.launch(offering, self.now) else { break };
                self.events.at(ready, Event::Ready(id));
                self.signed_off = false;
            }
        }
        for id in orders.drain {
            self.drain(id);
        }
        for id in orders.release {
            self.fleet.remove(id, self.now);
        }
        let held = (0..=self.fleet.zones()).map(|offering| self.fleet.held(offering)).sum::<u32>();
        if held == 0 {
            self.signed_off = true;
        }
    }

    fn sample(&mut self) {
        let now = self.now.timestamp();
        let rates = self.door.rates();
        let usual = self.prepared.demand.tokens;
        let ahead = self.door.backlog(Class::P1, now).as_secs_f64() * rates.pace.tokens_per_second;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of tokens")]
        let expectation = promise::expect(&rates.pace, usual as u64, ahead + rates.better(Class::P1, now));
        let spread = rates.spread(Class::P1, expectation.regime);
        let told = promise::promise(&expectation, &spread, penstock_policy::cost::UsdMicros(0));
        let flow = &self.flow;
        let workers = self.fleet.counts();
        self.timeline.push(Sample {
            at: self.now.secs(),
            offered: flow.came as f64 / TICK_SECS,
            accepted: flow.accepted as f64 / TICK_SECS,
            hits: flow.hits as f64 / TICK_SECS,
            refused: flow.refused as f64 / TICK_SECS,
            tokens: flow.tokens as f64 / TICK_SECS,
            forecast: self.scaler.said(self.now),
            workers,
            capacity: f64::from(workers.spot + workers.on_demand) * self.fleet.tokens_per_second,
            waiting: core::array::from_fn(|class| self.queues[class].len() as u64),
            eta: self.policy.promises().then_some((told.eta_50.as_secs_f64(), told.eta_95.as_secs_f64())),
            connected: flow.connected,
            tier: self.standing.tier(now).number(),
        });
    }
}
