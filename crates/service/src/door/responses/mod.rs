//! `/v1/responses`: what they are made of, how they are continued, cancelled and removed.
//!
//! A response is a job, seen by an id of its own: the job's record and chunks say where it stands and what was said. What
//! they cannot say, the request itself, is kept beside them ([`noted`]). So a response answered by another request's job
//! is still its own response, and its cancellation takes its own interest in the job away, not everybody's.

mod noted;
mod routes;

use std::sync::Arc;

use penstock_policy::id::JobId;
use penstock_policy::job::State;
use penstock_wire::responses::{Item, Response, ResponseStatus};

use crate::Service;
use crate::door::route::Route;
use crate::door::telling::ResponseTelling;
use crate::error::ApiError;
use crate::ports::{JobRecord, Tenant};

pub(crate) use noted::Noted;
pub use noted::noted_of;
pub(crate) use routes::{cancel, create, input_items, remove, show};

/// What the stock clients put before a response's id.
const PREFIX: &str = "resp_";

/// The job id inside a response's id.
fn parse(id: &str) -> Result<JobId, ApiError> {
    id.strip_prefix(PREFIX).and_then(|id| id.parse().ok()).ok_or_else(|| ApiError::no_such_response(id))
}

impl Service {
    /// A tenant's kept response, by the id that its client knows.
    async fn response_noted(&self, tenant: &Tenant, id: &str) -> Result<(JobId, Noted), ApiError> {
        let shown = parse(id)?;
        match self.noted(&tenant.id, shown).await? {
            Some(noted) => Ok((shown, noted)),
            None => Err(ApiError::no_such_response(id)),
        }
    }

    /// A kept response as it stands.
    async fn response(self: &Arc<Self>, tenant: &Tenant, shown: JobId, noted: &Noted) -> Result<Response, ApiError> {
        let telling = ResponseTelling::new(noted.heading(shown)?, noted.echo.clone(), None);
        if self.is_cancelled(&tenant.id, shown).await? {
            return Ok(telling.without_answer(&ApiError::cancelled()));
        }
        let job = noted.job()?;
        let record = self.ports.jobs.record(job).await?;
        // The record is removed with its chunks some time after the end.
        let record = record.ok_or_else(|| ApiError::no_such_response(&format!("{PREFIX}{shown}")))?;
        if !record.head.state.is_terminal() {
            return Ok(telling.unfinished(status(&record, noted.echo.background)));
        }
        match self.said_of(job, &record).await? {
            Some(Ok((said, answer))) => Ok(telling.finished(&said, &answer)),
            Some(Err(error)) => Ok(telling.without_answer(&error.in_terms_of(Route::Responses))),
            None => Err(ApiError::store_unavailable()),
        }
    }

    /// Everything that was said up to the end of an earlier response, to be continued.
    async fn conversation(self: &Arc<Self>, tenant: &Tenant, id: &str) -> Result<Vec<Item>, ApiError> {
        let refuse = |code: &str, why: &str| {
            let message = format!("'previous_response_id' is '{id}': {why}");
            ApiError::invalid("previous_response_id", code, message)
        };
        let found = match parse(id) {
            Ok(shown) => self.noted(&tenant.id, shown).await?.map(|noted| (shown, noted)),
            Err(_) => None,
        };
        let Some((shown, noted)) = found else {
            return Err(refuse("previous_response_not_found", "there is no such response"));
        };
        let response = self.response(tenant, shown, &noted).await?;
        match response.status {
            ResponseStatus::Completed | ResponseStatus::Incomplete => {
                Ok(noted.history.into_iter().chain(noted.input).chain(response.output).collect())
            }
            ResponseStatus::Queued | ResponseStatus::InProgress => {
                Err(refuse("invalid_value", "it has not ended yet; continue it once it has"))
            }
            ResponseStatus::Failed | ResponseStatus::Cancelled => {
                Err(refuse("invalid_value", "it ended without an answer; continue the one before"))
            }
        }
    }

    /// Takes a client's interest in a response's job away, for good and once, and cancels the job if it was the last.
    ///
    /// The note is written first: who asks twice finds it. Two who ask at the same moment may both take it away, which can
    /// only end a job that an identical request of the same tenant waits for, whose client then runs it anew.
    async fn cancel_response(&self, tenant: &Tenant, shown: JobId, noted: &Noted) -> Result<(), ApiError> {
        if !self.is_cancelled(&tenant.id, shown).await? {
            self.note_cancelled(&tenant.id, shown).await?;
            self.leave(noted.job()?).await?;
        }
        Ok(())
    }
}

fn status(record: &JobRecord, background: bool) -> ResponseStatus {
    match record.head.state {
        State::Parked | State::Queued if background => ResponseStatus::Queued,
        State::Parked | State::Queued | State::Running => ResponseStatus::InProgress,
        State::Succeeded => ResponseStatus::Completed,
        State::Failed | State::Expired => ResponseStatus::Failed,
        State::Cancelled => ResponseStatus::Cancelled,
    }
}
