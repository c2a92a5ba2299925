//! The census: jobs that are not over and done with, for whoever looks after what was left lying.

use async_trait::async_trait;
use penstock_policy::id::JobId;

use super::{Page, PortResult};

/// Lists jobs.
#[async_trait]
pub trait Census: Send + Sync {
    /// Jobs that wait in a queue, run, or have ended and are not settled, some at a time, in the store's own order; parked
    /// ones are listed by [`Parking`](super::Parking). May lag behind by a second, and may list a job that has been settled
    /// meanwhile.
    async fn open_jobs(&self, after: Option<&str>) -> PortResult<Page<Vec<JobId>>>;
}
