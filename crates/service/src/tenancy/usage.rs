//! What a tenant uses: counted job by job and day by day, and told.
//!
//! A job is counted by the write that settles it (`settle`), on the UTC day on which it ended: exactly once. Requests that
//! make no job of their own, because another's answer served them or because they were refused, are counted in arrears: a
//! handler gathers them for [`ARREARS`] and adds them together, so that a hit costs no write. A handler that dies takes
//! what it had gathered in that time with it; money does not depend on them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use penstock_policy::calendar::Day;
use penstock_policy::cost::UsdMicros;
use penstock_policy::id::{Epoch, TenantId};
use penstock_policy::job::State;
use penstock_policy::resume;
use penstock_policy::time::Timestamp;
use penstock_wire::usage::{UsageOfDay, UsageReport, Used};

use crate::Service;
use crate::error::ApiError;
use crate::ports::{Addition, Answer, Counts, JobRecord, JobSpec, PortResult, TallyKey};

/// How long a day's usage is kept.
const KEPT: Duration = Duration::from_secs(400 * 24 * 3600);

/// How long what needs no job is gathered before it is added.
const ARREARS: Duration = Duration::from_secs(5);

/// The most days of one report: what DynamoDB reads in two calls for a tally of four parts.
const MOST_DAYS: usize = 92;

/// The days of a report that does not name any.
const USUAL_DAYS: usize = 30;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The tally of a tenant's day.
pub(crate) fn usage_key(tenant: &TenantId, day: &str) -> TallyKey {
    TallyKey::new("usage", tenant.as_str(), day)
}

/// The tallies of every day on which a tenant may have used something.
pub(crate) fn all_usage_keys(tenant: &TenantId, now: Timestamp) -> Vec<TallyKey> {
    (0..=400u32).map(|back| usage_key(tenant, &Day::of(now.before(DAY * back)).name())).collect()
}

/// What a job is charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charge {
    input: u64,
    cached: u64,
    output: u64,
    pub(crate) cost: UsdMicros,
}

impl Charge {
    /// The charge for an answer that no job stands behind.
    pub(crate) fn outside(answer: &Answer, cost: UsdMicros) -> Self {
        let of = u64::from;
        Self {
            input: of(answer.prompt_tokens),
            cached: of(answer.cached_tokens),
            output: of(answer.completion_tokens),
            cost,
        }
    }

    /// What is added to the tally of the day on which the job ended.
    pub(crate) fn addition(&self, tenant: &TenantId, ended: Timestamp) -> Addition {
        let counts = [
            ("requests", 1),
            ("input", self.input),
            ("cached", self.cached),
            ("output", self.output),
            ("usd_micros", self.cost.0),
        ];
        let counted = |(name, value): (&str, u64)| (name.to_owned(), i64::try_from(value).unwrap_or(i64::MAX));
        let counts = counts.into_iter().filter(|(_, value)| *value > 0).map(counted).collect();
        Addition { key: usage_key(tenant, &Day::of(ended).name()), counts, expires: ended.after(KEPT) }
    }
}

impl Service {
    /// What a job that has ended is charged: an answer its tokens; a failure nothing, nor what never ran. Of a job that
    /// was cancelled under way, the words that were written down are charged, since its client may have read them.
    pub(crate) async fn charge(&self, spec: &JobSpec, record: &JobRecord) -> PortResult<Charge> {
        let (input, cached, output) = match &record.outcome {
            Some(Ok(answer)) => (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens),
            Some(Err(_)) => (0, 0, 0),
            None if record.head.state == State::Cancelled && record.head.epoch > Epoch(0) => {
                let chunks = self.ports.jobs.chunks(spec.id, None).await?;
                let said = resume::continuation(&chunks, record.head.epoch.next());
                let ids: usize = said.iter().map(|chunk| chunk.ids.len()).sum();
                (0, 0, u32::try_from(ids).unwrap_or(u32::MAX))
            }
            None => (0, 0, 0),
        };
        let (input, cached, output) = (u64::from(input), u64::from(cached), u64::from(output));
        Ok(Charge { input, cached, output, cost: spec.price.of(input, output) })
    }

    /// Counts a request that needed no run of its own.
    pub(crate) fn count_hit(&self, tenant: &TenantId, now: Timestamp) {
        self.count(tenant, "hits", now);
    }

    /// Counts a request that was refused.
    pub(crate) fn count_refusal(&self, tenant: &TenantId, now: Timestamp) {
        self.count(tenant, "refused", now);
    }

    fn count(&self, tenant: &TenantId, what: &'static str, now: Timestamp) {
        let Some(until) = self.arrears.note(tenant, what, now) else { return };
        let (ports, arrears, nonce) = (self.ports.clone(), self.arrears.clone(), self.nonce());
        let task = async move {
            ports.clock.sleep_until(until).await;
            let gathered = arrears.take();
            let day = Day::of(ports.clock.now()).name();
            for (number, (tenant, counts)) in (0u64..).zip(gathered) {
                let nonce = penstock_policy::id::Nonce(nonce.0.wrapping_add(number).max(1));
                let key = usage_key(&tenant, &day);
                if let Err(error) = ports.tally.add(&key, &counts, until.after(KEPT), nonce).await {
                    tracing::warn!(%tenant, %error, "hits and refusals are not counted");
                }
            }
        };
        self.ports.spawner.spawn(task.boxed());
    }

