//! The life of a job: its states and the one table of guards.
//!
//! Every conditional write on a job record is a [`Step`]; [`apply`] says whether it is allowed on the record found and
//! what the record becomes. The SQLite adapter calls it inside its transaction. The DynamoDB adapter writes the same
//! guard as a condition expression and is tested against this table by the contract suite.
//!
//! Why epochs: a worker can pause longer than its lease and wake up believing it still owns the job. Each claim raises
//! the epoch, and every later write of that claim names it, so the sleeper's writes are refused (Kleppmann, "How to do
//! distributed locking", fencing tokens).

use crate::id::{Epoch, Nonce};
use crate::time::Timestamp;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stored, not yet in the queue.
    Parked,
    /// Waiting in the queue.
    Queued,
    /// Claimed by a worker that holds a lease.
    Running,
    /// Ended with an answer.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended because nobody wants it any more.
    Cancelled,
    /// Ended because it was not run by its due moment.
    Expired,
}

impl State {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 7] =
        [Self::Parked, Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Expired];

    /// The letter stored for the state.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Parked => "P",
            Self::Queued => "Q",
            Self::Running => "R",
            Self::Succeeded => "S",
            Self::Failed => "F",
            Self::Cancelled => "X",
            Self::Expired => "E",
        }
    }

    /// The state stored under that letter.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// The word clients see.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Parked | Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether the job has ended; a job ends once and never changes its end.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }
}

/// A place in a job's output: the chunk `seq` written in `epoch`. Sequence numbers start at 0 in each epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch of the worker that wrote the chunk.
    pub epoch: Epoch,
    /// The chunk's number within the epoch.
    pub seq: u32,
}

/// The part of a job record that guards look at and steps change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    /// Where the job stands.
    pub state: State,
    /// How often it was claimed.
    pub epoch: Epoch,
    /// Until when the claim of `epoch` holds; meaningful in state [`State::Running`].
    pub lease_until: Timestamp,
    /// Claims that were given back on purpose (drain, shutdown); `epoch - releases` is the number of failed attempts.
    pub releases: u32,
    /// How many clients want the answer.
    pub interest: u32,
    /// The last chunk of the answer, set by the terminal step.
    pub last: Option<Position>,
    /// True from the terminal step until its consequences (usage, refunds, cache, webhook) are done.
    pub unsettled: bool,
    /// The nonce of the write that made this version of the record.
    pub nonce: Nonce,
}

impl Head {
    /// How many claims have failed: neither given back on purpose nor, if it runs, the present one.
    #[must_use]
    pub const fn failed_attempts(&self) -> u32 {
        let running = if matches!(self.state, State::Running) { 1 } else { 0 };
        self.epoch.0.saturating_sub(self.releases).saturating_sub(running)
    }

    /// The record of a job that has just been accepted.
    #[must_use]
    pub const fn queued(nonce: Nonce) -> Self {
        Self::waiting(State::Queued, nonce)
    }

    /// The record of a job that has just been accepted and does not go to the queue yet.
    #[must_use]
    pub const fn parked(nonce: Nonce) -> Self {
        Self::waiting(State::Parked, nonce)
    }

    const fn waiting(state: State, nonce: Nonce) -> Self {
        Self {
            state,
            epoch: Epoch(0),
            lease_until: Timestamp::EPOCH,
            releases: 0,
            interest: 1,
            last: None,
            unsettled: false,
            nonce,
        }
    }

    const fn leased_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            State::Running if self.lease_until.as_millis() >= now.as_millis() => Some(self.lease_until),
            State::Running
            | State::Parked
            | State::Queued
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => None,
        }
    }
}

/// How a worker ends a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// With an answer.
    Succeeded,
    /// With an error.
    Failed,
}

