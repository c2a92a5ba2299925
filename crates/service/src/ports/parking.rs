//! Parked jobs: accepted, stored with their request, and not in a queue yet (see [`penstock_policy::parking`]).
//!
//! A job is parked by [`Jobs::accept`](super::Jobs::accept) with [`Berth::Parked`](penstock_policy::parking::Berth), and is
//! no longer parked once any step takes it out of [`State::Parked`](penstock_policy::job::State::Parked): a cancel and an
//! expiry as well as a claim. It is released by [`Queue::send`](super::Queue::send) of its message and then
//! [`Step::Unpark`](penstock_policy::job::Step::Unpark); whoever dies between the two has sent a message too many, which no
//! claim minds.

use async_trait::async_trait;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::parking::Parked;
use penstock_policy::time::Timestamp;

use super::{Message, PortResult, QueueId};

/// How much is parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs.
    pub jobs: u64,
    /// Their estimated tokens.
    pub tokens: u64,
}

/// Finds parked jobs. Lists may lag behind by a second: they may miss what was parked just now, and show what is parked no
/// more.
#[async_trait]
pub trait Parking: Send + Sync {
    /// Tenants that have jobs parked for `queue`, sorted, those after `after`, at most `most` (1 or more). Each costs a read.
    async fn tenants(&self, queue: &QueueId, after: Option<&TenantId>, most: usize) -> PortResult<Vec<TenantId>>;

    /// A tenant's jobs that are parked for `queue` and due at or after `from`, the earliest due moment first, at most `most`
    /// (1 or more).
    async fn parked(&self, queue: &QueueId, tenant: &TenantId, from: Timestamp, most: usize)
    -> PortResult<Vec<Parked>>;

    /// All that is parked for `queue`. Reads every entry: some seconds for a million.
    async fn backlog(&self, queue: &QueueId) -> PortResult<Backlog>;

    /// The message that a parked job is sent as; `None` if it is parked no more. Sees every finished write.
    ///
    /// # Errors
    /// [`PortError::Corrupt`](super::PortError::Corrupt) if the job is parked and its request is not there or cannot be read.
    async fn message(&self, job: JobId) -> PortResult<Option<Message>>;
}
