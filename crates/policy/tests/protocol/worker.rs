//! A worker of the model: the steps of `worker/work` one by one, any of which may be the last.

use penstock_policy::id::{Epoch, Nonce};
use penstock_policy::job::{Denied, End, Head, Position, Step};
use penstock_policy::resume::continuation;
use penstock_policy::time::Timestamp;

use crate::rules::Rules;
use crate::store::{Chunk, LEASE, Reply, Store, TICK, VISIBILITY, Write, moment};

/// A job whose claims have failed this often is given up.
const MOST_FAILED_ATTEMPTS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Waits for a message.
    Idle,
    /// Has one, and has not looked at the clock yet.
    Received,
    Expiring(Timestamp),
    Claiming(Timestamp),
    /// Has claimed, and reads what earlier workers said.
    Reading,
    Opening(Option<Position>),
    Running,
    Renewing(Timestamp),
    Finishing(End, Timestamp),
    Releasing {
        blameless: bool,
        at: Timestamp,
    },
    /// Gives the message back, or puts it off until that tick.
    Hiding {
        visible: u8,
        then_run: bool,
    },
    Settling,
    Acknowledging,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) phase: Phase,
    number: u8,
    receives: u8,
    epoch: Epoch,
    next_seq: u32,
    last: Option<Position>,
    said: u8,
    /// It has said something since it last renewed its claim.
    advanced: bool,
    /// It is paused, or its host is, for so many ticks at most.
    pub(crate) paused: u8,
}

/// What a worker does next.
pub(crate) enum Intent {
    Write(Write),
    /// Something that needs no write; what comes of it is the worker's new state.
    Become(Worker),
}

impl Worker {
    pub(crate) const NEW: Self = Self {
        phase: Phase::Idle,
        number: 0,
        receives: 0,
        epoch: Epoch(0),
        next_seq: 0,
        last: None,
        said: 0,
        advanced: false,
        paused: 0,
    };

    pub(crate) fn with(number: u8, receives: u8) -> Self {
        Self { phase: Phase::Received, number, receives, ..Self::NEW }
    }

    /// What it does next, by its own clock (`now`, in ticks); `None` if it waits for a message.
    pub(crate) fn intent(
        &self,
        me: usize,
        store: &Store,
        rules: &Rules,
        words: u8,
        due: u8,
        now: u8,
    ) -> Option<Intent> {
        let lease_until = moment(now).after(TICK * u32::from(LEASE));
        let write = match self.phase {
            Phase::Idle => return None,
            Phase::Received => {
                let phase = if moment(due) <= moment(now) { Phase::Expiring } else { Phase::Claiming };
                return Some(Intent::Become(Self { phase: phase(moment(now)), ..*self }));
            }
            Phase::Expiring(at) => Write::Step(Step::Expire, self.nonce(me, 1, 0), at),
            Phase::Claiming(at) => {
                let lease_until = at.after(TICK * u32::from(LEASE));
                Write::Step(Step::Claim { lease_until }, self.nonce(me, 2, 0), at)
            }
            Phase::Reading => return Some(Intent::Become(self.read(store, rules))),
            Phase::Opening(parent) => {
                Write::Chunk(Chunk { position: self.position(), parent, word: None, by: self.nonce(me, 7, 0) })
            }
            Phase::Running if self.said < words => Write::Chunk(Chunk {
                position: self.position(),
                parent: None,
                word: Some(self.said),
                by: self.nonce(me, 7, 0),
            }),
            Phase::Running => {
                return Some(Intent::Become(Self { phase: Phase::Finishing(End::Succeeded, moment(now)), ..*self }));
            }
            Phase::Renewing(at) => {
                let step = Step::Renew { epoch: self.epoch, lease_until };
                Write::Step(step, self.nonce(me, 3, self.said), at)
            }
            Phase::Finishing(end, at) => {
                let step = Step::Finish { epoch: self.epoch, end, last: self.last };
                Write::Step(step, self.nonce(me, 4, 0), at)
            }
            Phase::Releasing { blameless, at } => {
                let step = Step::Release { epoch: self.epoch, blameless };
                Write::Step(step, self.nonce(me, 5, 0), at)
            }
            Phase::Hiding { visible, .. } => Write::Hide { number: self.number, visible },
            Phase::Settling if store.record.is_some_and(|head| head.unsettled) => {
                Write::Step(Step::Settle, self.nonce(me, 6, 0), moment(now))
            }
            Phase::Settling => return Some(Intent::Become(Self { phase: Phase::Acknowledging, ..*self })),
            Phase::Acknowledging => Write::Ack { number: self.number },
        };
        Some(Intent::Write(write))
    }

