//! The store of the model: one record, its chunks, a queue that delivers at least once, and a network that loses replies
//! and delivers a write late.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_policy::id::{Epoch, Nonce};
use penstock_policy::job::{Denied, Head, Position, State as JobState, Step};
use penstock_policy::resume::Link;
use penstock_policy::time::Timestamp;

use crate::rules::Rules;

/// The model's unit of time.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// In ticks: how long a claim holds, and how long a received message stays hidden.
pub(crate) const LEASE: u8 = 2;
pub(crate) const VISIBILITY: u8 = 3;
/// In ticks: the longest pause, beyond the lease and beyond the time that a message is hidden.
pub(crate) const PAUSE: u8 = 4;

pub(crate) fn moment(ticks: u8) -> Timestamp {
    Timestamp::from_millis(1_000_000).after(TICK * u32::from(ticks))
}

/// A piece of text: one word, or none if it only opens its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Chunk {
    pub(crate) position: Position,
    pub(crate) parent: Option<Position>,
    pub(crate) word: Option<u8>,
    /// Whose words they are: another worker may find others.
    pub(crate) by: Nonce,
}

impl Link for Chunk {
    fn position(&self) -> Position {
        self.position
    }
    fn parent(&self) -> Option<Position> {
        self.parent
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    pub(crate) number: u8,
    /// The tick from which it is visible.
    pub(crate) visible: u8,
    pub(crate) receives: u8,
}

/// What somebody asks the store to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    Send,
    Step(Step, Nonce, Timestamp),
    Chunk(Chunk),
    Hide { number: u8, visible: u8 },
    Ack { number: u8 },
}

/// What the store answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Done,
    Stepped(Result<Head, Denied>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) record: Option<Head>,
    pub(crate) chunks: BTreeMap<Position, Chunk>,
    pub(crate) messages: Vec<Message>,
    pub(crate) sent: u8,
    /// A write that its sender has given up, and that may arrive yet.
    pub(crate) late: Option<Write>,
    /// How often the job's end was written, and its consequences were granted.
    pub(crate) ends: u8,
    pub(crate) settled: u8,
    /// A chunk was written over another of other words.
    pub(crate) overwritten: bool,
}

impl Store {
    pub(crate) fn empty() -> Self {
        Self {
            record: None,
            chunks: BTreeMap::new(),
            messages: Vec::new(),
            sent: 0,
            late: None,
            ends: 0,
            settled: 0,
            overwritten: false,
        }
    }

    pub(crate) fn perform(&mut self, rules: &Rules, write: Write, clock: u8) -> Reply {
        match write {
            Write::Send => {
                self.messages.push(Message { number: self.sent, visible: clock, receives: 0 });
                self.sent += 1;
            }
            Write::Step(step, nonce, now) => {
                let before = self.record;
                let stepped = (rules.apply)(step, nonce, before.as_ref(), now);
                if let Ok(after) = stepped
                    && before != Some(after)
                {
                    let ended = |head: Option<Head>| head.is_some_and(|head| head.state.is_terminal());
                    let ends = matches!(step, Step::Finish { .. } | Step::Cancel { .. } | Step::Expire);
                    self.ends += u8::from(ended(Some(after)) && (ends || !ended(before)));
                    self.settled += u8::from(matches!(step, Step::Settle));
                    self.record = Some(after);
                }
                return Reply::Stepped(stepped);
            }
            Write::Chunk(chunk) => {
                let before = self.chunks.insert(chunk.position, chunk);
                self.overwritten |= before.is_some_and(|before| before != chunk);
            }
            // Receipts that have run out work all the same: no less is promised of SQS.
            Write::Hide { number, visible } => {
                for message in self.messages.iter_mut().filter(|message| message.number == number) {
                    message.visible = visible;
                }
            }
            Write::Ack { number } => self.messages.retain(|message| message.number != number),
        }
        Reply::Done
    }

    pub(crate) fn chunks(&self) -> Vec<Chunk> {
        self.chunks.values().copied().collect()
    }

    pub(crate) fn state(&self) -> Option<JobState> {
        self.record.map(|head| head.state)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().is_some_and(JobState::is_terminal)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.record.map_or(Epoch(0), |head| head.epoch)
    }
}
