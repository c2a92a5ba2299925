//! Erasing: what a tenant no longer wants kept is removed, part by part.
//!
//! Every method may be repeated; what is gone already is no error. Prompts that wait in a queue of SQS are out of reach:
//! they go with their message, when a worker finds its job ended or the queue's retention is over.

use async_trait::async_trait;
use penstock_policy::id::{JobId, TenantId};

use super::PortResult;

/// A part of a long list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What was found; may be empty though there is more.
    pub found: T,
    /// Where the rest begins; `None` at the end.
    pub next: Option<String>,
}

/// How much of a job is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// What it said and its stored payload; the record stays, without prompt or answer.
    Words,
    /// All but a tombstone without content, which keeps a late message from running the job again.
    Everything,
}

/// Finds and removes what belongs to one tenant.
#[async_trait]
pub trait Erasure: Send + Sync {
    /// Jobs of a tenant whose records say so, some at a time. Looks at every job there is: for erasing, not for serving.
    async fn jobs_of(&self, tenant: &TenantId, after: Option<&str>) -> PortResult<Page<Vec<JobId>>>;

    /// Removes words, or everything, of a job that has ended and is settled.
    async fn forget(&self, job: JobId, what: Forget) -> PortResult<()>;

    /// Removes a tenant's markers, buckets, and messages where a queue can be searched, some at a time; says how many.
    async fn remove_traces(&self, tenant: &TenantId, after: Option<&str>) -> PortResult<Page<u64>>;

    /// Makes the store give up the bytes of what was removed, where it keeps them.
    async fn scrub(&self) -> PortResult<()>;
}
