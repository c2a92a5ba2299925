//! The ports of a front door behind local breakers, one a dependency. The same traits: nobody behind them can tell.
//!
//! Accepting has a breaker of its own beside the other steps of jobs: it needs the queue too, and a queue that is gone
//! must not hide the answers of jobs that run.
//!
//! Workers go without. They have nobody to answer within milliseconds; what they write is tried again with pauses of
//! its own, and a breaker would only shorten the outage that they survive.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use penstock_policy::attempt::{Attempt, Hold};
use penstock_policy::id::{JobId, KeyId, Nonce, PoolId, TenantId, WorkerId};
use penstock_policy::job::Position;
use penstock_policy::marker::Marker;
use penstock_policy::time::Timestamp;

use crate::Ports;
use crate::degradation::guard::Guard;
use crate::ports::{
    Acceptance, Accepted, Answers, Attempts, BlobKey, Blobs, Board, BoardKey, BucketKey, Chunk, Claim, Claimed, Clock,
    Control, Counts, Delivery, Entry, Held, HoldClaim, HoldEntry, HoldKey, HoldName, Holding, JobRecord, Jobs,
    KeyRecord, Levels, Limits, Looked, MarkerKey, Markers, Message, Order, Pool, PortResult, Posted, Queue, QueueId,
    Receipt, Reservation, Shelf, ShelfId, Shelved, Stale, StepResult, Stepped, Swapped, Take, TakeOutcome, Tally,
    TallyKey, Tenant, Watch, WorkerRecord,
};

/// Puts each port behind a local breaker.
#[must_use]
pub fn guarded(ports: Ports) -> Ports {
    let clock = Arc::clone(&ports.clock);
    Ports {
        jobs: Arc::new(GuardedJobs { jobs: behind("jobs", ports.jobs, &clock), accepting: Guard::new("accepting") }),
        queue: Arc::new(behind("queue", ports.queue, &clock)),
        limits: Arc::new(behind("limits", ports.limits, &clock)),
        markers: Arc::new(behind("markers", ports.markers, &clock)),
        attempts: Arc::new(behind("attempts", ports.attempts, &clock)),
        answers: Arc::new(behind("answers", ports.answers, &clock)),
        control: Arc::new(behind("control", ports.control, &clock)),
        board: Arc::new(behind("board", ports.board, &clock)),
        tally: Arc::new(behind("tally", ports.tally, &clock)),
        shelf: Arc::new(behind("shelf", ports.shelf, &clock)),
        blobs: Arc::new(behind("blobs", ports.blobs, &clock)),
        ..ports
    }
}

/// A port behind a breaker.
struct Behind<P: ?Sized> {
    name: &'static str,
    guard: Guard,
    clock: Arc<dyn Clock>,
    port: Arc<P>,
}

fn behind<P: ?Sized>(name: &'static str, port: Arc<P>, clock: &Arc<dyn Clock>) -> Behind<P> {
    Behind { name, guard: Guard::new(name), clock: Arc::clone(clock), port }
}

impl<P: ?Sized> Behind<P> {
    async fn run<T>(&self, call: impl Future<Output = PortResult<T>>) -> PortResult<T> {
        self.guard.run(self.name, &self.clock, call).await
    }
}

struct GuardedJobs {
    jobs: Behind<dyn Jobs>,
    accepting: Guard,
}

#[async_trait]
impl Jobs for GuardedJobs {
    async fn accept(&self, acceptance: &Acceptance, now: Timestamp) -> PortResult<Accepted> {
        self.accepting.run("accepting", &self.jobs.clock, self.jobs.port.accept(acceptance, now)).await
    }

    async fn claim(&self, claim: &Claim, nonce: Nonce, now: Timestamp) -> PortResult<Claimed> {
        self.jobs.run(self.jobs.port.claim(claim, nonce, now)).await
    }

    async fn step(&self, job: JobId, step: &Stepped, nonce: Nonce, now: Timestamp) -> PortResult<StepResult> {
        self.jobs.run(self.jobs.port.step(job, step, nonce, now)).await
    }

    async fn put_chunk(&self, job: JobId, chunk: &Chunk) -> PortResult<()> {
        self.jobs.run(self.jobs.port.put_chunk(job, chunk)).await
    }

