//! Kept answers: what a request of the same words is given without a run.
//!
//! The store holds bytes and knows when it may forget them; what they say, and whether it is still good, is
//! `penstock_policy::cache`'s to judge. Entries live beside the markers, so that one look brings both.

use async_trait::async_trait;
use bytes::Bytes;
use penstock_policy::marker::Marker;
use penstock_policy::time::Timestamp;

use super::{MarkerKey, PortResult};

/// The most bytes of an entry: what fits an item of DynamoDB beside its key. What is larger is put into a blob, and the
/// entry says which.
pub const ENTRY_BYTES: usize = 300 * 1024;

/// A kept answer, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When the answer was made.
    pub made: Timestamp,
    /// When the store may forget it.
    pub forgotten: Timestamp,
    /// What it says, at most [`ENTRY_BYTES`].
    pub body: Bytes,
}

/// What is known under a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// The kept answer.
    pub entry: Option<Entry>,
    /// The marker of the job that answers, or has answered.
    pub marker: Option<Marker>,
}

/// Keeps answers.
///
/// An answer that is asked for very often may be kept in several copies, each where another part of the store serves it.
/// Copy 0 is always there.
#[async_trait]
pub trait Answers: Send + Sync {
    /// What is known under `key`, of the entry its copy number `copy`. One call of the store. May lag behind the newest
    /// write, and may return what should be forgotten already: the caller compares.
    async fn look(&self, key: &MarkerKey, copy: u8) -> PortResult<Looked>;

    /// Keeps an entry in place of one that was made earlier; one that was made later stays. May be repeated.
    async fn keep(&self, key: &MarkerKey, copy: u8, entry: &Entry) -> PortResult<()>;

    /// Forgets an entry, whichever it is; one that is not there is no error.
    async fn forget(&self, key: &MarkerKey, copy: u8) -> PortResult<()>;
}
