//! The life of one job in a small world: a front door that accepts it, two workers, a relay that reads along, and whatever
//! can go wrong, in every order.

use penstock_policy::id::Nonce;
use penstock_policy::job::{Denied, Head, State as JobState, Step};
use penstock_policy::resume::{Cursor, chain};
use stateright::{Model, Property};

use crate::rules::{Reading, Rules};
use crate::store::{Chunk, PAUSE, Reply, Store, VISIBILITY, Write, moment};
use crate::worker::{Intent, Phase, Worker};

/// A world to look at whole.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) rules: Rules,
    /// How much may go wrong: a lost or late write, a crash, a pause, a duplicate, an engine that fails or is told to stop.
    pub(crate) faults: u8,
    /// How many words the answer has.
    pub(crate) words: u8,
    /// By how many ticks the second worker's clock is ahead.
    pub(crate) skew: u8,
    /// The tick from which the job is not worth running.
    pub(crate) due: u8,
    /// The client may go away.
    pub(crate) may_leave: bool,
    /// The job is accepted already when the world begins.
    pub(crate) is_accepted: bool,
    /// A relay reads along.
    pub(crate) is_read: bool,
}

/// The front door's part: accepting, and later withdrawing the interest of a client that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Front {
    Sending,
    /// Nobody answered the send, and it is not tried again.
    CallingOff,
    Putting,
    /// The client has the job's id.
    Accepted,
    /// The client was told that the job will not run.
    Refused,
    Leaving,
    Cancelling,
    Settling,
    /// Died, or has nothing more to do.
    Gone,
}

/// One look of the relay, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Look {
    Begins,
    HasChunks(Vec<Chunk>),
    HasRecord(Head),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) clock: u8,
    pub(crate) faults: u8,
    pub(crate) store: Store,
    pub(crate) front: Front,
    /// For how many ticks the front door is paused still, at most.
    pub(crate) front_paused: u8,
    pub(crate) was_accepted: bool,
    pub(crate) workers: [Worker; 2],
    pub(crate) look: Look,
    pub(crate) cursor: Cursor,
    pub(crate) heard: Vec<u8>,
    pub(crate) diverged: bool,
}

/// What becomes of a write on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Luck {
    Good,
    /// It is made, and its sender never hears of it.
    ReplyLost {
        tries_again: bool,
    },
    /// It is on its way still when its sender gives it up.
    Late {
        tries_again: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    Front(Luck),
    FrontCrashes,
    FrontPauses,
    ClientLeaves,
    Receives { worker: usize, number: u8, leaves_it_visible: bool },
    Worker(usize, Luck),
    Renews(usize),
    GivesBack { worker: usize, blameless: bool },
    Crashes(usize),
    Pauses(usize),
    LateArrives,
    LateVanishes,
    ReadsChunks,
    ReadsRecord,
}

const LUCK: [Luck; 4] = [
    Luck::ReplyLost { tries_again: true },
    Luck::ReplyLost { tries_again: false },
    Luck::Late { tries_again: true },
    Luck::Late { tries_again: false },
];

const FRONTS: u64 = 9 << 32;

impl Life {
    pub(crate) const fn new(faults: u8) -> Self {
        let (may_leave, is_accepted, is_read) = (false, false, false);
        Self { rules: Rules::SOUND, faults, words: 1, skew: 0, due: u8::MAX, may_leave, is_accepted, is_read }
    }

    /// By when everything has ended, whatever went wrong: each fault costs the longest of the waits twice at most, because
    /// a message that comes back may meet a claim that was made or renewed the moment before.
    pub(crate) fn horizon(&self) -> u8 {
        1 + self.faults * 2 * (PAUSE + self.skew)
    }

    fn now(&self, world: &World, worker: usize) -> u8 {
        world.clock + if worker == 1 { self.skew } else { 0 }
    }

    fn front_write(world: &World) -> Option<Write> {
        let step = |step, kind| Write::Step(step, Nonce(FRONTS | kind), moment(world.clock));
        match world.front {
            Front::Sending => Some(Write::Send),
            Front::CallingOff => Some(step(Step::CallOff, 1)),
            Front::Putting => Some(step(Step::Put, 2)),
            Front::Leaving => Some(step(Step::Leave, 3)),
            Front::Cancelling => Some(step(Step::Cancel { regardless_of_interest: false }, 4)),
            Front::Settling => Some(step(Step::Settle, 5)),
            Front::Accepted | Front::Refused | Front::Gone => None,
        }
    }

