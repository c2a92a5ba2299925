//! The names of things. Each id is a type of its own, so that a tenant is never mistaken for a pool.

use core::fmt;
use core::str::FromStr;

use crate::time::Timestamp;

/// Crockford's base 32, as the ULID specification uses it (<https://github.com/ulid/spec>).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidId {
    /// A job id is 26 characters of Crockford base 32 and below 2^128.
    NotUlid,
    /// A name is 1 to 64 characters of `a-z`, `A-Z`, `0-9` and a few marks.
    NotName,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUlid => "not a job id: expected 26 characters of Crockford base 32",
            Self::NotName => {
                "not a name: expected 1 to 64 letters, digits, '-' or '_' (and '.' or ':' where it names no queue)"
            }
        })
    }
}

impl core::error::Error for InvalidId {}

/// A job: a ULID, 48 bits of creation time in milliseconds and 80 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u128);

impl JobId {
    /// Makes an id from the moment of creation and a random draw, of which the low 80 bits are used.
    #[must_use]
    pub fn new(now: Timestamp, draw: u128) -> Self {
        let ms = u128::try_from(now.as_millis().clamp(0, (1 << 48) - 1)).unwrap_or(0);
        Self(ms << 80 | (draw & ((1 << 80) - 1)))
    }

    /// The moment encoded in the id.
    #[must_use]
    pub fn created(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.0 >> 80).unwrap_or(i64::MAX))
    }

    /// All its bits, the moment first.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 26];
        for (place, byte) in text.iter_mut().rev().enumerate() {
            *byte = ALPHABET[usize::from(((self.0 >> (5 * place)) & 31) as u8)];
        }
        f.write_str(core::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return Err(InvalidId::NotUlid);
        }
        text.bytes()
            .try_fold(0u128, |sum, byte| {
                let digit = ALPHABET.iter().position(|&a| a == byte.to_ascii_uppercase()).ok_or(InvalidId::NotUlid)?;
                Ok(sum << 5 | digit as u128)
            })
            .map(Self)
    }
}

/// The fencing number of a job: grows by one at every claim, so that a worker that lost its lease cannot publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch a next claim gets.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A random name of one attempt at one conditional write. A write that is repeated after a lost reply carries the same
/// nonce; if the stored item already bears it, the first try had succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u64);

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $marks:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// Checks and makes the name.
            ///
            /// # Errors
            /// [`InvalidId::NotName`] if it is empty, longer than 64 bytes, or holds another character than
            #[doc = concat!("`a-z`, `A-Z`, `0-9` and `", $marks, "`.")]
            /// (`#` and `/` separate parts of stored keys and never occur in a name.)
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                if is_name(text, $marks.as_bytes()) { Ok(Self(text.into())) } else { Err(InvalidId::NotName) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Who pays: the owner of keys, limits, jobs and cache entries.
    TenantId, "._-:"
}
name! {
    /// One model on one kind of capacity, with its own four queues, whose names it is part of: so it holds only what
    /// the name of an SQS queue may hold.
    PoolId, "_-"
}
name! {
    /// An OpenAI-compatible server outside this deployment, as its configuration calls it.
    UpstreamId, "_-"
}
name! {
    /// One running worker process.
    WorkerId, "._-:"
}
name! {
    /// The public half of an API key `ps_<kid>_<secret>`.
    KeyId, "._-:"
}

impl KeyId {
    /// The key id that writes `bits` in hexadecimal.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(format!("{bits:010x}").into())
    }
}

impl PoolId {
    /// The pool of a model where nobody has named one: the model's name, with `-` for what a pool's name may not hold.
    ///
    /// # Errors
    /// [`InvalidId::NotName`] if the name is empty or longer than 64 bytes.
    pub fn of_model(model: &str) -> Result<Self, InvalidId> {
        let fits = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' };
        Self::new(&model.chars().map(fits).collect::<String>())
    }
}

fn is_name(text: &str, marks: &[u8]) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || marks.contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_reads_back_from_its_text_in_either_case() {
        let id = JobId::new(Timestamp::from_millis(1_700_000_000_123), u128::MAX);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        assert_eq!(id.created().as_millis(), 1_700_000_000_123);
    }

    #[test]
    fn the_example_of_the_ulid_specification_reads_back() {
        let text = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert_eq!(text.parse::<JobId>().map(|id| id.to_string()).as_deref(), Ok(text));
    }

    #[test]
    fn ids_of_later_moments_sort_later() {
        assert!(JobId::new(Timestamp::from_millis(1), u128::MAX) < JobId::new(Timestamp::from_millis(2), 0));
    }

    #[test]
    fn texts_that_are_no_job_ids_are_refused() {
        for bad in [
            "",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
            "01ARZ3NDEKTSV4RRFFQ69G5FÄ",
        ] {
            assert_eq!(bad.parse::<JobId>(), Err(InvalidId::NotUlid), "{bad}");
        }
    }

    #[test]
    fn a_model_with_any_name_has_a_pool_that_can_name_a_queue() {
        assert_eq!(PoolId::of_model("Qwen2.5-0.5B").unwrap().as_str(), "Qwen2-5-0-5B");
        assert_eq!(PoolId::new("a.b"), Err(InvalidId::NotName));
    }

    #[test]
    fn a_name_never_holds_a_key_separator() {
        assert!(TenantId::new("acme-1").is_ok());
        for bad in ["", "a#b", "a/b", "a b", &"x".repeat(65)] {
            assert_eq!(TenantId::new(bad), Err(InvalidId::NotName), "{bad}");
        }
    }
}
