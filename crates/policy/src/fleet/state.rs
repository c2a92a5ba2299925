//! Stored forms: of what an autoscaler keeps between ticks, some 6 KB, and of a recorded flight, some 5 KB.
//!
//! Bytes, as everything that must come back bit for bit (`crate::bytes`). What is read back is bounded, and what cannot
//! be is refused; whoever reads begins anew then.

use core::time::Duration;
use std::collections::BTreeMap;

use super::autoscaler::Autoscaler;
use super::demand::Backlog;
use super::flight::Flight;
use super::offering::{Device, Instance, Market, Offering, OfferingId, Stage};
use super::report::Short;
use super::roll::{BOOTS, Known, Roll};
use super::score::Score;
use super::tuning::{Choice, Held, QUANTILES, Terms, Tuner, UTILISATIONS};
use super::{Limits, Memory, Plan};
use crate::bytes::{Reader, Undecodable, put_floats, put_int, put_len, put_some, put_text, put_time};
use crate::forecast::Forecast;

/// The version that is written.
const VERSION: u8 = 1;

/// Workers and offerings of one pool at most, and ticks whose needs are remembered: a quarter of an hour of them.
const MANY: usize = 10_000;

impl Autoscaler {
    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_tuner(&mut out, &self.tuner);
        put_memory(&mut out, &self.memory);
        put_roll(&mut out, &self.roll);
        out
    }

    /// The autoscaler that was stored.
    ///
    /// # Errors
    /// [`Undecodable`]: the bytes are of another version or damaged. Begin with the default.
    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut from = Reader::of(bytes, VERSION)?;
        let stored = Self { tuner: tuner(&mut from)?, memory: memory(&mut from)?, roll: roll(&mut from)? };
        from.end()?;
        Ok(stored)
    }
}

impl Flight {
    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_time(&mut out, self.at);
        put_some(&mut out, self.forecast.as_ref(), |out, forecast| forecast.put(out));
        put_floats(&mut out, &[self.tokens_per_second]);
        for waits in &self.backlog {
            put_floats(&mut out, &[waits.tokens]);
            put_some(&mut out, waits.due, put_time);
        }
        put_len(&mut out, self.instances.len());
        self.instances.iter().for_each(|instance| put_instance(&mut out, instance));
        put_len(&mut out, self.offerings.len());
        self.offerings.iter().for_each(|offering| put_offering(&mut out, offering));
        put_duration(&mut out, self.lead);
        put_choice(&mut out, self.choice);
        put_memory(&mut out, &self.memory);
        put_limits(&mut out, &self.limits);
        out
    }

    /// The flight that was recorded.
    ///
    /// # Errors
    /// [`Undecodable`]: the bytes are of another version or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut from = Reader::of(bytes, VERSION)?;
        let at = from.time()?;
        let forecast = from.some(Forecast::from_bytes)?;
        let tokens_per_second = from.float()?;
        let mut backlog = [Backlog::default(); 4];
        for waits in &mut backlog {
            *waits = Backlog { tokens: from.float()?, due: from.some(Reader::time)? };
        }
        let flight = Self {
            at,
            forecast,
            tokens_per_second,
            backlog,
            instances: many(&mut from, instance)?,
            offerings: many(&mut from, offering)?,
            lead: duration(&mut from)?,
            choice: choice(&mut from)?,
            memory: memory(&mut from)?,
            limits: limits(&mut from)?,
        };
        from.end()?;
        Ok(flight)
    }
}

impl Plan {
    /// The bytes that tell one plan from another: two plans are the same, bit for bit, if these are.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_floats(&mut out, &[self.need.forecast, self.need.tracking, self.target]);
        put_floats(&mut out, &self.need.backlog);
        put_some(&mut out, self.need.threatened, |out, class| put_text(out, class.name()));
        put_len(&mut out, self.steps.len());
        self.steps.iter().for_each(|step| put_text(&mut out, &step.to_string()));
        put_some(&mut out, self.short, |out, short| match short {
            Short::Limits { tokens_per_second } => put_floats(out, &[0.0, tokens_per_second]),
            Short::NothingToBuy { tokens_per_second } => put_floats(out, &[1.0, tokens_per_second]),
        });
        put_memory(&mut out, &self.memory);
        put_time(&mut out, self.look_again);
        out
    }
}

fn many<T>(
    from: &mut Reader<'_>,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Undecodable>,
) -> Result<Vec<T>, Undecodable> {
    (0..from.at_most(MANY)?).map(|_| read(from)).collect()
}

