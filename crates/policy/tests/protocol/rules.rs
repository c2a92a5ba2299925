//! The rules of the protocol: policy's own, and broken ones, which the checker must find out.

use penstock_policy::id::{Epoch, Nonce};
use penstock_policy::job::{Denied, Head, State, Step, apply};
use penstock_policy::time::Timestamp;

/// How a relay reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Chunks first, the record second; what does not fit together is read again, both of it.
    ChunksFirst,
    /// The record first.
    RecordFirst,
    /// Chunks first; what does not fit the record is read again without reading the record again.
    ChunksAgain,
}

/// What may be broken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) apply: fn(Step, Nonce, Option<&Head>, Timestamp) -> Result<Head, Denied>,
    /// A worker that takes a job over first writes an opening chunk.
    pub(crate) opens: bool,
    pub(crate) reading: Reading,
    /// A message is acknowledged only after the end was written.
    pub(crate) acknowledges_last: bool,
}

impl Rules {
    pub(crate) const SOUND: Self = Self { apply, opens: true, reading: Reading::ChunksFirst, acknowledges_last: true };
}

/// Every write is taken for one of the newest claim.
pub(crate) fn without_fence(step: Step, nonce: Nonce, found: Option<&Head>, now: Timestamp) -> Result<Head, Denied> {
    let newest = found.map_or(Epoch(0), |head| head.epoch);
    let step = match step {
        Step::Renew { lease_until, .. } => Step::Renew { epoch: newest, lease_until },
        Step::Release { blameless, .. } => Step::Release { epoch: newest, blameless },
        Step::Finish { end, last, .. } => Step::Finish { epoch: newest, end, last },
        Step::Put
        | Step::Park
        | Step::Unpark
        | Step::Claim { .. }
        | Step::Expire
        | Step::Join
        | Step::Leave
        | Step::Cancel { .. }
        | Step::CallOff
        | Step::Settle => step,
    };
    apply(step, nonce, found, now)
}

/// A claim does not raise the epoch.
pub(crate) fn without_epochs(step: Step, nonce: Nonce, found: Option<&Head>, now: Timestamp) -> Result<Head, Denied> {
    let head = apply(step, nonce, found, now)?;
    Ok(Head { epoch: head.epoch.min(Epoch(1)), ..head })
}

/// An end may be written over another.
pub(crate) fn without_an_end(step: Step, nonce: Nonce, found: Option<&Head>, now: Timestamp) -> Result<Head, Denied> {
    let reopened = found.map(|head| match step {
        Step::Finish { .. } if head.state.is_terminal() => Head { state: State::Running, ..*head },
        _ => *head,
    });
    apply(step, nonce, reopened.as_ref(), now)
}

/// The consequences of an end may be drawn again.
pub(crate) fn without_settling_once(
    step: Step,
    nonce: Nonce,
    found: Option<&Head>,
    now: Timestamp,
) -> Result<Head, Denied> {
    let unsettled = found.map(|head| match step {
        Step::Settle => Head { unsettled: true, ..*head },
        _ => *head,
    });
    apply(step, nonce, unsettled.as_ref(), now)
}

/// A claim needs a record.
pub(crate) fn without_upsert(step: Step, nonce: Nonce, found: Option<&Head>, now: Timestamp) -> Result<Head, Denied> {
    match (step, found) {
        (Step::Claim { .. }, None) => Err(Denied::Absent),
        _ => apply(step, nonce, found, now),
    }
}

/// A job that was called off before its record was put leaves no tombstone.
pub(crate) fn without_tombstone(
    step: Step,
    nonce: Nonce,
    found: Option<&Head>,
    now: Timestamp,
) -> Result<Head, Denied> {
    match (step, found) {
        (Step::CallOff, None) => Err(Denied::Absent),
        _ => apply(step, nonce, found, now),
    }
}
