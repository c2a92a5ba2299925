//! What an answer of an upstream costs: taken before it is asked, settled once by what was used.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use penstock_policy::admission::{self, Estimate, Measure};
use penstock_policy::cost::{Price, UsdMicros};
use penstock_policy::decision::{Refusal, Why};
use penstock_policy::gcra::{Limit, Spent};
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_wire::chat::ChatRequest;

use super::budget::{BudgetHold, Exhausted};
use super::{TOTAL, Unanswered, nothing};
use crate::Service;
use crate::admission::limits::refused;
use crate::degradation::upstreams::UpstreamConfig;
use crate::error::ApiError;
use crate::ports::{Addition, Answer, BucketKey, Pool, Reservation, Take, TakeOutcome, TakePart, Tenant};
use crate::tenancy::usage::Charge;
use crate::worker::settle::unused;

/// In this time a day's budget would refill: so slowly that within its day it does not (by 55 millionths of it).
const NEVER: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

/// What was taken for one answer.
pub(super) struct Account {
    service: Arc<Service>,
    tenant: TenantId,
    price: Price,
    expected: Estimate,
    tokens_per_byte: f64,
    tenant_taken: Reservation,
    spend_taken: Reservation,
    budget: Option<BudgetHold>,
}

impl Account {
    /// Takes what the answer is expected to need.
    ///
    /// # Errors
    /// [`Unanswered::Refused`] by the tenant's limits, [`Unanswered::Spent`] by the upstream's budget or the tenant's;
    /// nothing is taken then. A store that does not answer is a refusal: without it nobody counts the money.
    pub(super) async fn open(
        service: &Arc<Service>,
        config: &UpstreamConfig,
        tenant: &Tenant,
        request: &ChatRequest,
        pool: &Pool,
        id: JobId,
        now: Timestamp,
    ) -> Result<Self, Unanswered> {
        let expected = expected(request, pool);
        let limits = &service.ports.limits;
        let failed = |error| Unanswered::Refused(ApiError::from(error));
        let tokens = expected.total();
        let take = service.tenant_take(tenant, tokens, now).await.map_err(failed)?;
        let tenant_taken = match limits.take(&take, service.nonce(), now).await.map_err(failed)? {
            TakeOutcome::Granted { reservation, .. } => reservation,
            TakeOutcome::Refused { part, until, .. } => {
                let refusal = Refusal { why: Why::of_part(part), until };
                return Err(Unanswered::Refused(refused(tenant, &refusal, tokens, now)));
            }
        };
        let cost = config.price.of(expected.prompt, expected.output);
        let spent = match spend(config, cost, now) {
            Some(take) => limits.take(&take, service.nonce(), now).await.map_err(failed)?,
            None => return Err(Unanswered::NotOffered),
        };
        let mut account = match spent {
            TakeOutcome::Granted { reservation: spend_taken, .. } => Self {
                service: Arc::clone(service),
                tenant: tenant.id.clone(),
                price: config.price,
                expected,
                tokens_per_byte: pool.tokens_per_byte,
                tenant_taken,
                spend_taken,
                budget: None,
            },
            TakeOutcome::Refused { .. } => {
                if let Err(error) = limits.refund(&tenant_taken, now).await {
                    tracing::warn!(%error, "tokens of a request that could not be answered are not given back");
                }
                return Err(Unanswered::Spent);
            }
        };
        match BudgetHold::open(limits, tenant, id, cost, TOTAL, now).await {
            Ok(Ok(hold)) => {
                account.budget = hold;
                Ok(account)
            }
            Ok(Err(Exhausted)) => {
                account.settle(&nothing(1));
                Err(Unanswered::Spent)
            }
            Err(error) => {
                account.settle(&nothing(1));
                Err(failed(error))
            }
        }
    }

    /// What the answer is expected to cost.
    pub(super) fn expected_cost(&self) -> UsdMicros {
        self.price.of(self.expected.prompt, self.expected.output)
    }

