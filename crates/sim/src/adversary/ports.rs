//! The ports before which the adversary stands. Each method says what kind of call it is and which of its promises may be
//! put to the test; the rest is [`Adversary::pass`].

use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use penstock_policy::attempt::{Attempt, Hold};
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{Position, Step};
use penstock_policy::marker::Marker;
use penstock_policy::retry::poll_interval;
use penstock_policy::time::Timestamp;
use penstock_service::Ports;
use penstock_service::ports::{
    Acceptance, Accepted, Answers, Attempts, BucketKey, Chunk, Claim, Claimed, Clock, Delivery, Entry, Held, HoldClaim,
    HoldEntry, HoldKey, HoldName, Holding, JobRecord, Jobs, Levels, Limits, Looked, MarkerKey, Markers, Message,
    PortResult, Queue, QueueId, Receipt, Reservation, StepResult, Stepped, Swapped, Take, TakeOutcome, Watch,
};

use super::{Adversary, Fault, Kind, Side, gone};
use crate::kernel::Kernel;

pub(super) struct Over {
    pub(super) adversary: Adversary,
    pub(super) side: Side,
    pub(super) ports: Ports,
}

/// Passes a call on: its kind, its name, what it takes along (cloned for each time it is made), and the call itself.
macro_rules! pass {
    ($self:ident, $kind:ident, $name:literal, |$ports:ident $(, $taken:ident)*| $call:expr) => {{
        let $ports = $self.ports.clone();
        $(let $taken = $taken.to_owned();)*
        $self.adversary.pass($self.side, Kind::$kind, $name, move || {
            let $ports = $ports.clone();
            $(let $taken = $taken.clone();)*
            async move { $call.await }.boxed()
        })
    }};
}

impl Over {
    /// The message of an acceptor that dies after it was sent; its record is for the claim to make.
    async fn send_only(&self, acceptance: &Acceptance, now: Timestamp) -> PortResult<Accepted> {
        let Message { spec, .. } = &acceptance.message;
        let queue = QueueId { pool: spec.pool.clone(), class: spec.class };
        self.ports.queue.send(&queue, &acceptance.message, Duration::ZERO, now).await?;
        Err(gone("the acceptor is gone"))
    }

    /// Delivers what was received in its own way: again to somebody else, or later.
    async fn deliver(&self, received: Vec<Delivery>) -> PortResult<Vec<Delivery>> {
        let mut delivered = Vec::with_capacity(received.len());
        for delivery in received {
            match self
                .adversary
                .fate(Kind::Receive, "delivery")
                .filter(|fault| matches!(fault, Fault::DeliveredTwice | Fault::Overtaken))
            {
                Some(Fault::Overtaken) => {
                    let away = Duration::from_millis(self.adversary.kernel.below(8_000));
                    self.ports.queue.hide(&delivery.receipt, away).await?;
                }
                Some(_) => {
                    self.ports.queue.hide(&delivery.receipt, Duration::ZERO).await?;
                    delivered.push(delivery);
                }
                None => delivered.push(delivery),
            }
        }
        Ok(delivered)
    }
}

