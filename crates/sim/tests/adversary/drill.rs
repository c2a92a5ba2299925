//! One drill: a deployment whose store, network and processes do their worst for a minute, and then are calm.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, PoolId, TenantId};
use penstock_policy::job::State;
use penstock_policy::time::Timestamp;
use penstock_service::Consumer;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, JobRecord, QueueId};
use penstock_sim::{Fault, Group, Plan, World, answer_to};

use crate::client::{self, Door, Doors, Heard, Question};

const TICK: Duration = Duration::from_millis(40);

/// How long it goes wrong, and by when all must have ended.
const BAD: Duration = Duration::from_secs(60);
const OVER: Duration = Duration::from_secs(3600);

/// What may befall processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Events {
    /// Workers that die, and are replaced.
    pub(crate) deaths: u64,
    /// Workers that stop for longer than their lease, and go on.
    pub(crate) freezes: u64,
    /// Workers that are told to make way, finish what they have, and are replaced.
    pub(crate) notices: u64,
    /// Front doors that die with their connections, and are replaced.
    pub(crate) front_deaths: u64,
    /// Times at which no front door reaches the store for up to ten seconds.
    pub(crate) outages: u64,
    /// Of a hundred sequences, how many the engine fails.
    pub(crate) engine_faults: u32,
    /// Of a hundred clients, how many hang up.
    pub(crate) leavers: u64,
}

/// What goes wrong in a drill.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) plan: Plan,
    pub(crate) events: Events,
}

/// What came of a drill, or of many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) clients: u64,
    pub(crate) answered: u64,
    pub(crate) left: u64,
    /// Jobs that were taken over by another worker and answered all the same.
    pub(crate) taken_over: u64,
    pub(crate) injected: u64,
    /// Jobs that were given up after three failed attempts.
    pub(crate) given_up: u64,
    /// Accepted, and neither answered nor ended: must be none.
    pub(crate) lost: u64,
    /// Ended or settled twice: must be none.
    pub(crate) doubled: u64,
    /// Not ended, not settled, or still in a queue when all is calm: must be none.
    pub(crate) stuck: u64,
    /// A client heard a text that is not the beginning of the answer: must be none (C1).
    pub(crate) changed: u64,
    /// An answer that is not that of an undisturbed run: must be none (C2).
    pub(crate) different: u64,
    pub(crate) pauses: Vec<Duration>,
    /// What is wrong, in words.
    pub(crate) wrong: Vec<String>,
    pub(crate) story: String,
}

impl Outcome {
    pub(crate) fn is_well(&self) -> bool {
        self.lost + self.doubled + self.stuck + self.changed + self.different == 0 && self.wrong.is_empty()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.clients += other.clients;
        self.answered += other.answered;
        self.left += other.left;
        self.taken_over += other.taken_over;
        self.injected += other.injected;
        self.given_up += other.given_up;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.stuck += other.stuck;
        self.changed += other.changed;
        self.different += other.different;
        self.pauses.extend(other.pauses);
        self.wrong.extend(other.wrong);
    }
}

pub(crate) fn everything(per_mille: u64) -> Trouble {
    let plan = Fault::ALL.into_iter().map(|fault| (fault, per_mille)).collect();
    let events =
        Events { deaths: 2, freezes: 2, notices: 1, front_deaths: 2, outages: 1, engine_faults: 3, leavers: 20 };
    Trouble { plan, events }
}

struct Stage {
    world: World,
    doors: Doors,
    fronts: Vec<Group>,
    workers: Vec<(Group, Consumer)>,
    frozen: Vec<(Timestamp, Group)>,
    engine_faults: u32,
}

impl Stage {
    fn new(seed: u64, trouble: &Trouble) -> Self {
        let timing = Timing { lease: Duration::from_secs(2), visibility: Duration::from_secs(3), ..Timing::default() };
        let world = World::new(seed, timing, World::wide_limits().unwrap()).unwrap();
        let engine_faults = trouble.events.engine_faults;
        let mut stage = Self {
            world,
            doors: Doors::default(),
            fronts: Vec::new(),
            workers: Vec::new(),
            frozen: Vec::new(),
            engine_faults,
        };
        for _ in 0..2 {
            stage.open_front();
            stage.start_worker();
        }
        stage
    }

    fn tell(&self, what: String) {
        self.world.adversary.tell(what);
    }