    /// What becomes of it when the store has answered.
    pub(crate) fn answered(self, reply: Reply, now: u8, clock: u8) -> Self {
        let to = |phase| Self { phase, ..self };
        let hide = |visible, then_run| to(Phase::Hiding { visible, then_run });
        match (self.phase, reply) {
            (Phase::Expiring(_), Reply::Stepped(Ok(_))) => to(Phase::Settling),
            (Phase::Claiming(_), Reply::Stepped(Ok(head))) => self.claimed(&head),
            (Phase::Expiring(_) | Phase::Claiming(_), Reply::Stepped(Err(denied))) => match denied {
                Denied::Ended(_) => to(Phase::Settling),
                Denied::Leased(until) => {
                    let left = u8::try_from(until.since(moment(now)).as_secs()).unwrap_or(u8::MAX);
                    hide(clock.saturating_add(left).saturating_add(1), false)
                }
                _ => Self::NEW,
            },
            (Phase::Opening(_), _) => Self { phase: Phase::Running, ..self.wrote() },
            (Phase::Running, _) => Self { said: self.said + 1, advanced: true, ..self.wrote() },
            (Phase::Renewing(_), Reply::Stepped(Ok(_))) => hide(clock.saturating_add(VISIBILITY), true),
            (Phase::Renewing(_), Reply::Stepped(Err(Denied::Ended(_)))) => to(Phase::Settling),
            (Phase::Finishing(..), Reply::Stepped(Ok(_) | Err(Denied::Ended(_)))) => to(Phase::Settling),
            (Phase::Releasing { .. }, Reply::Stepped(Ok(_))) => hide(clock, false),
            (Phase::Renewing(_) | Phase::Finishing(..) | Phase::Releasing { .. }, _) => Self::NEW,
            (Phase::Hiding { then_run: true, .. }, _) => to(Phase::Running),
            (Phase::Settling, _) => to(Phase::Acknowledging),
            (
                Phase::Hiding { .. }
                | Phase::Acknowledging
                | Phase::Idle
                | Phase::Received
                | Phase::Reading
                | Phase::Expiring(_)
                | Phase::Claiming(_),
                _,
            ) => Self::NEW,
        }
    }

    /// What becomes of it when the store has not answered and it does not try again.
    pub(crate) fn unanswered(self) -> Self {
        match self.phase {
            // The next beat tries again.
            Phase::Renewing(_) | Phase::Hiding { then_run: true, .. } => Self { phase: Phase::Running, ..self },
            _ => Self::NEW,
        }
    }

    /// What it may do beside saying the next word: renew its claim, or give the job back.
    pub(crate) fn renewing(self, now: u8) -> Option<Self> {
        (self.phase == Phase::Running && self.advanced).then_some(Self {
            phase: Phase::Renewing(moment(now)),
            advanced: false,
            ..self
        })
    }

    pub(crate) fn releasing(self, blameless: bool, now: u8) -> Option<Self> {
        let phase = Phase::Releasing { blameless, at: moment(now) };
        (self.phase == Phase::Running).then_some(Self { phase, ..self })
    }

    fn claimed(self, head: &Head) -> Self {
        let phase = match head.epoch {
            _ if head.failed_attempts() >= MOST_FAILED_ATTEMPTS => Phase::Finishing(End::Failed, head.lease_until),
            Epoch(0 | 1) => Phase::Running,
            Epoch(_) => Phase::Reading,
        };
        Self { phase, epoch: head.epoch, ..self }
    }

    fn read(&self, store: &Store, rules: &Rules) -> Self {
        let chunks = store.chunks();
        let said = continuation(&chunks, self.epoch);
        let parent = said.last().map(|chunk| chunk.position);
        let words = said.iter().filter(|chunk| chunk.word.is_some()).count();
        let phase = if rules.opens { Phase::Opening(parent) } else { Phase::Running };
        Self { phase, said: u8::try_from(words).unwrap_or(u8::MAX), ..*self }
    }

    fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.next_seq }
    }

    fn wrote(self) -> Self {
        Self { last: Some(self.position()), next_seq: self.next_seq + 1, ..self }
    }

    /// One name for each write of each delivery, so that the order of draws makes no states of its own.
    fn nonce(&self, me: usize, kind: u64, which: u8) -> Nonce {
        let parts = [me as u64 + 1, kind, u64::from(self.number), u64::from(self.receives), u64::from(which)];
        Nonce(parts.into_iter().fold(0, |sum, part| sum << 8 | part))
    }
}
