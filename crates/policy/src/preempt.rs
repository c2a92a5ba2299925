//! Whose slot an urgent sequence takes when none is free.
//!
//! Only batch work makes way ([`crate::classes::Class::preempts`]): it goes back to the queue with what it has said so
//! far, at a token boundary, and is resumed later. Of several the one that has the least to compute again.
//!
//! Edge cases: while enough slots are free, or will be because others make way already, nobody makes way; a sequence
//! that only reads its prompt makes way before any that has spoken.

use core::cmp::Reverse;

use crate::classes::Class;

/// A sequence that holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its class.
    pub class: Class,
    /// Tokens it holds in the cache, which another worker would have to compute again.
    pub tokens: u32,
}

/// The place in `holders` of the sequence that makes way for the most urgent of `queued`, the classes of sequences
/// without a slot; `None` if nobody has to while `free_slots` are free.
#[must_use]
pub fn victim(queued: &[Class], free_slots: u32, holders: &[Holder]) -> Option<usize> {
    let most_urgent = *queued.iter().min()?;
    if free_slots > 0 {
        return None;
    }
    let candidates = holders.iter().enumerate().filter(|(_, holder)| most_urgent.preempts(holder.class));
    candidates.min_by_key(|(place, holder)| (holder.tokens, Reverse(*place))).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(class: Class, tokens: u32) -> Holder {
        Holder { class, tokens }
    }

    #[test]
    fn the_batch_sequence_with_the_least_to_lose_makes_way() {
        let holders = [holder(Class::P3, 50), holder(Class::P1, 1), holder(Class::P3, 7), holder(Class::P2, 2)];
        assert_eq!(victim(&[Class::P1], 0, &holders), Some(2));
        assert_eq!(victim(&[Class::P3, Class::P0], 0, &holders), Some(2));
    }

    #[test]
    fn nobody_makes_way_without_need() {
        let holders = [holder(Class::P3, 5)];
        assert_eq!(victim(&[Class::P0], 1, &holders), None, "a slot is free");
        assert_eq!(victim(&[Class::P2], 0, &holders), None, "flexible work can wait");
        assert_eq!(victim(&[], 0, &holders), None, "nobody asks");
        assert_eq!(victim(&[Class::P0], 0, &[holder(Class::P2, 5)]), None, "nobody is batch");
    }

    proptest! {
        #[test]
        fn only_batch_work_ever_makes_way(
            queued in proptest::collection::vec(0usize..4, 0..4),
            free in 0u32..2,
            holders in proptest::collection::vec((0usize..4, 0u32..9), 0..6),
        ) {
            let queued: Vec<Class> = queued.into_iter().map(|index| Class::ALL[index]).collect();
            let holders: Vec<Holder> =
                holders.into_iter().map(|(index, tokens)| holder(Class::ALL[index], tokens)).collect();
            match victim(&queued, free, &holders) {
                Some(place) => {
                    prop_assert_eq!(holders[place].class, Class::P3);
                    prop_assert!(free == 0 && queued.iter().any(|&class| class <= Class::P1));
                }
                None => prop_assert!(
                    free > 0
                        || queued.iter().all(|&class| class > Class::P1)
                        || holders.iter().all(|holder| holder.class != Class::P3)
                ),
            }
        }
    }
}
