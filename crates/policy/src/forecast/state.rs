//! The stored form of a [`Forecaster`]: bytes with a version, some 60 KB for four weeks of five minutes.
//!
//! Little-endian, in this order: version (1 byte), step in seconds (u32), first step (i64), number of steps (u32), the
//! values in sixteen bits each (see the ring), the number of limited values (u32) and each as its place (u32) and sixteen
//! bits; for each of six stretches of horizon seven error sums and their count (f64), eight levels (f64), the number of
//! hours (u32) and for each the number of errors (u32) and the errors (i16); the number of remembered hours (u32) and for
//! each its weights (6 x 7 f64) and bounds (6 x 8 f64).

use std::collections::VecDeque;

use super::combine::Errors;
use super::quantile::{Residuals, WINDOW_HOURS};
use super::ring::{Ring, pack, unpack};
use super::{BUCKETS, Basis, Forecast, Forecaster, Hour, REMEMBERED_HOURS, Step};
use crate::bytes::{Reader, Undecodable, put_floats, put_int, put_len};

/// The version that is written.
const VERSION: u8 = 1;

impl Forecaster {
    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 << 10);
        out.push(VERSION);
        put_len(&mut out, usize::try_from(self.step.secs()).unwrap_or(0));
        out.extend(self.ring.begin.to_le_bytes());
        put_len(&mut out, self.ring.raw.len());
        for value in &self.ring.raw {
            out.extend(pack(*value).to_le_bytes());
        }
        let codes = |of: &[f32]| of.iter().map(|value| pack(*value)).collect::<Vec<u16>>();
        let limited: Vec<(usize, u16)> = codes(&self.ring.limited)
            .into_iter()
            .zip(codes(&self.ring.raw))
            .enumerate()
            .filter(|(_, (limited, raw))| limited != raw)
            .map(|(at, (limited, _))| (at, limited))
            .collect();
        put_len(&mut out, limited.len());
        for (at, code) in limited {
            put_len(&mut out, at);
            out.extend(code.to_le_bytes());
        }
        for (errors, residuals) in self.errors.iter().zip(&self.residuals) {
            put_floats(&mut out, &errors.sums);
            put_floats(&mut out, &[errors.count]);
            put_floats(&mut out, &residuals.levels);
            put_len(&mut out, residuals.hours.len());
            for hour in &residuals.hours {
                put_len(&mut out, hour.len());
                out.extend(hour.iter().flat_map(|error| error.to_le_bytes()));
            }
        }
        put_len(&mut out, self.hours.len());
        for hour in &self.hours {
            hour.put(&mut out);
        }
        out
    }

    /// The forecaster that was stored.
    ///
    /// # Errors
    /// [`Undecodable`]: the bytes are of another version or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut from = Reader::of(bytes, VERSION)?;
        let step = Step::new(u32::from_le_bytes(from.take()?)).map_err(|_| Undecodable::Malformed)?;
        let begin = from.int()?;
        let mut raw = Vec::new();
        for _ in 0..from.len()? {
            raw.push(unpack(u16::from_le_bytes(from.take()?)));
        }
        let mut limited = raw.clone();
        for _ in 0..from.len()? {
            let at = from.len()?;
            let value = unpack(u16::from_le_bytes(from.take()?));
            *limited.get_mut(at).ok_or(Undecodable::Malformed)? = value;
        }
        let mut forecaster = Self { ring: Ring { begin, raw, limited }, ..Self::new(step) };
        for bucket in 0..BUCKETS {
            let (sums, [count]) = (from.floats()?, from.floats()?);
            forecaster.errors[bucket] = Errors { sums, count };
            forecaster.residuals[bucket] = Residuals { levels: from.floats()?, hours: residuals(&mut from)? };
        }
        for _ in 0..from.at_most(REMEMBERED_HOURS)? {
            forecaster.hours.push_back(Hour::from(&mut from)?);
        }
        from.end()?;
        Ok(forecaster)
    }
}

impl Hour {
    fn put(&self, out: &mut Vec<u8>) {
        self.weights.iter().for_each(|weights| put_floats(out, weights));
        self.z.iter().for_each(|z| put_floats(out, z));
    }

    fn from(from: &mut Reader<'_>) -> Result<Self, Undecodable> {
        let mut hour = Self { weights: [[0.0; 7]; BUCKETS], z: [[0.0; 8]; BUCKETS] };
        for weights in &mut hour.weights {
            *weights = from.floats()?;
        }
        for z in &mut hour.z {
            *z = from.floats()?;
        }
        Ok(hour)
    }
}

impl Forecast {
    /// Its bytes, as part of a larger whole: step (u32), first step (i64), what it rests on (1 byte), the points, the
    /// level, weights and bounds.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_len(out, usize::try_from(self.step.secs()).unwrap_or(0));
        put_int(out, self.origin);
        out.push(match self.basis {
            Basis::Nothing => 0,
            Basis::FirstDay => 1,
            Basis::Experts => 2,
        });
        put_len(out, self.points.len());
        put_floats(out, &self.points);
        put_floats(out, &[self.level]);
        self.hour.put(out);
    }

    /// What [`Forecast::put`] wrote.
    pub(crate) fn from_bytes(from: &mut Reader<'_>) -> Result<Self, Undecodable> {
        let step = Step::new(u32::from_le_bytes(from.take()?)).map_err(|_| Undecodable::Malformed)?;
        let origin = from.int()?;
        let basis = match from.take()? {
            [0] => Basis::Nothing,
            [1] => Basis::FirstDay,
            [2] => Basis::Experts,
            [_] => return Err(Undecodable::Malformed),
        };
        let mut points = Vec::new();
        for _ in 0..from.at_most(usize::try_from(step.per_day()).unwrap_or(0))? {
            points.push(from.float()?);
        }
        Ok(Self { step, origin, basis, points, level: from.float()?, hour: Hour::from(from)? })
    }
}

fn residuals(from: &mut Reader<'_>) -> Result<VecDeque<Vec<i16>>, Undecodable> {
    let mut hours = VecDeque::new();
    for _ in 0..from.at_most(WINDOW_HOURS)? {
        let mut hour = Vec::new();
        for _ in 0..from.at_most(usize::from(u8::MAX))? {
            hour.push(i16::from_le_bytes(from.take()?));
        }
        hours.push_back(hour);
    }
    Ok(hours)
}
