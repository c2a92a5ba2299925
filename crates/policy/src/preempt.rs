//! Whose slot an urgent sequence takes when none is free, and whose memory others take when there is none left.
//!
//! Only batch work makes way ([`crate::classes::Class::preempts`]): it goes back to the queue with what it has said so
//! far, at a token boundary, and is resumed later. Of several the one that has the least to compute again.
//!
//! A cache that is shared by all sequences can be full while they run: each grew within its rights. Then one makes way for
//! the others ([`yields`]): of the worst class the one that came last, so that the oldest of the best class always gets
//! on and all work ends. Batch work goes back to the queue if anybody urgent runs; among equals the one that makes way
//! stays and is computed again later, since the queue would bring it back to the same place at once.
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

/// A sequence that holds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sitting {
    /// Its class.
    pub class: Class,
    /// Its number in the order of arrival.
    pub arrived: u64,
}

/// How a sequence makes way for the memory of others, by its place among those that hold some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yield {
    /// It goes back to the queue.
    ToTheQueue(usize),
    /// It stays, gives up what it holds, and is computed again later.
    UntilLater(usize),
}

/// Who makes way when memory is short; `None` if nobody else is there to make way for.
#[must_use]
pub fn yields(holders: &[Sitting]) -> Option<Yield> {
    if holders.len() < 2 {
        return None;
    }
    let by_worth = |(_, holder): &(usize, &Sitting)| (holder.class, holder.arrived);
    let (place, last) = holders.iter().enumerate().max_by_key(by_worth)?;
    let most_urgent = holders.iter().map(|holder| holder.class).min()?;
    Some(if most_urgent.preempts(last.class) { Yield::ToTheQueue(place) } else { Yield::UntilLater(place) })
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

    #[test]
    fn for_memory_the_last_of_the_worst_class_makes_way() {
        let sitting = |class, arrived| Sitting { class, arrived };
        let batch = [sitting(Class::P3, 4), sitting(Class::P1, 9), sitting(Class::P3, 7)];
        assert_eq!(yields(&batch), Some(Yield::ToTheQueue(2)), "somebody urgent runs");
        assert_eq!(yields(&[batch[0], batch[2]]), Some(Yield::UntilLater(1)), "the queue would bring it back");
        assert_eq!(yields(&[sitting(Class::P2, 1), batch[0]]), Some(Yield::UntilLater(1)));
        assert_eq!(yields(&[sitting(Class::P0, 5), sitting(Class::P1, 2)]), Some(Yield::UntilLater(1)));
        assert_eq!(yields(&batch[..1]), None, "it has the memory alone");
        assert_eq!(yields(&[]), None);
    }

    proptest! {
        #[test]
        fn the_oldest_of_the_best_class_never_makes_way(
            holders in proptest::collection::vec(0usize..4, 0..6),
        ) {
            let holders: Vec<Sitting> = (0..)
                .zip(holders)
                .map(|(arrived, index)| Sitting { class: Class::ALL[index], arrived })
                .collect();
            let first = holders.iter().enumerate().min_by_key(|(_, holder)| (holder.class, holder.arrived));
            match (yields(&holders), first) {
                (Some(Yield::ToTheQueue(place)), Some((first, _))) => {
                    prop_assert!(place != first && holders[place].class == Class::P3);
                }
                (Some(Yield::UntilLater(place)), Some((first, _))) => prop_assert!(place != first),
                (Some(_), None) => prop_assert!(false),
                (None, _) => prop_assert!(holders.len() < 2),
            }
        }

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
