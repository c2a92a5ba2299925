//! A fleet in virtual time: launches take a boot, the market takes workers with two minutes' notice or without a word, and
//! offerings can be sold out. The workers themselves are the real ones on a scripted engine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::fleet::Limits;
use penstock_policy::fleet::offering::{Device, Instance, Market, Offering, OfferingId, Stage};
use penstock_policy::fleet::orders::Orders;
use penstock_policy::fleet::score::Score;
use penstock_policy::id::{PoolId, WorkerId};
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, FleetExecutor, FleetSight, PortError, PortResult};
use penstock_service::{Consumer, Ports, Service, Workplace};

use crate::engine::{Runs, ScriptedEngine};
use crate::kernel::{Group, Kernel};

/// The first group of a fleet's workers: far above those that a world numbers itself.
const FIRST_GROUP: u32 = 1_000;

/// How long a worker under notice goes on: what spot markets give.
pub const NOTICE: Duration = Duration::from_secs(120);

/// What a fleet's workers are.
#[derive(Clone, Debug)]
pub struct Make {
    /// The pool they serve.
    pub pool: PoolId,
    /// From a launch until it serves.
    pub boot: Duration,
    /// Sequences that each runs together.
    pub slots: u32,
    /// How long a token of each takes.
    pub tick: Duration,
    /// What the pool may be.
    pub limits: Limits,
    /// Spot offerings, and on-demand ones.
    pub offerings: (u32, u32),
}

/// A fleet. Cheap to clone.
#[derive(Clone)]
pub struct ScriptedFleet(Arc<Inner>);

struct Inner {
    ports: Ports,
    kernel: Kernel,
    timing: Timing,
    make: Make,
    runs: Runs,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    workers: Vec<Worker>,
    launched: u32,
    sold_out: Vec<OfferingId>,
    worked: Duration,
}

struct Worker {
    id: String,
    group: Group,
    offering: OfferingId,
    since: Timestamp,
    consumer: Option<Consumer>,
    noticed: bool,
    draining: bool,
}

impl Worker {
    fn running(&self) -> u32 {
        self.consumer.as_ref().map_or(0, |consumer| u32::try_from(consumer.running()).unwrap_or(u32::MAX))
    }

    fn stage(&self) -> Stage {
        match (&self.consumer, self.noticed, self.draining) {
            (None, ..) => Stage::Launching,
            (Some(_), true, _) => Stage::Noticed,
            (Some(_), false, true) if self.running() == 0 => Stage::Drained,
            (Some(_), false, true) => Stage::Draining,
            (Some(_), false, false) => Stage::Ready,
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        if let Some(consumer) = &self.consumer {
            consumer.drain();
        }
    }
}

impl ScriptedFleet {
    /// A fleet without workers. `ports` are those of any process of the deployment.
    #[must_use]
    pub fn new(ports: Ports, kernel: &Kernel, timing: Timing, make: Make) -> Self {
        let (kernel, runs, state) = (kernel.clone(), Runs::default(), Mutex::default());
        Self(Arc::new(Inner { ports, kernel, timing, make, runs, state }))
    }

    /// The market takes back the worker that has been there longest: it is told, takes nothing new, and is gone after
    /// [`NOTICE`]. Returns its name.
    pub fn notice(&self) -> Option<String> {
        let mut state = self.lock();
        let taken = state.workers.iter_mut().find(|worker| worker.stage() == Stage::Ready)?;
        taken.noticed = true;
        if let Some(consumer) = &taken.consumer {
            consumer.drain();
        }
        let (id, fleet) = (taken.id.clone(), self.clone());
        let (gone, at) = (id.clone(), self.0.kernel.now().after(NOTICE));
        self.0.kernel.spawner(Group(0)).spawn(Box::pin(async move {
            fleet.0.kernel.sleep_until(at).await;
            fleet.end(&gone);
        }));
        Some(id)
    }

    /// The market takes the worker that has been there longest without a word. Returns its name.
    pub fn take(&self) -> Option<String> {
        let id = self.lock().workers.iter().find(|worker| worker.stage() == Stage::Ready)?.id.clone();
        self.end(&id);
        Some(id)
    }

    /// Launches of this offering come to nothing from now on, or come again.
    pub fn sell_out(&self, offering: &OfferingId, sold_out: bool) {
        let mut state = self.lock();
        state.sold_out.retain(|known| known != offering);
        if sold_out {
            state.sold_out.push(offering.clone());
        }
    }

