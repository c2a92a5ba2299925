//! The workers there are and the market they come from: launches, boots, losses with and without notice, the bill.

use core::time::Duration;
use std::collections::BTreeMap;

use penstock_policy::fleet::offering::{Device, Instance, Market, Offering, OfferingId, Stage};
use penstock_policy::fleet::score::{Event, Score};

use super::moment::Moment;
use super::scenario::{InvalidScenario, Scenario};
use super::worker::{Profile, Worker};
use crate::chance::Chance;
use crate::spot::Markets;

/// How long a worker under notice goes on with what it has, before it gives the rest back; and when it is gone.
pub const FINISHES_SECS: f64 = 75.0;
/// See [`FINISHES_SECS`].
pub const NOTICE_SECS: f64 = 100.0;

/// A zone whose workers were taken back has none to sell for so long, where no record says otherwise.
const CLOSED_SECS: f64 = 600.0;

/// A worker, from its launch on.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What it was bought as: the number of its offering.
    pub offering: usize,
    /// Where it stands.
    pub stage: Stage,
    /// When it was launched.
    pub since: Moment,
    /// What it does.
    pub worker: Worker,
    /// Its places among those that have room: for urgent work, for any.
    pub room: Option<(usize, usize)>,
    /// The turn whose next end is among the events.
    pub scheduled: Option<u32>,
}

/// A zone's spot market.
#[derive(Clone, Debug)]
struct Zone {
    name: String,
    score: Score,
    closed_until: Moment,
}

/// The fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The workers by number.
    pub units: BTreeMap<u32, Unit>,
    zones: Vec<Zone>,
    record: Option<Markets>,
    profile: Profile,
    /// Estimated tokens a second of one.
    pub tokens_per_second: f64,
    prices: [f64; 2],
    boot_secs: (f64, f64),
    boots: Chance,
    launched: u32,
    bill: Bill,
}

/// What was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bill {
    /// Worker-hours on spot.
    pub spot_hours: f64,
    /// Worker-hours on demand.
    pub on_demand_hours: f64,
    /// Dollars for both.
    pub usd: f64,
    /// Workers the market took back.
    pub lost: u32,
}

/// How many stand, by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ready, on spot.
    pub spot: u32,
    /// Ready, on demand.
    pub on_demand: u32,
    /// On their way.
    pub launching: u32,
    /// Under notice, or draining.
    pub going: u32,
}

