//! Which keys are asked for most, in little memory: the space-saving sketch.
//!
//! A fixed number of counters. A key that has none takes over the smallest one, whose count it inherits as its possible
//! error (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements in data streams", 2005).
//! So a count is never too small, too large by at most `observed / counters`, and every key asked for more often than
//! that has a counter. Halving all counts now and then lets what was hot yesterday cool down.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::Heat;

/// How many of the keys asked for most are looked after.
pub const MOST: usize = 1_000;

/// Counters, enough for the first thousand keys of a stream whose frequencies fall like Zipf's to be told apart.
pub const COUNTERS: usize = 4_096;

/// Hits that are certain before a key counts as hot: one that is asked for once in a while needs no care.
const CERTAIN_HITS: u64 = 16;

/// How often a key was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count {
    /// At most so often.
    pub most: u64,
    /// Of which so many may have been another key's.
    pub error: u64,
}

impl Count {
    /// At least so often.
    #[must_use]
    pub const fn least(self) -> u64 {
        self.most - self.error
    }
}

/// Counts keys.
#[derive(Clone, Debug)]
pub struct Sketch<K> {
    counts: BTreeMap<K, Count>,
    /// The same, the smallest first.
    order: BTreeSet<(u64, K)>,
    counters: usize,
}

impl<K: Ord + Clone> Sketch<K> {
    /// A sketch of so many counters, at least one.
    #[must_use]
    pub fn new(counters: usize) -> Self {
        Self { counts: BTreeMap::new(), order: BTreeSet::new(), counters: counters.max(1) }
    }

    /// Counts one more request for `key`. Takes time logarithmic in the number of counters.
    pub fn observe(&mut self, key: &K) {
        if let Some(count) = self.counts.get_mut(key) {
            self.order.remove(&(count.most, key.clone()));
            count.most = count.most.saturating_add(1);
            self.order.insert((count.most, key.clone()));
            return;
        }
        let error = if self.counts.len() < self.counters {
            0
        } else {
            let smallest = self.order.pop_first();
            if let Some((_, key)) = &smallest {
                self.counts.remove(key);
            }
            smallest.map_or(0, |(most, _)| most)
        };
        let most = error.saturating_add(1);
        self.counts.insert(key.clone(), Count { most, error });
        self.order.insert((most, key.clone()));
    }

    /// How often `key` was observed, if it has a counter.
    #[must_use]
    pub fn count(&self, key: &K) -> Option<Count> {
        self.counts.get(key).copied()
    }

    /// The keys with the highest counts, highest first, at most `most` of them.
    #[must_use]
    pub fn top(&self, most: usize) -> Vec<(K, Count)> {
        let of = |(_, key): &(u64, K)| self.counts.get(key).map(|count| (key.clone(), *count));
        self.order.iter().rev().take(most).filter_map(of).collect()
    }

    /// How hot a key is.
    #[must_use]
    pub fn heat(&self, key: &K) -> Heat {
        match self.count(key) {
            Some(count) if count.least() >= CERTAIN_HITS => Heat::Hot,
            Some(_) | None => Heat::Cool,
        }
    }

    /// Halves all counts, and forgets what nothing is left of.
    pub fn halve(&mut self) {
        for count in self.counts.values_mut() {
            *count = Count { most: count.most / 2, error: count.error / 2 };
        }
        self.counts.retain(|_, count| count.most > 0);
        self.order = self.counts.iter().map(|(key, count)| (count.most, key.clone())).collect();
    }
}

/// A list of the keys asked for most, highest first, with how often.
pub type Hottest = Vec<(String, u64)>;

/// Puts the lists of two processes together: each key with the higher of its two counts, so that telling one's own list
/// twice changes nothing; the `most` highest of them, those of equal count in the order of their names.
#[must_use]
pub fn merged(one: &[(String, u64)], other: &[(String, u64)], most: usize) -> Hottest {
    let mut counts = BTreeMap::<&str, u64>::new();
    for (key, count) in one.iter().chain(other) {
        let known = counts.entry(key).or_default();
        *known = (*known).max(*count);
    }
    let mut merged: Hottest = counts.into_iter().map(|(key, count)| (key.to_owned(), count)).collect();
    merged.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    merged.truncate(most);
    merged
}

/// A list after some spans in which counts halve.
#[must_use]
pub fn cooled(hottest: &[(String, u64)], halvings: u32) -> Hottest {
    let halved = |count: u64| count.checked_shr(halvings).unwrap_or(0);
    let left = hottest.iter().map(|(key, count)| (key.clone(), halved(*count)));
    left.filter(|(_, count)| *count >= CERTAIN_HITS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_for_most_stands_first_and_cools_down_when_nobody_asks() {
        let mut sketch = Sketch::new(4);
        for key in [1, 2, 1, 3, 1, 2] {
            sketch.observe(&key);
        }
        assert_eq!(sketch.top(2).iter().map(|(key, count)| (*key, count.most)).collect::<Vec<_>>(), [(1, 3), (2, 2)]);
        assert_eq!(sketch.heat(&1), Heat::Cool);
        (0..20).for_each(|_| sketch.observe(&1));
        assert_eq!(sketch.heat(&1), Heat::Hot);
        sketch.halve();
        assert_eq!((sketch.heat(&1), sketch.count(&3)), (Heat::Cool, None));
    }

    fn list(counts: &[(u8, u64)]) -> Hottest {
        counts.iter().map(|(key, count)| (format!("k{key}"), *count)).collect()
    }

    #[test]
    fn a_list_cools_down_to_nothing() {
        assert_eq!(cooled(&list(&[(1, 64), (2, 31)]), 1), list(&[(1, 32)]));
        assert_eq!(cooled(&list(&[(1, u64::MAX)]), 64), []);
    }

    proptest! {
        #[test]
        fn lists_merge_in_any_order_and_more_than_once(
            one in proptest::collection::vec((0u8..9, 0u64..50), 0..9),
            other in proptest::collection::vec((0u8..9, 0u64..50), 0..9), most in 1usize..12,
        ) {
            let (one, other) = (list(&one), list(&other));
            let both = merged(&one, &other, most);
            prop_assert_eq!(&both, &merged(&other, &one, most));
            prop_assert_eq!(&both, &merged(&both, &one, most));
            prop_assert!(both.len() <= most && both.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        }

        #[test]
        fn counts_are_never_too_small_and_too_large_by_a_bounded_error(
            keys in proptest::collection::vec(0u32..40, 0..400), counters in 1usize..20,
        ) {
            let mut sketch = Sketch::new(counters);
            let mut exact = BTreeMap::<u32, u64>::new();
            for key in &keys {
                sketch.observe(key);
                *exact.entry(*key).or_default() += 1;
            }
            let bound = keys.len() as u64 / counters as u64;
            for (key, count) in sketch.top(usize::MAX) {
                let exact = exact[&key];
                prop_assert!(count.least() <= exact && exact <= count.most && count.error <= bound);
            }
            for (key, exact) in exact {
                prop_assert!(exact <= bound || sketch.count(&key).is_some(), "a frequent key has a counter");
            }
            prop_assert!(sketch.top(usize::MAX).len() <= counters);
        }

        #[test]
        fn halving_keeps_the_order_and_both_views_alike(keys in proptest::collection::vec(0u32..9, 0..99)) {
            let mut sketch = Sketch::new(5);
            keys.iter().for_each(|key| sketch.observe(key));
            sketch.halve();
            prop_assert_eq!(sketch.order.len(), sketch.counts.len());
            let top = sketch.top(9);
            prop_assert!(top.windows(2).all(|pair| pair[0].1.most >= pair[1].1.most));
        }
    }
}
