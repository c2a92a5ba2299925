//! The consequences of a job's end: exactly once per job, whoever draws them.
//!
//! A terminal write leaves the record `unsettled`. Whoever is granted [`Step::Settle`] gives back what the job had
//! reserved and did not use (or takes the rest, if it used more): of its tenant's token limit, and of its pool's virtual
//! queue, which would otherwise hold work that nobody will do. Granted means exactly once; a settler that dies right
//! after leaves the buckets a little poorer until they have refilled, never richer.
//!
//! What was used is added to the tenant's tally of the day by the very write that settles, so that each job counts exactly
//! once, whoever dies in between.
//!
//! What counts as used: of an answer, its tokens. Of a job that failed or never ran, nothing. A job that was cancelled
//! after a worker had begun is charged to its tenant as estimated: what it streamed was seen, and how much more was
//! computed nobody counted. To its pool it costs nothing more.

use penstock_policy::gcra::Spent;
use penstock_policy::id::{Epoch, JobId};
use penstock_policy::job::{State, Step};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::ports::{BucketKey, JobRecord, JobSpec, PortResult, Reservation, Stepped};
use crate::stored::story::Event;
use crate::telemetry::spans::{Side, Span, Value};
use crate::telemetry::{Label, Metric};
use crate::worker::learning::verdict;

impl Service {
    /// Settles a job that has ended; does nothing if it is settled already or has not ended.
    ///
    /// # Errors
    /// If the store does not answer; the job stays unsettled and the reconciler finds it.
    pub(crate) async fn settle(&self, job: JobId) -> PortResult<()> {
        let Some(record) = self.ports.jobs.record(job).await?.filter(|record| record.head.unsettled) else {
            return Ok(());
        };
        let now = self.ports.clock.now();
        let Some(spec) = &record.spec else {
            // A tombstone that was written before the record: nothing is known that could be charged.
            self.ports.jobs.step(job, &Stepped::from(Step::Settle), self.nonce(), now).await?.ok();
            return Ok(());
        };
        // Before the end counts as settled: whoever finds it unsettled keeps the answer again.
        self.keep_answer(job, &record, now).await?;
        // The same: an event is written once, however often it is said.
        self.announce_response(job, &record).await?;
        let charge = self.charge(spec, &record).await?;
        // Before the end counts as settled: whoever finds it unsettled ends what is left of them. A hold ends once.
        self.end_holds(job, &spec.admitted.holds, charge.cost.0, now).await?;
        let settle = Stepped {
            step: Step::Settle,
            outcome: None,
            event: Some(Event::Settled { at: now, cost: charge.cost }),
            addition: Some(charge.addition(&spec.tenant, record.finished.unwrap_or(now))),
        };
        if self.ports.jobs.step(job, &settle, self.nonce(), now).await?.is_ok() {
            for difference in differences(spec, &record) {
                self.ports.limits.refund(&difference, now).await?;
            }
            self.learn(&record, now).await;
            self.measure_end(spec, &record, charge.cost.0);
            self.trace_end(spec, &record);
            if !spec.retention.store {
                self.forget_later(job, now);
            }
        }
        Ok(())
    }
}

impl Service {
    /// Measures a job's end; by whoever settled it, so once.
    fn measure_end(&self, spec: &JobSpec, record: &JobRecord, cost_usd_micros: u64) {
        let outcome = match record.head.state {
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
            State::Parked | State::Queued | State::Running => return,
        };
        let labels = [(Label::Pool, spec.pool.as_str()), (Label::Class, spec.class.name())];
        let since = |until: Option<Timestamp>| until.map(|until| until.since(spec.created).as_secs_f64());
        let mut values: Vec<(Metric, f64)> = Vec::new();
        values.extend(since(record.started).map(|waited| (Metric::Dwell, waited)));
        values.extend(since(record.finished).map(|took| (Metric::Turnaround, took)));
        if let Some(Ok(answer)) = &record.outcome {
            values.push((Metric::PromptTokens, f64::from(answer.prompt_tokens)));
            values.push((Metric::AnswerTokens, f64::from(answer.completion_tokens)));
            values.push((Metric::Cost, cost_usd_micros as f64));
        }
        if let Some(kept) = verdict(spec, record) {
            values.push((Metric::PromisesDue, 1.0));
            values.push((Metric::PromisesKept, if kept.most { 1.0 } else { 0.0 }));
            values.push((Metric::PromiseSharpness, kept.stated_over_actual));
        }
        self.meter.record(&labels, &values);
        let ended = [labels[0], labels[1], (Label::Outcome, outcome)];
        self.meter.record(&ended, &[(Metric::Jobs, 1.0)]);
    }
}