#[async_trait]
impl Jobs for Over {
    async fn accept(&self, acceptance: &Acceptance, now: Timestamp) -> PortResult<Accepted> {
        self.adversary.check(self.side)?;
        if !self.adversary.is_quiet() && self.adversary.fate(Kind::Accept, "accept, cut short") == Some(Fault::SentOnly)
        {
            return self.send_only(acceptance, now).await;
        }
        pass!(self, Accept, "accept", |ports, acceptance| ports.jobs.accept(&acceptance, now)).await
    }
    async fn claim(&self, claim: &Claim, nonce: Nonce, now: Timestamp) -> PortResult<Claimed> {
        pass!(self, Write, "claim", |ports, claim| ports.jobs.claim(&claim, nonce, now)).await
    }
    async fn step(&self, job: JobId, step: &Stepped, nonce: Nonce, now: Timestamp) -> PortResult<StepResult> {
        let adversary = self.adversary.clone();
        let name = match step.step {
            Step::Put => "put",
            Step::Park => "park",
            Step::Unpark => "unpark",
            Step::Claim { .. } => "claim",
            Step::Renew { .. } => "renew",
            Step::Release { .. } => "release",
            Step::Finish { .. } => "finish",
            Step::Expire => "expire",
            Step::Join => "join",
            Step::Leave => "leave",
            Step::Cancel { .. } => "cancel",
            Step::CallOff => "call off",
            Step::Settle => "settle",
        };
        let (ports, step) = (self.ports.clone(), step.clone());
        let run = move || {
            let (ports, step, adversary) = (ports.clone(), step.clone(), adversary.clone());
            async move {
                let result = ports.jobs.step(job, &step, nonce, now).await?;
                if result.is_ok() {
                    adversary.note(job, step.step, nonce);
                }
                Ok(result)
            }
            .boxed()
        };
        self.adversary.pass(self.side, Kind::Write, name, run).await
    }
    async fn put_chunk(&self, job: JobId, chunk: &Chunk) -> PortResult<()> {
        pass!(self, Write, "put chunk", |ports, chunk| ports.jobs.put_chunk(job, &chunk)).await
    }
    async fn chunks(&self, job: JobId, after: Option<Position>) -> PortResult<Vec<Chunk>> {
        pass!(self, Read, "chunks", |ports| ports.jobs.chunks(job, after)).await
    }
    async fn record(&self, job: JobId) -> PortResult<Option<JobRecord>> {
        pass!(self, Read, "record", |ports| ports.jobs.record(job)).await
    }
    fn watch(&self, job: JobId) -> Box<dyn Watch> {
        if self.adversary.is_quiet() {
            return self.ports.jobs.watch(job);
        }
        Box::new(Polling { kernel: self.adversary.kernel.clone(), looks: 0 })
    }
}

impl Adversary {
    /// Notes a write that ended or settled a job. A repetition bears the same nonce, and counts once.
    fn note(&self, job: JobId, step: Step, nonce: Nonce) {
        let mut ledger = self.lock();
        match step {
            Step::Finish { .. } | Step::Expire | Step::Cancel { .. } | Step::CallOff => {
                ledger.ends.entry(job).or_default().insert(nonce);
            }
            Step::Settle => {
                ledger.settled.entry(job).or_default().insert(nonce);
            }
            Step::Put
            | Step::Park
            | Step::Unpark
            | Step::Claim { .. }
            | Step::Renew { .. }
            | Step::Release { .. }
            | Step::Join
            | Step::Leave => {}
        }
    }
}

/// A watch on a store that wakes nobody.
struct Polling {
    kernel: Kernel,
    looks: u32,
}

#[async_trait]
impl Watch for Polling {
    async fn changed(&mut self) {
        self.kernel.sleep_until(self.kernel.now().after(poll_interval(self.looks))).await;
        self.looks = self.looks.saturating_add(1);
    }
}

