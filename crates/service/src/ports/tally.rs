//! Tallies: numbers that many hands only ever add to, and that are read as sums: how a pool fared in ten seconds, what a
//! tenant used on a day, how many promises were kept.

use std::collections::BTreeMap;

use async_trait::async_trait;
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;

use super::PortResult;

/// What is counted: `kind/of/when`, such as `usage/acme/2026-11-25`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TallyKey(String);

impl TallyKey {
    /// The tally of this kind about `of` (an id) in the span of time `when` (a day, or the number of a slot).
    #[must_use]
    pub fn new(kind: &'static str, of: &str, when: &str) -> Self {
        Self(format!("{kind}/{of}/{when}"))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Counts by name. Names are short lower-case words and are few.
pub type Counts = BTreeMap<String, i64>;

/// Counts to add to one tally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The tally.
    pub key: TallyKey,
    /// What is added.
    pub counts: Counts,
    /// When the tally may be removed.
    pub expires: Timestamp,
}

/// Adds to tallies and reads them.
#[async_trait]
pub trait Tally: Send + Sync {
    /// Adds `counts` to a tally, which may be removed at `expires` or later.
    ///
    /// A repetition with the same nonce adds once, unless somebody else has added between the two: a tally may count what
    /// one caller lost the reply to twice, never less than all that was answered.
    async fn add(&self, key: &TallyKey, counts: &Counts, expires: Timestamp, nonce: Nonce) -> PortResult<()>;

    /// The sums of each of `keys`, in their order; empty for one that nobody has added to. May lag behind by a second.
    async fn sums(&self, keys: &[TallyKey]) -> PortResult<Vec<Counts>>;

    /// Removes a tally.
    async fn clear(&self, key: &TallyKey) -> PortResult<()>;
}