    /// What a tenant used on some days.
    ///
    /// # Errors
    /// If the store does not answer.
    pub(crate) async fn usage(&self, tenant: &TenantId, days: &Days) -> PortResult<UsageReport> {
        let keys: Vec<TallyKey> = days.0.iter().map(|day| usage_key(tenant, day)).collect();
        let sums = self.ports.tally.sums(&keys).await?;
        let (mut data, mut all) = (Vec::new(), Counts::new());
        for (day, counts) in days.0.iter().zip(sums).filter(|(_, counts)| !counts.is_empty()) {
            for (name, value) in &counts {
                let sum = all.entry(name.clone()).or_default();
                *sum = sum.saturating_add(*value);
            }
            data.push(UsageOfDay { date: day.clone(), used: used(&counts) });
        }
        Ok(UsageReport { object: "usage".to_owned(), tenant: tenant.to_string(), data, total: used(&all) })
    }
}

fn used(counts: &Counts) -> Used {
    let count = |name: &str| counts.get(name).map_or(0, |value| u64::try_from(*value).unwrap_or(0));
    let cost = UsdMicros(count("usd_micros"));
    Used {
        requests: count("requests"),
        input_tokens: count("input"),
        cached_tokens: count("cached"),
        output_tokens: count("output"),
        hits: count("hits"),
        refused: count("refused"),
        cost_usd_micros: cost.0,
        cost_usd: cost.to_string(),
    }
}

/// The days of a report, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Days(Vec<String>);

impl Days {
    /// Reads `from=YYYY-MM-DD&to=YYYY-MM-DD`, both included and both optional: without `from`, 30 days up to `to`;
    /// without `to`, up to today.
    ///
    /// # Errors
    /// 400 if one of them is no such day, or they lie more than a year back or more than 92 days apart.
    pub(crate) fn read(query: &str, now: Timestamp) -> Result<Self, ApiError> {
        let (mut from, mut to) = (None, None);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "from" => from = Some(value),
                "to" => to = Some(value),
                _ => {}
            }
        }
        // ISO dates sort as texts do, so a day is found by its name alone.
        let known: Vec<String> = (0..=400u32).rev().map(|back| Day::of(now.before(DAY * back)).name()).collect();
        let place = |param: &str, day: &str| {
            known.iter().position(|known| known == day).ok_or_else(|| {
                let message = format!("'{param}' must be a day such as {}, at most 400 days ago", Day::of(now).name());
                ApiError::invalid(param, "invalid_value", message)
            })
        };
        let last = to.map_or(Ok(known.len() - 1), |day| place("to", day))?;
        let first = from.map_or(Ok((last + 1).saturating_sub(USUAL_DAYS)), |day| place("from", day))?;
        match known.get(first..=last) {
            Some(days) if (1..=MOST_DAYS).contains(&days.len()) => Ok(Self(days.to_vec())),
            Some(_) | None => {
                let message = format!("'from' must not come after 'to', nor more than {MOST_DAYS} days before it");
                Err(ApiError::invalid("from", "invalid_value", message))
            }
        }
    }
}

/// What was gathered and not added yet.
#[derive(Clone, Default)]
pub(crate) struct Arrears(std::sync::Arc<Mutex<BTreeMap<TenantId, Counts>>>);

impl Arrears {
    /// Counts one; says when what is gathered is due if this is the first since the last time.
    fn note(&self, tenant: &TenantId, what: &str, now: Timestamp) -> Option<Timestamp> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = gathered.is_empty();
        *gathered.entry(tenant.clone()).or_default().entry(what.to_owned()).or_default() += 1;
        is_first.then(|| now.after(ARREARS))
    }

    fn take(&self) -> BTreeMap<TenantId, Counts> {
        core::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21.
    const NOW: Timestamp = Timestamp::from_millis(1_795_219_200_000);

    #[test]
    fn a_report_covers_thirty_days_up_to_today_unless_it_is_told_otherwise() {
        let days = Days::read("", NOW).unwrap().0;
        assert_eq!((days.len(), days[0].as_str(), days[29].as_str()), (30, "2026-10-23", "2026-11-21"));
        assert_eq!(Days::read("from=2026-11-19&to=2026-11-20", NOW).unwrap().0, ["2026-11-19", "2026-11-20"]);
        assert_eq!(Days::read("from=2026-11-21&x=y", NOW).unwrap().0, ["2026-11-21"]);
    }

    #[test]
    fn days_that_are_none_or_too_many_are_refused() {
        for bad in
            ["from=yesterday", "from=2026-02-30", "to=2026-11-22", "from=2026-01-01", "from=2026-11-20&to=2026-11-19"]
        {
            assert!(Days::read(bad, NOW).is_err(), "{bad}");
        }
    }
}
