//! Single-flight in a small world: clients with the same request come at any moment to front doors that may die, and share
//! one run of it.

use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{Denied, End, Head, State as JobState, Step, apply};
use penstock_policy::marker::{Asking, Known, Marker, Plan, RECORD_DUE, TTL, plan};
use penstock_policy::time::Timestamp;
use stateright::{Model, Property};

/// How many clients there are, each with a job id of its own.
const CLIENTS: usize = 3;
/// In ticks, each as long as a silent acceptor is waited for: the longest pause.
const PAUSE: u8 = 2;

/// A world to look at whole.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) faults: u8,
    /// How many clients come.
    pub(crate) clients: usize,
    /// A job may be called off though somebody has put it.
    pub(crate) calls_off_what_is_put: bool,
    /// A marker is written over whatever it names by then.
    pub(crate) markers_are_seized: bool,
    /// Who finds that another has sent its job again, having taken it for dead, joins it.
    pub(crate) joins_its_own: bool,
    /// And draws no new id if that one has ended.
    pub(crate) keeps_spent_ids: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Front {
    /// The client has not come yet.
    Nobody,
    Looks,
    HasMarker(Option<(usize, u8)>),
    Claiming {
        job: usize,
        replaces: Option<usize>,
    },
    Sending(usize),
    CallingOff(usize),
    Clearing(usize),
    Putting(usize),
    Joining(usize),
    PuttingAway(usize),
    Waits {
        until: u8,
    },
    /// The client was given this job's answer to wait for.
    Accepted(usize),
    Leaving(usize),
    Cancelling(usize),
    /// The client has its answer, an error that says to come again, or is gone.
    Served,
    Refused,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    head: Head,
    /// Whose request made it: that client's interest is in it already.
    by: usize,
    /// The tick at which it ended.
    ended: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Write {
    Marker { job: usize, replaces: Option<usize> },
    Clear { job: usize },
    Send { job: usize, by: usize },
    Step { job: usize, step: Step, nonce: Nonce, by: usize },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    clock: u8,
    faults: u8,
    fronts: [Front; CLIENTS],
    paused: [u8; CLIENTS],
    marker: Option<(usize, u8)>,
    records: [Option<Record>; 2 * CLIENTS],
    /// Whose first job id was used up by another who sent it again.
    spent: [bool; CLIENTS],
    messages: Vec<(usize, usize)>,
    late: Option<Write>,
    /// How often a job ended with an answer.
    answers: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Luck {
    Good,
    ReplyLost,
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    Comes(usize),
    Leaves(usize),
    Front(usize, Luck),
    Crashes(usize),
    Pauses(usize),
    Works(usize),
    Fails(usize),
    LateArrives,
    LateVanishes,
}

fn moment(ticks: u8) -> Timestamp {
    Timestamp::from_millis(1_000_000).after(RECORD_DUE * u32::from(ticks))
}

fn id(job: usize) -> JobId {
    JobId::new(moment(0), job as u128)
}

fn job_of(id: JobId) -> usize {
    (0..2 * CLIENTS).find(|&job| self::id(job) == id).unwrap_or(usize::MAX)
}

impl Flight {
    pub(crate) const fn new(faults: u8, clients: usize) -> Self {
        let (joins_its_own, keeps_spent_ids) = (true, false);
        let (calls_off_what_is_put, markers_are_seized) = (false, false);
        Self { faults, clients, calls_off_what_is_put, markers_are_seized, joins_its_own, keeps_spent_ids }
    }

    fn horizon(&self) -> u8 {
        (self.faults + 1) * (PAUSE + 1)
    }

    /// What a front door writes next, if it writes.
    fn write(&self, client: usize, world: &World) -> Option<Write> {
        let nonce = |kind: u64| Nonce((client as u64 + 1) << 8 | kind);
        let step = |job, step, kind| Some(Write::Step { job, step, nonce: nonce(kind), by: client });
        match world.fronts[client] {
            Front::Claiming { job, replaces } => Some(Write::Marker { job, replaces }),
            Front::Sending(job) => Some(Write::Send { job, by: client }),
            Front::CallingOff(job) if self.calls_off_what_is_put => {
                step(job, Step::Cancel { regardless_of_interest: true }, 1)
            }
            Front::CallingOff(job) => step(job, Step::CallOff, 1),
            Front::Clearing(job) => Some(Write::Clear { job }),
            Front::Putting(job) => step(job, Step::Put, 2),
            Front::Joining(job) => step(job, Step::Join, 3),
            Front::PuttingAway(job) | Front::Cancelling(job) => {
                step(job, Step::Cancel { regardless_of_interest: false }, 4)
            }
            Front::Leaving(job) => step(job, Step::Leave, 5),
            Front::Nobody
            | Front::Looks
            | Front::HasMarker(_)
            | Front::Waits { .. }
            | Front::Accepted(_)
            | Front::Served
            | Front::Refused
            | Front::Gone => None,
        }
    }

    /// Makes a write; a step's verdict is given back, and whether a marker was written.
    fn perform(&self, world: &mut World, write: Write) -> Result<(), Denied> {
        match write {
            Write::Marker { job, replaces } => {
                let free = world.marker.is_none_or(|(found, _)| found == job || Some(found) == replaces);
                if !free && !self.markers_are_seized {
                    return Err(Denied::Present);
                }
                if world.marker.is_none_or(|(found, _)| found != job) {
                    world.marker = Some((job, world.clock));
                }
            }
            Write::Clear { job } => world.marker = world.marker.filter(|(found, _)| *found != job),
            Write::Send { job, by } => world.messages.push((job, by)),
            Write::Step { job, step, nonce, by } => {
                let found = world.records[job];
                let head = apply(step, nonce, found.map(|record| record.head).as_ref(), moment(world.clock))?;
                let ended = found.and_then(|record| record.ended).or(head.state.is_terminal().then_some(world.clock));
                world.records[job] = Some(Record { head, by: found.map_or(by, |record| record.by), ended });
            }
        }
        Ok(())
    }

    fn looks(client: usize, world: &mut World) {
        world.fronts[client] = match world.fronts[client] {
            Front::Looks => Front::HasMarker(world.marker),
            Front::HasMarker(marker) => Self::plan(client, marker, world),
            Front::Waits { .. } => Front::Looks,
            other => other,
        };
    }

    /// Policy's own decision on the marker and the record.
    fn plan(client: usize, marker: Option<(usize, u8)>, world: &World) -> Front {
        let known = match marker.and_then(|(job, _)| world.records[job]) {
            None => Known::Absent,
            Some(Record { head, ended, .. }) => Known::Job {
                state: head.state,
                class: Class::P1,
                interest: head.interest,
                ended: ended.map(moment),
                failed_for_good: false,
            },
        };
        let marker = marker.map(|(job, written)| Marker {
            job: id(job),
            fingerprint: 1,
            written: moment(written),
            expires: moment(written).after(TTL),
        });
        let asking = Asking { fingerprint: 1, class: Class::P1, served_for: TTL };
        match plan(marker.as_ref(), known, &asking, moment(world.clock)) {
            Plan::Run { replaces } => {
                let job = if world.spent[client] { client + CLIENTS } else { client };
                Front::Claiming { job, replaces: replaces.map(job_of) }
            }
            Plan::Resend(job) => Front::Claiming { job: job_of(job), replaces: Some(job_of(job)) },
            Plan::Join(job) => Front::Joining(job_of(job)),
            Plan::Serve(_) => Front::Served,
            Plan::PutAway(job) => Front::PuttingAway(job_of(job)),
            Plan::Wait { .. } => Front::Waits { until: world.clock + 1 },
            Plan::Conflict => Front::Gone,
        }
    }

    fn answered(&self, client: usize, world: &World, reply: Result<(), Denied>) -> Front {
        let record = |job: usize| world.records[job];
        match (world.fronts[client], reply) {
            (Front::Claiming { job, .. }, Ok(())) => Front::Sending(job),
            // Somebody else holds it by now, or it cannot be joined any more: look again.
            (Front::Claiming { .. } | Front::Joining(_), Err(_)) | (Front::PuttingAway(_), _) => Front::Looks,
            (Front::Sending(job), _) => Front::Putting(job),
            (Front::CallingOff(job), Ok(())) => Front::Clearing(job),
            (Front::CallingOff(job) | Front::Putting(job), reply) => match (record(job), reply) {
                (_, Ok(())) => Front::Accepted(job),
                // Called off by whoever took us for dead.
                (Some(Record { head, .. }), _) if head.state == JobState::Cancelled && head.interest == 0 => {
                    Front::Refused
                }
                (Some(Record { by, .. }), _) if by == client => Front::Accepted(job),
                (Some(_), _) if job == client && !self.joins_its_own => Front::Accepted(job),
                (Some(_), _) => Front::Joining(job),
                (None, _) => Front::Gone,
            },
            (Front::Joining(job), Ok(())) => Front::Accepted(job),
            (Front::Clearing(_), _) => Front::Refused,
            (Front::Leaving(job), Ok(())) => Front::Cancelling(job),
            (other, _) => match other {
                Front::Leaving(_) | Front::Cancelling(_) => Front::Gone,
                other => other,
            },
        }
    }

    /// What becomes of a front door that is not answered: an outcome that is not known is cleared up where it matters.
    fn unanswered(front: Front) -> Front {
        match front {
            Front::Sending(job) => Front::CallingOff(job),
            Front::Claiming { job, .. } => Front::Clearing(job),
            _ => Front::Gone,
        }
    }

    /// Whether a front door has nothing to do of its own.
    fn is_done(front: Front) -> bool {
        matches!(front, Front::Nobody | Front::Served | Front::Refused | Front::Gone | Front::Accepted(_))
    }

    fn is_over(world: &World) -> bool {
        let answered = |front: &Front| match front {
            Front::Accepted(job) => world.records[*job].is_some_and(|record| record.head.state.is_terminal()),
            front => Self::is_done(*front),
        };
        world.fronts.iter().all(answered) && world.messages.is_empty()
    }

    fn is_urgent(world: &World) -> bool {
        let acts = |(client, front): (usize, &Front)| {
            let waits = matches!(front, Front::Waits { until } if *until > world.clock);
            !Self::is_done(*front) && !waits && world.paused[client] == 0
        };
        world.fronts.iter().enumerate().any(acts) || !world.messages.is_empty()
    }

    /// The worker's next step on a message: claim, then answer (or fail), then acknowledge.
    fn works(&self, world: &mut World, place: usize, end: End) -> Option<()> {
        let (job, by) = *world.messages.get(place)?;
        let lease_until = moment(u8::MAX);
        let nonce = |kind: u64| Nonce(1 << 32 | (job as u64) << 8 | kind);
        let step = match world.records[job].map(|record| record.head) {
            Some(head) if head.state.is_terminal() => {
                world.messages.remove(place);
                return Some(());
            }
            Some(Head { state: JobState::Running, epoch, .. }) => Step::Finish { epoch, end, last: None },
            _ => Step::Claim { lease_until },
        };
        let kind = u64::from(matches!(step, Step::Claim { .. }));
        self.perform(world, Write::Step { job, step, nonce: nonce(kind), by }).ok()?;
        world.answers += u8::from(matches!(step, Step::Finish { end: End::Succeeded, .. }));
        Some(())
    }
}

impl Model for Flight {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            clock: 0,
            faults: self.faults,
            fronts: [Front::Nobody; CLIENTS],
            paused: [0; CLIENTS],
            marker: None,
            records: [None; 2 * CLIENTS],
            spent: [false; CLIENTS],
            messages: Vec::new(),
            late: None,
            answers: 0,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let bad = world.faults > 0;
        // Clients are alike: they come in order.
        let next = world.fronts.iter().position(|front| *front == Front::Nobody);
        actions.extend(next.filter(|next| *next < self.clients).map(Action::Comes));
        for client in 0..self.clients {
            let front = world.fronts[client];
            match front {
                Front::Accepted(_) => actions.push(Action::Leaves(client)),
                Front::Waits { until } if until > world.clock => {}
                front if Self::is_done(front) => {}
                _ => {
                    actions.push(Action::Front(client, Luck::Good));
                    if bad {
                        actions.extend([Action::Crashes(client), Action::Front(client, Luck::ReplyLost)]);
                        if self.write(client, world).is_some() && world.late.is_none() {
                            actions.push(Action::Front(client, Luck::Late));
                        }
                        if world.paused[client] == 0 {
                            actions.push(Action::Pauses(client));
                        }
                    }
                }
            }
        }
        for (place, (job, _)) in world.messages.iter().enumerate() {
            actions.push(Action::Works(place));
            if bad && world.records[*job].is_some_and(|record| record.head.state == JobState::Running) {
                actions.push(Action::Fails(place));
            }
        }
        if world.late.is_some() {
            actions.extend([Action::LateArrives, Action::LateVanishes]);
        }
        if !Self::is_over(world) && !Self::is_urgent(world) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Tick => {
                world.clock += 1;
                world.paused.iter_mut().for_each(|paused| *paused = paused.saturating_sub(1));
            }
            Action::Comes(client) => world.fronts[client] = Front::Looks,
            Action::Leaves(client) => {
                let Front::Accepted(job) = world.fronts[client] else { return None };
                world.fronts[client] = Front::Leaving(job);
            }
            Action::Front(client, luck) => match (self.write(client, before), luck) {
                (None, Luck::Good) => Self::looks(client, &mut world),
                (None, _) => return None,
                (Some(write), Luck::Good) => {
                    let reply = self.perform(&mut world, write);
                    world.fronts[client] = self.answered(client, &world, reply);
                    let was_spent = before.fronts[client] == Front::Joining(client) && reply.is_err();
                    world.spent[client] |= was_spent && !self.keeps_spent_ids;
                }
                (Some(write), luck) => {
                    world.faults -= 1;
                    match luck {
                        Luck::Late => world.late = Some(write),
                        // Whatever it comes to, nobody hears of it.
                        Luck::ReplyLost | Luck::Good => _ = self.perform(&mut world, write),
                    }
                    world.fronts[client] = Self::unanswered(before.fronts[client]);
                }
            },
            Action::Crashes(client) => {
                world.fronts[client] = Front::Gone;
                world.faults -= 1;
            }
            Action::Pauses(client) => {
                world.paused[client] = PAUSE;
                world.faults -= 1;
            }
            Action::Works(place) => self.works(&mut world, place, End::Succeeded)?,
            Action::Fails(place) => {
                self.works(&mut world, place, End::Failed)?;
                world.faults -= 1;
            }
            Action::LateArrives => {
                let write = world.late.take()?;
                // Whatever it comes to, nobody hears of it.
                _ = self.perform(&mut world, write);
            }
            Action::LateVanishes => world.late = None,
        }
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.clock <= self.horizon()
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nobody who waits is cancelled", |_, world: &World| {
                world.fronts.iter().all(|front| {
                    let Front::Accepted(job) = front else { return true };
                    world.records[*job].is_some_and(|record| record.head.state != JobState::Cancelled)
                })
            }),
            Property::always("who waits, waits for a job that there is", |_, world: &World| {
                world.fronts.iter().all(|front| !matches!(front, Front::Accepted(job) if world.records[*job].is_none()))
            }),
            Property::always(
                "one answer serves all, unless something went wrong or somebody left",
                |flight: &Self, world: &World| {
                    let nothing_wrong = world.faults == flight.faults && !world.fronts.contains(&Front::Gone);
                    let left = |front: &Front| matches!(front, Front::Leaving(_) | Front::Cancelling(_));
                    !nothing_wrong || world.fronts.iter().any(left) || world.answers <= 1
                },
            ),
            Property::always("the same request never runs twice at once", |_, world: &World| {
                let wanted = |record: &Record| {
                    matches!(record.head.state, JobState::Queued | JobState::Running) && record.head.interest > 0
                };
                world.records.iter().flatten().filter(|record| wanted(record)).count() <= 1
            }),
            Property::always("nobody sends without end", |flight: &Self, world: &World| {
                world.messages.len() <= flight.clients + 2 * usize::from(flight.faults)
            }),
            Property::always("nobody waits for ever", |flight: &Self, world: &World| {
                world.clock < flight.horizon() || Self::is_over(world)
            }),
            Property::sometimes("a dead acceptor's job is sent again, and answered", |flight: &Self, world: &World| {
                flight.faults == 0
                    || world.fronts[0] == Front::Gone
                        && matches!(world.fronts[1], Front::Accepted(0))
                        && world.records[0]
                            .is_some_and(|record| record.head.state == JobState::Succeeded && record.by == 1)
            }),
        ]
    }
}