    fn front_goes_on(world: &World, reply: Reply) -> Front {
        match (world.front, reply) {
            (Front::Sending, _) => Front::Putting,
            (Front::Putting, _) => Front::Accepted,
            // A record is proof that a message was sent.
            (Front::CallingOff, Reply::Stepped(Err(Denied::Present))) if !is_dead(world.store.state()) => {
                Front::Accepted
            }
            (Front::CallingOff, _) => Front::Refused,
            (Front::Leaving, Reply::Stepped(Ok(_))) => Front::Cancelling,
            (Front::Cancelling, Reply::Stepped(Ok(_))) => Front::Settling,
            (
                Front::Accepted | Front::Refused | Front::Leaving | Front::Cancelling | Front::Settling | Front::Gone,
                _,
            ) => Front::Gone,
        }
    }

    /// Whether nothing is left to do but what changes nothing.
    fn is_over(world: &World) -> bool {
        let store = &world.store;
        // What is called off has no consequences, and what was never sent has not begun.
        let ended = store.record.is_none_or(|head| head.state.is_terminal() && !head.unsettled);
        let front_waits = matches!(world.front, Front::Accepted | Front::Refused | Front::Gone);
        ended && front_waits && store.messages.is_empty()
    }

    /// Whether somebody has something to do at this very moment.
    fn is_urgent(world: &World) -> bool {
        let visible = world.store.messages.iter().any(|message| message.visible <= world.clock);
        let can = |worker: &Worker| worker.paused == 0 && (worker.phase != Phase::Idle || visible);
        Self::front_write(world).is_some() && world.front_paused == 0 || world.workers.iter().any(can)
    }

    /// Makes a write as luck has it: what is answered, and whether the sender tries again if nothing is.
    fn make(&self, world: &mut World, write: Write, luck: Luck) -> Result<Reply, bool> {
        match luck {
            Luck::Good => Ok(world.store.perform(&self.rules, write, world.clock)),
            Luck::ReplyLost { tries_again } => {
                world.store.perform(&self.rules, write, world.clock);
                Err(tries_again)
            }
            Luck::Late { tries_again } => {
                world.store.late = Some(write);
                Err(tries_again)
            }
        }
    }

    fn front(&self, world: &mut World, luck: Luck) {
        let Some(write) = Self::front_write(world) else { return };
        match self.make(world, write, luck) {
            Ok(reply) => world.front = Self::front_goes_on(world, reply),
            Err(true) => {}
            Err(false) if world.front == Front::Sending => world.front = Front::CallingOff,
            Err(false) => world.front = Front::Gone,
        }
        world.was_accepted |= world.front == Front::Accepted;
    }

    fn advance(world: &mut World, chunks: &[Chunk], head: &Head) {
        let end = head.last.filter(|_| head.state.is_terminal());
        match world.cursor.advance(chunks, head.epoch, end) {
            Ok(fresh) => world.heard.extend(fresh.iter().filter_map(|chunk| chunk.word)),
            Err(_) => world.diverged = true,
        }
        world.look = Look::Begins;
    }

    fn reads_chunks(&self, world: &mut World) {
        let chunks = world.store.chunks();
        match world.look.clone() {
            Look::HasRecord(head) => Self::advance(world, &chunks, &head),
            Look::Begins | Look::HasChunks(_) => world.look = Look::HasChunks(chunks),
        }
    }

    fn reads_record(&self, world: &mut World) {
        let Some(head) = world.store.record else {
            world.look = Look::Begins;
            return;
        };
        let Look::HasChunks(chunks) = world.look.clone() else {
            world.look = Look::HasRecord(head);
            return;
        };
        if head.state.is_terminal() {
            // What the last worker wrote between the two reads belongs to the text, and nothing changes any more.
            let chunks = world.store.chunks();
            return Self::advance(world, &chunks, &head);
        }
        if self.rules.reading == Reading::ChunksAgain && chain(&chunks, head.epoch, None).is_none() {
            world.look = Look::HasRecord(head);
            return;
        }
        Self::advance(world, &chunks, &head);
    }
}

