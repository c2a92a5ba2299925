//! A request looked at as the job it became: fetching its answer later, cancelling it.

use std::sync::Arc;

use penstock_policy::id::JobId;
use penstock_policy::job::{Denied, State, Step};
use penstock_wire::embeddings::Encoding;
use penstock_wire::job::{Job, JobPromise, JobResult};

use crate::Service;
use crate::door::rendering::{completion, usage};
use crate::door::route::Route;
use crate::door::telling::{CompletionsTelling, Heading};
use crate::door::vectors::vectors_of;
use crate::error::ApiError;
use crate::ports::{Answer, Chunk, JobRecord, JobSpec, Stepped, Tenant};

impl Service {
    /// A tenant's job.
    ///
    /// # Errors
    /// 404 if there is none of this id, or it is another tenant's; the two look alike.
    pub(crate) async fn job(self: &Arc<Self>, tenant: &Tenant, id: JobId) -> Result<Job, ApiError> {
        let record = self.own(tenant, id).await?;
        let spec = record.spec.as_ref().ok_or_else(ApiError::no_such_job)?;
        let usage = match &record.outcome {
            Some(Ok(answer)) => Some(usage(answer)),
            Some(Err(_)) | None => None,
        };
        let mut job = Job {
            id: id.to_string(),
            object: "job".to_owned(),
            status: record.head.state.status().to_owned(),
            model: spec.model.clone(),
            created_at: spec.created.as_secs(),
            started_at: record.started.map(|moment| moment.as_secs()),
            finished_at: record.finished.map(|moment| moment.as_secs()),
            promise: spec.admitted.promise.as_ref().map(|promise| JobPromise {
                eta_ms_50: u64::try_from(promise.eta_50.as_millis()).unwrap_or(u64::MAX),
                eta_ms_95: u64::try_from(promise.eta_95.as_millis()).unwrap_or(u64::MAX),
            }),
            result: None,
            error: None,
            usage,
        };
        if record.head.state.is_terminal() {
            match self.said_of(id, &record).await? {
                Some(Ok((said, answer))) => {
                    job.result = Some(self.result(tenant, spec, &said, &answer).await?);
                }
                Some(Err(error)) if record.head.state == State::Failed => {
                    job.error = Some(error.in_terms_of(spec.route).body.error);
                }
                Some(Err(_)) => {}
                None => return Err(ApiError::store_unavailable()),
            }
        }
        Ok(job)
    }

    /// Cancels a tenant's job, whoever else of the tenant waits for it, and shows it. A job that has ended stays as it
    /// is.
    ///
    /// # Errors
    /// As [`Service::job`].
    pub(crate) async fn cancel(self: &Arc<Self>, tenant: &Tenant, id: JobId) -> Result<Job, ApiError> {
        self.own(tenant, id).await?;
        let cancel = Stepped::from(Step::Cancel { regardless_of_interest: true });
        let now = self.ports.clock.now();
        match self.ports.jobs.step(id, &cancel, self.nonce(), now).await? {
            Ok(_) => self.settle(id).await?,
            Err(Denied::Ended(_)) => {}
            Err(denied) => tracing::error!(%id, ?denied, "a cancel was denied"),
        }
        self.job(tenant, id).await
    }

    pub(crate) async fn own(&self, tenant: &Tenant, id: JobId) -> Result<JobRecord, ApiError> {
        let record = self.ports.jobs.record(id).await?;
        record
            .filter(|record| record.spec.as_ref().is_some_and(|spec| spec.tenant == tenant.id))
            .ok_or_else(ApiError::no_such_job)
    }

    /// The answer in the form of the route that the job came by; a response that was not kept has the form of chat.
    async fn result(
        self: &Arc<Self>,
        tenant: &Tenant,
        spec: &JobSpec,
        said: &[Chunk],
        answer: &Answer,
    ) -> Result<JobResult, ApiError> {
        let heading = Heading { shown: spec.id, created: spec.created, model: spec.model.clone(), class: spec.class };
        if spec.route == Route::Responses
            && let Some(response) = self.response_of_job(tenant, spec.id).await?
        {
            return Ok(JobResult::Response(Box::new(response)));
        }
        if let Some(vectors) = vectors_of(said) {
            let list = self.embedding_list(&spec.model, Encoding::Float, vectors).await?;
            return Ok(JobResult::Embeddings(list));
        }
        Ok(match spec.route {
            Route::Completions => JobResult::Text(CompletionsTelling::new(heading, false).completion(said, answer)),
            Route::Chat | Route::Responses | Route::Embeddings => {
                JobResult::Chat(completion(spec.id, spec.created, &spec.model, spec.class, said, answer))
            }
        })
    }
}
