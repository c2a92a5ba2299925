//! The four priority classes and what each may take of a worker.
//!
//! P0 is interactive and paid for, P1 the default, P2 flexible, P3 batch. The worker, not the queue, owns priority: a
//! class may only fill its share of the slots, so that a worker busy with batch work is always ready for P0 without
//! preemption.

use core::time::Duration;

/// A priority class, P0 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Interactive and urgent (`service_tier: priority`).
    P0,
    /// The default.
    P1,
    /// Flexible: may wait for spare capacity (`service_tier: flex`).
    P2,
    /// Batch and background.
    P3,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 4] = [Self::P0, Self::P1, Self::P2, Self::P3];

    /// The class's number, 0 to 3.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::P0 => 0,
            Self::P1 => 1,
            Self::P2 => 2,
            Self::P3 => 3,
        }
    }

    /// The class's name in keys, queue names and metrics: `p0` to `p3`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P0 => "p0",
            Self::P1 => "p1",
            Self::P2 => "p2",
            Self::P3 => "p3",
        }
    }

    /// The class of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// The class a request gets: what it asks for, but never better than its tenant's ceiling.
    #[must_use]
    pub fn granted(asked: Self, ceiling: Self) -> Self {
        asked.max(ceiling)
    }

    /// How long after its creation a job of this class is still worth running. The queue keeps messages longer (see
    /// `infra/data.yaml`), so a message never vanishes before its job is due.
    #[must_use]
    pub const fn patience(self) -> Duration {
        match self {
            Self::P0 => Duration::from_secs(10 * 60),
            Self::P1 => Duration::from_secs(20 * 60),
            Self::P2 => Duration::from_secs(4 * 3600),
            Self::P3 => Duration::from_secs(24 * 3600),
        }
    }

    /// Whether a job of this class may take the slot of a running job of class `other`: interactive work may take that
    /// of batch work, which loses time and nothing else.
    #[must_use]
    pub fn preempts(self, other: Self) -> bool {
        self <= Self::P1 && other == Self::P3
    }

    /// The largest number of a worker's `slots` that jobs of this class and worse may occupy together: P0 all, P1 all
    /// but 10 %, P2 all but 25 %, P3 all but 40 %, each at least one.
    #[must_use]
    pub fn slot_ceiling(self, slots: usize) -> usize {
        let kept_free = match self {
            Self::P0 => 0,
            Self::P1 => slots / 10,
            Self::P2 => slots / 4,
            Self::P3 => slots * 2 / 5,
        };
        slots.saturating_sub(kept_free).max(usize::from(slots > 0))
    }
}

/// How many more jobs of `class` a worker with `slots` slots may start while `busy[c]` of them run jobs of class `c`.
///
/// The ceiling of a class counts the jobs of that class and of all worse ones, so urgent work never eats into what is
/// left for urgent work. Jobs that this class may preempt do not count at all: the engine gives their slots to the
/// newcomer (see [`crate::preempt`]), so for a moment there are more jobs than slots, but never more than slots of
/// jobs that stay.
#[must_use]
pub fn startable(class: Class, slots: usize, busy: [usize; 4]) -> usize {
    let stays = |index: &usize| !class.preempts(Class::ALL[*index]);
    let total: usize = (0..4).filter(stays).map(|index| busy[index]).sum();
    let same_or_worse: usize = (class.index()..4).filter(stays).map(|index| busy[index]).sum();
    let of_class = class.slot_ceiling(slots).saturating_sub(same_or_worse);
    of_class.min(slots.saturating_sub(total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_worker_full_of_batch_work_still_starts_urgent_work() {
        let busy = [0, 0, 0, Class::P3.slot_ceiling(10)];
        assert_eq!(startable(Class::P3, 10, busy), 0);
        assert_eq!(startable(Class::P2, 10, busy), 2);
        assert_eq!(startable(Class::P0, 10, busy), 10, "batch work makes way");
        assert_eq!(startable(Class::P1, 10, [3, 2, 0, 5]), 5);
    }

    #[test]
    fn a_single_slot_serves_every_class() {
        for class in Class::ALL {
            assert_eq!(startable(class, 1, [0; 4]), 1);
        }
    }

    #[test]
    fn a_tenant_never_gets_a_better_class_than_its_ceiling() {
        assert_eq!(Class::granted(Class::P0, Class::P2), Class::P2);
        assert_eq!(Class::granted(Class::P3, Class::P0), Class::P3);
    }

    proptest! {
        #[test]
        fn starting_what_may_start_never_overfills(slots in 0usize..64, order in proptest::collection::vec(0usize..4, 0..200)) {
            let mut busy = [0usize; 4];
            for index in order {
                let class = Class::ALL[index];
                if startable(class, slots, busy) > 0 {
                    busy[index] += 1;
                }
                prop_assert!(busy[..3].iter().sum::<usize>() <= slots, "what stays has a slot");
                prop_assert!(busy[3] <= Class::P3.slot_ceiling(slots));
                prop_assert!(startable(Class::P3, slots, busy) == 0 || busy.iter().sum::<usize>() < slots);
            }
        }
    }
}