impl Service {
    /// Tells a job's wait and run as spans of its request's trace; of a job that failed by our fault, whether the trace is
    /// kept or not.
    fn trace_end(&self, spec: &JobSpec, record: &JobRecord) {
        let Some(request) = spec.admitted.trace else { return };
        let failed = match &record.outcome {
            Some(Err(verdict)) if !verdict.is_for_good() => Some(verdict.code.clone()),
            Some(Ok(_) | Err(_)) | None => None,
        };
        if !request.sampled && failed.is_none() {
            return;
        }
        let (Some(started), Some(finished)) = (record.started, record.finished) else { return };
        let of_job = |name: &str, side, begun, ended, failed, attributes| Span {
            context: request.child((self.ports.entropy.draw() >> 64) as u64),
            parent: Some(request.span()),
            name: name.to_owned(),
            side,
            begun,
            ended,
            failed,
            attributes,
        };
        let about = || {
            let job = spec.id.to_string();
            let known = [
                ("penstock.job", job.as_str()),
                ("penstock.pool", spec.pool.as_str()),
                ("penstock.class", spec.class.name()),
            ];
            known.map(|(name, value)| (name, Value::from(value))).to_vec()
        };
        self.tracer.record(of_job("queue", Side::Internal, spec.created, started, None, about()));
        let mut attributes = about();
        attributes.push(("gen_ai.request.model", Value::from(spec.model.as_str())));
        attributes.push(("penstock.epoch", Value::from(record.head.epoch.0)));
        if let Some(Ok(answer)) = &record.outcome {
            attributes.push(("gen_ai.usage.input_tokens", Value::from(answer.prompt_tokens)));
            attributes.push(("penstock.cached_tokens", Value::from(answer.cached_tokens)));
            attributes.push(("gen_ai.usage.output_tokens", Value::from(answer.completion_tokens)));
        }
        self.tracer.record(of_job("run", Side::Consumer, started, finished, failed, attributes));
    }
}

fn was_broken_off(record: &JobRecord) -> bool {
    record.head.state == State::Cancelled && record.head.epoch > Epoch(0)
}

/// What is to be given back of each reservation; negative where more was used than reserved.
fn differences(spec: &JobSpec, record: &JobRecord) -> Vec<Reservation> {
    let used = match &record.outcome {
        Some(Ok(answer)) => u64::from(answer.prompt_tokens) + u64::from(answer.completion_tokens),
        Some(Err(_)) | None => 0,
    };
    let broken_off = was_broken_off(record);
    let back = |spent: &Spent, used: u64| Spent {
        cost_ns: unused(spent.cost_ns, spec.estimated_tokens, used),
        generation: spent.generation,
    };
    let of = |reservation: &Reservation| {
        let spent = match &reservation.key {
            // The request itself counts, whatever became of it, against its rate and its growth; tokens count as used.
            BucketKey::Tenant { .. } => reservation
                .spent
                .iter()
                .enumerate()
                .map(|(part, spent)| match part {
                    1 => back(spent, if broken_off { spec.estimated_tokens } else { used }),
                    _ => Spent { cost_ns: 0, ..*spent },
                })
                .collect(),
            // An upstream's money is settled with its answer, and no job holds any.
            BucketKey::Upstream { .. } => Vec::new(),
            BucketKey::VirtualQueue { .. } => reservation.spent.iter().map(|spent| back(spent, used)).collect(),
        };
        Reservation { key: reservation.key.clone(), spent }
    };
    spec.reservations.iter().map(of).collect()
}

/// What of a cost for `estimated` units is left when `used` of them were used; negative if more were.
pub(crate) fn unused(cost_ns: i64, estimated: u64, used: u64) -> i64 {
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