/// A conditional write on a job record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Put the record of a newly accepted job, if there is none yet.
    Put,
    /// Put the record of a newly accepted job that is stored and not sent, if there is none yet.
    Park,
    /// Note that a parked job has been sent to its queue.
    Unpark,
    /// Take the job, creating its record from the message if there is none.
    Claim {
        /// How long the claim holds.
        lease_until: Timestamp,
    },
    /// Prolong the claim of `epoch`.
    Renew {
        /// The claim.
        epoch: Epoch,
        /// Its new end.
        lease_until: Timestamp,
    },
    /// Give the claim of `epoch` back: the job is queued again.
    Release {
        /// The claim.
        epoch: Epoch,
        /// Given back on purpose (drain, shutdown); if not, the claim counts as a failed attempt.
        blameless: bool,
    },
    /// End the job as the holder of `epoch`.
    Finish {
        /// The claim.
        epoch: Epoch,
        /// How.
        end: End,
        /// The last chunk of the answer; `None` if there is no text at all.
        last: Option<Position>,
    },
    /// End a job that is past its due moment and not being run, leaving a tombstone if there is no record.
    Expire,
    /// One more client wants the answer.
    Join,
    /// One client fewer wants the answer.
    Leave,
    /// End a job nobody wants, leaving a tombstone if there is no record, so that no late message revives it.
    Cancel {
        /// End it even though others want it (the tenant's own explicit wish).
        regardless_of_interest: bool,
    },
    /// Leave a tombstone in the place of a record that nobody has put, by an acceptor that does not know whether its
    /// message was sent: should it arrive, it will not run. The acceptor itself gives back what it took, so there are no
    /// consequences left. A record, whoever put it and whether or not it has run yet, is proof that a message was sent
    /// (by this acceptor or by one that took it for dead) and may be what a client was promised.
    CallOff,
    /// Note that the consequences of the end are done. Granted once: whoever is granted it gives back what the job
    /// had reserved and did not use.
    Settle,
}

/// Why a step is not allowed on the record found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no record.
    Absent,
    /// There is a record already.
    Present,
    /// The job has ended, in this state.
    Ended(State),
    /// Another claim holds until then.
    Leased(Timestamp),
    /// The claim named is no longer the newest, or was given back.
    Fenced,
    /// Others still want the answer.
    Wanted,
    /// Nobody wants the answer any more; it may be cancelled at any moment, so nobody may join.
    Unwanted,
    /// The job has not ended.
    NotEnded,
    /// The consequences of the end are done already.
    Settled,
    /// The job is in its queue or runs: it is not parked any more.
    Unparked,
}

/// Says whether `step` is allowed on the record found (`None`: there is none), and what the record becomes.
///
/// A step whose `nonce` the record bears already has been applied before, its reply being lost: it is granted again
/// without changing anything.
///
/// # Errors
/// [`Denied`], with what the caller needs to go on.
pub fn apply(step: Step, nonce: Nonce, found: Option<&Head>, now: Timestamp) -> Result<Head, Denied> {
    if let Some(head) = found
        && head.nonce == nonce
    {
        return Ok(*head);
    }
    let next = match (step, found) {
        (Step::Put, None) => Head::queued(nonce),
        (Step::CallOff, None) => Head { state: State::Cancelled, interest: 0, ..Head::queued(nonce) },
        (Step::Park, None) => Head::parked(nonce),
        (Step::Put | Step::Park | Step::CallOff, Some(_)) => return Err(Denied::Present),
        (Step::Claim { lease_until }, found) => claim(found, lease_until, now)?,
        (Step::Expire, found) => ended_from_waiting(found, State::Expired, now)?,
        (Step::Cancel { regardless_of_interest }, found) => cancel(found, regardless_of_interest)?,
        (
            Step::Renew { .. }
            | Step::Release { .. }
            | Step::Finish { .. }
            | Step::Join
            | Step::Leave
            | Step::Settle
            | Step::Unpark,
            None,
        ) => return Err(Denied::Absent),
        (Step::Unpark, Some(head)) if head.state.is_terminal() => return Err(Denied::Ended(head.state)),
        (Step::Unpark, Some(head)) if head.state != State::Parked => return Err(Denied::Unparked),
        (Step::Unpark, Some(head)) => Head { state: State::Queued, ..*head },
        (Step::Renew { epoch, lease_until }, Some(head)) => Head { lease_until, ..held(head, epoch)? },
        (Step::Release { epoch, blameless }, Some(head)) => {
            let head = held(head, epoch)?;
            Head { state: State::Queued, releases: head.releases.saturating_add(u32::from(blameless)), ..head }
        }
        (Step::Finish { epoch, end, last }, Some(head)) => {
            let state = match end {
                End::Succeeded => State::Succeeded,
                End::Failed => State::Failed,
            };
            Head { state, last, unsettled: true, ..held(head, epoch)? }
        }
        (Step::Join, Some(head)) if head.state.is_terminal() => return Err(Denied::Ended(head.state)),
        (Step::Join, Some(head)) if head.interest == 0 => return Err(Denied::Unwanted),
        (Step::Join, Some(head)) => Head { interest: head.interest.saturating_add(1), ..*head },
        (Step::Leave, Some(head)) if head.state.is_terminal() => return Err(Denied::Ended(head.state)),
        (Step::Leave, Some(head)) if head.interest == 0 => return Err(Denied::Unwanted),
        (Step::Leave, Some(head)) => Head { interest: head.interest.saturating_sub(1), ..*head },
        (Step::Settle, Some(head)) if !head.state.is_terminal() => return Err(Denied::NotEnded),
        (Step::Settle, Some(head)) if !head.unsettled => return Err(Denied::Settled),
        (Step::Settle, Some(head)) => Head { unsettled: false, ..*head },
    };
    Ok(Head { nonce, ..next })
}

