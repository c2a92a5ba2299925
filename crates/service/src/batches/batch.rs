//! A batch's document, and the use cases of batches.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_wire::batches::{
    Batch, BatchProblem, BatchProblems, BatchRequest, BatchStatus, BatchUsage, Endpoint, RequestCounts, Window,
};
use penstock_wire::files::{Page, Purpose};
use penstock_wire::webhooks::EventType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Versioned;
use crate::Service;
use crate::agenda::{Errand, Kind};
use crate::error::ApiError;
use crate::files::content::Run;
use crate::files::file::{file_id, is_id};
use crate::ports::{Order, PortError, PortResult, ShelfId, Tenant};

/// How long a batch is remembered after its end.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

const VERSION: u32 = 1;

/// A place in the input file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// How many requests stand before it.
    pub(super) requests: u64,
    /// How many bytes stand before it.
    pub(super) bytes: u64,
}

/// One of the two files that a batch answers into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers {
    /// The file.
    pub(super) file: String,
    /// The bytes of each of its runs, and what tells the run from one that somebody else has written in vain.
    pub(super) runs: Vec<(u64, u32)>,
}

impl Answers {
    /// What a run is called.
    pub(super) fn name(&self, place: usize, tag: u32) -> String {
        format!("{}-{place}-{tag:08x}", self.file)
    }

    /// The content.
    pub(super) fn content(&self) -> Vec<Run> {
        let run = |(place, (bytes, tag)): (usize, &(u64, u32))| Run { of: self.name(place, *tag), bytes: *bytes };
        self.runs.iter().enumerate().map(run).collect()
    }
}

/// A batch as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredBatch {
    v: u32,
    pub(super) input: String,
    pub(super) endpoint: Endpoint,
    pub(super) window: Window,
    pub(super) status: BatchStatus,
    created_ms: i64,
    /// For how many seconds the answers' files are kept.
    pub(super) output_seconds: u64,
    pub(super) problems: Vec<BatchProblem>,
    pub(super) total: u64,
    /// Lines before it are parked, or are no good.
    pub(super) split: Place,
    /// The answers of lines before it are in the files.
    pub(super) collected: Place,
    pub(super) completed: u64,
    pub(super) failed: u64,
    /// Some of its lines were not done in time.
    pub(super) has_expired: bool,
    pub(super) usage: BatchUsage,
    pub(super) output: Answers,
    pub(super) errors: Answers,
    /// When the answers' files last grew.
    pub(super) grown_ms: i64,
    /// When it came to be in each status.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) since: BTreeMap<String, i64>,
    metadata: BTreeMap<String, String>,
}

impl StoredBatch {
    fn read(text: &str) -> PortResult<Self> {
        let corrupt = |cause: String| PortError::Corrupt { what: "batch", cause };
        let batch: Self = serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
        if batch.v == VERSION { Ok(batch) } else { Err(corrupt("a newer program wrote it".to_owned())) }
    }

    pub(super) fn created(&self) -> Timestamp {
        Timestamp::from_millis(self.created_ms)
    }

    /// When its time is over.
    pub(super) fn expires(&self) -> Timestamp {
        self.created().after(self.window.time())
    }

    /// When it last came on.
    pub(super) fn moved(&self) -> Timestamp {
        Timestamp::from_millis(self.grown_ms)
    }

    /// Puts it into another status.
    pub(super) fn enter(&mut self, status: BatchStatus, now: Timestamp) {
        self.status = status;
        self.since.insert(status.name().to_owned(), now.as_secs());
    }

    /// The job of its `n`th request, from 0: the same whoever asks.
    pub(super) fn job(&self, id: &str, n: u64) -> JobId {
        let digest = Sha256::new().chain_update(id).chain_update(n.to_be_bytes()).finalize();
        let mut draw = [0u8; 16];
        draw.copy_from_slice(&digest[..16]);
        JobId::new(self.created(), u128::from_be_bytes(draw))
    }

    pub(crate) fn shown(&self, id: &str) -> Batch {
        let since = |status: BatchStatus| self.since.get(status.name()).copied();
        let some = |answers: &Answers| (!answers.runs.is_empty()).then(|| answers.file.clone());
        let problems = BatchProblems { object: "list".to_owned(), data: self.problems.clone() };
        Batch {
            id: id.to_owned(),
            object: "batch".to_owned(),
            endpoint: self.endpoint,
            errors: (!self.problems.is_empty()).then_some(problems),
            input_file_id: self.input.clone(),
            completion_window: self.window,
            status: self.status,
            output_file_id: some(&self.output),
            error_file_id: some(&self.errors),
            created_at: self.created().as_secs(),
            in_progress_at: since(BatchStatus::InProgress),
            expires_at: self.expires().as_secs(),
            finalizing_at: since(BatchStatus::Finalizing),
            completed_at: since(BatchStatus::Completed),
            failed_at: since(BatchStatus::Failed),
            expired_at: since(BatchStatus::Expired),
            cancelling_at: since(BatchStatus::Cancelling),
            cancelled_at: since(BatchStatus::Cancelled),
            request_counts: RequestCounts { total: self.total, completed: self.completed, failed: self.failed },
            usage: self.usage,
            metadata: self.metadata.clone(),
        }
    }
}

fn shelf(tenant: &TenantId) -> ShelfId {
    ShelfId::of_tenant("batches", tenant)
}

