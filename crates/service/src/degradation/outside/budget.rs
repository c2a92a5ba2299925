//! What an answer of an upstream takes of its tenant's budget, beside that of the upstream: held while it comes, spent by
//! what it cost. The budget is the one that jobs spend from, and no answer begins that could overdraw it.

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::cost::UsdMicros;
use penstock_policy::id::JobId;
use penstock_policy::time::Timestamp;

use crate::ports::{Held, HoldClaim, HoldKey, HoldName, Limits, PortResult, Tenant};

/// A hold on a tenant's money.
pub(super) struct BudgetHold {
    limits: Arc<dyn Limits>,
    key: HoldKey,
    name: HoldName,
}

/// The budget has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

impl BudgetHold {
    /// Holds what an answer is expected to cost; nothing for a tenant without a budget. `id` is the answer's own; `lasts`
    /// is how long it may take: what is not given back by then, because this process has died, a recount gives back.
    pub(super) async fn open(
        limits: &Arc<dyn Limits>,
        tenant: &Tenant,
        id: JobId,
        cost: UsdMicros,
        lasts: Duration,
        now: Timestamp,
    ) -> PortResult<Result<Option<Self>, Exhausted>> {
        let Some(budget) = tenant.limits.budget else { return Ok(Ok(None)) };
        let key = HoldKey::Money { tenant: tenant.id.clone(), period: budget.period.at(now) };
        let name = HoldName::of_job(id);
        let claim = HoldClaim {
            key: key.clone(),
            name: name.clone(),
            units: cost.0,
            most: budget.usd_micros,
            until: now.after(lasts),
            note: String::new(),
        };
        Ok(match limits.hold(&claim, now).await? {
            Held::Yes => Ok(Some(Self { limits: Arc::clone(limits), key, name })),
            Held::Full(_) => Err(Exhausted),
        })
    }

    /// Ends the hold; `cost` is spent.
    pub(super) async fn close(&self, cost: UsdMicros, now: Timestamp) {
        if let Err(error) = self.limits.unhold(&self.key, &self.name, cost.0, now).await {
            tracing::warn!(%error, "what an upstream's answer holds of a budget stays held for now");
        }
    }
}
