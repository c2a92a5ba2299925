//! Jobs, in the `job` table: the record `J#<id>`, `M` and its chunks `J#<id>`, `C#<epoch>#<seq>`.
//!
//! The request is not in the record: DynamoDB bills a write by the whole item, and every transition would pay for the
//! prompt. It travels in the message.

mod accept;
pub(crate) mod chunks;
mod claim;
pub(crate) mod guard;
pub(crate) mod record;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{Position, apply};
use penstock_policy::retry::poll_interval;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Acceptance, Accepted, Addition, Chunk, Claim, Claimed, Clock, JobRecord, Jobs, PortError, PortResult, StepResult,
    Stepped, Watch,
};

use crate::Aws;
use crate::error::DYNAMODB;
use crate::item::{ms, s};
use crate::table::{Repeats, Write, Written};
use crate::tally::addition_write;

/// How long records, tombstones and chunks are kept: longer than any queue keeps a message (4 days) and than any job is
/// due (1 day), so that no late message meets a record that has been forgotten.
pub(crate) const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often a step is tried whose condition failed although the policy allows it on the item that came back. Expression
/// and table are tested to be equal, so one more try is already one too many.
const TRIES: usize = 3;

#[async_trait]
impl Jobs for Aws {
    async fn accept(&self, acceptance: &Acceptance, now: Timestamp) -> PortResult<Accepted> {
        self.accept_job(acceptance, now).await
    }

    async fn claim(&self, claim: &Claim, nonce: Nonce, now: Timestamp) -> PortResult<Claimed> {
        self.claim_job(claim, nonce, now).await
    }

    async fn step(&self, job: JobId, stepped: &Stepped, nonce: Nonce, now: Timestamp) -> PortResult<StepResult> {
        let mut told = false;
        for _ in 0..TRIES {
            let mut write = guard::write(job, stepped.step, nonce, now);
            if let Some(event) = stepped.event.as_ref().filter(|_| !told) {
                record::append_event(&mut write, event);
            }
            if guard::ends(stepped.step) {
                write.set("fin", ms(now));
                if let Some(outcome) = &stepped.outcome {
                    write.set("out", s(penstock_service::stored::record::outcome_text(outcome)));
                }
            }
            let written = match &stepped.addition {
                None => self.update(&self.names.job_table, write, Repeats::BySdk).await?,
                Some(addition) => self.step_and_add(job, write, addition, nonce).await?,
            };
            let found = match written {
                Written::Done(item) => return record::head(&item).map(Ok),
                Written::Not(found) => found,
            };
            told = record::is_told(&found);
            let head = if found.is_empty() { None } else { Some(record::head(&found)?) };
            match apply(stepped.step, nonce, head.as_ref(), now) {
                Err(denied) => return Ok(Err(denied)),
                // Ours already, from a try whose reply was lost.
                Ok(next) if head.is_some_and(|head| head.nonce == nonce) => return Ok(Ok(next)),
                Ok(_) => {}
            }
        }
        Err(contended())
    }

    async fn put_chunk(&self, job: JobId, chunk: &Chunk) -> PortResult<()> {
        self.put(&self.names.job_table, chunks::chunk_item(job, chunk, self.clock.now())).await
    }

    async fn chunks(&self, job: JobId, after: Option<Position>) -> PortResult<Vec<Chunk>> {
        let pk = record::job_pk(job);
        let from = chunks::range_after(after);
        let found = self.query(&self.names.job_table, &pk, (&from, chunks::LAST), true, None).await?;
        found.iter().map(chunks::read_chunk).collect()
    }

    async fn record(&self, job: JobId) -> PortResult<Option<JobRecord>> {
        let found = self.get(&self.names.job_table, record::job_key(job), true).await?;
        found.map(|found| record::read(&found)).transpose()
    }

    fn watch(&self, _job: JobId) -> Box<dyn Watch> {
        Box::new(Poll { clock: Arc::clone(&self.clock), looks: 0 })
    }
}

impl Aws {
    /// Makes a step and an addition to a tally in one transaction.
    async fn step_and_add(&self, job: JobId, step: Write, addition: &Addition, nonce: Nonce) -> PortResult<Written> {
        let added = addition_write(addition, nonce);
        match self.transact((&self.names.job_table, step), (&self.names.adm_table, added)).await? {
            Some(found) => Ok(Written::Not(found)),
            // A transaction does not say what it has made of the record.
            None => {
                let found = self.get(&self.names.job_table, record::job_key(job), true).await?;
                Ok(Written::Done(found.unwrap_or_default()))
            }
        }
    }
}

fn contended() -> PortError {
    PortError::Throttled { store: DYNAMODB, cause: "the record changed at every try".to_owned() }
}

/// Nobody tells of changes in a table: looks come at growing intervals.
struct Poll {
    clock: Arc<dyn Clock>,
    looks: u32,
}

#[async_trait]
impl Watch for Poll {
    async fn changed(&mut self) {
        let pause = poll_interval(self.looks);
        self.looks = self.looks.saturating_add(1);
        self.clock.sleep_until(self.clock.now().after(pause)).await;
    }
}
