//! Publishing a pool's rates: capacity from what its workers say of themselves, the work that really waits, and how far
//! promises have erred lately; and moving the virtual queues to what really waits.
//!
//! What was counted in earlier spans is kept in a document of the loop's own, so that a tick reads the last two spans and
//! no more, and a loop that runs elsewhere next time (a Lambda) goes on where this one stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_policy::admission::Capacity;
use penstock_policy::classes::Class;
use penstock_policy::promise::{Pace, Spread};
use penstock_policy::rates::{self, Erred, Origin, Rates, WORKER_SILENCE};
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::admission::rates::{ASSUMED_RATE, ASSUMED_SLOTS, key_of, rates_text, usual_job_tokens};
use crate::admission::returning::queue_key;
use crate::control::fleet::Waits;
use crate::ports::{BoardKey, Counts, Pool, PortResult, QueueId, Reservation, WorkerRecord};
use crate::telemetry::{Label, Metric};
use crate::worker::learning::{ends_key, error_from, span_of};

/// Spans that are looked back upon.
const SPANS: i64 = 60;

/// How long a worker takes to boot, before any was seen booting.
const ASSUMED_BOOT: Duration = Duration::from_secs(180);

/// Boots that are remembered.
const BOOTS: usize = 50;

/// What the loop remembers of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    #[serde(default)]
    v: u32,
    /// The ends counted, span by span.
    #[serde(default)]
    pub(crate) spans: BTreeMap<i64, Counts>,
    /// Since when work has waited without any worker, ms.
    #[serde(default)]
    waiting_since: Option<i64>,
    /// How long boots took, ms, oldest first.
    #[serde(default)]
    boots: Vec<u64>,
    /// The largest rate since there was none last, and the slots that made it: what comes when workers come again.
    #[serde(default)]
    fleet: Option<(f64, u32)>,
    /// There were workers at the last tick.
    #[serde(default)]
    staffed: bool,
}

/// Where a pool's memory is kept.
pub(crate) fn memory_key(pool: &Pool) -> BoardKey {
    BoardKey::new("learning", pool.id.as_str())
}

impl Service {
    /// Publishes a pool's rates; says whether the pool has anything to do, and what waits.
    pub(crate) async fn publish(&self, pool: &Pool, now: Timestamp) -> PortResult<(bool, Waits)> {
        let key = memory_key(pool);
        let found = self.ports.board.read(&key).await?;
        let version = found.as_ref().map(|posted| posted.version);
        let mut memory: Memory = found.and_then(|posted| serde_json::from_str(&posted.text).ok()).unwrap_or_default();
        self.remember_ends(pool, &mut memory, now).await?;
        let workers = self.ports.control.workers(&pool.id, now.before(WORKER_SILENCE)).await?;
        let mut depths = [0u64; 4];
        for class in Class::ALL {
            depths[class.index()] = self.ports.queue.depth(&QueueId { pool: pool.id.clone(), class }).await?;
        }
        let waiting: u64 = depths.iter().sum();
        let pace = memory.pace(pool, &workers, waiting, now);
        let park = self.parked(pool, now).await?;
        let queued = memory.queued(&pace, depths);
        let parked = park.0.tokens();
        let rates = memory.rates(&pace, Class::ALL.map(|class| queued[class.index()] + parked[class.index()]), now);
        tracing::debug!(pool = %pool.id, ?rates.pace, ?queued, ?parked, shards = rates.shards, "rates");
        for class in Class::ALL {
            self.anchor(pool, class, &rates, now).await?;
        }
        self.measure_pool(pool, &rates, depths, &workers);
        let text = serde_json::to_string(&memory).unwrap_or_default();
        // Whoever was quicker has counted the same.
        let _ = self.ports.board.post(&key, &text, version, self.nonce()).await?;
        let place = key_of(&pool.id);
        let replaces = self.ports.board.read(&place).await?.map(|posted| posted.version);
        let _ = self.ports.board.post(&place, &rates_text(&rates), replaces, self.nonce()).await?;
        self.release_parked(pool, &rates, queued, park, now).await?;
        let job_tokens = Class::ALL.map(|class| memory.job_tokens(class).unwrap_or(rates.pace.mean_job_tokens));
        let is_busy = waiting > 0 || !workers.is_empty() || parked.iter().any(|tokens| *tokens > 0.0);
        Ok((is_busy, Waits { depths, job_tokens, parked }))
    }

    fn measure_pool(&self, pool: &Pool, rates: &Rates, depths: [u64; 4], workers: &[WorkerRecord]) {
        let of_pool = (Label::Pool, pool.id.as_str());
        for class in Class::ALL {
            let values =
                [(Metric::Backlog, depths[class.index()] as f64), (Metric::BacklogTokens, rates.ahead[class.index()])];
            self.meter.record(&[of_pool, (Label::Class, class.name())], &values);
        }
        let live = || workers.iter().filter(|worker| !worker.draining);
        let values = [
            (Metric::Workers, live().count() as f64),
            (Metric::Slots, live().map(|worker| f64::from(worker.slots)).sum()),
            (Metric::Capacity, live().map(|worker| worker.tokens_per_second).sum()),
            (Metric::ReadyIn, rates.pace.ready_in.as_secs_f64()),
        ];
        self.meter.record(&[of_pool], &values);
    }