impl Model for Life {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            clock: 0,
            faults: self.faults,
            store: Store::empty(),
            front: Front::Sending,
            front_paused: 0,
            was_accepted: false,
            workers: [Worker::NEW; 2],
            look: Look::Begins,
            cursor: Cursor::default(),
            heard: Vec::new(),
            diverged: false,
        };
        while self.is_accepted && world.front != Front::Accepted {
            self.front(&mut world, Luck::Good);
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let bad = world.faults > 0;
        let lucks = || {
            let late = move |luck: &Luck| matches!(luck, Luck::ReplyLost { .. }) || world.store.late.is_none();
            // Where the text is looked at, a sender that gives up is one that crashes.
            let goes_on = |luck: &Luck| {
                !self.is_read
                    || !matches!(luck, Luck::ReplyLost { tries_again: false } | Luck::Late { tries_again: false })
            };
            core::iter::once(Luck::Good).chain(LUCK.into_iter().filter(late).filter(goes_on).filter(move |_| bad))
        };
        if Self::front_write(world).is_some() {
            actions.extend(lucks().map(Action::Front));
            if bad {
                actions.push(Action::FrontCrashes);
                if world.front_paused == 0 {
                    actions.push(Action::FrontPauses);
                }
            }
        }
        if self.may_leave && world.front == Front::Accepted {
            actions.push(Action::ClientLeaves);
        }
        let alike = self.skew == 0 && world.workers == [Worker::NEW; 2];
        for (number, worker) in world.workers.iter().enumerate() {
            if worker.phase == Phase::Idle {
                if alike && number == 1 {
                    continue;
                }
                for message in world.store.messages.iter().filter(|message| message.visible <= world.clock) {
                    for leaves_it_visible in [false, true] {
                        if bad || !leaves_it_visible {
                            actions.push(Action::Receives {
                                worker: number,
                                number: message.number,
                                leaves_it_visible,
                            });
                        }
                    }
                }
                continue;
            }
            let now = self.now(world, number);
            match worker.intent(number, &world.store, &self.rules, self.words, self.due, now) {
                Some(Intent::Write(_)) => actions.extend(lucks().map(|luck| Action::Worker(number, luck))),
                Some(Intent::Become(_)) => actions.push(Action::Worker(number, Luck::Good)),
                None => {}
            }
            if worker.renewing(now).is_some() {
                actions.push(Action::Renews(number));
            }
            if bad {
                actions.push(Action::Crashes(number));
                if worker.releasing(true, now).is_some() {
                    actions.extend([true, false].map(|blameless| Action::GivesBack { worker: number, blameless }));
                }
                if worker.paused == 0 {
                    actions.push(Action::Pauses(number));
                }
            }
        }
        if world.store.late.is_some() {
            actions.extend([Action::LateArrives, Action::LateVanishes]);
        }
        let (news, record) = (world.store.chunks.keys().next_back().copied(), world.store.record);
        match (&world.look, self.rules.reading) {
            _ if !self.is_read => {}
            (Look::Begins, _) if record.is_none() || news.is_none() || news == world.cursor.last() => {}
            (Look::Begins, Reading::RecordFirst) | (Look::HasChunks(_), _) => actions.push(Action::ReadsRecord),
            (Look::Begins | Look::HasRecord(_), _) => actions.push(Action::ReadsChunks),
        }
        if !Self::is_over(world) && !Self::is_urgent(world) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        let fault = |world: &mut World, luck: Luck| world.faults -= u8::from(luck != Luck::Good);
        match action {
            Action::Tick => {
                world.clock += 1;
                world.front_paused = world.front_paused.saturating_sub(1);
                for worker in &mut world.workers {
                    worker.paused = worker.paused.saturating_sub(1);
                }
            }
            Action::Front(luck) => {
                self.front(&mut world, luck);
                fault(&mut world, luck);
            }
            Action::FrontCrashes => {
                world.front = Front::Gone;
                world.faults -= 1;
            }
            Action::FrontPauses => {
                world.front_paused = PAUSE;
                world.faults -= 1;
            }
            Action::ClientLeaves => world.front = Front::Leaving,
            Action::Receives { worker, number, leaves_it_visible } => {
                let clock = world.clock;
                let message = world.store.messages.iter_mut().find(|message| message.number == number)?;
                message.receives += 1;
                if leaves_it_visible {
                    world.faults -= 1;
                } else {
                    message.visible = clock + VISIBILITY;
                }
                world.workers[worker] = Worker::with(number, message.receives);
                if !self.rules.acknowledges_last {
                    world.store.perform(&self.rules, Write::Ack { number }, clock);
                }
            }
            Action::Worker(number, luck) => {
                let now = self.now(&world, number);
                let worker = world.workers[number];
                let after = match worker.intent(number, &world.store, &self.rules, self.words, self.due, now)? {
                    Intent::Become(after) => after,
                    Intent::Write(write) => match self.make(&mut world, write, luck) {
                        Ok(reply) => worker.answered(reply, now, before.clock),
                        Err(true) => worker,
                        Err(false) => worker.unanswered(),
                    },
                };
                // Whoever has nothing in hand is as good as new.
                world.workers[number] = if after.phase == Phase::Idle { Worker::NEW } else { after };
                fault(&mut world, luck);
            }
            Action::Renews(number) => {
                world.workers[number] = world.workers[number].renewing(self.now(&world, number))?;
            }
            Action::GivesBack { worker, blameless } => {
                world.workers[worker] = world.workers[worker].releasing(blameless, self.now(&world, worker))?;
                world.faults -= 1;
            }
            Action::Crashes(number) => {
                world.workers[number] = Worker::NEW;
                world.faults -= 1;
            }
            Action::Pauses(number) => {
                world.workers[number].paused = PAUSE;
                world.faults -= 1;
            }
            Action::LateArrives => {
                let write = world.store.late.take()?;
                world.store.perform(&self.rules, write, before.clock);
            }
            Action::LateVanishes => world.store.late = None,
            Action::ReadsChunks => self.reads_chunks(&mut world),
            Action::ReadsRecord => self.reads_record(&mut world),
        }
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.clock <= self.horizon()
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a job ends once", |_, world: &World| world.store.ends <= 1),
            Property::always("its consequences are drawn once", |_, world: &World| world.store.settled <= 1),
            Property::always("what was sent is not lost", |life: &Self, world: &World| {
                let ended = world.store.has_ended();
                let sent = world.was_accepted || world.store.record.is_some();
                !sent || ended || !life.is_lost(world)
            }),
            Property::always("nothing is stuck", |life: &Self, world: &World| {
                world.clock < life.horizon() || Life::is_over(world)
            }),
            Property::always("what was called off never runs", |_, world: &World| {
                world.front != Front::Refused
                    || !matches!(world.store.state(), Some(JobState::Running | JobState::Succeeded | JobState::Failed))
            }),
            Property::always("no word is heard twice, changed or left out", |_, world: &World| {
                !world.diverged && world.heard.iter().copied().eq((0..).take(world.heard.len()))
            }),
            Property::always("no chunk is written over", |_, world: &World| !world.store.overwritten),
            Property::always("an answer is whole, and begins with what was heard", |life: &Self, world: &World| {
                let Some(head) = world.store.record.filter(|head| head.state == JobState::Succeeded) else {
                    return true;
                };
                let chunks = world.store.chunks();
                let Some(text) = chain(&chunks, head.epoch, head.last) else { return false };
                text.iter().filter_map(|chunk| chunk.word).eq(0..life.words)
            }),
            Property::always(
                "nothing but time and three failures ends a job that is wanted",
                |life: &Self, world: &World| {
                    let failed = world.store.record.is_some_and(|head| head.failed_attempts() >= 3);
                    match world.store.state() {
                        Some(JobState::Failed) => failed,
                        Some(JobState::Expired) => world.clock + life.skew >= life.due,
                        Some(JobState::Cancelled) => !world.was_accepted || life.may_leave,
                        Some(JobState::Parked | JobState::Queued | JobState::Running | JobState::Succeeded) | None => {
                            true
                        }
                    }
                },
            ),
            Property::sometimes("a job is taken over and answered", |life: &Self, world: &World| {
                world.store.state() == Some(JobState::Succeeded)
                    && world.store.epoch().0 > 1
                    && (!life.is_read || world.heard.len() == usize::from(life.words))
            }),
        ]
    }
}

/// What a job is that was called off, or that came to nothing before anybody was promised it.
fn is_dead(state: Option<JobState>) -> bool {
    matches!(state, Some(JobState::Cancelled | JobState::Expired))
}

impl Life {
    /// Nobody holds the job, no message of it is left, and none is on its way.
    fn is_lost(&self, world: &World) -> bool {
        let held = world.workers.iter().any(|worker| worker.phase != Phase::Idle);
        !held && world.store.messages.is_empty() && world.store.late != Some(Write::Send)
    }
}
