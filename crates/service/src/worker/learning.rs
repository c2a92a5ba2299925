//! What the ends of jobs teach: how far promises erred, how much work jobs are, how long answers and prompts get.
//!
//! Settlement counts it in tallies, once a job; the control loop adds the pool's up and publishes what follows
//! (`control::publish`), the front adds a tenant's up when it estimates.

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::calendar::Day;
use penstock_policy::classes::Class;
use penstock_policy::id::{PoolId, TenantId};
use penstock_policy::job::State;
use penstock_policy::learned::{Seen, length_bin};
use penstock_policy::promise::{self, Kept, Regime};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::ports::{Answer, Counts, JobRecord, JobSpec, PortResult, TallyKey};

/// The span of time that a pool's ends are tallied by.
pub(crate) const SPAN: Duration = Duration::from_secs(60);

/// How long a pool's tally is kept.
const KEPT: Duration = Duration::from_secs(2 * 3600);

/// How long a tenant's tally of a day is kept: today and yesterday are read.
const DAYS_KEPT: Duration = Duration::from_secs(3 * 24 * 3600);

/// One job in so many is counted for its tenant's ratios, which need no exact sums.
const ONE_IN: f64 = 4.0;

/// Added to a bin, so that the names of counts have no sign.
const BIN_OFFSET: i32 = 100;

/// The number of the span that `now` lies in.
pub(crate) fn span_of(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(i64::try_from(SPAN.as_millis()).unwrap_or(60_000))
}

/// The tally of a pool's ends in a span.
pub(crate) fn ends_key(pool: &PoolId, span: i64) -> TallyKey {
    TallyKey::new("ends", pool.as_str(), &span.to_string())
}

fn learned_key(tenant: &TenantId, pool: &PoolId, day: Day) -> TallyKey {
    TallyKey::new("learned", &format!("{tenant}.{pool}"), &day.name())
}

/// The name that an error is counted under: class, regime, bin.
fn error_name(class: Class, regime: Regime, bin: i32) -> String {
    format!("e{}{}{}", class.index(), regime.code(), bin + BIN_OFFSET)
}

/// What such a name says.
pub(crate) fn error_from(name: &str) -> Option<(Class, Regime, i32)> {
    let (class, rest) = name.strip_prefix('e')?.split_at_checked(1)?;
    let (regime, bin) = rest.split_at_checked(1)?;
    let class = Class::ALL.into_iter().find(|known| known.index().to_string() == class)?;
    Some((class, Regime::from_code(regime)?, bin.parse::<i32>().ok()?.checked_sub(BIN_OFFSET)?))
}

impl Service {
    /// Counts what a job's end teaches. What cannot be counted is not learned, and nothing else.
    pub(crate) async fn learn(&self, record: &JobRecord, now: Timestamp) {
        let Some(spec) = &record.spec else { return };
        let counts = lessons(spec, record);
        if !counts.is_empty() {
            let key = ends_key(&spec.pool, span_of(now));
            self.tally_lesson(&key, &counts, now.after(KEPT)).await;
        }
        if let Some(Ok(answer)) = &record.outcome
            && self.fraction() * ONE_IN < 1.0
        {
            let counts = ratios(spec, answer);
            self.tally_lesson(&learned_key(&spec.tenant, &spec.pool, Day::of(now)), &counts, now.after(DAYS_KEPT))
                .await;
        }
    }

    async fn tally_lesson(&self, key: &TallyKey, counts: &Counts, expires: Timestamp) {
        if let Err(error) = self.ports.tally.add(key, counts, expires, self.nonce()).await {
            tracing::warn!(%error, "what a job's end teaches is not counted");
        }
    }

