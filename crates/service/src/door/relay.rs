//! From a job to the client that waits for it: the only way words leave the store.
//!
//! Chunks are read first and the record second, and `penstock_policy::resume` says what may be relayed, so a client
//! never hears a word twice, changed, or from a worker that had lost the job (contract C1). A watch that is made before
//! the first look wakes the relay; on a store that cannot wake anybody it sleeps between looks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use penstock_policy::admission::longest_wait;
use penstock_policy::attempt::{self, Leaving};
use penstock_policy::gcra;
use penstock_policy::id::JobId;
use penstock_policy::job::{State, Step};
use penstock_policy::resume::{self, Cursor};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::admit::Admission;
use crate::admission::adopt::HeldTry;
use crate::degradation::health::Seen;
use crate::error::ApiError;
use crate::kept::answer::Kept;
use crate::ports::{Answer, BucketKey, Chunk, JobRecord, PortError, PortResult, Stepped, Swapped, Watch};

/// How a job ended, as its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All text has been relayed.
    Answered(Answer),
    /// There is no (more) text.
    Failed(ApiError),
}

/// What a job has said and how it ended, or how it failed.
pub(crate) type Said = Result<(Vec<Chunk>, Answer), ApiError>;

/// What a look brought.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Progress {
    /// What was said since, chunk by chunk; not empty.
    Said(Vec<Chunk>),
    /// The end.
    Ended(End),
    /// Nothing by then.
    Quiet,
}

/// Tells one answer to one client.
pub(crate) enum Relay {
    /// Of a job, as it says it.
    Live(Box<Live>),
    /// A kept one, which is there whole.
    Kept(Recital),
}

impl Relay {
    /// Whatever answers the admitted request.
    pub(crate) fn of(service: Arc<Service>, admission: &Admission) -> Self {
        match &admission.kept {
            Some(kept) => Self::Kept(Recital::of(kept)),
            None => Self::Live(Box::new(Live::new(service, admission.job, admission.hold.clone()))),
        }
    }

    /// Relays a job to one who only looks on: whether it stays or goes changes nothing for the job.
    pub(crate) fn onlooking(service: Arc<Service>, job: JobId) -> Self {
        let mut live = Live::new(service, job, None);
        live.client = Client::LookingOn;
        Self::Live(Box::new(live))
    }

    /// Leaves a job to run though nobody waits for it any more.
    pub(crate) fn let_run(&mut self) {
        match self {
            Self::Live(live) => live.client = Client::Told,
            Self::Kept(_) => {}
        }
    }

    /// Waits for new text or the end, up to `until`.
    pub(crate) async fn progress(&mut self, until: Timestamp) -> Progress {
        match self {
            Self::Live(live) => live.progress(until).await,
            Self::Kept(recital) => recital.progress(),
        }
    }

    /// Waits for the whole answer, up to `until`; reads its text only once it is complete.
    pub(crate) async fn whole(&mut self, until: Timestamp) -> Option<Said> {
        match self {
            Self::Live(live) => live.whole(until).await,
            Self::Kept(recital) => Some(recital.whole()),
        }
    }
}

/// Where the client of a job stands: what a relay that is dropped leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    /// It waits: dropped now, it has gone.
    Waiting,
    /// It was told the end, or will not be told.
    Told,
    /// We cannot tell it any more, and its job may run on: it will be back.
    BrokenOff,
    /// It only looks on.
    LookingOn,
}

/// Relays one job to one client.
pub(crate) struct Live {
    service: Arc<Service>,
    job: JobId,
    watch: Box<dyn Watch>,
    cursor: Cursor,
    chunks: Vec<Chunk>,
    /// How the job ended, once all its text has been relayed.
    end: Option<End>,
    client: Client,
    /// The hold that says that somebody waits, while it is ours, and when it is to be renewed.
    held: Option<HeldTry>,
    renew_at: Timestamp,
}

impl Live {
    fn new(service: Arc<Service>, job: JobId, held: Option<HeldTry>) -> Self {
        let watch = service.ports.jobs.watch(job);
        let renew_at = service.ports.clock.now().after(attempt::RENEW_EVERY);
        let (cursor, chunks) = (Cursor::default(), Vec::new());
        Self { service, job, watch, cursor, chunks, end: None, client: Client::Waiting, held, renew_at }
    }

