//! What is to be done about a job that may have been left lying: its worker died, its end was never settled, its message is
//! a dead letter.
//!
//! The protocol loses nothing by itself: whoever dies leaves a message that comes back. What is left to find is what no
//! message finds: an end whose consequences nobody drew, a job that is past due and that nobody receives any more, a
//! message that was received too often. Every verdict may be reached twice, by two reconcilers or by one that died in
//! between: the steps that follow are conditional and granted once.

use core::time::Duration;

use crate::job::{Head, State};
use crate::time::Timestamp;

/// A job whose claims have failed this often is taken for the cause.
pub const MOST_FAILED_ATTEMPTS: u32 = 3;

/// How long after its end a job is left to whoever ended it.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// How long after its due moment a job is left to whoever receives its message.
const EXPIRED_WITHIN: Duration = Duration::from_secs(30);

/// How long a message is hidden beyond the lease of its job.
const BEYOND_LEASE: Duration = Duration::from_secs(1);

/// What is to be done about a job that is not over and done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: somebody is about to, or its message will come back.
    Leave,
    /// Its consequences are to be drawn.
    Settle,
    /// It is past due and nobody runs it.
    Expire,
    /// It has killed its workers: it ends as failed.
    GiveUp,
}

/// Judges a job by its record. `due` is unknown of a tombstone, `ended` of a job that has not.
#[must_use]
pub fn verdict(head: &Head, due: Option<Timestamp>, ended: Option<Timestamp>, now: Timestamp) -> Verdict {
    match head.state {
        State::Succeeded | State::Failed | State::Cancelled | State::Expired => {
            let left_alone = ended.is_some_and(|ended| ended.after(SETTLED_WITHIN) > now);
            if head.unsettled && !left_alone { Verdict::Settle } else { Verdict::Leave }
        }
        State::Running if head.lease_until >= now => Verdict::Leave,
        // The claim that has lapsed has failed too.
        State::Running if head.failed_attempts() + 1 >= MOST_FAILED_ATTEMPTS => Verdict::GiveUp,
        State::Parked | State::Queued | State::Running => {
            let past = due.is_some_and(|due| due.after(EXPIRED_WITHIN) <= now);
            if past { Verdict::Expire } else { Verdict::Leave }
        }
    }
}

/// What is to be done about a dead letter: a message that was received too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetter {
    /// Its job has ended: its consequences are drawn, and it is removed.
    Remove,
    /// Its job is past due: so it ends, and the message is removed.
    Expire,
    /// Its job has killed its workers: it ends as failed, and the message is removed.
    GiveUp,
    /// It goes back to its queue, visible after this long.
    SendAgain(Duration),
}

/// Judges a dead letter by the record of its job; `None`: nobody has claimed it yet, and whoever accepted it died before
/// the record was written.
#[must_use]
pub fn triage(head: Option<&Head>, due: Timestamp, now: Timestamp) -> DeadLetter {
    let Some(head) = head else {
        return if due <= now { DeadLetter::Expire } else { DeadLetter::SendAgain(Duration::ZERO) };
    };
    if head.state.is_terminal() {
        return DeadLetter::Remove;
    }
    if head.state == State::Running && head.lease_until >= now {
        return DeadLetter::SendAgain(head.lease_until.since(now) + BEYOND_LEASE);
    }
    if verdict(head, Some(due), None, now) == Verdict::GiveUp {
        return DeadLetter::GiveUp;
    }
    if due <= now { DeadLetter::Expire } else { DeadLetter::SendAgain(Duration::ZERO) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Nonce};

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(NOW.as_millis() + secs * 1000)
    }

    fn running(epoch: u32, releases: u32, lease: i64) -> Head {
        let head = Head { state: State::Running, epoch: Epoch(epoch), releases, ..Head::queued(Nonce(1)) };
        Head { lease_until: at(lease), ..head }
    }

    #[test]
    fn an_end_is_settled_by_others_only_when_whoever_ended_it_had_time_to() {
        let ended = Head { state: State::Succeeded, unsettled: true, ..Head::queued(Nonce(1)) };
        assert_eq!(verdict(&ended, None, Some(at(-59)), NOW), Verdict::Leave);
        assert_eq!(verdict(&ended, None, Some(at(-60)), NOW), Verdict::Settle);
        assert_eq!(verdict(&Head { unsettled: false, ..ended }, None, Some(at(-999)), NOW), Verdict::Leave);
        assert_eq!(verdict(&ended, None, None, NOW), Verdict::Settle, "when it ended is not known");
    }

    #[test]
    fn a_job_expires_past_its_due_moment_unless_somebody_runs_it() {
        let queued = Head::queued(Nonce(1));
        assert_eq!(verdict(&queued, Some(at(-29)), None, NOW), Verdict::Leave);
        assert_eq!(verdict(&queued, Some(at(-30)), None, NOW), Verdict::Expire);
        assert_eq!(verdict(&running(1, 0, 0), Some(at(-999)), None, NOW), Verdict::Leave);
        assert_eq!(verdict(&running(1, 0, -1), Some(at(-999)), None, NOW), Verdict::Expire);
        assert_eq!(verdict(&running(1, 0, -1), Some(at(999)), None, NOW), Verdict::Leave, "its message comes back");
    }

    #[test]
    fn a_job_whose_claims_have_all_lapsed_three_times_is_given_up_and_one_that_was_given_back_is_not() {
        assert_eq!(verdict(&running(3, 0, -1), Some(at(999)), None, NOW), Verdict::GiveUp);
        assert_eq!(verdict(&running(3, 1, -1), Some(at(999)), None, NOW), Verdict::Leave);
        assert_eq!(verdict(&running(3, 0, 0), Some(at(999)), None, NOW), Verdict::Leave, "it runs");
        assert_eq!(triage(Some(&running(3, 0, -1)), at(999), NOW), DeadLetter::GiveUp);
    }

    #[test]
    fn a_dead_letter_goes_back_behind_the_lease_of_its_job_and_ends_with_it() {
        let live = triage(Some(&running(1, 0, 44)), at(999), NOW);
        assert_eq!(live, DeadLetter::SendAgain(Duration::from_secs(45)));
        assert_eq!(triage(Some(&Head::queued(Nonce(1))), at(999), NOW), DeadLetter::SendAgain(Duration::ZERO));
        assert_eq!(triage(None, at(999), NOW), DeadLetter::SendAgain(Duration::ZERO));
        assert_eq!(triage(None, at(0), NOW), DeadLetter::Expire);
        let ended = Head { state: State::Failed, ..Head::queued(Nonce(1)) };
        assert_eq!(triage(Some(&ended), at(-9), NOW), DeadLetter::Remove);
    }
}
