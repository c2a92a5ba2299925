//! Workers take jobs, end them, boot, drain, and are taken away.

use core::time::Duration;

use penstock_policy::breaker::Outcome as Probed;
use penstock_policy::classes::Class;
use penstock_policy::degrade;
use penstock_policy::fleet::offering::Stage;
use penstock_policy::promise;

use super::events::Event;
use super::fleet::{FINISHES_SECS, NOTICE_SECS};
use super::simulation::{Simulation, Where};
use super::tally::End;

/// A message that a dead worker held comes back when its claim has lapsed: lease and visibility.
const REAPPEARS_SECS: f64 = 60.0;

/// Workers that are asked whether they have room for a job, those with the most first.
const ASKED: usize = 8;

impl Simulation<'_> {
    /// An accepted job has reached the queue, or comes back to it.
    pub(super) fn queued(&mut self, number: u32) {
        let Some(job) = self.jobs.get_mut(number) else { return };
        if job.at == Where::Cancelled {
            self.jobs.remove(number);
            return;
        }
        let class = job.class;
        job.at = Where::Waiting;
        let queue = &mut self.queues[class.index()];
        let others_wait = !queue.is_empty();
        if job.place == super::queue::Place::default() {
            job.place = queue.push(number, job.tenant, job.estimate);
        } else {
            queue.put_back(number, job.place);
        }
        // Whoever waits already waits because nobody has room for this class.
        if !others_wait && !self.pauses(class) {
            self.place(class);
        }
    }

    /// Finds a worker for the first job of a class, if one has room.
    pub(super) fn place(&mut self, class: Class) {
        let rooms = if class <= Class::P1 { &self.urgent_room } else { &self.any_room };
        let has_room = |id: &&u32| self.fleet.units.get(*id).is_some_and(|unit| unit.worker.room(class) > 0);
        let unit = rooms.iter().rev().take(ASKED).map(|(_, id)| id).find(has_room).copied();
        if let Some(unit) = unit
            && let Some(job) = self.queues[class.index()].pop()
        {
            self.starts(unit, job);
            self.changed(unit);
        }
    }

    /// Lets a worker take what it has room for, the most urgent first.
    pub(super) fn pump(&mut self, id: u32) {
        let takes = |unit: &super::fleet::Unit| unit.stage == Stage::Ready;
        if !self.fleet.units.get(&id).is_some_and(takes) {
            return;
        }
        for class in Class::ALL {
            if self.pauses(class) {
                continue;
            }
            while self.fleet.units.get(&id).is_some_and(|unit| unit.worker.room(class) > 0) {
                let Some(job) = self.queues[class.index()].pop() else { break };
                self.starts(id, job);
            }
        }
        self.changed(id);
    }

    fn starts(&mut self, id: u32, number: u32) {
        let now = self.now;
        let (Some(unit), Some(job)) = (self.fleet.units.get_mut(&id), self.jobs.get_mut(number)) else { return };
        let first = job.started.is_none();
        job.started = Some(now);
        job.at = Where::Running(id);
        let (class, waited) = (job.class, now.since(job.created));
        let displaced = unit.worker.start(number, class, job.left, now);
        if let Some((displaced, left)) = displaced {
            self.back_to_queue(displaced, left);
        }
        if first {
            self.tally.classes[class.index()].wait.add(waited);
            if let Some(limit) = degrade::late(class) {
                let late = waited > limit.as_secs_f64();
                self.count_health(|counts| {
                    counts.started += 1;
                    counts.late += u64::from(late);
                });
            }
        }
    }

    /// A job goes back to its queue with what it has left; its prompt, and what was said, are read anew.
    fn back_to_queue(&mut self, number: u32, left: f64) {
        let Some(job) = self.jobs.get_mut(number) else { return };
        let profile = self.prepared.scenario.worker.profile();
        let to_say = left.min(job.steps);
        let said = job.steps - to_say;
        job.left = job.prompt_steps + said / profile.prompt_tokens_per_step + to_say;
        job.at = Where::Waiting;
        let (class, place) = (job.class, job.place);
        self.queues[class.index()].put_back(number, place);
    }

    /// A worker's next job ends.
    pub(super) fn turn(&mut self, id: u32, turn: u32) {
        let Some(unit) = self.fleet.units.get_mut(&id).filter(|unit| unit.worker.turn == turn) else { return };
        unit.scheduled = None;
        let mut done = Vec::new();
        while let Some(job) = unit.worker.ended(self.now) {
            done.push(job);
        }
        for job in done {
            self.done(job);
        }
        self.pump(id);
        self.changed(id);
    }

    fn done(&mut self, number: u32) {
        let Some(job) = self.jobs.remove(number) else { return };
        let (now, class) = (self.now, job.class);
        self.kept.end(job.question, number, true, now);
        self.count_health(|counts| counts.ok += 1);
        if let Some(permit) = job.permit
            && let Some(standing) = degrade::probed(&self.standing, permit, Probed::Success, now.timestamp())
        {
            self.standing = standing;
        }
        let whole = Duration::from_secs_f64(now.since(job.created));
        let run = Duration::from_secs_f64(job.started.map_or(0.0, |started| now.since(started)));
        self.learning.ended(class, job.estimate, run, job.promise.as_ref(), whole, now.timestamp());
        if let Some(promise) = &job.promise {
            self.tally.promise(class, &promise::kept(promise, whole));
        }
        for (at, client) in job.waiters.into_iter().enumerate() {
            self.ends(client, if at == 0 { End::Answered } else { End::Joined });
        }
    }

    /// A worker has changed: its next event, and where it stands among those that have room.
    pub(super) fn changed(&mut self, id: u32) {
        let Some(unit) = self.fleet.units.get_mut(&id) else { return };
        if let Some((urgent, any)) = unit.room.take() {
            self.urgent_room.remove(&(urgent, id));
            self.any_room.remove(&(any, id));
        }
        if unit.stage == Stage::Draining && unit.worker.running() == 0 {
            unit.stage = Stage::Drained;
        }
        if unit.stage == Stage::Ready {
            let slots = self.prepared.scenario.worker.slots;
            let room = (unit.worker.room(Class::P0), slots.saturating_sub(unit.worker.running()));
            unit.room = Some(room);
            self.urgent_room.insert((room.0, id));
            self.any_room.insert((room.1, id));
        }
        if unit.scheduled != Some(unit.worker.turn)
            && let Some(at) = unit.worker.next_end()
        {
            unit.scheduled = Some(unit.worker.turn);
            let turn = unit.worker.turn;
            self.events.at(at, Event::Turn(id, turn));
        }
    }

    /// A worker has booted.
    pub(super) fn ready(&mut self, id: u32) {
        if let Some(unit) = self.fleet.units.get_mut(&id).filter(|unit| unit.stage == Stage::Launching) {
            unit.stage = Stage::Ready;
            self.pump(id);
        }
    }

    /// A worker takes nothing new.
    pub(super) fn drain(&mut self, id: u32) {
        if let Some(unit) = self.fleet.units.get_mut(&id) {
            unit.stage = if unit.stage == Stage::Ready { Stage::Draining } else { Stage::Drained };
            self.changed(id);
        }
    }

    /// The market takes a worker back.
    pub(super) fn lose(&mut self, id: u32, notice: bool) {
        let Some(unit) = self.fleet.units.get_mut(&id) else { return };
        let served = unit.stage == Stage::Ready;
        unit.stage = Stage::Noticed;
        self.changed(id);
        if notice && served {
            self.events.at(self.now.plus(FINISHES_SECS), Event::GiveBack(id));
            self.events.at(self.now.plus(NOTICE_SECS), Event::Gone(id));
        } else {
            self.gone(id, REAPPEARS_SECS);
        }
    }

    /// A worker under notice gives back what it has: others go on with it at once.
    pub(super) fn gives_back(&mut self, id: u32) {
        let Some(unit) = self.fleet.units.get_mut(&id) else { return };
        for (job, left) in unit.worker.stop(self.now) {
            self.back_to_queue(job, left);
        }
        self.place_all();
    }

    /// A worker is gone; what it had comes back after `secs`.
    pub(super) fn gone(&mut self, id: u32, secs: f64) {
        if let Some(unit) = self.fleet.units.get_mut(&id) {
            unit.stage = Stage::Drained;
            for (job, left) in unit.worker.stop(self.now) {
                if secs > 0.0 {
                    self.count_health(|counts| counts.errors += 1);
                    self.carried_off(job, left);
                    self.events.at(self.now.plus(secs), Event::Reappears(job));
                } else {
                    self.back_to_queue(job, left);
                }
            }
        }
        self.changed(id);
        self.fleet.remove(id, self.now);
        self.place_all();
    }

    fn carried_off(&mut self, number: u32, left: f64) {
        self.back_to_queue(number, left);
        if let Some(job) = self.jobs.get_mut(number) {
            let (class, place) = (job.class, job.place);
            job.at = Where::Between;
            self.queues[class.index()].remove(place);
        }
    }

    /// Finds workers for what waits, as far as there is room.
    pub(super) fn place_all(&mut self) {
        for class in Class::ALL {
            if self.pauses(class) {
                continue;
            }
            loop {
                let before = self.queues[class.index()].len();
                if before == 0 {
                    break;
                }
                self.place(class);
                if self.queues[class.index()].len() >= before {
                    break;
                }
            }
        }
    }

    pub(super) fn count_health(&mut self, count: impl FnOnce(&mut degrade::Counts)) {
        let now = self.now.timestamp();
        let slot = i64::try_from(degrade::SLOT.as_millis()).unwrap_or(10_000);
        let begin = penstock_policy::time::Timestamp::from_millis(now.as_millis().div_euclid(slot) * slot);
        count(self.health.entry(begin).or_default());
    }
}
