//! Clients come, ask, are refused, come back, hang up.

use penstock_policy::admission::{self, ComeBack};
use penstock_policy::classes::Class;
use penstock_policy::degrade::{self, Course};
use penstock_policy::gcra::{self, Verdict};
use penstock_policy::promise;

use super::client::{Client, Next};
use super::door::Answer;
use super::events::Event;
use super::kept::Known;
use super::load::Arrival;
use super::simulation::{Job, Simulation, Where};
use super::tally::End;

impl Simulation<'_> {
    /// Somebody comes for the first time.
    pub(super) fn comes(&mut self, arrival: Arrival) {
        self.serial = self.serial.wrapping_add(1);
        let client = Client::new(self.serial, arrival, &self.prepared.scenario.clients, &mut self.manners);
        self.flow.came();
        let client = self.clients.add(client);
        self.asks(client);
    }

    /// A client asks, for the first time or again.
    pub(super) fn asks(&mut self, number: u32) {
        let Some(client) = self.clients.get_mut(number) else { return };
        client.tries += 1;
        let (first, arrival) = (client.tries == 1, client.arrival);
        match self.kept.look(arrival.question, self.now) {
            Known::Answered => {
                self.flow.hits += 1;
                return self.ends(number, End::Hit);
            }
            Known::UnderWay(job) => {
                self.flow.hits += 1;
                return self.joins(number, job);
            }
            Known::Nothing | Known::Stale => {}
        }
        if first {
            self.flow.offered_tokens(&arrival);
        }
        let now = self.now.timestamp();
        let draw = self.chance.fraction();
        let mut course = if self.policy.degrades() {
            degrade::course(&self.standing, arrival.class, draw, now)
        } else {
            Course::Home
        };
        let mut permit = None;
        if course == Course::Probe {
            let (given, standing) = degrade::probe(&self.standing, now);
            self.standing = standing;
            permit = given;
            if permit.is_none() {
                course = Course::Fallback;
            }
        }
        match self.knock(number, &arrival, course) {
            Some(Answer::In(promise)) => self.let_in(number, &arrival, promise, permit),
            Some(Answer::Elsewhere(course)) => self.elsewhere(number, &arrival, course),
            Some(Answer::Away(come_back, slot)) => {
                if let Some(permit) = permit
                    && let Some(standing) = degrade::withdrawn(&self.standing, permit)
                {
                    self.standing = standing;
                }
                if let Some(client) = self.clients.get_mut(number) {
                    client.slot = slot;
                }
                self.refused(number, come_back);
            }
            None => {}
        }
    }

    fn knock(&mut self, number: u32, arrival: &Arrival, course: Course) -> Option<Answer> {
        let client = self.clients.get(number)?;
        // Clients reach any of the front processes.
        #[expect(clippy::cast_possible_truncation, reason = "any of them")]
        let place = self.chance.draw() as u16;
        // Kept until the door has spoken: a tier may send the client on, and back to this very door.
        let slot = client.slot;
        Some(self.door.ask(client.serial, arrival, course, slot, place, self.now.timestamp()))
    }

    fn joins(&mut self, number: u32, job: u32) {
        let Some(client) = self.clients.get_mut(number) else { return };
        client.job = Some(job);
        let class = client.arrival.class;
        if let Some(job) = self.jobs.get_mut(job) {
            job.waiters.push(number);
        }
        self.waits(number);
        self.raise(job, class);
    }

    /// Somebody of a better class waits for a job too: it moves to that class's queue.
    fn raise(&mut self, number: u32, class: Class) {
        let Some(job) = self.jobs.get_mut(number).filter(|job| class < job.class) else { return };
        let (place, before, tenant, tokens) = (job.place, job.class, job.tenant, job.estimate);
        match job.at {
            Where::Between if job.place == super::queue::Place::default() => job.class = class,
            Where::Waiting => {
                job.class = class;
                self.queues[before.index()].remove(place);
                let place = self.queues[class.index()].push(number, tenant, tokens);
                if let Some(job) = self.jobs.get_mut(number) {
                    job.place = place;
                }
                if !self.pauses(class) {
                    self.place(class);
                }
            }
            // What runs, runs; what a dead worker took with it comes back to the place it had.
            Where::Between | Where::Running(_) | Where::Cancelled => {}
        }
    }

    /// A client waits for its answer, as long as its patience lasts and the job is worth running.
    fn waits(&mut self, number: u32) {
        let Some(client) = self.clients.get(number) else { return };
        let class = client.arrival.class;
        self.flow.connected += u32::from(class <= Class::P1);
        let patience = self.prepared.scenario.clients.patience_secs[class.index()];
        let due = class.patience().as_secs_f64();
        self.patience[class.index()].push_back((self.now.plus(patience.min(due)), number, client.serial));
    }

    fn let_in(
        &mut self,
        number: u32,
        arrival: &Arrival,
        promise: Option<promise::Promise>,
        permit: Option<penstock_policy::breaker::Permit>,
    ) {
        self.flow.accepted += 1;
        let profile = self.prepared.scenario.worker.profile();
        let prompt_steps = profile.steps(arrival.prompt, 1) - 1.0;
        let steps = f64::from(arrival.output.max(1));
        let job = self.jobs.add(Job {
            waiters: vec![number],
            class: arrival.class,
            tenant: arrival.tenant,
            question: arrival.question,
            estimate: arrival.estimate(),
            prompt_steps,
            steps,
            left: prompt_steps + steps,
            created: self.now,
            started: None,
            place: super::queue::Place::default(),
            at: Where::Between,
            promise,
            permit,
        });
        self.kept.begin(arrival.question, job);
        if let Some(client) = self.clients.get_mut(number) {
            client.job = Some(job);
        }
        self.waits(number);
        let hand_off = self.prepared.scenario.worker.hand_off_ms / 1000.0;
        self.events.at(self.now.plus(hand_off), Event::Queued(job));
    }

    /// Something else is to answer in the pool's place: a stale answer, another pool, and if there is none, by the tier,
    /// the pool itself or nobody.
    fn elsewhere(&mut self, number: u32, arrival: &Arrival, course: Course) {
        let now = self.now.timestamp();
        if course == Course::Stale && self.kept.look(arrival.question, self.now) == Known::Stale {
            self.flow.hits += 1;
            return self.ends(number, End::Stale);
        }
        let there = self.elsewhere.as_mut().filter(|_| course != Course::Refuse);
        if let Some(there) = there
            && let Verdict::Granted { bucket, .. } = gcra::take(there.bucket, &there.limit, 1, now)
        {
            there.bucket = bucket;
            there.usd += f64::from(arrival.prompt + arrival.output) / 1e6 * there.usd_per_million_tokens;
            let at = self.now.plus(there.secs);
            return self.events.at(at, Event::Elsewhere(number));
        }
        match course {
            Course::Stale | Course::Switched => match self.knock(number, arrival, Course::Home) {
                Some(Answer::In(promise)) => self.let_in(number, arrival, promise, None),
                Some(Answer::Away(come_back, slot)) => {
                    if let Some(client) = self.clients.get_mut(number) {
                        client.slot = slot;
                    }
                    self.refused(number, come_back);
                }
                Some(Answer::Elsewhere(_)) | None => {}
            },
            Course::Home | Course::Kept | Course::Probe | Course::Fallback | Course::Refuse => {
                let until = degrade::come_back(&self.standing, self.chance.fraction(), now);
                self.refused(number, admission::come_back(Some(until), now));
            }
        }
    }

    fn refused(&mut self, number: u32, come_back: ComeBack) {
        self.flow.refused += 1;
        let most = self.prepared.scenario.clients.tries;
        let Some(client) = self.clients.get_mut(number) else { return };
        client.refused = true;
        match client.takes(come_back, most, &mut self.manners) {
            Next::Back(secs) => self.events.at(self.now.plus(secs), Event::Ask(number)),
            Next::TurnedAway => self.ends(number, End::TurnedAway),
            Next::GivesUp => self.ends(number, End::GaveUp),
        }
    }

    /// A client's patience is at its end, unless it has had its answer.
    pub(super) fn hangs_up(&mut self, number: u32, serial: u32) {
        let Some(client) = self.clients.get(number).filter(|client| client.serial == serial) else { return };
        let Some(job) = client.job else { return };
        self.ends(number, End::Lost);
        let Some(wanted) = self.jobs.get_mut(job) else { return };
        wanted.waiters.retain(|waiter| *waiter != number);
        if wanted.waiters.is_empty() {
            self.cancel(job);
        }
    }

    /// Nobody wants a job any more.
    fn cancel(&mut self, number: u32) {
        let Some(job) = self.jobs.get(number) else { return };
        let (class, place, at, question) = (job.class, job.place, job.at, job.question);
        match at {
            // The message still comes, and finds nothing to do.
            Where::Between | Where::Cancelled => {}
            Where::Waiting => {
                self.queues[class.index()].remove(place);
            }
            Where::Running(unit) => {
                if let Some(unit) = self.fleet.units.get_mut(&unit) {
                    unit.worker.cancel(number, self.now);
                }
                self.changed(unit);
            }
        }
        self.kept.end(question, number, false, self.now);
        if at == Where::Between {
            if let Some(job) = self.jobs.get_mut(number) {
                job.at = Where::Cancelled;
            }
        } else {
            self.jobs.remove(number);
        }
        if let Where::Running(unit) = at {
            self.pump(unit);
        }
    }

    /// The standing of urgent classes: whether workers leave a class in its queue.
    pub(super) fn pauses(&self, class: Class) -> bool {
        self.policy.degrades() && degrade::pauses(self.standing.tier(self.now.timestamp()), class)
    }
}
