//! The fleet of this machine: workers of each model between a least and a most, in this process.
//!
//! They are bought as spot is: cheap, with nothing dearer to stand in. One is as fast as the first that was loaded.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use penstock_gpu_worker::engine::metrics::Metrics;
use penstock_gpu_worker::engine::{AnyEngine, EngineConfig};
use penstock_policy::fleet::Limits;
use penstock_policy::fleet::offering::{Device, Instance, Market, Offering, OfferingId};
use penstock_policy::fleet::orders::Orders;
use penstock_policy::fleet::score::Score;
use penstock_policy::id::{PoolId, WorkerId};
use penstock_service::ports::{Engine as _, FleetExecutor, FleetSight, PortError, PortResult};

use crate::error::CliError;
use crate::models::Model;
use crate::staff::{Candidate, Seen, Staff};

/// How many workers of each model there may be, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) least: u32,
    pub(crate) most: u32,
}

/// The most workers of one model on one machine.
const MOST: u32 = 64;

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no range: write MIN..MAX, such as 0..4, with at most {MOST} workers");
        let (least, most) = text.split_once("..").ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let range = Self { least: number(least)?, most: number(most)? };
        let is_range = range.least <= range.most && (1..=MOST).contains(&range.most);
        if is_range { Ok(range) } else { Err(wrong()) }
    }
}

/// How the fleet grows and shrinks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Autoscale {
    pub(crate) range: Range,
    /// How long less must have been needed before a worker goes.
    pub(crate) calm: Duration,
}

/// What another worker of a model is made from.
pub(crate) struct Blueprint {
    model: Model,
    config: EngineConfig,
    device: Device,
    tokens_per_second: f64,
}

impl Blueprint {
    /// One like this.
    pub(crate) fn of(candidate: &Candidate) -> Self {
        let config = candidate.config.clone();
        let device = if config.device.to_string() == "cpu" { Device::Cpu } else { Device::Gpu };
        let tokens_per_second = candidate.engine.info().tokens_per_second;
        Self { model: candidate.model.clone(), config, device, tokens_per_second }
    }
}

/// The fleets of all models.
pub(crate) struct LocalFleet {
    pub(crate) staff: Staff,
    pub(crate) blueprints: Vec<Blueprint>,
    pub(crate) metrics: Metrics,
    pub(crate) autoscale: Autoscale,
}

impl LocalFleet {
    fn blueprint(&self, pool: &PoolId) -> Option<&Blueprint> {
        self.blueprints.iter().find(|blueprint| blueprint.model.pool == *pool)
    }

    fn hire(&self, blueprint: &Blueprint) -> PortResult<()> {
        let (model, config) = (blueprint.model.clone(), blueprint.config.clone());
        let number = self.staff.of_pool(&model.pool).len();
        let recorder = self.metrics.recorder(&model.name, &format!("local-{number}"));
        let load = move || {
            let engine = Arc::new(AnyEngine::load(&config, recorder.clone())?);
            Ok(Candidate { model, engine, config, recorder })
        };
        let unable = |error: CliError| PortError::Unavailable { store: "fleet", cause: error.to_string() };
        self.staff.hire(&blueprint.model.pool, load).map_err(unable)
    }
}

fn offering_id(pool: &PoolId) -> OfferingId {
    OfferingId(format!("here/{pool}"))
}

#[async_trait]
impl FleetExecutor for LocalFleet {
    async fn observe(&self, pool: &PoolId) -> PortResult<Option<FleetSight>> {
        let Some(blueprint) = self.blueprint(pool) else { return Ok(None) };
        let Range { least, most } = self.autoscale.range;
        let instance = |seen: Seen| Instance {
            id: seen.id.to_string(),
            offering: offering_id(pool),
            stage: seen.stage,
            since: seen.since,
            running: seen.running,
        };
        let offering = Offering {
            id: offering_id(pool),
            market: Market::Spot,
            device: blueprint.device,
            tokens_per_second: blueprint.tokens_per_second,
            usd_micros_per_hour: 0,
            score: Score::default(),
            most,
        };
        let limits = Limits {
            least_workers: least,
            most_workers: most,
            most_on_demand: 0,
            usd_micros_per_hour: u64::MAX,
            calm: self.autoscale.calm,
        };
        let instances = self.staff.of_pool(pool).into_iter().map(instance).collect();
        Ok(Some(FleetSight { instances, offerings: vec![offering], limits }))
    }

    async fn apply(&self, pool: &PoolId, orders: &Orders) -> PortResult<()> {
        let Some(blueprint) = self.blueprint(pool) else { return Ok(()) };
        let known = |id: &String| WorkerId::new(id).ok();
        for id in orders.release.iter().chain(&orders.give_up).filter_map(known) {
            self.staff.dismiss(&id);
        }
        for id in orders.drain.iter().filter_map(known) {
            self.staff.drain(&id);
        }
        let wanted = orders.wanted.get(&offering_id(pool)).copied().unwrap_or(0);
        let there = self.staff.of_pool(pool).iter().filter(|seen| seen.stage.counts()).count();
        for _ in u32::try_from(there).unwrap_or(u32::MAX)..wanted {
            self.hire(blueprint)?;
        }
        Ok(())
    }
}

/// How many threads a worker computes with where `engines` share the machine.
pub(crate) fn threads(engines: u32) -> NonZeroU32 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    NonZeroU32::new(cores / engines.max(1)).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_least_and_a_most() {
        assert_eq!("0..4".parse(), Ok(Range { least: 0, most: 4 }));
        assert_eq!("2..2".parse(), Ok(Range { least: 2, most: 2 }));
        for bad in ["", "4", "4..", "..4", "3..2", "0..0", "1..65", "a..b", "-1..2"] {
            assert!(bad.parse::<Range>().unwrap_err().contains("MIN..MAX"), "{bad}");
        }
    }
}
