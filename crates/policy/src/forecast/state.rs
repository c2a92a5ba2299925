//! The stored form of a [`Forecaster`]: bytes with a version, some 60 KB for four weeks of five minutes.
//!
//! Little-endian, in this order: version (1 byte), step in seconds (u32), first step (i64), number of steps (u32), the
//! values in sixteen bits each (see the ring), the number of limited values (u32) and each as its place (u32) and sixteen
//! bits; for each of six stretches of horizon seven error sums and their count (f64), eight levels (f64), the number of
//! hours (u32) and for each the number of errors (u32) and the errors (i16); the number of remembered hours (u32) and for
//! each its weights (6 x 7 f64) and bounds (6 x 8 f64).

use core::fmt;
use std::collections::VecDeque;

use super::combine::Errors;
use super::quantile::{Residuals, WINDOW_HOURS};
use super::ring::{Ring, pack, unpack};
use super::{BUCKETS, Forecaster, Hour, REMEMBERED_HOURS, Step};

/// The version that is written.
const VERSION: u8 = 1;

/// Why stored bytes are no forecaster. Start a new one: it forecasts from the first hour on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    /// Another version wrote them.
    Version(u8),
    /// They end too early, or say what cannot be.
    Malformed,
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "the forecaster was stored in version {version}, not {VERSION}"),
            Self::Malformed => write!(f, "the stored forecaster is malformed"),
        }
    }
}

impl core::error::Error for Undecodable {}

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
            hour.weights.iter().for_each(|weights| put_floats(&mut out, weights));
            hour.z.iter().for_each(|z| put_floats(&mut out, z));
        }
        out
    }

    /// The forecaster that was stored.
    ///
    /// # Errors
    /// [`Undecodable`]: the bytes are of another version or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, Undecodable> {
        let mut from = Reader(bytes);
        let [version] = from.take()?;
        if version != VERSION {
            return Err(Undecodable::Version(version));
        }
        let step = Step::new(u32::from_le_bytes(from.take()?)).map_err(|_| Undecodable::Malformed)?;
        let begin = i64::from_le_bytes(from.take()?);
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
            forecaster.residuals[bucket] = Residuals { levels: from.floats()?, hours: from.residuals()? };
        }
        for _ in 0..from.at_most(REMEMBERED_HOURS)? {
            let mut hour = Hour { weights: [[0.0; 7]; BUCKETS], z: [[0.0; 8]; BUCKETS] };
            for weights in &mut hour.weights {
                *weights = from.floats()?;
            }
            for z in &mut hour.z {
                *z = from.floats()?;
            }
            forecaster.hours.push_back(hour);
        }
        if from.0.is_empty() { Ok(forecaster) } else { Err(Undecodable::Malformed) }
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_floats(out: &mut Vec<u8>, floats: &[f64]) {
    out.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Undecodable::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn len(&mut self) -> Result<usize, Undecodable> {
        usize::try_from(u32::from_le_bytes(self.take()?)).map_err(|_| Undecodable::Malformed)
    }

    fn at_most(&mut self, most: usize) -> Result<usize, Undecodable> {
        self.len().and_then(|len| if len <= most { Ok(len) } else { Err(Undecodable::Malformed) })
    }

    fn floats<const N: usize>(&mut self) -> Result<[f64; N], Undecodable> {
        let mut floats = [0.0; N];
        for float in &mut floats {
            *float = f64::from_le_bytes(self.take()?);
            if !float.is_finite() {
                return Err(Undecodable::Malformed);
            }
        }
        Ok(floats)
    }

    fn residuals(&mut self) -> Result<VecDeque<Vec<i16>>, Undecodable> {
        let mut hours = VecDeque::new();
        for _ in 0..self.at_most(WINDOW_HOURS)? {
            let mut hour = Vec::new();
            for _ in 0..self.at_most(usize::from(u8::MAX))? {
                hour.push(i16::from_le_bytes(self.take()?));
            }
            hours.push_back(hour);
        }
        Ok(hours)
    }
}