    fn open_front(&mut self) {
        let (group, service) = self.world.start_front();
        let door = Door { spawner: self.world.kernel.spawner(group), router: penstock_service::router(service) };
        self.doors.lock().unwrap().push(door);
        self.fronts.push(group);
        self.tell(format!("front door {} opens", group.0));
    }

    fn start_worker(&mut self) {
        let faults = penstock_sim::Faults::default();
        faults.set_percent(self.engine_faults);
        let pool = PoolId::new("default").unwrap();
        let started = self.world.start_worker_of(&pool, 2, TICK, faults).unwrap();
        self.tell(format!("worker {} starts", started.0.0));
        self.workers.push(started);
    }

    fn pick(&self, of: usize) -> usize {
        usize::try_from(self.world.kernel.below(of as u64)).unwrap()
    }

    fn event(&mut self, event: &'static str) {
        let worker = self.pick(self.workers.len());
        match event {
            "death" => {
                let (group, _) = self.workers.swap_remove(worker);
                self.tell(format!("worker {} dies", group.0));
                self.world.kernel.kill(group);
                self.start_worker();
            }
            "freeze" => {
                let group = self.workers[worker].0;
                let until =
                    self.world.kernel.now().after(Duration::from_millis(2_000 + self.world.kernel.below(6_000)));
                self.tell(format!("worker {} freezes", group.0));
                self.world.kernel.freeze(group, true);
                self.frozen.push((until, group));
            }
            "notice" => {
                let (group, consumer) = self.workers.swap_remove(worker);
                self.tell(format!("worker {} is told to make way", group.0));
                consumer.drain();
                self.start_worker();
            }
            "front death" => {
                let front = self.pick(self.fronts.len());
                let group = self.fronts.remove(front);
                self.doors.lock().unwrap().remove(front);
                self.tell(format!("front door {} dies", group.0));
                self.world.kernel.kill(group);
                self.open_front();
            }
            "outage" => {
                self.world.adversary.set_out(true);
                let lasts = Duration::from_millis(self.world.kernel.below(10_000));
                self.world.kernel.run_until(self.world.kernel.now().after(lasts), || false);
                self.world.adversary.set_out(false);
            }
            other => panic!("{other}"),
        }
    }

    /// Lets go on whoever has been frozen long enough.
    fn thaw(&mut self, all: bool) {
        let now = self.world.kernel.now();
        for (until, group) in std::mem::take(&mut self.frozen) {
            if all || until <= now {
                self.tell(format!("worker {} goes on", group.0));
                self.world.kernel.freeze(group, false);
            } else {
                self.frozen.push((until, group));
            }
        }
    }

    fn records(&self) -> Vec<(JobId, JobRecord)> {
        let (store, tenant) = (self.world.store(), TenantId::new("tenant").unwrap());
        now(async move {
            let (mut records, mut after) = (Vec::new(), None);
            loop {
                let page = store.erasure.jobs_of(&tenant, after.as_deref()).await.unwrap();
                for job in page.found {
                    records.push((job, store.jobs.record(job).await.unwrap().unwrap()));
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => return records,
                }
            }
        })
    }

    fn queued(&self) -> u64 {
        let (store, pool) = (self.world.store(), PoolId::new("default").unwrap());
        now(async move {
            let mut queued = 0;
            for class in Class::ALL {
                queued += store.queue.depth(&QueueId { pool: pool.clone(), class }).await.unwrap();
            }
            queued
        })
    }

    fn is_settled(&self) -> bool {
        self.queued() == 0 && self.records().iter().all(|(_, record)| is_done(record))
    }
}

fn is_done(record: &JobRecord) -> bool {
    record.head.state.is_terminal() && !record.head.unsettled
}

/// What a store in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).unwrap()
}