    /// Tokens of prompt and answer by what was heard: the expected prompt, and the bytes said at the usual ratio.
    pub(super) fn heard(&self, said_bytes: usize) -> (u32, u32) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the bytes heard")]
        let said = (said_bytes as f64 * self.tokens_per_byte.clamp(0.0, 1.0)).ceil() as u32;
        (u32::try_from(self.expected.prompt).unwrap_or(u32::MAX), said)
    }

    /// Gives back what was not used, and takes what was used beyond; adds the use to the tenant's.
    pub(super) fn settle(self, answer: &Answer) {
        let (prompt, completion) = (answer.prompt_tokens, answer.completion_tokens);
        let answer = answer.clone();
        let spawner = Arc::clone(&self.service.ports.spawner);
        let task = async move {
            let now = self.service.ports.clock.now();
            let cost = self.price.of(u64::from(prompt), u64::from(completion));
            let estimated = self.expected.total();
            let used = u64::from(prompt) + u64::from(completion);
            let tokens = |(part, spent): (usize, &Spent)| match part {
                // The request itself counts.
                0 => Spent { cost_ns: 0, ..*spent },
                1 => Spent { cost_ns: unused(spent.cost_ns, estimated, used), ..*spent },
                _ => Spent { cost_ns: 0, ..*spent },
            };
            let money = |spent: &Spent| Spent {
                cost_ns: unused(spent.cost_ns, self.expected_cost().0, cost.0),
                generation: spent.generation,
            };
            let of_tenant = Reservation {
                key: self.tenant_taken.key.clone(),
                spent: self.tenant_taken.spent.iter().enumerate().map(tokens).collect(),
            };
            let of_spend = Reservation {
                key: self.spend_taken.key.clone(),
                spent: self.spend_taken.spent.iter().map(money).collect(),
            };
            for back in [of_tenant, of_spend] {
                if let Err(error) = self.service.ports.limits.refund(&back, now).await {
                    tracing::warn!(%error, "what an upstream's answer did not use is not given back");
                }
            }
            if let Some(hold) = &self.budget {
                hold.close(cost, now).await;
            }
            if used > 0 {
                self.service.add_usage(&self.tenant, &Charge::outside(&answer, cost), now).await;
            }
        };
        spawner.spawn(task.boxed());
    }
}

impl Service {
    /// Adds to what a tenant has used today.
    async fn add_usage(&self, tenant: &TenantId, charge: &Charge, now: Timestamp) {
        let Addition { key, counts, expires } = charge.addition(tenant, now);
        if let Err(error) = self.ports.tally.add(&key, &counts, expires, self.nonce()).await {
            tracing::error!(%tenant, %error, "the use of an upstream's answer is not in its tenant's accounts");
        }
    }
}

fn expected(request: &ChatRequest, pool: &Pool) -> Estimate {
    let bytes = request.messages.iter().map(|message| message.content.len()).sum();
    let measure = Measure {
        tokens_per_byte: pool.tokens_per_byte,
        usual_output_tokens: pool.usual_output_tokens,
        context_length: pool.context_length,
    };
    admission::estimate(bytes, request.max_tokens, request.n, &measure)
}

/// The take of an amount from an upstream's budget; `None` if the budget is no limit at all, which configuration
/// excludes.
fn spend(config: &UpstreamConfig, cost: UsdMicros, now: Timestamp) -> Option<Take> {
    let minute = Limit::per_minute(config.per_minute.0).ok()?;
    let day = Limit::new(config.per_day.0, NEVER, config.per_day.0).ok()?;
    let part = |limit: Limit| TakePart { limit, units: cost.0 };
    let number = u32::try_from(now.as_secs().div_euclid(24 * 3600)).unwrap_or(0);
    Some(Take {
        key: BucketKey::Upstream { upstream: config.name.clone(), day: number },
        parts: vec![part(minute), part(day)],
    })
}

#[cfg(test)]
mod tests {
    use penstock_policy::gcra::{self, Bucket, JointVerdict};

    use super::*;

    fn config(per_day: u64, per_minute: u64) -> UpstreamConfig {
        let text = format!(
            "[{{\"name\":\"u\",\"url\":\"https://a.example/v1\",\"usd_per_day\":\"{}\",\"usd_per_minute\":\"{}\",\
             \"input_usd_per_million_tokens\":\"0\",\"output_usd_per_million_tokens\":\"0\"}}]",
            UsdMicros(per_day),
            UsdMicros(per_minute)
        );
        UpstreamConfig::list(&text, |_| None).unwrap().remove(0)
    }

    /// Every second, all day, as much as there is.
    #[test]
    fn no_day_spends_more_than_its_budget_however_greedy() {
        for budget in [1_000_000, 12_000_000, 1_000_000_000] {
            let config = config(budget, budget / 10);
            let midnight = Timestamp::from_millis(20_000 * 86_400_000);
            let (mut spent, mut buckets): (u64, Vec<Bucket>) = (0, Vec::new());
            for second in 0..86_400 {
                let now = midnight.after(Duration::from_secs(second));
                let take = spend(&config, UsdMicros(budget / 1000), now).unwrap();
                let parts: Vec<_> = take.parts.iter().map(|part| (part.limit, part.units)).collect();
                if let JointVerdict::Granted { buckets: next, .. } = gcra::take_all(&buckets, &parts, now) {
                    buckets = next;
                    spent += budget / 1000;
                }
            }
            assert_eq!(spent, budget, "all of it and no more");
        }
    }

    #[test]
    fn another_day_has_another_bucket() {
        let config = config(100, 100);
        let day = |hour: u64| {
            spend(&config, UsdMicros(1), Timestamp::EPOCH.after(Duration::from_secs(hour * 3600))).unwrap().key
        };
        assert_eq!(day(1), day(23));
        assert_ne!(day(23), day(25));
    }
}