fn put_duration(out: &mut Vec<u8>, duration: Duration) {
    put_int(out, i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
}

fn duration(from: &mut Reader<'_>) -> Result<Duration, Undecodable> {
    u64::try_from(from.int()?).map(Duration::from_millis).map_err(|_| Undecodable::Malformed)
}

fn put_memory(out: &mut Vec<u8>, memory: &Memory) {
    put_len(out, memory.needed.len());
    for (at, needed) in &memory.needed {
        put_time(out, *at);
        put_floats(out, &[*needed]);
    }
    for at in [memory.busy, memory.short_since, memory.back_since, memory.launched] {
        put_some(out, at, put_time);
    }
    for window in [memory.rise, memory.fall] {
        put_some(out, window, |out, (at, units)| {
            put_time(out, at);
            put_floats(out, &[units]);
        });
    }
}

fn memory(from: &mut Reader<'_>) -> Result<Memory, Undecodable> {
    let counted = |from: &mut Reader<'_>| Ok((from.time()?, from.float()?));
    Ok(Memory {
        needed: many(from, counted)?,
        busy: from.some(Reader::time)?,
        short_since: from.some(Reader::time)?,
        back_since: from.some(Reader::time)?,
        launched: from.some(Reader::time)?,
        rise: from.some(counted)?,
        fall: from.some(counted)?,
    })
}

fn put_choice(out: &mut Vec<u8>, choice: Choice) {
    put_len(out, choice.quantile);
    put_len(out, choice.utilisation);
}

fn choice(from: &mut Reader<'_>) -> Result<Choice, Undecodable> {
    let (quantile, utilisation) = (from.at_most(QUANTILES.len() - 1)?, from.at_most(UTILISATIONS.len() - 1)?);
    Ok(Choice { quantile, utilisation })
}

fn put_held(out: &mut Vec<u8>, held: &Held) {
    put_len(out, held.asked.len());
    held.asked.iter().for_each(|asked| put_floats(out, &[*asked]));
}

fn held(from: &mut Reader<'_>) -> Result<Held, Undecodable> {
    Ok(Held { asked: many(from, |from| from.float())?.into() })
}

fn put_tuner(out: &mut Vec<u8>, tuner: &Tuner) {
    let Terms { lead_steps, hold_steps, launch_cost_steps, penalty, half_life_steps } = tuner.terms;
    put_len(out, lead_steps);
    put_len(out, hold_steps);
    put_floats(out, &[launch_cost_steps, penalty, half_life_steps]);
    tuner.by_quantile.iter().chain(&tuner.by_utilisation).chain([&tuner.needed]).for_each(|held| put_held(out, held));
    [&tuner.units, &tuner.bought, &tuner.above].into_iter().for_each(|sums| put_floats(out, sums));
    put_floats(out, &[tuner.load, tuner.need]);
    put_len(out, tuner.seen_steps);
    put_choice(out, tuner.choice);
}

fn tuner(from: &mut Reader<'_>) -> Result<Tuner, Undecodable> {
    let (lead_steps, hold_steps) = (from.at_most(MANY)?, from.at_most(MANY)?);
    let [launch_cost_steps, penalty, half_life_steps] = from.floats()?;
    let terms = Terms { lead_steps, hold_steps, launch_cost_steps, penalty, half_life_steps };
    let mut tuner = Tuner::new(terms);
    let Tuner { by_quantile, by_utilisation, needed, units, bought, above, .. } = &mut tuner;
    for place in by_quantile.iter_mut().chain(by_utilisation).chain([needed]) {
        *place = held(from)?;
    }
    for place in [units, bought, above].into_iter().flatten() {
        *place = from.float()?;
    }
    [tuner.load, tuner.need] = from.floats()?;
    tuner.seen_steps = from.len()?;
    tuner.choice = choice(from)?;
    Ok(tuner)
}

fn put_score(out: &mut Vec<u8>, score: Score) {
    put_floats(out, &[score.value()]);
    put_time(out, score.barred_until());
}

fn score(from: &mut Reader<'_>) -> Result<Score, Undecodable> {
    Ok(Score::new(from.float()?, from.time()?))
}

fn put_roll(out: &mut Vec<u8>, roll: &Roll) {
    put_len(out, roll.scores.len());
    for (offering, score) in &roll.scores {
        put_text(out, &offering.0);
        put_score(out, *score);
    }
    put_len(out, roll.known.len());
    for (id, known) in &roll.known {
        put_text(out, id);
        put_text(out, &known.offering.0);
        out.push(stage_code(known.stage));
        out.push(u8::from(known.failed));
    }
    put_len(out, roll.boots.len());
    roll.boots.iter().for_each(|boot| put_duration(out, *boot));
    put_some(out, roll.called, put_time);
}

fn roll(from: &mut Reader<'_>) -> Result<Roll, Undecodable> {
    let mut roll = Roll::default();
    let scores: BTreeMap<_, _> = many(from, |from| Ok((OfferingId(from.text()?), score(from)?)))?.into_iter().collect();
    roll.scores = scores;
    let known = many(from, |from| {
        let (id, offering) = (from.text()?, OfferingId(from.text()?));
        Ok((id, Known { offering, stage: stage(from)?, failed: flag(from)? }))
    })?;
    roll.known = known.into_iter().collect();
    for _ in 0..from.at_most(BOOTS)? {
        roll.boots.push_back(duration(from)?);
    }
    roll.called = from.some(Reader::time)?;
    Ok(roll)
}

fn flag(from: &mut Reader<'_>) -> Result<bool, Undecodable> {
    match from.take()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [_] => Err(Undecodable::Malformed),
    }
}