    /// Reads the spans that may have grown since the last tick.
    async fn remember_ends(&self, pool: &Pool, memory: &mut Memory, now: Timestamp) -> PortResult<()> {
        let newest = span_of(now);
        let known = memory.spans.keys().next_back().copied().unwrap_or(newest - SPANS);
        let from = (known - 1).max(newest - SPANS);
        let keys: Vec<_> = (from..=newest).map(|span| ends_key(&pool.id, span)).collect();
        for (span, counts) in (from..).zip(self.ports.tally.sums(&keys).await?) {
            memory.spans.insert(span, counts);
        }
        memory.spans.retain(|span, _| *span > newest - SPANS);
        memory.v = 1;
        Ok(())
    }

    /// Moves a class's virtual queue to the work that really waits, shard by shard.
    async fn anchor(&self, pool: &Pool, class: Class, rates: &Rates, now: Timestamp) -> PortResult<()> {
        let capacity = Capacity { tokens_per_second: rates.pace.tokens_per_second };
        let Ok(limit) = capacity.virtual_queue(class) else { return Ok(()) };
        let kept = self.kept_for_returns(&pool.id, class, now).await?;
        let real = (rates.ahead[class.index()] + kept as f64) / f64::from(rates.shards);
        for shard in 0..rates.shards {
            let key = queue_key(&pool.id, class, shard);
            let bucket = self.ports.limits.peek(&key).await?.part(0);
            if let Some(spent) = rates::anchor(bucket, &limit.part_of(rates.shards), real, now) {
                self.ports.limits.refund(&Reservation { key, spent: vec![spent] }, now).await?;
            }
        }
        Ok(())
    }
}

impl Memory {
    fn sum(&self, name: &str) -> f64 {
        self.spans.values().filter_map(|counts| counts.get(name)).map(|count| *count as f64).sum()
    }

    /// Sums of a name over the last hour or so, for those who publish them.
    pub(crate) fn total(&self, name: &str) -> i64 {
        self.spans.values().filter_map(|counts| counts.get(name)).sum()
    }

    /// What the pool can do, from what its workers measured of themselves: never from recent throughput, which is low when
    /// there is little to do.
    fn pace(&mut self, pool: &Pool, workers: &[WorkerRecord], waiting: u64, now: Timestamp) -> Pace {
        let live: Vec<&WorkerRecord> = workers.iter().filter(|worker| !worker.draining).collect();
        let (rate, slots, ready_in) = if live.is_empty() {
            let (rate, slots) = self.fleet.unwrap_or((ASSUMED_RATE, ASSUMED_SLOTS));
            self.staffed = false;
            (rate, slots, self.ready_in(waiting, now))
        } else {
            let capacity = Capacity::of(live.iter().map(|worker| worker.tokens_per_second), ASSUMED_RATE);
            let slots = live.iter().map(|worker| worker.slots).sum();
            self.note_staffed(capacity.tokens_per_second, slots, now);
            (capacity.tokens_per_second, slots, Duration::ZERO)
        };
        let (jobs, est) = (self.jobs(), self.tokens());
        Pace {
            tokens_per_second: rate,
            slots,
            mean_job_tokens: if jobs > 0.0 { est / jobs } else { usual_job_tokens(Some(pool)) },
            ms_per_token: if est > 0.0 { self.sum("run") / est } else { 0.0 },
            ready_in,
        }
    }

    /// How long until there is a worker: what boots have taken, less what has been waited. One that is late may come at
    /// any moment, or never: a quarter of a boot more is as good a guess as any.
    fn ready_in(&mut self, waiting: u64, now: Timestamp) -> Duration {
        let boot = self.boot_p90();
        if waiting == 0 {
            self.waiting_since = None;
            return boot;
        }
        let since = Timestamp::from_millis(*self.waiting_since.get_or_insert(now.as_millis()));
        let left = boot.saturating_sub(now.since(since));
        if left.is_zero() { boot / 4 } else { left }
    }

