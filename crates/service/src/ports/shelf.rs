//! Shelves: documents that belong together and are found by name or walked through in the order of their names: a
//! tenant's files, its batches, what is due next.
//!
//! A document is placed in place of the version that its writer has read, as on the [`Board`](super::Board); unlike
//! there, documents are many, are walked through, end by themselves, and a look sees the last write.

use async_trait::async_trait;
use penstock_policy::id::{Nonce, TenantId};
use penstock_policy::time::Timestamp;

use super::{PortResult, Posted, Stale};

/// A shelf: `kind/of`, such as `files/acme`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShelfId(String);

/// The kinds of shelves that each tenant has: erasing a tenant clears them.
pub const TENANT_SHELVES: [&str; 6] = ["batches", "deliveries", "endpoints", "files", "parts", "uploads"];

impl ShelfId {
    /// The shelf of one of the [`TENANT_SHELVES`] of a tenant.
    #[must_use]
    pub fn of_tenant(kind: &'static str, tenant: &TenantId) -> Self {
        Self(format!("{kind}/{tenant}"))
    }

    /// A shelf of the whole deployment's.
    #[must_use]
    pub fn of_all(kind: &'static str) -> Self {
        Self(format!("{kind}/all"))
    }

    /// The shelf as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// In which order a shelf is walked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By name.
    Rising,
    /// By name, the last one first.
    Falling,
}

/// A document with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelved {
    /// Its name on its shelf.
    pub name: String,
    /// What it says, and in which version.
    pub document: Posted,
}

/// Keeps documents on shelves.
#[async_trait]
pub trait Shelf: Send + Sync {
    /// A document. Sees every finished `place`.
    async fn find(&self, shelf: &ShelfId, name: &str) -> PortResult<Option<Posted>>;

    /// Places `text` (300 KiB at most) under a name (1 to 200 letters, digits, `-`, `_`) in place of version `replaces`
    /// (`None`: there must be no such document) and returns its version. The store may remove it at `expires` or later; a
    /// repetition with the same nonce places once.
    async fn place(
        &self,
        shelf: &ShelfId,
        name: &str,
        text: &str,
        replaces: Option<u64>,
        expires: Option<Timestamp>,
        nonce: Nonce,
    ) -> PortResult<Result<u64, Stale>>;

    /// Up to `most` documents whose names come after `after` in the order given (from the beginning, if `None`). Sees every
    /// finished `place`. Fewer than `most` means that there are no more.
    async fn walk(&self, shelf: &ShelfId, order: Order, after: Option<&str>, most: usize) -> PortResult<Vec<Shelved>>;

    /// Removes a document; removing what is not there is no error.
    async fn take_away(&self, shelf: &ShelfId, name: &str) -> PortResult<()>;
}