    /// Waits for new text or the end, up to `until`.
    async fn progress(&mut self, until: Timestamp) -> Progress {
        loop {
            if let Some(end) = self.end.take() {
                self.told();
                return Progress::Ended(end);
            }
            match self.look().await {
                Ok(said) if !said.is_empty() => return Progress::Said(said),
                Ok(_) if self.end.is_some() => continue,
                Ok(_) => {}
                Err(error) => self.note(error),
            }
            if self.end.is_none() && !self.wait(until).await {
                return Progress::Quiet;
            }
        }
    }

    /// Waits for the whole answer, up to `until`; reads its text only once it is complete.
    async fn whole(&mut self, until: Timestamp) -> Option<Said> {
        let jobs = Arc::clone(&self.service.ports.jobs);
        loop {
            match jobs.record(self.job).await {
                Ok(Some(record)) if record.head.state.is_terminal() => {
                    match self.service.said_of(self.job, &record).await {
                        Ok(Some(result)) => {
                            self.told();
                            return Some(result);
                        }
                        Ok(None) => {}
                        Err(error) => self.note(error),
                    }
                }
                Ok(Some(record)) => {
                    if let Err(error) = self.service.expire_if_due(self.job, &record).await {
                        self.note(error);
                    }
                }
                Ok(None) => {}
                Err(error) => self.note(error),
            }
            if let Some(End::Failed(error)) = self.end.take() {
                self.told();
                return Some(Err(error));
            }
            if !self.wait(until).await {
                return None;
            }
        }
    }

    /// A store that does not answer is looked at again; any other failure is the end.
    fn note(&mut self, error: PortError) {
        if error.is_passing() {
            tracing::warn!(job = %self.job, %error, "relay cannot look");
        } else {
            self.break_off(ApiError::from(error));
        }
    }

    fn told(&mut self) {
        if self.client == Client::Waiting {
            self.client = Client::Told;
        }
    }

    /// Ends the relay by a fault of ours, whatever becomes of the job.
    fn break_off(&mut self, why: ApiError) {
        if self.client == Client::Waiting {
            self.client = Client::BrokenOff;
        }
        self.end = Some(End::Failed(why));
    }

    /// Sleeps until something may have changed; `false` if `until` came first.
    async fn wait(&mut self, until: Timestamp) -> bool {
        let clock = Arc::clone(&self.service.ports.clock);
        loop {
            let renewal = self.held.as_ref().map(|_| self.renew_at);
            let wake = renewal.map_or(until, |renewal| renewal.min(until));
            let changed = match select(self.watch.changed(), clock.sleep_until(wake)).await {
                Either::Left(_) => true,
                Either::Right(_) => false,
            };
            let now = clock.now();
            if renewal.is_some_and(|renewal| renewal <= now) {
                self.renew(now).await;
            }
            if now >= until {
                return false;
            }
            if changed {
                return true;
            }
        }
    }

    /// Renews the hold. One that has become another's is let be: the client is still told what it was promised.
    async fn renew(&mut self, now: Timestamp) {
        let Some(HeldTry { key, hold }) = self.held.take() else { return };
        self.renew_at = now.after(attempt::RENEW_EVERY);
        let renewed = hold.renewed(now);
        match self.service.ports.attempts.swap(&key, self.job, &hold, &renewed).await {
            Ok(Swapped::Yes) => self.held = Some(HeldTry { key, hold: renewed }),
            Ok(Swapped::No) => {}
            Err(error) => {
                tracing::warn!(job = %self.job, %error, "cannot renew a hold; it holds for a while yet");
                self.held = Some(HeldTry { key, hold });
            }
        }
    }

