//! Stored forms as bytes: little-endian, a version first, every length bounded when it is read back.
//!
//! Numbers are kept bit for bit, which text does not promise: a plan made again from what was stored is the same plan.

use core::fmt;

use crate::time::Timestamp;

/// Why stored bytes cannot be read. Begin anew: nothing is lost but what was learned.
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
            Self::Version(version) => write!(f, "it was stored in version {version}, which this program does not read"),
            Self::Malformed => write!(f, "what was stored is malformed"),
        }
    }
}

impl core::error::Error for Undecodable {}

pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

pub(crate) fn put_int(out: &mut Vec<u8>, int: i64) {
    out.extend(int.to_le_bytes());
}

pub(crate) fn put_floats(out: &mut Vec<u8>, floats: &[f64]) {
    out.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

pub(crate) fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    put_int(out, time.as_millis());
}

/// A byte that says whether there is one, then the value.
pub(crate) fn put_some<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// What is left to be read.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Bytes that begin with a version, which must be this one.
    pub(crate) fn of(bytes: &'a [u8], version: u8) -> Result<Self, Undecodable> {
        let mut from = Self(bytes);
        match from.take()? {
            [found] if found == version => Ok(from),
            [found] => Err(Undecodable::Version(found)),
        }
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Undecodable::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn len(&mut self) -> Result<usize, Undecodable> {
        usize::try_from(u32::from_le_bytes(self.take()?)).map_err(|_| Undecodable::Malformed)
    }

    pub(crate) fn at_most(&mut self, most: usize) -> Result<usize, Undecodable> {
        self.len().and_then(|len| if len <= most { Ok(len) } else { Err(Undecodable::Malformed) })
    }

    pub(crate) fn int(&mut self) -> Result<i64, Undecodable> {
        self.take().map(i64::from_le_bytes)
    }

    pub(crate) fn word(&mut self) -> Result<u32, Undecodable> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, Undecodable> {
        self.int().map(Timestamp::from_millis)
    }

    /// A finite number: no sum or rate that is kept can be another.
    pub(crate) fn float(&mut self) -> Result<f64, Undecodable> {
        let float = f64::from_le_bytes(self.take()?);
        if float.is_finite() { Ok(float) } else { Err(Undecodable::Malformed) }
    }

    pub(crate) fn floats<const N: usize>(&mut self) -> Result<[f64; N], Undecodable> {
        let mut floats = [0.0; N];
        for float in &mut floats {
            *float = self.float()?;
        }
        Ok(floats)
    }

    pub(crate) fn text(&mut self) -> Result<String, Undecodable> {
        let len = self.len()?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Undecodable::Malformed)?;
        self.0 = rest;
        String::from_utf8(taken.to_vec()).map_err(|_| Undecodable::Malformed)
    }

    /// What [`put_some`] wrote.
    pub(crate) fn some<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Undecodable>,
    ) -> Result<Option<T>, Undecodable> {
        match self.take()? {
            [0] => Ok(None),
            [1] => read(self).map(Some),
            [_] => Err(Undecodable::Malformed),
        }
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), Undecodable> {
        if self.0.is_empty() { Ok(()) } else { Err(Undecodable::Malformed) }
    }
}
