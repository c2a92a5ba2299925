//! Collecting a batch's answers, in the order of its lines: what has ended goes into the files, in runs of many lines, and
//! the place up to which it is there is written down with the counts and the sums, all in one write.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::job::{State, Step};
use penstock_policy::time::Timestamp;
use penstock_wire::batches::{BatchStatus, BatchUsage, ErrorAnswer, Line, ResultError, ResultLine, ResultResponse};
use penstock_wire::files::Purpose;

use super::batch::{Answers, Place, StoredBatch};
use super::check::gone;
use super::lines::{Found, Lines, is_blank};
use super::request::{LineRequest, raw, route};
use crate::Service;
use crate::error::ApiError;
use crate::files::content::{self, Writer};
use crate::files::file::NewFile;
use crate::ports::{Answer, JobRecord, Pool, PortError, PortResult, Stepped};

/// Lines looked at together.
const TOGETHER: usize = 64;

/// The most lines, and about the most bytes, of a run.
const MOST_LINES: u64 = 2_000;
const MOST_BYTES: usize = content::SEGMENT;

/// After so long fewer lines than usual make a run too.
const AT_LEAST_EVERY: Duration = Duration::from_secs(120);

/// How much longer than its window a batch waits for what runs at the end of it.
const GRACE: Duration = Duration::from_secs(120);

/// What was collected and not written yet.
#[derive(Default)]
struct Gathered {
    output: Vec<u8>,
    errors: Vec<u8>,
    completed: u64,
    failed: u64,
    has_expired: bool,
    usage: BatchUsage,
}

/// How a line ended.
enum LineEnd {
    /// It has not.
    Waits,
    Answered(Box<ResultLine>, Answer),
    Failed(Box<ResultLine>),
    Expired(Box<ResultLine>),
}

/// How what has not ended is dealt with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// It is waited for.
    No,
    /// It is ended, for this batch is cancelled.
    Cancelled,
    /// It is ended, for its time is over; what runs, only after the grace.
    Expired { at_once: bool },
}

impl StoredBatch {
    fn closing(&self, now: Timestamp) -> Closing {
        if self.status == BatchStatus::Cancelling {
            Closing::Cancelled
        } else if now >= self.expires() {
            Closing::Expired { at_once: now >= self.expires().after(GRACE) }
        } else {
            Closing::No
        }
    }

    /// How many lines make a run: a hundredth of the batch.
    fn threshold(&self) -> u64 {
        (self.total / 100).clamp(1, 500)
    }
}

impl Service {
    /// Collects what has ended; says whether there was anything.
    pub(super) async fn collect(
        self: &Arc<Self>,
        tenant: &TenantId,
        id: &str,
        batch: StoredBatch,
        version: u64,
        now: Timestamp,
    ) -> PortResult<bool> {
        if batch.collected.requests >= batch.total {
            return self.end_batch(tenant, id, batch, version, now).await.map(|()| true);
        }
        let closing = batch.closing(now);
        if !self.is_worth_collecting(id, &batch, closing, now).await? {
            return Ok(false);
        }
        let Some(input) = self.find_file(tenant, &batch.input).await? else {
            self.fail_batch(tenant, id, batch, version, vec![gone()], now).await?;
            return Ok(true);
        };
        let pools = self.pools(now).await?;
        let mut lines = Lines::new(self.ports.blobs.as_ref(), tenant, &input.runs, batch.collected.bytes);
        let (mut gathered, mut place) = (Gathered::default(), batch.collected);
        'all: while place.requests < batch.collected.requests + MOST_LINES
            && gathered.output.len() + gathered.errors.len() < MOST_BYTES
        {
            let some = next_lines(&mut lines, place, &batch, closing).await?;
            if some.is_empty() {
                if closing != Closing::No || batch.split.requests >= batch.total {
                    // The file has no more: blank lines at its end.
                    place.requests = batch.total.max(place.requests);
                }
                break;
            }
            if closing == Closing::Cancelled {
                self.cancel_all(some.iter().map(|(n, ..)| batch.job(id, *n)).collect::<Vec<_>>()).await?;
            }
            let mut looks: Vec<BoxFuture<'_, PortResult<LineEnd>>> = Vec::new();
            for (n, line, _) in &some {
                looks.push(self.look_at_line(id, &batch, *n, line, &pools, closing, now).boxed());
            }
            let ends = join_all(looks).await;
            for ((n, _, after), end) in some.iter().zip(ends) {
                if !gathered.add(end?)? {
                    break 'all;
                }
                place = Place { requests: n + 1, bytes: *after };
            }
        }
        let lines = place.requests - batch.collected.requests;
        let is_last = place.requests >= batch.total;
        let is_much = lines >= batch.threshold() || gathered.output.len() + gathered.errors.len() >= MOST_BYTES;
        let is_late = now.since(batch.moved()) >= AT_LEAST_EVERY || closing != Closing::No;
        if lines == 0 || !(is_last || is_much || is_late) {
            return Ok(false);
        }
        self.grow(tenant, id, batch, version, gathered, place, now).await?;
        Ok(true)
    }

