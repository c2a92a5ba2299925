//! What answers without a run cost their tenant: one request each, settled in debts.
//!
//! A kept answer costs the pool nothing, so it is given first and counted after: each process adds up what a tenant owes
//! and takes it from the tenant's limit of requests in one step, at twenty answers or two seconds, whichever comes first.
//! Once the limit refuses, the process refuses too, until the moment the limit names; what is owed stays owed. So a tenant
//! gets at most twenty answers a process too many, and those that come while one take is under way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use penstock_policy::admission::come_back;
use penstock_policy::id::TenantId;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::error::ApiError;
use crate::ports::{BucketKey, PortResult, Take, TakeOutcome, TakePart, Tenant};

/// Answers after which a process settles.
const MOST_OWED: u64 = 20;

/// How long a debt is left standing.
const LONGEST_OWED: Duration = Duration::from_secs(2);

/// What tenants owe.
#[derive(Default)]
pub(crate) struct Debts {
    accounts: Mutex<BTreeMap<TenantId, Account>>,
}

#[derive(Clone, Copy, Default)]
struct Account {
    owed: u64,
    refused_until: Option<Timestamp>,
}

/// What follows from one more answer.
#[derive(Debug, PartialEq, Eq)]
enum Entered {
    /// Nothing yet.
    Noted,
    /// Settle at that moment.
    SettleAt(Timestamp),
    /// The limit is reached until then; the answer was not entered.
    Refused(Timestamp),
}

impl Debts {
    fn enter(&self, tenant: &TenantId, now: Timestamp) -> Entered {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(tenant.clone()).or_default();
        if let Some(until) = account.refused_until.filter(|until| *until > now) {
            return Entered::Refused(until);
        }
        account.refused_until = None;
        account.owed = account.owed.saturating_add(1);
        match account.owed {
            1 => Entered::SettleAt(now.after(LONGEST_OWED)),
            owed if owed % MOST_OWED == 0 => Entered::SettleAt(now),
            _ => Entered::Noted,
        }
    }

    /// Takes up to `most` of what a tenant owes out of the books.
    fn collect(&self, tenant: &TenantId, most: u64) -> u64 {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(account) = accounts.get_mut(tenant) else { return 0 };
        let collected = account.owed.min(most);
        account.owed -= collected;
        if account.owed == 0 && account.refused_until.is_none() {
            accounts.remove(tenant);
        }
        collected
    }

    /// Enters again what could not be settled.
    fn put_back(&self, tenant: &TenantId, owed: u64, refused_until: Option<Timestamp>) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(tenant.clone()).or_default();
        account.owed = account.owed.saturating_add(owed);
        account.refused_until = refused_until.or(account.refused_until);
    }
}

impl Service {
    /// Enters one answer without a run into its tenant's account.
    ///
    /// # Errors
    /// 429 if the tenant's limit of requests was found reached.
    pub(crate) fn owe_hit(self: &Arc<Self>, tenant: &Tenant, now: Timestamp) -> Result<(), ApiError> {
        match self.debts.enter(&tenant.id, now) {
            Entered::Noted => Ok(()),
            Entered::SettleAt(moment) => {
                let (service, tenant) = (Arc::clone(self), tenant.clone());
                self.ports.spawner.spawn(
                    async move {
                        service.ports.clock.sleep_until(moment).await;
                        if let Err(error) = service.settle_hits(&tenant).await {
                            tracing::warn!(tenant = %tenant.id, %error, "answers given stay owed");
                        }
                    }
                    .boxed(),
                );
                Ok(())
            }
            Entered::Refused(until) => {
                let limit = tenant.limits.requests.burst();
                Err(ApiError::rate_limited("requests", limit, 1, come_back(Some(until), now)))
            }
        }
    }

    async fn settle_hits(&self, tenant: &Tenant) -> PortResult<()> {
        // No more than the limit can ever grant at once.
        let owed = self.debts.collect(&tenant.id, tenant.limits.requests.burst());
        if owed == 0 {
            return Ok(());
        }
        let parts = [(tenant.limits.requests, owed), (tenant.limits.tokens, 0)];
        let take = Take {
            key: BucketKey::Tenant { tenant: tenant.id.clone(), shard: 0 },
            parts: parts.map(|(limit, units)| TakePart { limit, units }).to_vec(),
        };
        match self.ports.limits.take(&take, self.nonce(), self.ports.clock.now()).await {
            Ok(TakeOutcome::Granted { .. }) => Ok(()),
            Ok(TakeOutcome::Refused { until, .. }) => {
                self.debts.put_back(&tenant.id, owed, until);
                Ok(())
            }
            Err(error) => {
                self.debts.put_back(&tenant.id, owed, None);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn a_debt_is_settled_after_two_seconds_or_twenty_answers() {
        let (debts, tenant) = (Debts::default(), TenantId::new("acme").unwrap());
        let entered: Vec<Entered> = (0..20).map(|_| debts.enter(&tenant, NOW)).collect();
        assert_eq!(entered[0], Entered::SettleAt(NOW.after(LONGEST_OWED)));
        assert!(entered[1..19].iter().all(|entered| *entered == Entered::Noted));
        assert_eq!(entered[19], Entered::SettleAt(NOW));
        assert_eq!((debts.collect(&tenant, 15), debts.collect(&tenant, 99)), (15, 5));
        assert!(debts.accounts.lock().unwrap().is_empty());
    }

    #[test]
    fn who_is_refused_stays_refused_until_the_limit_says_and_owes_what_it_owed() {
        let (debts, tenant) = (Debts::default(), TenantId::new("acme").unwrap());
        let until = NOW.after(Duration::from_secs(3));
        debts.put_back(&tenant, 7, Some(until));
        assert_eq!(debts.enter(&tenant, NOW), Entered::Refused(until));
        assert_eq!(debts.enter(&tenant, until), Entered::Noted);
        assert_eq!(debts.collect(&tenant, 99), 8);
    }
}