    /// Notes that there are workers, and how long the first of them took to come if somebody waited for it.
    fn note_staffed(&mut self, rate: f64, slots: u32, now: Timestamp) {
        if let Some(since) = self.waiting_since.take() {
            let took = now.since(Timestamp::from_millis(since));
            self.boots.push(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            let extra = self.boots.len().saturating_sub(BOOTS);
            self.boots.drain(..extra);
        }
        if !self.staffed || self.fleet.is_none_or(|(most, _)| rate > most) {
            self.fleet = Some((rate, slots));
        }
        self.staffed = true;
    }

    fn jobs(&self) -> f64 {
        Class::ALL.map(|class| self.sum(&format!("n{}", class.index()))).iter().sum()
    }

    fn tokens(&self) -> f64 {
        Class::ALL.map(|class| self.sum(&format!("est{}", class.index()))).iter().sum()
    }

    /// What a job of a class is estimated to be, if any has ended lately.
    fn job_tokens(&self, class: Class) -> Option<f64> {
        let jobs = self.sum(&format!("n{}", class.index()));
        (jobs > 0.0).then(|| self.sum(&format!("est{}", class.index())) / jobs)
    }

    fn boot_p90(&self) -> Duration {
        let mut boots = self.boots.clone();
        boots.sort_unstable();
        let rank = (boots.len() * 9).div_ceil(10);
        match rank.checked_sub(1).and_then(|at| boots.get(at)) {
            Some(ms) => Duration::from_millis(*ms),
            None => ASSUMED_BOOT,
        }
    }

    /// Tokens in the queues, class by class, by the number of their messages.
    fn queued(&self, pace: &Pace, depths: [u64; 4]) -> [f64; 4] {
        let mean = Class::ALL.map(|class| self.job_tokens(class).unwrap_or(pace.mean_job_tokens));
        rates::ahead(depths, mean, pace)
    }

    fn rates(&self, pace: &Pace, ahead: [f64; 4], now: Timestamp) -> Rates {
        let per_second = pace.tokens_per_second / pace.mean_job_tokens.max(1.0);
        let shards = rates::shards(per_second);
        Rates { at: now, origin: Origin::Control, pace: *pace, ahead, shards, spread: self.spread(now) }
    }

    fn spread(&self, now: Timestamp) -> [[Spread; 3]; 4] {
        let newest = span_of(now);
        rates::spreads(self.spans.iter().flat_map(|(span, counts)| {
            let spans_ago = u32::try_from(newest - span).unwrap_or(0);
            counts.iter().filter_map(move |(name, count)| {
                let (class, regime, bin) = error_from(name)?;
                Some(Erred { spans_ago, class, regime, bin, count: u64::try_from(*count).unwrap_or(0) })
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use penstock_policy::id::{PoolId, WorkerId};

    use super::*;

    fn pool() -> Pool {
        Pool::new(PoolId::new("main").unwrap(), "m", 4096, Timestamp::EPOCH)
    }

    fn worker(rate: f64) -> WorkerRecord {
        WorkerRecord {
            id: WorkerId::new("w").unwrap(),
            pool: pool().id,
            digest: String::new(),
            slots: 4,
            tokens_per_second: rate,
            seen: Timestamp::EPOCH,
            draining: false,
        }
    }

    #[test]
    fn from_zero_the_promise_counts_the_boot_and_learns_how_long_it_took() {
        let (mut memory, at) = (Memory::default(), |secs: i64| Timestamp::from_millis(secs * 1000));
        let cold = memory.pace(&pool(), &[], 1, at(0));
        assert_eq!((cold.ready_in, cold.tokens_per_second), (ASSUMED_BOOT, ASSUMED_RATE));
        assert_eq!(memory.pace(&pool(), &[], 1, at(60)).ready_in, ASSUMED_BOOT - Duration::from_secs(60));
        let warm = memory.pace(&pool(), &[worker(50.0), worker(70.0)], 1, at(90));
        assert_eq!((warm.ready_in, warm.tokens_per_second, warm.slots), (Duration::ZERO, 120.0, 8));
        let cold = memory.pace(&pool(), &[], 1, at(1000));
        assert_eq!((cold.ready_in, cold.tokens_per_second), (Duration::from_secs(90), 120.0), "as it was");
        assert_eq!(memory.pace(&pool(), &[], 1, at(1095)).ready_in, Duration::from_secs(90) / 4, "late");
    }

    #[test]
    fn a_pool_nobody_asks_anything_of_is_not_waiting_for_a_worker() {
        let (mut memory, at) = (Memory::default(), |secs: i64| Timestamp::from_millis(secs * 1000));
        memory.pace(&pool(), &[], 0, at(0));
        memory.pace(&pool(), &[], 1, at(1000));
        memory.pace(&pool(), &[worker(1.0)], 1, at(1030));
        assert_eq!(memory.boots, [30_000]);
    }

    #[test]
    fn what_waits_is_counted_in_the_tokens_that_jobs_were_estimated_at() {
        let mut memory = Memory::default();
        let counts = [("n1", 10), ("est1", 1000), ("run", 4000)];
        memory.spans.insert(0, counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect());
        let pace = memory.pace(&pool(), &[worker(50.0)], 9, Timestamp::EPOCH);
        assert_eq!((pace.mean_job_tokens, pace.ms_per_token), (100.0, 4.0));
        // Four of eight run and are half done.
        assert_eq!(memory.queued(&pace, [0, 8, 0, 0]), [0.0, 600.0, 0.0, 0.0]);
    }
}