    /// One look that saves many: whether the line that would make a run whole has ended.
    async fn is_worth_collecting(
        &self,
        id: &str,
        batch: &StoredBatch,
        closing: Closing,
        now: Timestamp,
    ) -> PortResult<bool> {
        if closing != Closing::No || now.since(batch.moved()) >= AT_LEAST_EVERY {
            return Ok(true);
        }
        let last = (batch.collected.requests + batch.threshold()).min(batch.total) - 1;
        if last >= batch.split.requests {
            return Ok(false);
        }
        let record = self.ports.jobs.record(batch.job(id, last)).await?;
        // A line without a job is no good.
        Ok(record.is_none_or(|record| record.head.state.is_terminal()))
    }

    #[expect(clippy::too_many_arguments, reason = "one line's particulars, read once for all lines")]
    async fn look_at_line(
        &self,
        id: &str,
        batch: &StoredBatch,
        n: u64,
        line: &[u8],
        pools: &[Pool],
        closing: Closing,
        now: Timestamp,
    ) -> PortResult<LineEnd> {
        let job = batch.job(id, n);
        let line = Line::parse(line, batch.endpoint)
            .map_err(|error| PortError::Corrupt { what: "batch's file", cause: error.message })?;
        let result = Unanswered { job, custom_id: line.custom_id };
        let request = LineRequest::parse(line.body.as_bytes(), batch.endpoint);
        let mut record = self.ports.jobs.record(job).await?;
        if let (Closing::Expired { at_once }, Some(found)) = (closing, &record)
            && !found.head.state.is_terminal()
        {
            record = self.close_line(job, at_once, now).await?;
        }
        let request = match request {
            Ok(request) => request,
            Err(refused) => return result.refused(&ApiError::from(refused)),
        };
        let Some(record) = record else {
            return match (request.wanted().pool(pools), closing) {
                (Err(error), _) => result.refused(&error.in_terms_of(route(batch.endpoint))),
                (Ok(_), Closing::Cancelled) => Ok(result.never("batch_cancelled")),
                (Ok(_), Closing::Expired { .. }) => Ok(result.never("batch_expired")),
                (Ok(_), Closing::No) => result.refused(&ApiError::result_gone()),
            };
        };
        match (record.head.state, closing) {
            (State::Expired, _) | (State::Cancelled, Closing::Expired { .. }) => {
                return Ok(result.never("batch_expired"));
            }
            (State::Cancelled, Closing::No | Closing::Cancelled) => return Ok(result.never("batch_cancelled")),
            (State::Parked | State::Queued | State::Running | State::Succeeded | State::Failed, _) => {}
        }
        self.answer_line(result, &request, &record, batch).await
    }

    async fn answer_line(
        &self,
        result: Unanswered,
        request: &LineRequest,
        record: &JobRecord,
        batch: &StoredBatch,
    ) -> PortResult<LineEnd> {
        let (Some(said), Some(spec)) = (self.said_of(result.job, record).await?, &record.spec) else {
            return if record.head.state.is_terminal() && record.spec.is_none() {
                result.refused(&ApiError::forgotten())
            } else {
                Ok(LineEnd::Waits)
            };
        };
        let (said, answer) = match said {
            Ok(said) => said,
            Err(error) => return result.refused(&error.in_terms_of(route(batch.endpoint))),
        };
        match request.answered(self, spec, &said, &answer).await {
            Ok(body) => Ok(LineEnd::Answered(Box::new(result.with(200, body)), answer)),
            Err(error) if error.is_store_failure() => {
                Err(PortError::Unavailable { store: "blobs", cause: error.body.error.message })
            }
            Err(error) => result.refused(&error),
        }
    }

