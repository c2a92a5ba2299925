//! Requests that need not come out the same and have no name: each runs its own job, and a retry takes over the one its
//! client has lost. See `penstock_policy::attempt` for when it may.

use penstock_policy::attempt::{self, Adoption, Attempt, Hold};
use penstock_policy::job::State;
use penstock_policy::marker;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::admit::{Admission, How, Outcome};
use crate::admission::draft::Draft;
use crate::admission::single_flight::known;
use crate::error::ApiError;
use crate::ports::{AttemptClaim, MarkerKey, Swapped, Tenant};

/// How often a retry looks again: a quarter of a second each, longer than any client waits.
const MOST_LOOKS: u32 = 10_000;

/// A hold on a try, to be renewed by whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldTry {
    pub(crate) key: MarkerKey,
    pub(crate) hold: Hold,
}

impl Service {
    /// Accepts a first try; takes over an earlier one for a retry, or accepts it too if there is none to take over.
    ///
    /// # Errors
    /// A limit, an overloaded pool, a store that does not answer.
    pub(crate) async fn first_try_or_retry(
        &self,
        tenant: &Tenant,
        draft: Draft,
        key: MarkerKey,
        earlier_tries: u32,
    ) -> Result<Admission, ApiError> {
        if earlier_tries == 0 {
            return self.try_anew(tenant, draft, key).await;
        }
        for _ in 0..MOST_LOOKS {
            let mut tries = Vec::new();
            for attempt in self.ports.attempts.tries(&key).await? {
                let record = self.ports.jobs.record(attempt.job).await?;
                tries.push((attempt, known(record.as_ref())));
            }
            let now = self.ports.clock.now();
            match attempt::adopt(&tries, now) {
                Adoption::Adopt(attempt) => {
                    if let Some(admission) = self.take_over(tenant, &draft, &key, attempt, now).await? {
                        return Ok(admission);
                    }
                }
                Adoption::Resend(attempt) => {
                    let hold = attempt.hold.taken_over(self.nonce(), now);
                    if self.ports.attempts.swap(&key, attempt.job, &attempt.hold, &hold).await? == Swapped::Yes {
                        let held = HeldTry { key, hold };
                        return self.accept_held(tenant, draft.under(attempt.job), held).await;
                    }
                }
                Adoption::Tell(job) => {
                    self.take_request(tenant, now).await?;
                    return Ok(self.without_run(&draft, job, How::Joined, now));
                }
                Adoption::Wait { until } => self.ports.clock.sleep_until(until).await,
                Adoption::RunAnew => return self.try_anew(tenant, draft, key).await,
            }
        }
        Err(ApiError::store_unavailable())
    }

    async fn try_anew(&self, tenant: &Tenant, draft: Draft, key: MarkerKey) -> Result<Admission, ApiError> {
        let held = HeldTry { key, hold: Hold::fresh(self.nonce(), self.ports.clock.now()) };
        self.accept_held(tenant, draft, held).await
    }

    async fn accept_held(&self, tenant: &Tenant, mut draft: Draft, held: HeldTry) -> Result<Admission, ApiError> {
        let now = self.ports.clock.now();
        let expires = now.after(draft.class().patience()).after(marker::TTL);
        draft.attempt = Some(AttemptClaim { key: held.key.clone(), hold: held.hold, expires });
        match self.accept(tenant, &draft, None, now).await? {
            Outcome::Ours(admission) => Ok(Admission { hold: Some(held), ..admission }),
            // Without a marker nobody else can hold it.
            Outcome::Held => Err(ApiError::internal()),
        }
    }

    /// Takes over a try that nobody waits for; `None` if somebody else was faster, or it came to nothing meanwhile.
    async fn take_over(
        &self,
        tenant: &Tenant,
        draft: &Draft,
        key: &MarkerKey,
        found: Attempt,
        now: Timestamp,
    ) -> Result<Option<Admission>, ApiError> {
        self.take_request(tenant, now).await?;
        let hold = found.hold.taken_over(self.nonce(), now);
        if self.ports.attempts.swap(key, found.job, &found.hold, &hold).await? == Swapped::No {
            return Ok(None);
        }
        let joined = self.join(found.job, now).await?;
        let ended = match joined {
            true => None,
            false => self.ports.jobs.record(found.job).await?.map(|record| record.head.state),
        };
        if !joined && ended != Some(State::Succeeded) {
            // Cancelled or expired under our hands.
            self.ports.attempts.forget_try(key, found.job).await?;
            return Ok(None);
        }
        let admission = self.without_run(draft, found.job, How::Joined, now);
        Ok(Some(Admission { hold: Some(HeldTry { key: key.clone(), hold }), ..admission }))
    }
}
