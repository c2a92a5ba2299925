//! Return slots: whoever a full virtual queue refuses is given a moment to come back at, and the room for it.
//!
//! The slot is booked on the queue's own bucket, beyond the ceiling that newcomers are held to: they find the queue longer
//! by it, so nobody overtakes. The moment told is the one at which the booked work conforms. Who comes back then is
//! recognised by what was stored and is let in without taking again.
//!
//! Slots reach [`WINDOW`] ahead, as long as stock clients wait; beyond it the true time is told and nothing is booked.
//! A tenant may hold only [`tenant_cap`] of them. A slot nobody comes back for is taken out of the queue when it is
//! re-anchored, [`GRACE`] after its moment.

use core::time::Duration;

use crate::admission::LONGEST_RETRY_AFTER;
use crate::gcra::{self, Bucket, Limit, Spent};
use crate::time::Timestamp;

/// How far ahead slots are booked.
pub const WINDOW: Duration = LONGEST_RETRY_AFTER;

/// How long after its moment a slot is kept: what clients add to a wait by rounding, jitter and connecting.
pub const GRACE: Duration = Duration::from_secs(10);

/// How much before its moment a slot may be claimed: clients round too.
const EARLY: Duration = Duration::from_millis(50);

/// A booked slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When to come back.
    pub at: Timestamp,
    /// What was spent for it, on this shard of the queue.
    pub spent: Spent,
    /// The shard.
    pub shard: u16,
}

/// The limit that a booking is taken under.
#[must_use]
pub fn limit(of_queue: &Limit) -> Limit {
    of_queue.stretched(WINDOW)
}

/// The slot that a booking under [`limit`] has brought, from the bucket as it is after it.
#[must_use]
pub fn slot(of_queue: &Limit, after: Bucket, spent: Spent, shard: u16) -> Slot {
    let conforms_ns = after.tat_ns.saturating_sub(of_queue.span());
    let at = Timestamp::from_millis(conforms_ns.div_euclid(1_000_000).saturating_add(1));
    Slot { at, spent, shard }
}

/// Tokens that one tenant may hold in slots of one queue, once it has taken another: three times what is left of the
/// window, but one job always. So a tenant alone may book three quarters of it, and several leave each other room: a
/// dynamic threshold (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).
#[must_use]
pub fn tenant_cap(of_queue: &Limit, after: Bucket, job_tokens: u64, now: Timestamp) -> u64 {
    let free = gcra::available(after, &limit(of_queue), now).min(of_queue.refilled_in(WINDOW));
    free.saturating_mul(3).max(job_tokens)
}

/// What somebody who comes back is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// Too early: the same moment again.
    Early {
        /// When to come back.
        at: Timestamp,
    },
    /// In time: let in.
    InTime,
    /// Too late: the slot is gone, like a newcomer's.
    Lapsed,
}

/// Judges a return at `now`.
#[must_use]
pub fn judge(slot: &Slot, now: Timestamp) -> Return {
    if now < slot.at.before(EARLY) {
        Return::Early { at: slot.at }
    } else if now <= lapses(slot.at) {
        Return::InTime
    } else {
        Return::Lapsed
    }
}

/// When a slot is gone.
#[must_use]
pub fn lapses(at: Timestamp) -> Timestamp {
    at.after(GRACE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gcra::{Verdict, take};

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn queue() -> Limit {
        Limit::new(100, Duration::from_secs(1), 1000).unwrap()
    }

    fn granted(bucket: &mut Bucket, limit: &Limit, units: u64, now: Timestamp) -> Option<Spent> {
        match take(*bucket, limit, units, now) {
            Verdict::Granted { bucket: next, spent } => {
                *bucket = next;
                Some(spent)
            }
            Verdict::Refused { .. } | Verdict::NeverSatisfiable => None,
        }
    }

    #[test]
    fn a_slot_is_the_moment_at_which_its_work_fits_and_newcomers_cannot_have_it() {
        let (queue, mut bucket) = (queue(), Bucket::default());
        assert!(granted(&mut bucket, &queue, 1000, NOW).is_some(), "the queue is full");
        let spent = granted(&mut bucket, &limit(&queue), 200, NOW).unwrap();
        let slot = slot(&queue, bucket, spent, 0);
        assert!((2000..=2001).contains(&slot.at.since(NOW).as_millis()), "{slot:?}");
        assert_eq!(judge(&slot, NOW.after(Duration::from_secs(1))), Return::Early { at: slot.at });
        assert_eq!(judge(&slot, slot.at), Return::InTime);
        assert_eq!(judge(&slot, slot.at.after(GRACE)), Return::InTime);
        assert_eq!(judge(&slot, slot.at.after(GRACE + Duration::from_millis(1))), Return::Lapsed);
        // At that very moment a newcomer finds the queue full.
        assert!(granted(&mut bucket, &queue, 1, slot.at.before(Duration::from_millis(2))).is_none());
    }

    #[test]
    fn one_tenant_never_has_the_whole_window() {
        let (queue, mut bucket) = (queue(), Bucket::default());
        granted(&mut bucket, &queue, 1000, NOW).unwrap();
        let mut booked = 0;
        while granted(&mut bucket, &limit(&queue), 100, NOW).is_some()
            && booked + 100 <= tenant_cap(&queue, bucket, 100, NOW)
        {
            booked += 100;
        }
        // Of 5,500 tokens.
        assert!((4_000..=4_200).contains(&booked), "{booked}");
    }

    proptest! {
        #[test]
        fn no_slot_lies_beyond_the_window_and_the_queue_never_holds_more_than_it_may(
            units in proptest::collection::vec((1u64..400, 0u64..500), 1..200)
        ) {
            let (queue, mut bucket, mut now) = (queue(), Bucket::default(), NOW);
            for (units, pause) in units {
                now = now.after(Duration::from_millis(pause));
                if granted(&mut bucket, &queue, units, now).is_none()
                    && let Some(spent) = granted(&mut bucket, &limit(&queue), units, now)
                {
                    let slot = slot(&queue, bucket, spent, 0);
                    prop_assert!(slot.at.since(now) <= WINDOW + Duration::from_millis(1));
                    // By its moment the queue holds its ceiling, this work included, and no more.
                    let then = bucket.tat_ns - slot.at.as_nanos();
                    prop_assert!(then <= queue.span());
                }
            }
        }
    }
}
