//! A process's own memory of kept answers, and of how often they are asked for.
//!
//! Bounded in bytes; what is asked for least goes first. An answer is given from here for a few seconds after it was read
//! from the store; after that it stays for the time in which the store does not answer. Keys hold the tenant already (see
//! `canonical`), so no tenant ever meets another's answer here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_policy::cache::{Heat, MEMORY};
use penstock_policy::hot::{COUNTERS, Count, Hottest, Sketch};
use penstock_policy::time::Timestamp;

use crate::kept::answer::Kept;
use crate::kept::heat::TOLD_EVERY;
use crate::ports::MarkerKey;

/// How often counts are halved: what was hot an hour ago is not hot for ever.
pub(crate) const HALVED_EVERY: Duration = Duration::from_secs(600);

/// How long an answer stays in memory at most: so long may what a tenant has had erased be found in a process that was
/// cut off from the store all the while.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// How soon after a refresh was tried the same process tries it again.
const REFRESH_AGAIN: Duration = Duration::from_secs(10);

/// An answer in memory.
#[derive(Clone)]
pub(crate) struct Remembered {
    pub(crate) kept: Arc<Kept>,
    /// When the store was asked last.
    read: Timestamp,
}

impl Remembered {
    /// Whether it may be given without asking the store.
    pub(crate) fn is_recent(&self, now: Timestamp) -> bool {
        now.since(self.read) < MEMORY
    }
}

/// The memory.
pub(crate) struct Memory {
    answers: moka::sync::Cache<String, Remembered>,
    /// When each refresh was tried last.
    refreshes: moka::sync::Cache<String, Timestamp>,
    counts: Mutex<Counts>,
    /// What is hot elsewhere, and when that was asked last.
    elsewhere: Mutex<(BTreeSet<String>, Timestamp)>,
}

struct Counts {
    sketch: Sketch<String>,
    halved: Timestamp,
}

impl Memory {
    /// A memory of at most so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let weight = |key: &String, remembered: &Remembered| {
            u32::try_from(remembered.kept.bytes().saturating_add(2 * key.len())).unwrap_or(u32::MAX)
        };
        Self {
            answers: moka::sync::Cache::builder().max_capacity(bytes).weigher(weight).time_to_live(FORGOTTEN).build(),
            refreshes: moka::sync::Cache::new(10_000),
            counts: Mutex::new(Counts { sketch: Sketch::new(COUNTERS), halved: Timestamp::EPOCH }),
            elsewhere: Mutex::new((BTreeSet::new(), Timestamp::EPOCH)),
        }
    }

    /// The answer kept under `key`, however old it is.
    pub(crate) fn get(&self, key: &MarkerKey) -> Option<Remembered> {
        self.answers.get(&key.digest)
    }

    /// Remembers an answer that the store has just given.
    pub(crate) fn put(&self, key: &MarkerKey, kept: Arc<Kept>, now: Timestamp) {
        self.answers.insert(key.digest.clone(), Remembered { kept, read: now });
    }

    /// Counts a request for `key`.
    pub(crate) fn count(&self, key: &MarkerKey, now: Timestamp) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.halved == Timestamp::EPOCH {
            counts.halved = now;
        }
        if now.since(counts.halved) >= HALVED_EVERY {
            counts.sketch.halve();
            counts.halved = now;
        }
        counts.sketch.observe(&key.digest);
    }

    /// How much `key` is asked for, and how often for certain.
    pub(crate) fn heat(&self, key: &MarkerKey) -> (Heat, u64) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (here, least) = (counts.sketch.heat(&key.digest), counts.sketch.count(&key.digest).map_or(0, Count::least));
        drop(counts);
        let elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        (if elsewhere.0.contains(&key.digest) { Heat::Hot } else { here }, least)
    }

    /// The hot keys that are asked for most here, at most `most` of them.
    pub(crate) fn hottest(&self, most: usize) -> Hottest {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let top = counts.sketch.top(most).into_iter();
        let hot = top.filter(|(key, _)| counts.sketch.heat(key) == Heat::Hot);
        hot.map(|(key, count)| (key, count.least())).collect()
    }

    /// Learns what is hot in all processes.
    pub(crate) fn learn(&self, hottest: &Hottest) {
        let keys = hottest.iter().map(|(key, _)| key.clone()).collect();
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).0 = keys;
    }

    /// Whether it is time to tell the other processes; once it was said, not again for a minute. The first minute is for
    /// gathering.
    pub(crate) fn is_time_to_tell(&self, now: Timestamp) -> bool {
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        if elsewhere.1 == Timestamp::EPOCH {
            elsewhere.1 = now;
        }
        let due = now.since(elsewhere.1) >= TOLD_EVERY;
        if due {
            elsewhere.1 = now;
        }
        due
    }

    /// Whether this process should try to refresh `key` now; once it was said, not again for a while.
    pub(crate) fn may_refresh(&self, key: &MarkerKey, now: Timestamp) -> bool {
        if self.refreshes.get(&key.digest).is_some_and(|tried| now.since(tried) < REFRESH_AGAIN) {
            return false;
        }
        self.refreshes.insert(key.digest.clone(), now);
        true
    }
}