impl Fleet {
    /// A fleet without workers.
    ///
    /// # Errors
    /// [`InvalidScenario`]: the record of the markets cannot be read.
    pub fn new(scenario: &Scenario, tokens_per_second: f64) -> Result<Self, InvalidScenario> {
        let market = &scenario.market;
        let record = match &market.record {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| InvalidScenario::Read(path.clone(), error))?;
                Some(Markets::parse(&text).map_err(|error| InvalidScenario::Line {
                    file: path.clone(),
                    line: 1,
                    what: error.to_string(),
                })?)
            }
        };
        let names: Vec<String> = match &record {
            Some(record) => record.pools.iter().map(|(name, _)| name.clone()).collect(),
            None => (1..=market.zones).map(|zone| format!("zone-{zone}")).collect(),
        };
        let zone = |name| Zone { name, score: Score::default(), closed_until: Moment::default() };
        Ok(Self {
            units: BTreeMap::new(),
            zones: names.into_iter().map(zone).collect(),
            record,
            profile: scenario.worker.profile(),
            tokens_per_second,
            prices: [market.spot_usd_per_hour, market.on_demand_usd_per_hour],
            boot_secs: scenario.worker.boot_secs,
            boots: Chance::of(scenario.seed, "boots"),
            launched: 0,
            bill: Bill::default(),
        })
    }

    /// Nine in ten boots take no longer, in seconds.
    #[must_use]
    pub fn boot_p90(&self) -> f64 {
        let (median, sigma) = self.boot_secs;
        median * (1.2816 * sigma).exp()
    }

    /// The number of zones: offerings below it are spot, that one is on demand.
    #[must_use]
    pub const fn zones(&self) -> usize {
        self.zones.len()
    }

    /// Whether an offering is spot.
    #[must_use]
    pub const fn is_spot(&self, offering: usize) -> bool {
        offering < self.zones.len()
    }

    fn fits(&self, zone: usize, now: Moment) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a simulation")]
        let secs = now.secs() as i64;
        match &self.record {
            Some(record) => record.fits(zone, secs),
            None if self.zones[zone].closed_until > now => 0,
            None => u32::MAX,
        }
    }

    /// How many of an offering stand or come.
    #[must_use]
    pub fn held(&self, offering: usize) -> u32 {
        let stays = |unit: &&Unit| unit.offering == offering && unit.stage.counts();
        u32::try_from(self.units.values().filter(stays).count()).unwrap_or(u32::MAX)
    }

    /// What can be had, as the planner sees it.
    #[must_use]
    pub fn offerings(&self) -> Vec<Offering> {
        let offering = |name: &str, market, usd: f64, score| Offering {
            id: OfferingId(name.to_owned()),
            market,
            device: Device::Gpu,
            tokens_per_second: self.tokens_per_second,
            usd_micros_per_hour: micros(usd),
            score,
            most: u32::MAX,
        };
        let spot = self.zones.iter().map(|zone| offering(&zone.name, Market::Spot, self.prices[0], zone.score));
        let steady = Score::new(1.0, penstock_policy::time::Timestamp::EPOCH);
        spot.chain([offering(ON_DEMAND, Market::OnDemand, self.prices[1], steady)]).collect()
    }

    /// The workers, as the planner sees them.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        let of = |(id, unit): (&u32, &Unit)| Instance {
            id: format!("i-{id:07}"),
            offering: OfferingId(self.zones.get(unit.offering).map_or(ON_DEMAND, |zone| &zone.name).to_owned()),
            stage: unit.stage,
            since: unit.since.timestamp(),
            running: u32::try_from(unit.worker.running()).unwrap_or(u32::MAX),
        };
        self.units.iter().map(of).collect()
    }

    /// The offering of that name.
    #[must_use]
    pub fn offering(&self, id: &OfferingId) -> usize {
        self.zones.iter().position(|zone| zone.name == id.0).unwrap_or(self.zones.len())
    }

    /// Launches a worker and says when it is ready; `None` if the market has none.
    pub fn launch(&mut self, offering: usize, now: Moment) -> Option<(u32, Moment)> {
        if self.is_spot(offering) {
            let comes = self.fits(offering, now) > self.held(offering);
            let event = if comes { Event::Launched } else { Event::Failed };
            let zone = &mut self.zones[offering];
            zone.score = zone.score.after(event, now.timestamp());
            if !comes {
                return None;
            }
        }
        let (median, sigma) = self.boot_secs;
        let ready = now.plus(self.boots.log_normal(median, sigma));
        Some((self.add(offering, Stage::Launching, now), ready))
    }

    /// Adds a worker in that stage.
    pub fn add(&mut self, offering: usize, stage: Stage, now: Moment) -> u32 {
        self.launched += 1;
        let worker = Worker::new(self.profile, now);
        self.units.insert(self.launched, Unit { offering, stage, since: now, worker, room: None, scheduled: None });
        self.launched
    }

    /// A worker is gone: its bill is closed.
    pub fn remove(&mut self, id: u32, now: Moment) -> Option<Unit> {
        let unit = self.units.remove(&id)?;
        let hours = now.since(unit.since) / 3600.0;
        if self.is_spot(unit.offering) {
            self.bill.spot_hours += hours;
            self.bill.usd += hours * self.prices[0];
        } else {
            self.bill.on_demand_hours += hours;
            self.bill.usd += hours * self.prices[1];
        }
        Some(unit)
    }

    /// What was spent until now.
    #[must_use]
    pub fn bill(&self, now: Moment) -> Bill {
        let mut whole = self.clone();
        for id in self.units.keys() {
            whole.remove(*id, now);
        }
        whole.bill
    }

    /// The spot workers that a loss of this share takes back: of the zone with the most first, which has none to sell for
    /// a while.
    pub fn lose(&mut self, share: f64, now: Moment) -> Vec<u32> {
        let stands = |unit: &Unit| unit.stage.counts() && self.is_spot(unit.offering);
        let spot = self.units.values().filter(|unit| stands(unit)).count();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
        let count = (share * spot as f64).ceil() as usize;
        let mut zones: Vec<usize> = (0..self.zones.len()).collect();
        zones.sort_by_key(|zone| core::cmp::Reverse(self.held(*zone)));
        let of_zone = |zone: usize| {
            self.units.iter().filter(move |(_, unit)| unit.offering == zone && unit.stage.counts()).map(|(id, _)| *id)
        };
        let taken: Vec<u32> = zones.into_iter().flat_map(of_zone).take(count).collect();
        for id in &taken {
            self.note_loss(*id, now);
        }
        taken
    }

    fn note_loss(&mut self, id: u32, now: Moment) {
        let Some(unit) = self.units.get(&id) else { return };
        let zone = &mut self.zones[unit.offering];
        zone.score = zone.score.after(Event::Lost, now.timestamp());
        zone.closed_until = zone.closed_until.max(now.plus(CLOSED_SECS));
        self.bill.lost += 1;
    }

    /// Zones go on for `secs`: what survives heals, what a record says does not fit any more is taken back.
    pub fn market_moves(&mut self, secs: f64, now: Moment) -> Vec<u32> {
        let mut taken = Vec::new();
        for zone in 0..self.zones.len() {
            let held = self.held(zone);
            if held > 0 {
                let survived = Event::Survived(Duration::from_secs_f64(secs));
                self.zones[zone].score = self.zones[zone].score.after(survived, now.timestamp());
            }
            if self.record.is_none() {
                continue;
            }
            let many = usize::try_from(held.saturating_sub(self.fits(zone, now))).unwrap_or(0);
            let of_zone = |unit: &Unit| unit.offering == zone && unit.stage.counts();
            // The youngest go first.
            let gone: Vec<u32> =
                self.units.iter().rev().filter(|(_, unit)| of_zone(unit)).map(|(id, _)| *id).take(many).collect();
            for id in gone {
                self.note_loss(id, now);
                taken.push(id);
            }
        }
        taken
    }

    /// How many stand.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for unit in self.units.values() {
            match unit.stage {
                Stage::Ready if self.is_spot(unit.offering) => counts.spot += 1,
                Stage::Ready => counts.on_demand += 1,
                Stage::Launching => counts.launching += 1,
                Stage::Noticed | Stage::Draining | Stage::Drained => counts.going += 1,
            }
        }
        counts
    }

    /// The zone that a launch should come from: open ones only, the best or, to spread, the one with the fewest.
    #[must_use]
    pub fn zone(&self, spread: bool, now: Moment) -> Option<usize> {
        let open = (0..self.zones.len()).filter(|zone| self.zones[*zone].score.open(now.timestamp()));
        if spread {
            open.min_by_key(|zone| self.held(*zone))
        } else {
            open.max_by(|a, b| self.zones[*a].score.value().total_cmp(&self.zones[*b].score.value()))
        }
    }
}

const ON_DEMAND: &str = "on-demand";

fn micros(usd: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a price")]
    let micros = (usd * 1e6).round() as u64;
    micros
}
