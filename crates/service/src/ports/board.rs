//! The board: small documents that one writer replaces now and then and everybody reads: the state of a breaker, the
//! rates in force, what was learned of a model.
//!
//! A document is posted in place of the version that its writer has read, so that two writers never undo each other's
//! work unseen: the slower one is told, reads again and decides again.

use async_trait::async_trait;
use penstock_policy::id::Nonce;

use super::PortResult;

/// What a document is about: `kind/of`, such as `breaker/main`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoardKey(String);

impl BoardKey {
    /// The document of this kind about `of`: an id, or `all`.
    #[must_use]
    pub fn new(kind: &'static str, of: &str) -> Self {
        Self(format!("{kind}/{of}"))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A document as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// What it says; the format, with its own version, is the poster's.
    pub text: String,
    /// Counts the postings, from 1.
    pub version: u64,
}

/// The document is no longer the one that was to be replaced: read it and decide again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

/// Reads and replaces documents.
#[async_trait]
pub trait Board: Send + Sync {
    /// The newest document; may lag behind the last posting by a second.
    async fn read(&self, key: &BoardKey) -> PortResult<Option<Posted>>;

    /// Posts `text` (300 KiB at most) in place of version `replaces` (`None`: there must be no document) and returns its
    /// version. A repetition with the same nonce posts once.
    async fn post(
        &self,
        key: &BoardKey,
        text: &str,
        replaces: Option<u64>,
        nonce: Nonce,
    ) -> PortResult<Result<u64, Stale>>;
}