    /// Looks once: the chunks that may be shown now, without those that show nothing. Sets the end once there is no more to come.
    async fn look(&mut self) -> PortResult<Vec<Chunk>> {
        let jobs = Arc::clone(&self.service.ports.jobs);
        self.chunks.extend(jobs.chunks(self.job, self.newest()).await?);
        let Some(mut record) = jobs.record(self.job).await? else { return Ok(Vec::new()) };
        self.service.expire_if_due(self.job, &record).await?;
        let last_of = |record: &JobRecord| record.head.last.filter(|_| record.head.state.is_terminal());
        let mut last = last_of(&record);
        if record.head.state.is_terminal() && last.is_some_and(|last| self.newest().is_none_or(|newest| newest < last))
        {
            // What the last worker wrote between our two reads belongs to the answer.
            self.chunks.extend(jobs.chunks(self.job, self.newest()).await?);
        }
        if resume::chain(&self.chunks, record.head.epoch, last).is_none() {
            // A newer epoch has not opened yet; or a read of several pages missed a chunk written between two of them. The
            // record is read again too: chunks that are newer than it may be those of a worker that has lost the job.
            self.chunks = jobs.chunks(self.job, None).await?;
            let Some(again) = jobs.record(self.job).await? else { return Ok(Vec::new()) };
            last = last_of(&again);
            record = again;
        }
        let Ok(fresh) = self.cursor.advance(&self.chunks, record.head.epoch, last) else {
            tracing::error!(job = %self.job, "the stored text no longer contains what was relayed");
            self.break_off(ApiError::internal());
            return Ok(Vec::new());
        };
        let says = |chunk: &&&Chunk| !chunk.words.parts.is_empty() || !chunk.words.logprobs.is_empty();
        let said = fresh.iter().filter(says).map(|&chunk| chunk.clone()).collect();
        self.end = match ended(&record) {
            Some(End::Answered(_)) if self.cursor.last() != last => None,
            end => end,
        };
        Ok(said)
    }

    fn newest(&self) -> Option<penstock_policy::job::Position> {
        self.chunks.last().map(|chunk| chunk.position)
    }
}

fn ended(record: &JobRecord) -> Option<End> {
    match (record.head.state, &record.outcome) {
        (State::Parked | State::Queued | State::Running, _) => None,
        (State::Succeeded, _) if record.forgotten => Some(End::Failed(ApiError::forgotten())),
        (State::Succeeded, Some(Ok(answer))) => Some(End::Answered(answer.clone())),
        (State::Failed, Some(Err(verdict))) => Some(End::Failed(ApiError::of_verdict(verdict))),
        (State::Cancelled, _) => Some(End::Failed(ApiError::cancelled())),
        (State::Expired, _) => Some(End::Failed(ApiError::expired())),
        (State::Succeeded | State::Failed, _) => Some(End::Failed(ApiError::internal())),
    }
}

impl Drop for Live {
    /// A client that goes away leaves its interest behind for a while, so that its retry finds the job still running, and
    /// lets go of its hold at once. One that was told everything may not have heard it.
    fn drop(&mut self) {
        let (client, held) = (self.client, self.held.take());
        let heard = match client {
            Client::Told => true,
            Client::Waiting | Client::BrokenOff => false,
            Client::LookingOn => return,
        };
        if heard && held.is_none() {
            return;
        }
        let (service, job) = (Arc::clone(&self.service), self.job);
        let left = async move {
            if let Some(held) = held {
                service.let_go(job, held, heard).await;
            }
            if !heard {
                service.leave_after_grace(job, client == Client::BrokenOff).await;
            }
        };
        self.service.ports.spawner.spawn(left.boxed());
    }
}

/// A kept answer on its way to one client, told in the pieces in which it was first said.
pub(crate) struct Recital {
    said: Said,
    chunks_told: bool,
}

impl Recital {
    fn of(kept: &Kept) -> Self {
        let said = kept.said.clone().map_err(|verdict| ApiError::of_verdict(&verdict));
        Self { said, chunks_told: false }
    }

    fn progress(&mut self) -> Progress {
        match &self.said {
            Err(error) => Progress::Ended(End::Failed(error.clone())),
            Ok((chunks, _)) if !self.chunks_told && !chunks.is_empty() => {
                self.chunks_told = true;
                Progress::Said(chunks.clone())
            }
            Ok((_, answer)) => Progress::Ended(End::Answered(answer.clone())),
        }
    }

    fn whole(&mut self) -> Said {
        self.said.clone()
    }
}

