//! The earlier tries of requests that need not come out the same, for their retries to find.

use async_trait::async_trait;
use penstock_policy::attempt::{Attempt, Hold};
use penstock_policy::id::JobId;
use penstock_policy::time::Timestamp;

use super::{MarkerKey, PortResult};

/// A try to be remembered when its job is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptClaim {
    /// The request's key.
    pub key: MarkerKey,
    /// Who waits for it.
    pub hold: Hold,
    /// When all tries under the key may be forgotten, unless another one comes.
    pub expires: Timestamp,
}

/// The verdict on a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// The hold is the new one now.
    Yes,
    /// It was another than expected, or the try is forgotten; nothing was changed.
    No,
}

/// Finds tries and changes their holds. They are written by [`Jobs::accept`](super::Jobs::accept) alone, in the place of
/// a marker: before the message is sent.
#[async_trait]
pub trait Attempts: Send + Sync {
    /// The newest tries under `key`, at most [`penstock_policy::attempt::MOST`] of them, oldest first. Sees every finished
    /// write. May return tries that are past their `expires`: their jobs have ended long ago.
    async fn tries(&self, key: &MarkerKey) -> PortResult<Vec<Attempt>>;

    /// Puts the hold `to` in place of `from` on the try of `job`, if that is its hold. A repetition after a lost reply
    /// finds `to` in place and is a success: holds differ in their holder or their moment.
    async fn swap(&self, key: &MarkerKey, job: JobId, from: &Hold, to: &Hold) -> PortResult<Swapped>;

    /// Forgets the try of `job`: it came to nothing. One that is not there is no error.
    async fn forget_try(&self, key: &MarkerKey, job: JobId) -> PortResult<()>;
}