const fn stage_code(stage: Stage) -> u8 {
    match stage {
        Stage::Launching => 0,
        Stage::Ready => 1,
        Stage::Noticed => 2,
        Stage::Draining => 3,
        Stage::Drained => 4,
    }
}

fn stage(from: &mut Reader<'_>) -> Result<Stage, Undecodable> {
    match from.take()? {
        [0] => Ok(Stage::Launching),
        [1] => Ok(Stage::Ready),
        [2] => Ok(Stage::Noticed),
        [3] => Ok(Stage::Draining),
        [4] => Ok(Stage::Drained),
        [_] => Err(Undecodable::Malformed),
    }
}

fn put_instance(out: &mut Vec<u8>, instance: &Instance) {
    put_text(out, &instance.id);
    put_text(out, &instance.offering.0);
    out.push(stage_code(instance.stage));
    put_time(out, instance.since);
    out.extend(instance.running.to_le_bytes());
}

fn instance(from: &mut Reader<'_>) -> Result<Instance, Undecodable> {
    let (id, offering) = (from.text()?, OfferingId(from.text()?));
    Ok(Instance { id, offering, stage: stage(from)?, since: from.time()?, running: from.word()? })
}

fn put_offering(out: &mut Vec<u8>, offering: &Offering) {
    put_text(out, &offering.id.0);
    out.push(match offering.market {
        Market::Spot => 0,
        Market::OnDemand => 1,
    });
    let (device, parts) = match offering.device {
        Device::Cpu => (0, 0),
        Device::Gpu => (1, 0),
        Device::GpuSlice { of } => (2, of),
    };
    out.extend([device, parts]);
    put_floats(out, &[offering.tokens_per_second]);
    out.extend(offering.usd_micros_per_hour.to_le_bytes());
    put_score(out, offering.score);
    out.extend(offering.most.to_le_bytes());
}

fn offering(from: &mut Reader<'_>) -> Result<Offering, Undecodable> {
    let id = OfferingId(from.text()?);
    let market = if flag(from)? { Market::OnDemand } else { Market::Spot };
    let device = match from.take()? {
        [0, 0] => Device::Cpu,
        [1, 0] => Device::Gpu,
        [2, of] => Device::GpuSlice { of },
        [_, _] => return Err(Undecodable::Malformed),
    };
    Ok(Offering {
        id,
        market,
        device,
        tokens_per_second: from.float()?,
        usd_micros_per_hour: from.take().map(u64::from_le_bytes)?,
        score: score(from)?,
        most: from.word()?,
    })
}

fn put_limits(out: &mut Vec<u8>, limits: &Limits) {
    for count in [limits.least_workers, limits.most_workers, limits.most_on_demand] {
        out.extend(count.to_le_bytes());
    }
    out.extend(limits.usd_micros_per_hour.to_le_bytes());
    put_duration(out, limits.calm);
}

fn limits(from: &mut Reader<'_>) -> Result<Limits, Undecodable> {
    Ok(Limits {
        least_workers: from.word()?,
        most_workers: from.word()?,
        most_on_demand: from.word()?,
        usd_micros_per_hour: from.take().map(u64::from_le_bytes)?,
        calm: duration(from)?,
    })
}