impl Service {
    pub(super) async fn create_batch(&self, tenant: &Tenant, ask: BatchRequest) -> Result<Batch, ApiError> {
        let now = self.ports.clock.now();
        if !tenant.retention.store {
            let message = "nothing of this tenant is kept, so no batch's answers can be collected later";
            return Err(ApiError::invalid("input_file_id", "unsupported_parameter", message));
        }
        let input = self.find_file(&tenant.id, &ask.input_file_id).await?;
        let input = input.ok_or_else(|| ApiError::no_such_file(&ask.input_file_id))?;
        if input.purpose() != Purpose::Batch {
            let message = format!("'input_file_id' is a file for {}, not for a batch", input.purpose().name());
            return Err(ApiError::invalid("input_file_id", "invalid_value", message));
        }
        let fresh = || JobId::new(now, self.ports.entropy.draw());
        let id = format!("batch_{}", fresh());
        let answers = || Answers { file: file_id(fresh()), runs: Vec::new() };
        let mut batch = StoredBatch {
            v: VERSION,
            input: ask.input_file_id,
            endpoint: ask.endpoint,
            window: ask.window,
            status: BatchStatus::Validating,
            created_ms: now.as_millis(),
            output_seconds: ask.output_seconds.unwrap_or(tenant.retention.keep.as_secs()),
            problems: Vec::new(),
            total: 0,
            split: Place::default(),
            collected: Place::default(),
            completed: 0,
            failed: 0,
            has_expired: false,
            usage: BatchUsage::default(),
            output: answers(),
            errors: answers(),
            grown_ms: now.as_millis(),
            since: BTreeMap::new(),
            metadata: ask.metadata,
        };
        batch.enter(BatchStatus::Validating, now);
        // First what carries it on: an errand without a batch ends by itself, a batch without an errand never would.
        self.put_down(&Errand::new(Kind::Batch, &tenant.id, &id), now).await?;
        self.place(&shelf(&tenant.id), &id, &batch, None, None).await?;
        Ok(batch.shown(&id))
    }

    /// A tenant's batch with its version.
    pub(super) async fn read_batch(&self, tenant: &TenantId, id: &str) -> PortResult<Option<Versioned>> {
        let found = self.ports.shelf.find(&shelf(tenant), id).await?;
        found.map(|found| Ok((StoredBatch::read(&found.text)?, found.version))).transpose()
    }

    /// Replaces a batch; `None` if somebody else has done so meanwhile, else its new version.
    pub(super) async fn write_batch(
        &self,
        tenant: &TenantId,
        id: &str,
        batch: &StoredBatch,
        version: u64,
        now: Timestamp,
    ) -> PortResult<Option<u64>> {
        let expires = batch.status.is_over().then(|| now.after(REMEMBERED));
        let placed = self.place(&shelf(tenant), id, batch, Some(version), expires).await?;
        Ok(placed.then(|| version.saturating_add(1)))
    }

    async fn existing_batch(&self, tenant: &Tenant, id: &str) -> Result<Versioned, ApiError> {
        let found = if is_id(id, "batch_") { self.read_batch(&tenant.id, id).await? } else { None };
        found.ok_or_else(|| ApiError::no_such_batch(id))
    }

    pub(super) async fn show_batch(&self, tenant: &Tenant, id: &str) -> Result<Batch, ApiError> {
        Ok(self.existing_batch(tenant, id).await?.0.shown(id))
    }

    pub(super) async fn list_batches(
        &self,
        tenant: &Tenant,
        order: Order,
        after: Option<&str>,
        most: usize,
    ) -> Result<Page<Batch>, ApiError> {
        // One more than is shown says whether there is another page.
        let mut found = self.ports.shelf.walk(&shelf(&tenant.id), order, after, most + 1).await?;
        let has_more = found.len() > most;
        found.truncate(most);
        let shown = found.iter().map(|one| Ok(StoredBatch::read(&one.document.text)?.shown(&one.name)));
        Ok(Page::new(shown.collect::<PortResult<_>>()?, has_more, |batch| &batch.id))
    }

    /// Asks for a batch's cancellation. What has ended by then stays in its files.
    pub(super) async fn cancel_batch(&self, tenant: &Tenant, id: &str) -> Result<Batch, ApiError> {
        loop {
            let now = self.ports.clock.now();
            let (mut batch, version) = self.existing_batch(tenant, id).await?;
            match batch.status {
                BatchStatus::Cancelling => return Ok(batch.shown(id)),
                BatchStatus::Validating | BatchStatus::InProgress | BatchStatus::Finalizing => {}
                BatchStatus::Failed | BatchStatus::Completed | BatchStatus::Expired | BatchStatus::Cancelled => {
                    return Err(ApiError::batch_is_over(batch.status.name()));
                }
            }
            batch.enter(BatchStatus::Cancelling, now);
            if self.write_batch(&tenant.id, id, &batch, version, now).await?.is_some() {
                self.put_down(&Errand::new(Kind::Batch, &tenant.id, id), now).await?;
                return Ok(batch.shown(id));
            }
        }
    }

    /// Announces the end of a batch.
    pub(super) async fn announce_batch(&self, tenant: &TenantId, id: &str, batch: &StoredBatch) -> PortResult<()> {
        let event = match batch.status {
            BatchStatus::Completed => EventType::BatchCompleted,
            BatchStatus::Failed => EventType::BatchFailed,
            BatchStatus::Expired => EventType::BatchExpired,
            BatchStatus::Cancelled => EventType::BatchCancelled,
            BatchStatus::Validating | BatchStatus::InProgress | BatchStatus::Finalizing | BatchStatus::Cancelling => {
                return Ok(());
            }
        };
        let Some(own) = id.strip_prefix("batch_").and_then(|own| own.parse().ok()) else { return Ok(()) };
        let at = batch.since.get(batch.status.name()).copied().unwrap_or_default();
        self.announce(tenant, event, id, own, Timestamp::from_millis(at.saturating_mul(1000))).await
    }
}