    async fn chunks(&self, job: JobId, after: Option<Position>) -> PortResult<Vec<Chunk>> {
        self.jobs.run(self.jobs.port.chunks(job, after)).await
    }

    async fn record(&self, job: JobId) -> PortResult<Option<JobRecord>> {
        self.jobs.run(self.jobs.port.record(job)).await
    }

    fn watch(&self, job: JobId) -> Box<dyn Watch> {
        self.jobs.port.watch(job)
    }
}

#[async_trait]
impl Attempts for Behind<dyn Attempts> {
    async fn tries(&self, key: &MarkerKey) -> PortResult<Vec<Attempt>> {
        self.run(self.port.tries(key)).await
    }

    async fn swap(&self, key: &MarkerKey, job: JobId, from: &Hold, to: &Hold) -> PortResult<Swapped> {
        self.run(self.port.swap(key, job, from, to)).await
    }

    async fn forget_try(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        self.run(self.port.forget_try(key, job)).await
    }
}

#[async_trait]
impl Answers for Behind<dyn Answers> {
    async fn look(&self, key: &MarkerKey, copy: u8) -> PortResult<Looked> {
        self.run(self.port.look(key, copy)).await
    }

    async fn keep(&self, key: &MarkerKey, copy: u8, entry: &Entry) -> PortResult<()> {
        self.run(self.port.keep(key, copy, entry)).await
    }

    async fn forget(&self, key: &MarkerKey, copy: u8) -> PortResult<()> {
        self.run(self.port.forget(key, copy)).await
    }
}

#[async_trait]
impl Queue for Behind<dyn Queue> {
    async fn send(&self, queue: &QueueId, message: &Message, delay: Duration, now: Timestamp) -> PortResult<()> {
        self.run(self.port.send(queue, message, delay, now)).await
    }

    async fn receive(
        &self,
        queue: &QueueId,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery>> {
        self.run(self.port.receive(queue, max, visibility, wait)).await
    }

    async fn dead_letters(&self, queue: &QueueId, max: usize, visibility: Duration) -> PortResult<Vec<Delivery>> {
        self.run(self.port.dead_letters(queue, max, visibility)).await
    }

    async fn ack(&self, receipt: &Receipt) -> PortResult<()> {
        self.run(self.port.ack(receipt)).await
    }

    async fn hide(&self, receipt: &Receipt, visibility: Duration) -> PortResult<()> {
        self.run(self.port.hide(receipt, visibility)).await
    }

    async fn depth(&self, queue: &QueueId) -> PortResult<u64> {
        self.run(self.port.depth(queue)).await
    }
}

#[async_trait]
impl Limits for Behind<dyn Limits> {
    async fn take(&self, take: &Take, nonce: Nonce, now: Timestamp) -> PortResult<TakeOutcome> {
        self.run(self.port.take(take, nonce, now)).await
    }

    async fn refund(&self, reservation: &Reservation, now: Timestamp) -> PortResult<()> {
        self.run(self.port.refund(reservation, now)).await
    }

    async fn peek(&self, key: &BucketKey) -> PortResult<Levels> {
        self.run(self.port.peek(key)).await
    }

    async fn hold(&self, claim: &HoldClaim, now: Timestamp) -> PortResult<Held> {
        self.run(self.port.hold(claim, now)).await
    }

    async fn unhold(&self, key: &HoldKey, name: &HoldName, used: u64, now: Timestamp) -> PortResult<Option<HoldEntry>> {
        self.run(self.port.unhold(key, name, used, now)).await
    }

    async fn holding(&self, key: &HoldKey) -> PortResult<Holding> {
        self.run(self.port.holding(key)).await
    }
}

#[async_trait]
impl Markers for Behind<dyn Markers> {
    async fn find(&self, key: &MarkerKey) -> PortResult<Option<Marker>> {
        self.run(self.port.find(key)).await
    }

    async fn clear(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        self.run(self.port.clear(key, job)).await
    }
}

#[async_trait]
impl Control for Behind<dyn Control> {
    async fn key(&self, id: &KeyId) -> PortResult<Option<KeyRecord>> {
        self.run(self.port.key(id)).await
    }

    async fn put_key(&self, key: &KeyRecord) -> PortResult<()> {
        self.run(self.port.put_key(key)).await
    }

