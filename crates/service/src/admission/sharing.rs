//! Who queued how much of each virtual queue, as this process saw it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::fair::{LetIn, Shares};
use penstock_policy::id::{PoolId, TenantId};
use penstock_policy::time::Timestamp;

/// What was let in, by queue and tenant.
#[derive(Default)]
pub(crate) struct Sharing(Mutex<BTreeMap<(PoolId, Class), LetIn<TenantId>>>);

impl Sharing {
    /// Remembers what was let in.
    pub(crate) fn note(&self, pool: &PoolId, class: Class, tenant: &TenantId, tokens: u64, now: Timestamp) {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.entry((pool.clone(), class)).or_default().note(tenant.clone(), tokens, now);
    }

    /// The shares of a queue that takes `backlog` to be worked off, from the view of `tenant`.
    pub(crate) fn shares(
        &self,
        pool: &PoolId,
        class: Class,
        tenant: &TenantId,
        backlog: Duration,
        now: Timestamp,
    ) -> Shares {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues
            .get_mut(&(pool.clone(), class))
            .map_or_else(Shares::default, |let_in| let_in.shares(tenant, backlog, now))
    }
}
