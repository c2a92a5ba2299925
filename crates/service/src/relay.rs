//! From a job to the client that waits for it: the only way words leave the store.
//!
//! Chunks are read first and the record second, and `penstock_policy::resume` says what may be relayed, so a client
//! never hears a word twice, changed, or from a worker that had lost the job (contract C1). A watch that is made before
//! the first look wakes the relay; on a store that cannot wake anybody it sleeps between looks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use penstock_policy::id::JobId;
use penstock_policy::job::{State, Step};
use penstock_policy::resume::Cursor;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::error::ApiError;
use crate::ports::{Answer, Chunk, JobRecord, PortResult, Stepped, Watch};

/// How a job ended, as its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All text has been relayed.
    Answered(Answer),
    /// There is no (more) text.
    Failed(ApiError),
}

/// What a look brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// New text, not empty.
    Text(String),
    /// The end.
    Ended(End),
    /// Nothing by then.
    Quiet,
}

/// Relays one job to one client.
pub(crate) struct Relay {
    service: Arc<Service>,
    job: JobId,
    watch: Box<dyn Watch>,
    cursor: Cursor,
    chunks: Vec<Chunk>,
    /// Set until the end was relayed: a relay dropped before is a client that has gone.
    listening: bool,
}

impl Relay {
    pub(crate) fn new(service: Arc<Service>, job: JobId) -> Self {
        let watch = service.ports.jobs.watch(job);
        Self { service, job, watch, cursor: Cursor::default(), chunks: Vec::new(), listening: true }
    }

    /// Waits for new text or the end, up to `until`.
    pub(crate) async fn progress(&mut self, until: Timestamp) -> Progress {
        loop {
            match self.look().await {
                Ok(Progress::Quiet) => {}
                Ok(progress) => return self.noted(progress),
                Err(error) if error.is_passing() => tracing::warn!(job = %self.job, %error, "relay cannot look"),
                Err(error) => return self.noted(Progress::Ended(End::Failed(ApiError::from(error)))),
            }
            if !self.wait(until).await {
                return Progress::Quiet;
            }
        }
    }

    /// Waits for the whole answer, up to `until`; reads its text only once it is complete.
    pub(crate) async fn whole(&mut self, until: Timestamp) -> Option<Result<(String, Answer), ApiError>> {
        loop {
            match self.service.ports.jobs.record(self.job).await {
                Ok(Some(record)) if record.head.state.is_terminal() => return Some(self.collect().await),
                Ok(_) => {}
                Err(error) if error.is_passing() => tracing::warn!(job = %self.job, %error, "relay cannot look"),
                Err(error) => {
                    self.listening = false;
                    return Some(Err(ApiError::from(error)));
                }
            }
            if !self.wait(until).await {
                return None;
            }
        }
    }

    async fn collect(&mut self) -> Result<(String, Answer), ApiError> {
        let mut text = String::new();
        loop {
            // The job has ended, so this needs no more than a few looks.
            let until = self.service.ports.clock.now().after(Duration::from_secs(10));
            match self.progress(until).await {
                Progress::Text(more) => text.push_str(&more),
                Progress::Ended(End::Answered(answer)) => return Ok((text, answer)),
                Progress::Ended(End::Failed(error)) => return Err(error),
                Progress::Quiet => return Err(ApiError::store_unavailable()),
            }
        }
    }

    fn noted(&mut self, progress: Progress) -> Progress {
        if matches!(progress, Progress::Ended(_)) {
            self.listening = false;
        }
        progress
    }

    /// Sleeps until something may have changed; `false` if `until` came first.
    async fn wait(&mut self, until: Timestamp) -> bool {
        let clock = &self.service.ports.clock;
        if let Either::Right(_) = select(self.watch.changed(), clock.sleep_until(until)).await {
            return false;
        }
        clock.now() < until
    }

    async fn look(&mut self) -> PortResult<Progress> {
        let jobs = &self.service.ports.jobs;
        self.chunks.extend(jobs.chunks(self.job, self.newest()).await?);
        let Some(record) = jobs.record(self.job).await? else { return Ok(Progress::Quiet) };
        if record.head.state.is_terminal() {
            // What the last worker wrote between our two reads belongs to the answer.
            self.chunks.extend(jobs.chunks(self.job, self.newest()).await?);
        }
        let end = record.head.last.filter(|_| record.head.state.is_terminal());
        let Ok(fresh) = self.cursor.advance(&self.chunks, record.head.epoch, end) else {
            tracing::error!(job = %self.job, "the stored text no longer contains what was relayed");
            return Ok(Progress::Ended(End::Failed(ApiError::internal())));
        };
        let text: String = fresh.iter().map(|chunk| chunk.text.as_str()).collect();
        if !text.is_empty() {
            return Ok(Progress::Text(text));
        }
        Ok(match ended(&record) {
            Some(End::Answered(_)) if self.cursor.last() != end => Progress::Quiet,
            Some(end) => Progress::Ended(end),
            None => Progress::Quiet,
        })
    }

    fn newest(&self) -> Option<penstock_policy::job::Position> {
        self.chunks.last().map(|chunk| chunk.position)
    }
}

fn ended(record: &JobRecord) -> Option<End> {
    match (record.head.state, &record.outcome) {
        (State::Parked | State::Queued | State::Running, _) => None,
        (State::Succeeded, Some(Ok(answer))) => Some(End::Answered(answer.clone())),
        (State::Failed, Some(Err(verdict))) => Some(End::Failed(ApiError::of_verdict(verdict))),
        (State::Cancelled, _) => Some(End::Failed(ApiError::cancelled())),
        (State::Expired, _) => Some(End::Failed(ApiError::expired())),
        (State::Succeeded | State::Failed, _) => Some(End::Failed(ApiError::internal())),
    }
}

impl Drop for Relay {
    /// A client that goes away leaves its interest behind for a while, so that its retry finds the job still running.
    fn drop(&mut self) {
        if self.listening {
            let service = Arc::clone(&self.service);
            let job = self.job;
            self.service.ports.spawner.spawn(async move { service.leave_after_grace(job).await }.boxed());
        }
    }
}

impl Service {
    async fn leave_after_grace(&self, job: JobId) {
        let clock = &self.ports.clock;
        clock.sleep_until(clock.now().after(self.timing.orphan_grace)).await;
        if let Err(error) = self.leave(job).await {
            tracing::warn!(%job, %error, "cannot withdraw a client's interest; the job runs to its end");
        }
    }

    /// Withdraws one client's interest, and cancels the job if it was the last.
    async fn leave(&self, job: JobId) -> PortResult<()> {
        let now = self.ports.clock.now();
        if self.ports.jobs.step(job, &Stepped::from(Step::Leave), self.nonce(), now).await?.is_ok() {
            let cancel = Stepped::from(Step::Cancel { regardless_of_interest: false });
            if self.ports.jobs.step(job, &cancel, self.nonce(), now).await?.is_ok() {
                self.settle(job).await?;
            }
        }
        Ok(())
    }
}