/// Runs a drill; the same seed and trouble run the same way.
pub(crate) fn drill(seed: u64, trouble: &Trouble) -> Outcome {
    let mut stage = Stage::new(seed, trouble);
    let kernel = stage.world.kernel.clone();
    let begun = kernel.now();
    let count = 6;
    let mut clients: Vec<(Question, Arc<Mutex<Heard>>)> = Vec::new();
    for number in 0..count {
        let length = 10 + kernel.below(50);
        // Two and two ask the same.
        let words = number / 2;
        let prompt: String = (0..length).map(|i| char::from(b'a' + u8::try_from((i + words) % 26).unwrap())).collect();
        let prompt = match clients.last() {
            Some((other, _)) if number % 2 == 1 => other.prompt.clone(),
            _ => prompt,
        };
        let question = Question {
            prompt,
            streamed: kernel.below(2) == 0,
            deterministic: words != 1,
            idempotency_key: (words == 2 && number % 2 == 0).then(|| format!("key-{number}")),
            leaves_after: (kernel.below(100) < trouble.events.leavers)
                .then(|| Duration::from_millis(kernel.below(4_000))),
        };
        clients.push((question, Arc::default()));
    }
    for (question, heard) in &clients {
        let asking = client::ask(
            kernel.clone(),
            Arc::clone(&stage.doors),
            stage.world.key.clone(),
            question.clone(),
            Arc::clone(heard),
        );
        let (kernel_in, wait) = (kernel.clone(), Duration::from_millis(kernel.below(3_000)));
        stage.world.client(async move {
            kernel_in.sleep_until(kernel_in.now().after(wait)).await;
            asking.await;
        });
    }
    stage.world.adversary.set_plan(trouble.plan.clone());
    let mut events: Vec<(u64, &'static str)> = Vec::new();
    let Events { deaths, freezes, notices, front_deaths, outages, .. } = trouble.events;
    for (name, times) in [
        ("death", deaths),
        ("freeze", freezes),
        ("notice", notices),
        ("front death", front_deaths),
        ("outage", outages),
    ] {
        events.extend((0..times).map(|_| (kernel.below(8_000), name)));
    }
    events.sort_unstable();
    let all_over =
        |clients: &[(Question, Arc<Mutex<Heard>>)]| clients.iter().all(|(_, heard)| heard.lock().unwrap().is_over());
    for (at, event) in events {
        kernel.run_until(begun.after(Duration::from_millis(at)), || false);
        stage.thaw(false);
        stage.event(event);
    }
    let bad_until = begun.after(BAD);
    while kernel.now() < bad_until && !(stage.frozen.is_empty() && all_over(&clients)) {
        let next = kernel.now().after(Duration::from_millis(500)).min(bad_until);
        kernel.run_until(next, || false);
        stage.thaw(false);
    }
    stage.thaw(true);
    stage.world.adversary.set_plan(Plan::new());
    let until = begun.after(OVER);
    kernel.run_until(until, || all_over(&clients));
    while kernel.now() < until && !stage.is_settled() {
        kernel.run_until(kernel.now().after(Duration::from_secs(1)).min(until), || false);
    }
    judge(&stage, &clients, begun)
}

fn judge(stage: &Stage, clients: &[(Question, Arc<Mutex<Heard>>)], begun: Timestamp) -> Outcome {
    let mut outcome = Outcome { clients: clients.len() as u64, ..Outcome::default() };
    for (question, heard) in clients {
        let heard = heard.lock().unwrap();
        let right = answer_to(&question.prompt);
        outcome.pauses.push(heard.longest_pause);
        outcome.left += u64::from(heard.left);
        if heard.texts.iter().any(|text| !right.starts_with(text.as_str())) {
            outcome.changed += 1;
            outcome.wrong.push(format!("{:?} heard {:?}", question, heard.texts));
        }
        match &heard.answer {
            Some(answer) if *answer == right => outcome.answered += 1,
            Some(answer) => {
                outcome.different += 1;
                outcome.wrong.push(format!("{question:?} was answered {answer:?}"));
            }
            None if heard.left => {}
            None => {
                outcome.lost += 1;
                outcome.wrong.push(format!("{question:?} was never answered: {:?}", heard.gave_up));
            }
        }
    }
    for (job, record) in stage.records() {
        if !is_done(&record) {
            outcome.stuck += 1;
            outcome.wrong.push(format!("{job} is left {:?}", record.head));
        }
        outcome.taken_over += u64::from(record.head.state == State::Succeeded && record.head.epoch.0 > 1);
        outcome.given_up += u64::from(record.head.state == State::Failed);
    }
    let queued = stage.queued();
    if queued > 0 {
        outcome.stuck += queued;
        outcome.wrong.push(format!("{queued} messages are left"));
    }
    for job in stage.world.adversary.doubled() {
        outcome.doubled += 1;
        outcome.wrong.push(format!("{job} ended or was settled twice"));
    }
    let done: BTreeMap<Fault, u64> = stage.world.adversary.done();
    outcome.injected = done.values().sum();
    outcome.story = stage.world.adversary.story(begun);
    outcome
}
