//! The reconciler: finds what was left lying, and finishes it.
//!
//! Once a minute or so one process walks through what is not over: jobs that are open, dead letters, parked jobs past due,
//! holds whose jobs have gone. Each round is bounded and goes on at the next run where it stopped, so that a large backlog
//! makes no run longer. What it does are the steps that everybody else does too, conditional and granted once: it may be
//! killed anywhere, and run beside itself. `penstock up` runs it on a timer, on AWS the function `reconcile` does.
//!
//! Payloads need no round: the bucket's lifecycle (`infra/data.yaml`), and `penstock up`'s housekeeping, remove them by an age
//! that no queue keeps a message for.

mod dead;
mod open;

use std::time::Duration;

use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use open::{POISON, poison};

use crate::Service;
use crate::ports::{BoardKey, PortResult};

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Ends whose consequences were drawn.
    pub settled: u64,
    /// Jobs that ended because nobody ran them by their due moment.
    pub expired: u64,
    /// Jobs that ended because they had killed their workers.
    pub given_up: u64,
    /// Dead letters that went back to their queues.
    pub sent_again: u64,
    /// Dead letters of jobs that had ended, removed.
    pub removed: u64,
    /// Holds that were ended.
    pub holds: u64,
    /// Some round has not come to its end: there is more to do.
    pub more: bool,
}

/// Where the rounds stopped; absent: at the beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Place {
    #[serde(default)]
    v: u32,
    #[serde(default)]
    open: Option<String>,
    #[serde(default)]
    holds: Option<String>,
}

/// Tenants whose holds one run counts.
const MOST_TENANTS: usize = 50;

impl Service {
    /// One run. Does nothing while another process does it.
    ///
    /// # Errors
    /// If a store does not answer; what was done stays done, and the next run goes on.
    pub async fn reconcile(&self, now: Timestamp) -> PortResult<Reconciled> {
        let mut done = Reconciled::default();
        if !self.lead("reconcile", now).await? {
            return Ok(done);
        }
        let key = BoardKey::new("reconcile", "place");
        let found = self.ports.board.read(&key).await?;
        let version = found.as_ref().map(|posted| posted.version);
        let mut place: Place = found.and_then(|posted| serde_json::from_str(&posted.text).ok()).unwrap_or_default();
        let before = place.clone();
        place.v = 1;
        for pool in self.pools(now).await?.iter() {
            self.triage_dead_letters(&pool.id, &mut done, now).await?;
            self.expire_parked(&pool.id, &mut done, now).await?;
        }
        self.look_at_open_jobs(&mut place.open, &mut done, now).await?;
        self.recount_some(&mut place.holds, &mut done, now).await?;
        if place != before {
            let text = serde_json::to_string(&place).unwrap_or_default();
            // Whoever was quicker has been there too.
            let _ = self.ports.board.post(&key, &text, version, self.nonce()).await?;
        }
        if done != Reconciled::default() {
            tracing::info!(?done, "reconciled");
        }
        Ok(done)
    }

    /// Runs for ever, every `every`.
    pub async fn reconcile_loop(&self, every: Duration) {
        let clock = &self.ports.clock;
        loop {
            let now = clock.now();
            match self.reconcile(now).await {
                Ok(Reconciled { more: true, .. }) => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a run of the reconciler did not finish"),
            }
            clock.sleep_until(now.after(every)).await;
        }
    }

    /// Counts the holds of some tenants anew.
    async fn recount_some(&self, at: &mut Option<String>, done: &mut Reconciled, now: Timestamp) -> PortResult<()> {
        let tenants = self.ports.control.tenants().await?;
        let behind = |id: &str| at.as_deref().is_none_or(|at| id > at);
        let mut some: Vec<_> = tenants.iter().filter(|tenant| behind(tenant.id.as_str())).collect();
        let more = some.len() > MOST_TENANTS;
        some.truncate(MOST_TENANTS);
        for tenant in &some {
            done.holds += u64::from(self.recount_holds(tenant, now).await?);
        }
        *at = some.last().filter(|_| more).map(|tenant| tenant.id.to_string());
        Ok(())
    }
}