    /// Ends a line whose time is over, unless it runs and may go on for a moment.
    async fn close_line(&self, job: JobId, at_once: bool, now: Timestamp) -> PortResult<Option<JobRecord>> {
        let expired = self.ports.jobs.step(job, &Stepped::from(Step::Expire), self.nonce(), now).await?;
        if expired.is_err() && at_once {
            self.cancel_all([job]).await?;
        }
        self.settle(job).await?;
        self.ports.jobs.record(job).await
    }

    /// Appends what was gathered to the files, and moves the batch's place on.
    #[expect(clippy::too_many_arguments, reason = "what one write replaces, and by what")]
    async fn grow(
        &self,
        tenant: &TenantId,
        id: &str,
        mut batch: StoredBatch,
        version: u64,
        gathered: Gathered,
        place: Place,
        now: Timestamp,
    ) -> PortResult<()> {
        let output = self.append(tenant, &mut batch.output, &gathered.output).await?;
        let errors = self.append(tenant, &mut batch.errors, &gathered.errors).await?;
        batch.collected = place;
        batch.completed += gathered.completed;
        batch.failed += gathered.failed;
        batch.has_expired |= gathered.has_expired;
        add(&mut batch.usage, &gathered.usage);
        batch.grown_ms = now.as_millis();
        if batch.collected.requests >= batch.total && batch.status == BatchStatus::InProgress {
            batch.enter(BatchStatus::Finalizing, now);
        }
        if self.write_batch(tenant, id, &batch, version, now).await?.is_none() {
            let vain: Vec<_> = output.into_iter().chain(errors).collect();
            return content::remove(self.ports.blobs.as_ref(), tenant, &vain).await;
        }
        self.show_answers(tenant, &batch, now).await
    }

    async fn append(&self, tenant: &TenantId, answers: &mut Answers, bytes: &[u8]) -> PortResult<Option<content::Run>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let tag = u32::try_from(self.ports.entropy.draw() >> 96).unwrap_or_default();
        let mut writer = Writer::new(self.ports.blobs.as_ref(), tenant, &answers.name(answers.runs.len(), tag));
        writer.write(bytes).await?;
        let run = writer.finish().await?;
        answers.runs.push((run.bytes, tag));
        Ok(Some(run))
    }

    /// Makes the answers' files what the batch says they are.
    async fn show_answers(&self, tenant: &TenantId, batch: &StoredBatch, now: Timestamp) -> PortResult<()> {
        for (answers, kind) in [(&batch.output, "output"), (&batch.errors, "error")] {
            if answers.runs.is_empty() {
                continue;
            }
            let new = NewFile {
                id: answers.file.clone(),
                name: format!("{}_{kind}.jsonl", batch.input),
                purpose: Purpose::BatchOutput,
                created: batch.created(),
                // They are kept from the batch's end on; until then it moves.
                expires: Some(now.after(Duration::from_secs(batch.output_seconds))),
                runs: answers.content(),
            };
            self.put_file(tenant, new).await?;
        }
        Ok(())
    }

    /// Ends a batch all of whose lines are collected.
    async fn end_batch(
        &self,
        tenant: &TenantId,
        id: &str,
        mut batch: StoredBatch,
        version: u64,
        now: Timestamp,
    ) -> PortResult<()> {
        // Whoever wrote the last run may have died before this.
        self.show_answers(tenant, &batch, now).await?;
        let status = match batch.status {
            BatchStatus::Cancelling => BatchStatus::Cancelled,
            _ if batch.has_expired => BatchStatus::Expired,
            BatchStatus::Validating
            | BatchStatus::InProgress
            | BatchStatus::Finalizing
            | BatchStatus::Completed
            | BatchStatus::Failed
            | BatchStatus::Expired
            | BatchStatus::Cancelled => BatchStatus::Completed,
        };
        batch.enter(status, now);
        self.write_batch(tenant, id, &batch, version, now).await?;
        Ok(())
    }
}

