//! A small memory for records that hardly change, so that the hot path does not read them again for every request, and
//! goes on for a while when they cannot be read at all.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_policy::time::Timestamp;

use crate::ports::PortResult;

/// The most entries kept; beyond it all are dropped, which costs one read each.
const MOST: usize = 10_000;

/// How long a record is still used after its time while the store does not answer. This bounds how long a revoked key
/// outlives its revocation in an outage.
pub(crate) const STALE_IF_ERROR: Duration = Duration::from_secs(15 * 60);

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
        self.stale(key, Duration::ZERO, now)
    }

    /// The value, if it is known and has not been bad for `beyond`.
    pub(crate) fn stale(&self, key: &K, beyond: Duration, now: Timestamp) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(until, _)| until.after(beyond) > now).map(|(_, value)| value.clone())
    }

    /// Forgets a value, which has changed.
    pub(crate) fn forget(&self, key: &K) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Keeps a value for `good_for`.
    pub(crate) fn put(&self, key: K, value: V, now: Timestamp, good_for: Duration) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST {
            entries.clear();
        }
        entries.insert(key, (now.after(good_for), value));
    }

    /// The value as known, else as read, else, if the store does not answer, as it was known for
    /// [`STALE_IF_ERROR`] longer than it is good.
    pub(crate) async fn fetch(
        &self,
        key: &K,
        now: Timestamp,
        good_for: impl FnOnce(&V) -> Duration,
        read: impl Future<Output = PortResult<V>>,
    ) -> PortResult<V> {
        if let Some(known) = self.get(key, now) {
            return Ok(known);
        }
        match read.await {
            Ok(found) => {
                let good_for = good_for(&found);
                self.put(key.clone(), found.clone(), now, good_for);
                Ok(found)
            }
            Err(error) if error.is_passing() => match self.stale(key, STALE_IF_ERROR, now) {
                Some(known) => {
                    tracing::warn!(%error, "a record cannot be read anew: the old one is used");
                    Ok(known)
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::ports::PortError;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_secs(seconds))
    }

    fn fetch(cached: &Cached<u8, u8>, now: Timestamp, found: PortResult<u8>) -> PortResult<u8> {
        let good_for = |_: &u8| Duration::from_secs(60);
        cached.fetch(&1, now, good_for, async move { found }).now_or_never().unwrap()
    }

    #[test]
    fn a_record_outlives_its_time_while_the_store_is_gone_and_not_for_ever() {
        let gone = || Err(PortError::Unavailable { store: "test", cause: String::new() });
        let cached = Cached::new();
        assert_eq!(fetch(&cached, at(0), gone()), gone(), "what was never known is not made up");
        assert_eq!(fetch(&cached, at(0), Ok(7)), Ok(7));
        assert_eq!(fetch(&cached, at(59), Ok(8)), Ok(7), "known: nothing is read");
        assert_eq!(fetch(&cached, at(60 + 899), gone()), Ok(7));
        assert_eq!(fetch(&cached, at(60 + 900), gone()), gone());
        let refused = || Err(PortError::Refused { store: "test", cause: String::new() });
        assert_eq!(fetch(&cached, at(61), refused()), refused(), "an answer is an answer");
        assert_eq!(fetch(&cached, at(61), Ok(8)), Ok(8));
    }
}