    async fn tenant(&self, id: &TenantId) -> PortResult<Option<Tenant>> {
        self.run(self.port.tenant(id)).await
    }

    async fn put_tenant(&self, tenant: &Tenant) -> PortResult<()> {
        self.run(self.port.put_tenant(tenant)).await
    }

    async fn tenants(&self) -> PortResult<Vec<Tenant>> {
        self.run(self.port.tenants()).await
    }

    async fn remove_tenant(&self, id: &TenantId) -> PortResult<()> {
        self.run(self.port.remove_tenant(id)).await
    }

    async fn keys(&self, tenant: &TenantId) -> PortResult<Vec<KeyRecord>> {
        self.run(self.port.keys(tenant)).await
    }

    async fn touch_key(&self, id: &KeyId, now: Timestamp) -> PortResult<()> {
        self.run(self.port.touch_key(id, now)).await
    }

    async fn remove_key(&self, key: &KeyRecord) -> PortResult<()> {
        self.run(self.port.remove_key(key)).await
    }

    async fn pools(&self) -> PortResult<Vec<Pool>> {
        self.run(self.port.pools()).await
    }

    async fn put_pool(&self, pool: &Pool) -> PortResult<()> {
        self.run(self.port.put_pool(pool)).await
    }

    async fn workers(&self, pool: &PoolId, since: Timestamp) -> PortResult<Vec<WorkerRecord>> {
        self.run(self.port.workers(pool, since)).await
    }

    async fn put_worker(&self, worker: &WorkerRecord) -> PortResult<()> {
        self.run(self.port.put_worker(worker)).await
    }

    async fn remove_worker(&self, pool: &PoolId, id: &WorkerId) -> PortResult<()> {
        self.run(self.port.remove_worker(pool, id)).await
    }
}

#[async_trait]
impl Board for Behind<dyn Board> {
    async fn read(&self, key: &BoardKey) -> PortResult<Option<Posted>> {
        self.run(self.port.read(key)).await
    }

    async fn post(
        &self,
        key: &BoardKey,
        text: &str,
        replaces: Option<u64>,
        nonce: Nonce,
    ) -> PortResult<Result<u64, Stale>> {
        self.run(self.port.post(key, text, replaces, nonce)).await
    }
}

#[async_trait]
impl Tally for Behind<dyn Tally> {
    async fn add(&self, key: &TallyKey, counts: &Counts, expires: Timestamp, nonce: Nonce) -> PortResult<()> {
        self.run(self.port.add(key, counts, expires, nonce)).await
    }

    async fn sums(&self, keys: &[TallyKey]) -> PortResult<Vec<Counts>> {
        self.run(self.port.sums(keys)).await
    }

    async fn clear(&self, key: &TallyKey) -> PortResult<()> {
        self.run(self.port.clear(key)).await
    }
}

#[async_trait]
impl Shelf for Behind<dyn Shelf> {
    async fn find(&self, shelf: &ShelfId, name: &str) -> PortResult<Option<Posted>> {
        self.run(self.port.find(shelf, name)).await
    }

    async fn place(
        &self,
        shelf: &ShelfId,
        name: &str,
        text: &str,
        replaces: Option<u64>,
        expires: Option<Timestamp>,
        nonce: Nonce,
    ) -> PortResult<Result<u64, Stale>> {
        self.run(self.port.place(shelf, name, text, replaces, expires, nonce)).await
    }

    async fn walk(&self, shelf: &ShelfId, order: Order, after: Option<&str>, most: usize) -> PortResult<Vec<Shelved>> {
        self.run(self.port.walk(shelf, order, after, most)).await
    }

    async fn take_away(&self, shelf: &ShelfId, name: &str) -> PortResult<()> {
        self.run(self.port.take_away(shelf, name)).await
    }
}

#[async_trait]
impl Blobs for Behind<dyn Blobs> {
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> PortResult<()> {
        self.run(self.port.put(key, bytes)).await
    }

    async fn get(&self, key: &BlobKey) -> PortResult<Option<Bytes>> {
        self.run(self.port.get(key)).await
    }

    async fn remove(&self, key: &BlobKey) -> PortResult<()> {
        self.run(self.port.remove(key)).await
    }
}