    /// How many workers there are in each stage: launching, ready, noticed, draining, drained.
    #[must_use]
    pub fn counts(&self) -> [usize; 5] {
        let state = self.lock();
        [Stage::Launching, Stage::Ready, Stage::Noticed, Stage::Draining, Stage::Drained]
            .map(|stage| state.workers.iter().filter(|worker| worker.stage() == stage).count())
    }

    /// How long workers have been there, all of them together, boots and those that are there still included.
    #[must_use]
    pub fn worked(&self) -> Duration {
        let (state, now) = (self.lock(), self.0.kernel.now());
        state.worked + state.workers.iter().map(|worker| now.since(worker.since)).sum::<Duration>()
    }

    fn end(&self, id: &str) {
        let gone = {
            let mut state = self.lock();
            let Some(at) = state.workers.iter().position(|worker| worker.id == id) else { return };
            let gone = state.workers.remove(at);
            state.worked += self.0.kernel.now().since(gone.since);
            gone
        };
        self.0.kernel.kill(gone.group);
    }

    fn launch(&self, offering: &OfferingId) -> PortResult<()> {
        let (id, group) = {
            let mut state = self.lock();
            if state.sold_out.contains(offering) {
                return Ok(());
            }
            state.launched += 1;
            let (id, group) = (format!("fleet-{}", state.launched), Group(FIRST_GROUP + state.launched));
            let (offering, since) = (offering.clone(), self.0.kernel.now());
            let (consumer, noticed, draining) = (None, false, false);
            state.workers.push(Worker { id: id.clone(), group, offering, since, consumer, noticed, draining });
            (id, group)
        };
        let worker =
            WorkerId::new(&id).map_err(|error| PortError::Unavailable { store: "fleet", cause: error.to_string() })?;
        let fleet = self.clone();
        let spawner = self.0.kernel.spawner(group);
        let ports = Ports { spawner: Arc::clone(&spawner), ..self.0.ports.clone() };
        spawner.spawn(Box::pin(async move {
            let Inner { kernel, timing, make, runs, .. } = &*fleet.0;
            kernel.sleep_until(kernel.now().after(make.boot)).await;
            let clock = Arc::new(kernel.clone());
            let engine = ScriptedEngine::new(clock, Arc::clone(&ports.spawner), make.slots, make.tick);
            let consumer = Consumer::new(Workplace {
                service: Arc::new(Service::new(ports, *timing, b"sim")),
                engine: Arc::new(engine.counted(runs.clone())),
                pool: make.pool.clone(),
                worker,
            });
            if let Some(there) = fleet.lock().workers.iter_mut().find(|there| there.id == id) {
                there.consumer = Some(consumer.clone());
            }
            consumer.run().await;
        }));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl FleetExecutor for ScriptedFleet {
    async fn observe(&self, pool: &PoolId) -> PortResult<Option<FleetSight>> {
        let make = &self.0.make;
        if *pool != make.pool {
            return Ok(None);
        }
        let instance = |worker: &Worker| Instance {
            id: worker.id.clone(),
            offering: worker.offering.clone(),
            stage: worker.stage(),
            since: worker.since,
            running: worker.running(),
        };
        let instances = self.lock().workers.iter().map(instance).collect();
        let (spot, on_demand) = make.offerings;
        let offering = |market, name: &str, number: u32, usd_micros_per_hour| Offering {
            id: OfferingId(format!("{name}-{number}")),
            market,
            device: Device::Gpu,
            tokens_per_second: f64::from(make.slots) / make.tick.as_secs_f64(),
            usd_micros_per_hour,
            score: Score::default(),
            most: u32::MAX,
        };
        let spot = (1..=spot).map(|number| offering(Market::Spot, "spot", number, 350_000));
        let on_demand = (1..=on_demand).map(|number| offering(Market::OnDemand, "on-demand", number, 1_000_000));
        Ok(Some(FleetSight { instances, offerings: spot.chain(on_demand).collect(), limits: make.limits }))
    }

    async fn apply(&self, _: &PoolId, orders: &Orders) -> PortResult<()> {
        for gone in orders.release.iter().chain(&orders.give_up) {
            self.end(gone);
        }
        for worker in self.lock().workers.iter_mut().filter(|worker| orders.drain.contains(&worker.id)) {
            worker.drain();
        }
        for (offering, wanted) in &orders.wanted {
            let there = {
                let state = self.lock();
                let counted = |worker: &&Worker| worker.offering == *offering && worker.stage().counts();
                u32::try_from(state.workers.iter().filter(counted).count()).unwrap_or(u32::MAX)
            };
            for _ in there..*wanted {
                self.launch(offering)?;
            }
        }
        Ok(())
    }
}