impl Gathered {
    /// Adds how a line ended; `false` if it has not.
    fn add(&mut self, end: LineEnd) -> PortResult<bool> {
        let (line, to) = match end {
            LineEnd::Waits => return Ok(false),
            LineEnd::Answered(line, answer) => {
                self.completed += 1;
                add(&mut self.usage, &usage(&answer));
                (line, &mut self.output)
            }
            LineEnd::Failed(line) => {
                self.failed += 1;
                (line, &mut self.errors)
            }
            LineEnd::Expired(line) => {
                self.failed += 1;
                self.has_expired = true;
                (line, &mut self.errors)
            }
        };
        serde_json::to_writer(&mut *to, &line)
            .map_err(|error| PortError::Corrupt { what: "batch's answer", cause: error.to_string() })?;
        to.push(b'\n');
        Ok(true)
    }
}

/// A line to which there is no answer yet.
struct Unanswered {
    job: JobId,
    custom_id: String,
}

impl Unanswered {
    fn line(self, response: Option<ResultResponse>, error: Option<ResultError>) -> ResultLine {
        ResultLine { id: format!("batch_req_{}", self.job), custom_id: self.custom_id, response, error }
    }

    fn with(self, status_code: u16, body: Box<serde_json::value::RawValue>) -> ResultLine {
        let request_id = self.job.to_string();
        self.line(Some(ResultResponse { status_code, request_id, body }), None)
    }

    /// The line as the route would have refused it.
    fn refused(self, error: &ApiError) -> PortResult<LineEnd> {
        let body = raw(&ErrorAnswer { error: &error.body.error })
            .map_err(|_| PortError::Corrupt { what: "batch's answer", cause: "an error is no JSON".to_owned() })?;
        Ok(LineEnd::Failed(Box::new(self.with(error.status.as_u16(), body))))
    }

    /// The line as one that was never answered.
    fn never(self, code: &str) -> LineEnd {
        let message = match code {
            "batch_expired" => "this request was not answered within the batch's completion window",
            _ => "this request was not answered before it was cancelled",
        };
        let error = ResultError { code: code.to_owned(), message: message.to_owned() };
        let line = Box::new(self.line(None, Some(error)));
        if code == "batch_expired" { LineEnd::Expired(line) } else { LineEnd::Failed(line) }
    }
}

/// The next lines, each with its number and the place in the file after it. Those that are not parked yet are not looked
/// at, unless they never will be.
async fn next_lines(
    lines: &mut Lines<'_>,
    place: Place,
    batch: &StoredBatch,
    closing: Closing,
) -> PortResult<Vec<(u64, Bytes, u64)>> {
    let end = if closing == Closing::No { batch.split.requests } else { batch.total };
    let (mut some, mut n) = (Vec::new(), place.requests);
    while some.len() < TOGETHER
        && n < end
        && let Some(found) = lines.next().await?
    {
        if let Found::Line(line) = found
            && !is_blank(&line)
        {
            some.push((n, line, lines.at()));
            n += 1;
        }
    }
    Ok(some)
}

fn usage(answer: &Answer) -> BatchUsage {
    let mut usage = BatchUsage {
        input_tokens: answer.prompt_tokens.into(),
        output_tokens: answer.completion_tokens.into(),
        total_tokens: u64::from(answer.prompt_tokens) + u64::from(answer.completion_tokens),
        ..BatchUsage::default()
    };
    usage.input_tokens_details.cached_tokens = answer.cached_tokens.into();
    usage.output_tokens_details.reasoning_tokens = answer.reasoning_tokens.into();
    usage
}

fn add(sum: &mut BatchUsage, more: &BatchUsage) {
    sum.input_tokens += more.input_tokens;
    sum.output_tokens += more.output_tokens;
    sum.total_tokens += more.total_tokens;
    sum.input_tokens_details.cached_tokens += more.input_tokens_details.cached_tokens;
    sum.output_tokens_details.reasoning_tokens += more.output_tokens_details.reasoning_tokens;
}
