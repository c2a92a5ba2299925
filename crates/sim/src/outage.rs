//! A store that can be made to fail: every call is refused while it is out, as when a table cannot be reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::attempt::{Attempt, Hold};
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::Position;
use penstock_policy::marker::Marker;
use penstock_policy::time::Timestamp;
use penstock_service::Ports;
use penstock_service::ports::{
    Acceptance, Accepted, Answers, Attempts, BucketKey, Chunk, Claim, Claimed, Delivery, Entry, Held, HoldClaim,
    HoldEntry, HoldKey, HoldName, Holding, JobRecord, Jobs, Levels, Limits, Looked, MarkerKey, Markers, Message,
    PortError, PortResult, Queue, QueueId, Receipt, Reservation, StepResult, Stepped, Swapped, Take, TakeOutcome,
    Watch,
};

/// The switch of a store's outage. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Outage {
    out: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
}

impl Outage {
    /// Begins or ends the outage.
    pub fn set(&self, out: bool) {
        self.out.store(out, Ordering::SeqCst);
    }

    /// Lets the store refuse for good, as when a table is not there, or ends that.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    fn check(&self) -> PortResult<()> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(PortError::Refused { store: "sim", cause: "there is no such table".to_owned() });
        }
        if self.out.load(Ordering::SeqCst) {
            return Err(PortError::Unavailable { store: "sim", cause: "it is out".to_owned() });
        }
        Ok(())
    }

    /// The same ports, of which those that a request's way leads over fail during the outage.
    #[must_use]
    pub fn over(&self, ports: Ports) -> Ports {
        let over = Arc::new(Over { outage: self.clone(), ports: ports.clone() });
        Ports {
            jobs: over.clone(),
            queue: over.clone(),
            limits: over.clone(),
            markers: over.clone(),
            attempts: over.clone(),
            answers: over,
            ..ports
        }
    }
}

struct Over {
    outage: Outage,
    ports: Ports,
}

#[async_trait]
impl Jobs for Over {
    async fn accept(&self, acceptance: &Acceptance, now: Timestamp) -> PortResult<Accepted> {
        self.outage.check()?;
        self.ports.jobs.accept(acceptance, now).await
    }
    async fn claim(&self, claim: &Claim, nonce: Nonce, now: Timestamp) -> PortResult<Claimed> {
        self.outage.check()?;
        self.ports.jobs.claim(claim, nonce, now).await
    }
    async fn step(&self, job: JobId, step: &Stepped, nonce: Nonce, now: Timestamp) -> PortResult<StepResult> {
        self.outage.check()?;
        self.ports.jobs.step(job, step, nonce, now).await
    }
    async fn put_chunk(&self, job: JobId, chunk: &Chunk) -> PortResult<()> {
        self.outage.check()?;
        self.ports.jobs.put_chunk(job, chunk).await
    }
    async fn chunks(&self, job: JobId, after: Option<Position>) -> PortResult<Vec<Chunk>> {
        self.outage.check()?;
        self.ports.jobs.chunks(job, after).await
    }
    async fn record(&self, job: JobId) -> PortResult<Option<JobRecord>> {
        self.outage.check()?;
        self.ports.jobs.record(job).await
    }
    fn watch(&self, job: JobId) -> Box<dyn Watch> {
        self.ports.jobs.watch(job)
    }
}

#[async_trait]
impl Queue for Over {
    async fn send(&self, queue: &QueueId, message: &Message, delay: Duration, now: Timestamp) -> PortResult<()> {
        self.outage.check()?;
        self.ports.queue.send(queue, message, delay, now).await
    }
    async fn receive(
        &self,
        queue: &QueueId,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery>> {
        self.outage.check()?;
        self.ports.queue.receive(queue, max, visibility, wait).await
    }
    async fn ack(&self, receipt: &Receipt) -> PortResult<()> {
        self.outage.check()?;
        self.ports.queue.ack(receipt).await
    }
    async fn hide(&self, receipt: &Receipt, visibility: Duration) -> PortResult<()> {
        self.outage.check()?;
        self.ports.queue.hide(receipt, visibility).await
    }
    async fn depth(&self, queue: &QueueId) -> PortResult<u64> {
        self.outage.check()?;
        self.ports.queue.depth(queue).await
    }
}

#[async_trait]
impl Limits for Over {
    async fn take(&self, take: &Take, nonce: Nonce, now: Timestamp) -> PortResult<TakeOutcome> {
        self.outage.check()?;
        self.ports.limits.take(take, nonce, now).await
    }
    async fn refund(&self, reservation: &Reservation, now: Timestamp) -> PortResult<()> {
        self.outage.check()?;
        self.ports.limits.refund(reservation, now).await
    }
    async fn peek(&self, key: &BucketKey) -> PortResult<Levels> {
        self.outage.check()?;
        self.ports.limits.peek(key).await
    }
    async fn hold(&self, claim: &HoldClaim, now: Timestamp) -> PortResult<Held> {
        self.outage.check()?;
        self.ports.limits.hold(claim, now).await
    }
    async fn unhold(&self, key: &HoldKey, name: &HoldName, used: u64, now: Timestamp) -> PortResult<Option<HoldEntry>> {
        self.outage.check()?;
        self.ports.limits.unhold(key, name, used, now).await
    }
    async fn holding(&self, key: &HoldKey) -> PortResult<Holding> {
        self.outage.check()?;
        self.ports.limits.holding(key).await
    }
}

#[async_trait]
impl Markers for Over {
    async fn find(&self, key: &MarkerKey) -> PortResult<Option<Marker>> {
        self.outage.check()?;
        self.ports.markers.find(key).await
    }
    async fn clear(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        self.outage.check()?;
        self.ports.markers.clear(key, job).await
    }
}

#[async_trait]
impl Attempts for Over {
    async fn tries(&self, key: &MarkerKey) -> PortResult<Vec<Attempt>> {
        self.outage.check()?;
        self.ports.attempts.tries(key).await
    }
    async fn swap(&self, key: &MarkerKey, job: JobId, from: &Hold, to: &Hold) -> PortResult<Swapped> {
        self.outage.check()?;
        self.ports.attempts.swap(key, job, from, to).await
    }
    async fn forget_try(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        self.outage.check()?;
        self.ports.attempts.forget_try(key, job).await
    }
}

#[async_trait]
impl Answers for Over {
    async fn look(&self, key: &MarkerKey, copy: u8) -> PortResult<Looked> {
        self.outage.check()?;
        self.ports.answers.look(key, copy).await
    }
    async fn keep(&self, key: &MarkerKey, copy: u8, entry: &Entry) -> PortResult<()> {
        self.outage.check()?;
        self.ports.answers.keep(key, copy, entry).await
    }
    async fn forget(&self, key: &MarkerKey, copy: u8) -> PortResult<()> {
        self.outage.check()?;
        self.ports.answers.forget(key, copy).await
    }
}