    /// What was seen of a tenant's requests to a pool, today and yesterday; nothing if the store does not answer.
    pub(crate) async fn seen_of(&self, tenant: &TenantId, pool: &PoolId, now: Timestamp) -> Arc<Seen> {
        let key = (tenant.clone(), pool.clone());
        let read = self.add_up(tenant, pool, now);
        let found = self.caches.seen.fetch(&key, now, |_| self.timing.record_cache, read).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(%tenant, %error, "estimates go by the pool's own measure");
            Arc::default()
        })
    }

    async fn add_up(&self, tenant: &TenantId, pool: &PoolId, now: Timestamp) -> PortResult<Arc<Seen>> {
        let days = [now, now.before(Duration::from_secs(24 * 3600))].map(|at| learned_key(tenant, pool, Day::of(at)));
        let mut seen = Seen::default();
        for counts in self.ports.tally.sums(&days).await? {
            for (name, count) in &counts {
                let count = u64::try_from(*count).unwrap_or(0);
                match name.strip_prefix('l').and_then(|bin| bin.parse().ok()) {
                    Some(bin) => *seen.lengths.entry(bin).or_default() += count,
                    None if name == "b" => seen.prompt_bytes += count,
                    None if name == "t" => seen.prompt_tokens += count,
                    None => {}
                }
            }
        }
        Ok(Arc::new(seen))
    }
}

/// Whether a promise was kept; `None` for a job that nobody waited for to its end, or whose end is the client's.
pub(crate) fn verdict(spec: &JobSpec, record: &JobRecord) -> Option<Kept> {
    let promise = spec.admitted.promise.as_ref()?;
    let took = record.finished?.since(spec.created);
    match (record.head.state, &record.outcome) {
        (State::Succeeded, _) => Some(promise::kept(promise, took)),
        // An end that is ours is no answer in time, however early it came.
        (State::Failed, Some(Err(verdict))) if !verdict.is_for_good() => Some(broken(promise, took)),
        (State::Expired, _) => Some(broken(promise, took)),
        (State::Failed | State::Cancelled | State::Parked | State::Queued | State::Running, _) => None,
    }
}

fn broken(promise: &promise::Promise, took: Duration) -> Kept {
    Kept { half: false, most: false, ..promise::kept(promise, took) }
}

fn lessons(spec: &JobSpec, record: &JobRecord) -> Counts {
    let mut counts = Counts::new();
    let mut add = |name: String, count: u64| {
        *counts.entry(name).or_default() += i64::try_from(count).unwrap_or(i64::MAX);
    };
    let class = spec.class;
    if let (Some(kept), Some(promise)) = (verdict(spec, record), &spec.admitted.promise) {
        let index = class.index();
        add(format!("made{index}"), 1);
        add(format!("half{index}"), u64::from(kept.half));
        add(format!("most{index}"), u64::from(kept.most));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let sharpness = (kept.stated_over_actual * 1000.0).clamp(0.0, 1e6) as u64;
        add(format!("sharp{index}"), sharpness);
        if record.head.state == State::Succeeded {
            add(error_name(class, promise.regime, kept.bin), 1);
        }
    }
    if let (Some(Ok(_)), Some(started), Some(finished)) = (&record.outcome, record.started, record.finished) {
        add(format!("n{}", class.index()), 1);
        // In the tokens that virtual queues count in.
        add(format!("est{}", class.index()), spec.estimated_tokens);
        add("run".to_owned(), u64::try_from(finished.since(started).as_millis()).unwrap_or(u64::MAX));
    }
    counts
}

fn ratios(spec: &JobSpec, answer: &Answer) -> Counts {
    let answers = u64::try_from(answer.reasons.len()).unwrap_or(1).max(1);
    let length = u64::from(answer.completion_tokens) / answers;
    let stored = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Counts::from([
        ("b".to_owned(), stored(spec.admitted.prompt_bytes)),
        ("t".to_owned(), i64::from(answer.prompt_tokens)),
        (format!("l{}", length_bin(length)), 1),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_error_reads_back() {
        for class in Class::ALL {
            for regime in Regime::ALL {
                for bin in [-48, 0, 48] {
                    assert_eq!(error_from(&error_name(class, regime, bin)), Some((class, regime, bin)));
                }
            }
        }
        for other in ["made1", "est", "e9q100", "e1", "e", "e1x100"] {
            assert_eq!(error_from(other), None, "{other}");
        }
    }
}
