//! Removing what a tenant does not want kept: words right after they were delivered, or all there is of it.
//!
//! Erasing goes in parts, each bounded, each safe to repeat; whoever asks for them passes on where the last one stopped,
//! and after a break simply begins again. The tenant is suspended first. What runs is cancelled, and its words are
//! removed once no worker's claim on it can hold any more. The end is reached only when every handler must have heard of
//! the suspension, since one that had not could still accept a job: so a whole erasure takes a minute at least.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use penstock_policy::id::{Epoch, JobId, TenantId};
use penstock_policy::job::Step;
use penstock_policy::time::Timestamp;
use penstock_wire::admin::{EraseSome, Erased};

use crate::Service;
use crate::error::ApiError;
use crate::ports::{Forget, JobRecord, Order, PortResult, ShelfId, Stepped, TENANT_SHELVES, Tenant};
use crate::tenancy::usage::all_usage_keys;

/// How long an answer that is not to be stored is kept after its end: for a client's retry to find, and for one that
/// reads slowly to read on.
const RETRIED_WITHIN: Duration = Duration::from_secs(120);

/// How much longer than handlers remember tenants a suspension takes to be known: the store's own lag.
const LAG: Duration = Duration::from_secs(5);

/// Documents of one look.
const TOGETHER: usize = 100;

impl Service {
    /// Removes a job's words in a while. Should this process die before, they go with the sweep of old records.
    pub(crate) fn forget_later(&self, job: JobId, now: Timestamp) {
        let (erasure, clock) = (Arc::clone(&self.ports.erasure), Arc::clone(&self.ports.clock));
        let task = async move {
            clock.sleep_until(now.after(RETRIED_WITHIN)).await;
            if let Err(error) = erasure.forget(job, Forget::Words).await {
                tracing::warn!(%job, %error, "an answer that is not to be kept goes with the old records only");
            }
        };
        self.ports.spawner.spawn(task.boxed());
    }

    /// Erases some of a tenant.
    ///
    /// # Errors
    /// 404 if there is no such tenant (any more); 400 about a cursor that is none; if the store does not answer.
    pub(crate) async fn erase_some(&self, id: &str, ask: &EraseSome) -> Result<Erased, ApiError> {
        let tenant = self.suspended(self.existing(id).await?).await?;
        let now = self.ports.clock.now();
        let place = match &ask.cursor {
            None => Place { begun: now, part: Part::Jobs, after: None },
            Some(text) => Place::read(text).ok_or_else(|| {
                ApiError::invalid("cursor", "invalid_value", "'cursor' is not the 'next' of an answer".to_owned())
            })?,
        };
        match place.part {
            Part::Jobs => self.erase_jobs(&tenant, place, now).await,
            Part::Traces => self.erase_traces(&tenant, place, ask.usage, now).await,
        }
    }

    async fn suspended(&self, tenant: Tenant) -> PortResult<Tenant> {
        if tenant.suspended {
            return Ok(tenant);
        }
        let tenant = Tenant { suspended: true, ..tenant };
        self.ports.control.put_tenant(&tenant).await?;
        self.caches.tenants.forget(&tenant.id);
        Ok(tenant)
    }

    async fn erase_jobs(&self, tenant: &Tenant, place: Place, now: Timestamp) -> Result<Erased, ApiError> {
        let page = self.ports.erasure.jobs_of(&tenant.id, place.after.as_deref()).await?;
        let mut erased = Erased::default();
        for job in page.found {
            if self.erase_job(job, now).await? {
                erased.jobs += 1;
            } else {
                erased.waiting = true;
            }
        }
        let next = match page.next {
            Some(after) => Place { after: Some(after), ..place },
            // What is still held is looked at again from the beginning.
            None if erased.waiting => Place { after: None, ..place },
            None => Place { part: Part::Traces, after: None, ..place },
        };
        Ok(Erased { next: Some(next.text()), ..erased })
    }

    /// Ends a job and removes all of it; `false` if a worker may still write about it.
    async fn erase_job(&self, job: JobId, now: Timestamp) -> PortResult<bool> {
        let cancel = Stepped::from(Step::Cancel { regardless_of_interest: true });
        self.ports.jobs.step(job, &cancel, self.nonce(), now).await?.ok();
        self.settle(job).await?;
        let Some(record) = self.ports.jobs.record(job).await? else { return Ok(true) };
        if !record.head.state.is_terminal() || self.is_held(&record, now) {
            return Ok(false);
        }
        self.ports.erasure.forget(job, Forget::Everything).await?;
        Ok(true)
    }

    /// Whether the job ended so lately, and without its worker's doing, that the worker may not have heard of it.
    fn is_held(&self, record: &JobRecord, now: Timestamp) -> bool {
        let ended_by_others = record.outcome.is_none() && record.head.epoch > Epoch(0);
        ended_by_others && record.finished.is_some_and(|ended| now.since(ended) < self.timing.lease)
    }

    async fn erase_traces(
        &self,
        tenant: &Tenant,
        place: Place,
        usage: bool,
        now: Timestamp,
    ) -> Result<Erased, ApiError> {
        let page = self.ports.erasure.remove_traces(&tenant.id, place.after.as_deref()).await?;
        let erased = Erased { traces: page.found, ..Erased::default() };
        if let Some(after) = page.next {
            return Ok(Erased { next: Some(Place { after: Some(after), ..place }.text()), ..erased });
        }
        if now < place.begun.after(self.timing.record_cache + LAG) {
            let again = Place { part: Part::Jobs, after: None, ..place };
            return Ok(Erased { waiting: true, next: Some(again.text()), ..erased });
        }
        self.clear_shelves(&tenant.id).await?;
        for key in self.ports.control.keys(&tenant.id).await? {
            self.ports.control.remove_key(&key).await?;
            self.caches.keys.forget(&key.id);
        }
        if usage {
            for key in all_usage_keys(&tenant.id, now) {
                self.ports.tally.clear(&key).await?;
            }
        }
        self.ports.erasure.scrub().await?;
        self.ports.control.remove_tenant(&tenant.id).await?;
        self.caches.tenants.forget(&tenant.id);
        Ok(erased)
    }
}

impl Service {
    /// Removes a tenant's documents. Errands about them find nothing, and end.
    async fn clear_shelves(&self, tenant: &TenantId) -> PortResult<()> {
        for kind in TENANT_SHELVES {
            let shelf = ShelfId::of_tenant(kind, tenant);
            loop {
                let found = self.ports.shelf.walk(&shelf, Order::Rising, None, TOGETHER).await?;
                for one in &found {
                    self.ports.shelf.take_away(&shelf, &one.name).await?;
                }
                if found.len() < TOGETHER {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Where an erasure stands.
struct Place {
    begun: Timestamp,
    part: Part,
    after: Option<String>,
}

#[derive(Clone, Copy)]
enum Part {
    Jobs,
    Traces,
}

impl Place {
    fn text(&self) -> String {
        let part = match self.part {
            Part::Jobs => "jobs",
            Part::Traces => "traces",
        };
        format!("{}:{part}:{}", self.begun.as_millis(), self.after.as_deref().unwrap_or_default())
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let begun = Timestamp::from_millis(parts.next()?.parse().ok()?);
        let part = match parts.next()? {
            "jobs" => Part::Jobs,
            "traces" => Part::Traces,
            _ => return None,
        };
        let after = parts.next().filter(|after| !after.is_empty()).map(str::to_owned);
        Some(Self { begun, part, after })
    }
}
