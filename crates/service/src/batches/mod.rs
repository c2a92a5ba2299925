//! Batches: many requests in one file, each a parked job, answered into two files by a moment.
//!
//! A batch is a document, its input file, and nothing for each line: a line's job id is derived from the batch and the
//! line's place, and what is said of it is read from its job. The document holds two places in the input: up to `split`
//! lines are parked, up to `collected` their answers are in the files. Both only move on, each by a write that replaces
//! the document it was decided upon, so whoever does the work, however often, parks and collects each line once.
//!
//! The work is an errand of the [`agenda`](crate::agenda), done in slices: [`check`] the file, [`split`] it, [`collect`]
//! what has ended.

pub(crate) mod batch;
mod check;
mod collect;
mod lines;
mod request;
pub(crate) mod routes;
mod split;

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::id::TenantId;
use penstock_policy::time::Timestamp;
use penstock_wire::batches::BatchStatus;

use crate::Service;
use crate::agenda::Then;
use crate::ports::PortResult;
use batch::StoredBatch;

/// How soon a batch is looked at again: soon while answers come, less often when none came for a while.
const SOONEST: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(15);

impl Service {
    /// Carries a batch on, until there is nothing to do about it for now or it is `until`.
    pub(crate) async fn carry_on(self: &Arc<Self>, tenant: &TenantId, id: &str, until: Timestamp) -> PortResult<Then> {
        loop {
            let Some((batch, version)) = self.read_batch(tenant, id).await? else { return Ok(Then::Nothing) };
            let at = self.ports.clock.now();
            let quiet = at.since(batch.moved()) / 8;
            let pause = quiet.clamp(SOONEST, LATEST);
            let moved = match batch.status {
                BatchStatus::Validating => self.check(tenant, id, batch, version, at).await?,
                BatchStatus::InProgress if batch.split.requests < batch.total && at < batch.expires() => {
                    let (split, version) = self.split(tenant, id, batch, version, at).await?;
                    // What has ended meanwhile is not to wait for the last line to be parked.
                    match split {
                        Some(batch) => {
                            self.collect(tenant, id, batch, version, at).await?;
                            true
                        }
                        None => true,
                    }
                }
                BatchStatus::InProgress | BatchStatus::Finalizing | BatchStatus::Cancelling => {
                    self.collect(tenant, id, batch, version, at).await?
                }
                BatchStatus::Completed | BatchStatus::Failed | BatchStatus::Expired | BatchStatus::Cancelled => {
                    // Whoever ended it may have died before this.
                    self.announce_batch(tenant, id, &batch).await?;
                    return Ok(Then::Nothing);
                }
            };
            if !moved || self.ports.clock.now() >= until {
                return Ok(Then::Again(self.ports.clock.now().after(pause)));
            }
        }
    }
}

/// A batch with its version.
pub(crate) type Versioned = (StoredBatch, u64);