#[async_trait]
impl Queue for Over {
    async fn send(&self, queue: &QueueId, message: &Message, delay: Duration, now: Timestamp) -> PortResult<()> {
        pass!(self, Write, "send", |ports, queue, message| ports.queue.send(&queue, &message, delay, now)).await
    }
    async fn receive(
        &self,
        queue: &QueueId,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery>> {
        let receive =
            pass!(self, Receive, "receive", |ports, queue| ports.queue.receive(&queue, max, visibility, wait));
        let received = receive.await?;
        if self.adversary.is_quiet() {
            return Ok(received);
        }
        self.deliver(received).await
    }
    async fn dead_letters(&self, queue: &QueueId, max: usize, visibility: Duration) -> PortResult<Vec<Delivery>> {
        pass!(self, Receive, "dead letters", |ports, queue| ports.queue.dead_letters(&queue, max, visibility)).await
    }
    async fn ack(&self, receipt: &Receipt) -> PortResult<()> {
        pass!(self, Write, "acknowledge", |ports, receipt| ports.queue.ack(&receipt)).await
    }
    async fn hide(&self, receipt: &Receipt, visibility: Duration) -> PortResult<()> {
        pass!(self, Write, "hide", |ports, receipt| ports.queue.hide(&receipt, visibility)).await
    }
    async fn depth(&self, queue: &QueueId) -> PortResult<u64> {
        pass!(self, Read, "depth", |ports, queue| ports.queue.depth(&queue)).await
    }
}

#[async_trait]
impl Limits for Over {
    async fn take(&self, take: &Take, nonce: Nonce, now: Timestamp) -> PortResult<TakeOutcome> {
        pass!(self, Write, "take", |ports, take| ports.limits.take(&take, nonce, now)).await
    }
    async fn refund(&self, reservation: &Reservation, now: Timestamp) -> PortResult<()> {
        pass!(self, Refund, "refund", |ports, reservation| ports.limits.refund(&reservation, now)).await
    }
    async fn peek(&self, key: &BucketKey) -> PortResult<Levels> {
        pass!(self, Read, "peek", |ports, key| ports.limits.peek(&key)).await
    }
    async fn hold(&self, claim: &HoldClaim, now: Timestamp) -> PortResult<Held> {
        pass!(self, Write, "hold", |ports, claim| ports.limits.hold(&claim, now)).await
    }
    async fn unhold(&self, key: &HoldKey, name: &HoldName, used: u64, now: Timestamp) -> PortResult<Option<HoldEntry>> {
        pass!(self, Refund, "unhold", |ports, key, name| ports.limits.unhold(&key, &name, used, now)).await
    }
    async fn holding(&self, key: &HoldKey) -> PortResult<Holding> {
        pass!(self, Read, "holding", |ports, key| ports.limits.holding(&key)).await
    }
}

#[async_trait]
impl Markers for Over {
    async fn find(&self, key: &MarkerKey) -> PortResult<Option<Marker>> {
        let stale =
            !self.adversary.is_quiet() && self.adversary.fate(Kind::LaggingRead, "marker") == Some(Fault::StaleRead);
        let known = self.adversary.lock().markers.get(key).copied();
        let found = pass!(self, Read, "marker", |ports, key| ports.markers.find(&key)).await?;
        self.adversary.lock().markers.insert(key.clone(), found);
        Ok(if stale { known.flatten() } else { found })
    }
    async fn clear(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        pass!(self, Write, "clear marker", |ports, key| ports.markers.clear(&key, job)).await
    }
}

#[async_trait]
impl Attempts for Over {
    async fn tries(&self, key: &MarkerKey) -> PortResult<Vec<Attempt>> {
        pass!(self, Read, "tries", |ports, key| ports.attempts.tries(&key)).await
    }
    async fn swap(&self, key: &MarkerKey, job: JobId, from: &Hold, to: &Hold) -> PortResult<Swapped> {
        pass!(self, Write, "swap hold", |ports, key, from, to| ports.attempts.swap(&key, job, &from, &to)).await
    }
    async fn forget_try(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        pass!(self, Write, "forget try", |ports, key| ports.attempts.forget_try(&key, job)).await
    }
}

#[async_trait]
impl Answers for Over {
    async fn look(&self, key: &MarkerKey, copy: u8) -> PortResult<Looked> {
        let stale = !self.adversary.is_quiet()
            && self.adversary.fate(Kind::LaggingRead, "kept answer") == Some(Fault::StaleRead);
        let looked = pass!(self, Read, "kept answer", |ports, key| ports.answers.look(&key, copy)).await?;
        Ok(if stale { Looked::default() } else { looked })
    }
    async fn keep(&self, key: &MarkerKey, copy: u8, entry: &Entry) -> PortResult<()> {
        pass!(self, Write, "keep answer", |ports, key, entry| ports.answers.keep(&key, copy, &entry)).await
    }
    async fn forget(&self, key: &MarkerKey, copy: u8) -> PortResult<()> {
        pass!(self, Write, "forget answer", |ports, key| ports.answers.forget(&key, copy)).await
    }
}
