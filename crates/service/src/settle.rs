//! The consequences of a job's end: exactly once per job, whoever draws them.
//!
//! A terminal write leaves the record `unsettled`. Whoever is granted [`Step::Settle`] gives back what the job had
//! reserved of its tenant's token limit and did not use (or takes the rest, if it used more). Granted means exactly
//! once; a settler that dies right after leaves the tenant a little poorer until the bucket has refilled, never richer.

use penstock_policy::gcra::Spent;
use penstock_policy::id::JobId;
use penstock_policy::job::Step;

use crate::Service;
use crate::ports::{JobRecord, JobSpec, PortResult, Reservation, Stepped};

impl Service {
    /// Settles a job that has ended; does nothing if it is settled already or has not ended.
    ///
    /// # Errors
    /// If the store does not answer; the job stays unsettled and the reconciler finds it.
    pub(crate) async fn settle(&self, job: JobId) -> PortResult<()> {
        let Some(record) = self.ports.jobs.record(job).await? else { return Ok(()) };
        let now = self.ports.clock.now();
        if record.head.unsettled
            && self.ports.jobs.step(job, &Stepped::from(Step::Settle), self.nonce(), now).await?.is_ok()
            && let Some(difference) = record.spec.as_ref().and_then(|spec| difference(spec, &record))
        {
            self.ports.limits.refund(&difference, now).await?;
        }
        Ok(())
    }
}

/// What is to be given back of the reservation; negative where more was used than reserved.
fn difference(spec: &JobSpec, record: &JobRecord) -> Option<Reservation> {
    let reservation = spec.reservation.as_ref()?;
    let used = match &record.outcome {
        Some(Ok(answer)) => u64::from(answer.prompt_tokens) + u64::from(answer.completion_tokens),
        Some(Err(_)) | None => 0,
    };
    let spent = reservation.spent.iter().enumerate().map(|(part, spent)| Spent {
        // The request itself counts, whatever became of it; tokens count as used.
        cost_ns: if part == 0 { 0 } else { unused(spent.cost_ns, spec.estimated_tokens, used) },
        generation: spent.generation,
    });
    Some(Reservation { key: reservation.key.clone(), spent: spent.collect() })
}

fn unused(cost_ns: i64, estimated: u64, used: u64) -> i64 {
    let (Ok(estimated), Ok(used)) = (i64::try_from(estimated.max(1)), i64::try_from(used)) else { return 0 };
    let period_ns = cost_ns / estimated;
    cost_ns.saturating_sub(period_ns.saturating_mul(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_is_given_back_and_what_was_overdrawn_is_taken() {
        assert_eq!(unused(1000, 100, 30), 700);
        assert_eq!(unused(1000, 100, 120), -200);
        assert_eq!(unused(0, 0, 5), 0);
    }
}