fn claim(found: Option<&Head>, lease_until: Timestamp, now: Timestamp) -> Result<Head, Denied> {
    let head = found.copied().unwrap_or(Head::queued(Nonce::default()));
    if head.state.is_terminal() {
        return Err(Denied::Ended(head.state));
    }
    if let Some(until) = head.leased_until(now) {
        return Err(Denied::Leased(until));
    }
    Ok(Head { state: State::Running, epoch: head.epoch.next(), lease_until, ..head })
}

fn held(head: &Head, epoch: Epoch) -> Result<Head, Denied> {
    if head.state.is_terminal() {
        return Err(Denied::Ended(head.state));
    }
    if head.state != State::Running || head.epoch != epoch {
        return Err(Denied::Fenced);
    }
    Ok(*head)
}

fn ended_from_waiting(found: Option<&Head>, state: State, now: Timestamp) -> Result<Head, Denied> {
    let head = found.copied().unwrap_or(Head { interest: 0, ..Head::queued(Nonce::default()) });
    if head.state.is_terminal() {
        return Err(Denied::Ended(head.state));
    }
    if let Some(until) = head.leased_until(now) {
        return Err(Denied::Leased(until));
    }
    Ok(Head { state, unsettled: true, ..head })
}

fn cancel(found: Option<&Head>, regardless_of_interest: bool) -> Result<Head, Denied> {
    let head = found.copied().unwrap_or(Head { interest: 0, ..Head::queued(Nonce::default()) });
    if head.state.is_terminal() {
        return Err(Denied::Ended(head.state));
    }
    if head.interest > 0 && !regardless_of_interest {
        return Err(Denied::Wanted);
    }
    Ok(Head { state: State::Cancelled, interest: 0, unsettled: true, ..head })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const LATER: Timestamp = Timestamp::from_millis(1_045_000);

    fn running(epoch: u32, lease_until: Timestamp) -> Head {
        Head { state: State::Running, epoch: Epoch(epoch), lease_until, ..Head::queued(Nonce(1)) }
    }

    #[test]
    fn a_claim_creates_the_record_when_the_message_came_first() {
        let head = apply(Step::Claim { lease_until: LATER }, Nonce(7), None, NOW).unwrap();
        assert_eq!((head.state, head.epoch, head.nonce), (State::Running, Epoch(1), Nonce(7)));
    }

    #[test]
    fn a_live_lease_keeps_others_out_and_a_lapsed_one_does_not() {
        let head = running(1, LATER);
        let claim = Step::Claim { lease_until: LATER };
        assert_eq!(apply(claim, Nonce(2), Some(&head), LATER), Err(Denied::Leased(LATER)));
        let after = Timestamp::from_millis(LATER.as_millis() + 1);
        assert_eq!(apply(claim, Nonce(2), Some(&head), after).unwrap().epoch, Epoch(2));
    }

    #[test]
    fn a_worker_that_lost_its_lease_cannot_publish() {
        let head = running(2, LATER);
        let finish = Step::Finish { epoch: Epoch(1), end: End::Succeeded, last: None };
        assert_eq!(apply(finish, Nonce(9), Some(&head), NOW), Err(Denied::Fenced));
    }

    #[test]
    fn a_lost_reply_is_recognised_by_its_nonce() {
        let claim = Step::Claim { lease_until: LATER };
        let first = apply(claim, Nonce(7), None, NOW).unwrap();
        assert_eq!(apply(claim, Nonce(7), Some(&first), NOW), Ok(first));
    }

    #[test]
    fn a_cancelled_job_that_never_had_a_record_stays_cancelled() {
        let tomb = apply(Step::Cancel { regardless_of_interest: false }, Nonce(1), None, NOW).unwrap();
        assert_eq!(
            apply(Step::Claim { lease_until: LATER }, Nonce(2), Some(&tomb), NOW),
            Err(Denied::Ended(State::Cancelled))
        );
    }

    #[test]
    fn a_job_somebody_wants_is_cancelled_only_on_explicit_wish() {
        let head = running(1, LATER);
        let polite = Step::Cancel { regardless_of_interest: false };
        assert_eq!(apply(polite, Nonce(2), Some(&head), NOW), Err(Denied::Wanted));
        let firm = Step::Cancel { regardless_of_interest: true };
        assert_eq!(apply(firm, Nonce(2), Some(&head), NOW).unwrap().state, State::Cancelled);
    }

    #[test]
    fn only_what_nobody_has_put_is_called_off_and_then_never_runs() {
        let off = apply(Step::CallOff, Nonce(9), None, NOW).unwrap();
        assert_eq!((off.state, off.unsettled), (State::Cancelled, false));
        assert_eq!(apply(Step::CallOff, Nonce(9), Some(&off), NOW), Ok(off), "a repetition");
        let claim = Step::Claim { lease_until: LATER };
        assert_eq!(apply(claim, Nonce(2), Some(&off), NOW), Err(Denied::Ended(State::Cancelled)));
        for state in State::ALL {
            let put = Head { state, ..Head::queued(Nonce(1)) };
            assert_eq!(apply(Step::CallOff, Nonce(9), Some(&put), NOW), Err(Denied::Present));
        }
    }

    #[test]
    fn a_parked_job_is_sent_before_it_counts_as_queued_and_may_be_claimed_in_between() {
        let parked = apply(Step::Park, Nonce(1), None, NOW).unwrap();
        assert_eq!(parked.state, State::Parked);
        assert_eq!(apply(Step::Unpark, Nonce(2), Some(&parked), NOW).unwrap().state, State::Queued);
        let claimed = apply(Step::Claim { lease_until: LATER }, Nonce(3), Some(&parked), NOW).unwrap();
        assert_eq!(apply(Step::Unpark, Nonce(2), Some(&claimed), NOW), Err(Denied::Unparked));
        let cancelled = apply(Step::Cancel { regardless_of_interest: true }, Nonce(4), Some(&parked), NOW).unwrap();
        assert_eq!(apply(Step::Unpark, Nonce(2), Some(&cancelled), NOW), Err(Denied::Ended(State::Cancelled)));
    }

    #[test]
    fn codes_and_states_are_one_to_one() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Some(state));
        }
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let epoch = (0u32..4).prop_map(Epoch);
        let lease = (0i64..200).prop_map(Timestamp::from_millis);
        prop_oneof![
            Just(Step::Put),
            lease.clone().prop_map(|lease_until| Step::Claim { lease_until }),
            (epoch.clone(), lease).prop_map(|(epoch, lease_until)| Step::Renew { epoch, lease_until }),
            (epoch.clone(), any::<bool>()).prop_map(|(epoch, blameless)| Step::Release { epoch, blameless }),
            epoch.prop_map(|epoch| Step::Finish { epoch, end: End::Succeeded, last: None }),
            Just(Step::Expire),
            Just(Step::Join),
            Just(Step::Leave),
            any::<bool>().prop_map(|regardless_of_interest| Step::Cancel { regardless_of_interest }),
            Just(Step::CallOff),
            Just(Step::Settle),
            Just(Step::Park),
            Just(Step::Unpark),
        ]
    }

    proptest! {
        #[test]
        fn a_job_ends_once_epochs_only_grow_and_one_epoch_has_one_holder(
            steps in proptest::collection::vec((any_step(), 0i64..200), 0..60)
        ) {
            let mut head: Option<Head> = None;
            for (number, (step, now)) in steps.into_iter().enumerate() {
                let before = head;
                if let Ok(next) = apply(step, Nonce(number as u64 + 1), head.as_ref(), Timestamp::from_millis(now)) {
                    if let Some(old) = before {
                        prop_assert!(next.epoch >= old.epoch);
                        if old.state.is_terminal() {
                            prop_assert_eq!(next.state, old.state);
                            prop_assert_eq!(next.last, old.last);
                        }
                        if matches!(step, Step::Claim { .. }) {
                            prop_assert_eq!(next.epoch, old.epoch.next());
                        }
                    }
                    head = Some(next);
                }
            }
        }
    }
}