impl Service {
    /// All that a job that has ended has said; `None` if its last chunks cannot be seen yet.
    pub(crate) async fn said_of(&self, job: JobId, record: &JobRecord) -> PortResult<Option<Said>> {
        Ok(match ended(record) {
            None => None,
            Some(End::Failed(error)) => Some(Err(error)),
            Some(End::Answered(answer)) => {
                let chunks = self.ports.jobs.chunks(job, None).await?;
                let said = match record.head.last {
                    Some(last) => resume::chain(&chunks, record.head.epoch, Some(last)),
                    None => Some(Vec::new()),
                };
                said.map(|said| Ok((said.into_iter().cloned().collect(), answer)))
            }
        })
    }

    /// Lets go of a try whose client was told everything, or has gone.
    async fn let_go(&self, job: JobId, held: HeldTry, heard: bool) {
        let now = self.ports.clock.now();
        let to = if heard { held.hold.delivered(now) } else { held.hold.let_go(now) };
        if let Err(error) = self.ports.attempts.swap(&held.key, job, &held.hold, &to).await {
            tracing::warn!(%job, %error, "cannot let go of a try; its hold lapses by itself");
        }
    }

    async fn leave_after_grace(&self, job: JobId, broken_off: bool) {
        let clock = &self.ports.clock;
        let left = clock.now();
        let Some(grace) = self.grace(job, broken_off, left).await else { return };
        clock.sleep_until(left.after(grace)).await;
        if let Err(error) = self.leave(job).await {
            tracing::warn!(%job, %error, "cannot withdraw a client's interest; the job runs to its end");
        }
    }

    /// How long a job goes on for a client that has just left, or that we broke off from; `None`: to its end, because its
    /// tenant keeps such results.
    async fn grace(&self, job: JobId, broken_off: bool, now: Timestamp) -> Option<Duration> {
        let longest = self.timing.orphan_grace;
        let Ok(Some(spec)) = self.ports.jobs.record(job).await.map(|record| record.and_then(|record| record.spec))
        else {
            return Some(attempt::grace(Leaving::BrokenOff).min(longest));
        };
        if let Ok(Some(tenant)) = self.ports.control.tenant(&spec.tenant).await
            && tenant.keep_orphans
        {
            return None;
        }
        if broken_off {
            return Some(attempt::grace(Leaving::BrokenOff).min(longest));
        }
        let queue = BucketKey::VirtualQueue { pool: spec.pool, class: spec.class, shard: 0 };
        let backlog = match self.ports.limits.peek(&queue).await {
            Ok(levels) => gcra::backlog(levels.part(0), now),
            Err(_) => Duration::ZERO,
        };
        let under_pressure = backlog >= longest_wait(spec.class) / 2;
        Some(attempt::grace(Leaving::Closed { under_pressure }).min(longest))
    }

    /// Withdraws one client's interest, and cancels the job if it was the last.
    pub(crate) async fn leave(&self, job: JobId) -> PortResult<()> {
        let now = self.ports.clock.now();
        if self.ports.jobs.step(job, &Stepped::from(Step::Leave), self.nonce(), now).await?.is_ok() {
            self.put_away(job).await?;
        }
        Ok(())
    }

    /// Ends a job if nobody wants it.
    pub(crate) async fn put_away(&self, job: JobId) -> PortResult<()> {
        let cancel = Stepped::from(Step::Cancel { regardless_of_interest: false });
        if self.ports.jobs.step(job, &cancel, self.nonce(), self.ports.clock.now()).await?.is_ok() {
            self.settle(job).await?;
        }
        Ok(())
    }

    /// Ends a job that is past its due moment and that no worker runs. Workers do so when they receive its message; its
    /// waiting client does so where there is no worker, or no message any more.
    async fn expire_if_due(&self, job: JobId, record: &JobRecord) -> PortResult<()> {
        let now = self.ports.clock.now();
        let due = record.spec.as_ref().is_some_and(|spec| spec.due < now);
        if due && !record.head.state.is_terminal() {
            let expire = Stepped::from(Step::Expire);
            if self.ports.jobs.step(job, &expire, self.nonce(), now).await?.is_ok() {
                if let Some(spec) = &record.spec {
                    self.health.count(&spec.pool, Seen::TimedOut);
                }
                self.settle(job).await?;
            }
        }
        Ok(())
    }
}
