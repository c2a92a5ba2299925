//! A small memory for records that hardly change, so that the hot path does not read them again for every request.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_policy::time::Timestamp;

/// The most entries kept; beyond it all are dropped, which costs one read each.
const MOST: usize = 10_000;

/// Values by key, each good until a moment.
pub(crate) struct Cached<K, V> {
    entries: Mutex<BTreeMap<K, (Timestamp, V)>>,
}

impl<K: Ord + Clone, V: Clone> Cached<K, V> {
    pub(crate) const fn new() -> Self {
        Self { entries: Mutex::new(BTreeMap::new()) }
    }

    /// The value, if it is known and still good.
    pub(crate) fn get(&self, key: &K, now: Timestamp) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(until, _)| *until > now).map(|(_, value)| value.clone())
    }

    /// Keeps a value for `good_for`.
    pub(crate) fn put(&self, key: K, value: V, now: Timestamp, good_for: Duration) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST {
            entries.clear();
        }
        entries.insert(key, (now.after(good_for), value));
    }
}
