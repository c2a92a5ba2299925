//! What a worker does with one message: claim, continue what others began, run, write down, end, settle.
//!
//! Nothing a worker computes counts unless its claim still holds when it is written: chunks carry the epoch, the end
//! is conditional on it. A claim is prolonged only while the engine makes progress, so that a hung engine
//! loses it and another worker goes on.

mod embedding;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use penstock_policy::classes::Class;
use penstock_policy::degrade;
use penstock_policy::id::{Epoch, PoolId, WorkerId};
use penstock_policy::job::{Denied, End, Position, Step};
use penstock_policy::reconcile::MOST_FAILED_ATTEMPTS;
use penstock_policy::retry::full_jitter;
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::degradation::health::Seen;
use crate::ports::{
    Assignment, Chunk, Claim, Claimed, Delivery, Engine, EngineFault, ErrorVerdict, Generation, JobRecord, JobSpec,
    Message, Outcome, Payload, PortResult, Receipt, Sequence, Stepped,
};
use crate::reconcile::{POISON, poison};
use crate::stored::story::{Event, WhyReleased};
use crate::worker::consume::Slot;
use crate::worker::voices::{Heard, Inherited, Pending, Voices};

/// How long a message that another worker's live claim covers is hidden beyond that claim.
const BEYOND_LEASE: Duration = Duration::from_secs(1);

/// A message whose words only another model's worker may continue is hidden for a part of the time it has left, so that
/// it is offered often enough to be found and seldom enough not to be taken for undeliverable.
const OTHER_DIGEST_PART: u32 = 8;

/// A job that has said nothing for so long after it was begun counts as a time-out of its pool; it goes on all the same.
const FIRST_WORDS: Duration = Duration::from_secs(60);

/// How often a write to a store that does not answer is tried, and the first wait between two tries.
const MOST_TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// A worker's surroundings: who it is, what it runs, for which pool.
pub struct Workplace {
    /// The use cases.
    pub service: Arc<Service>,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The pool it serves.
    pub pool: PoolId,
    /// Its name.
    pub worker: WorkerId,
}

impl Workplace {
    /// Counts what a claim tells: of an attempt that came to nothing nobody else may be left to tell, and of the wait.
    fn begun(&self, record: &JobRecord, now: Timestamp) {
        let health = &self.service.health;
        if record.head.failed_attempts() > 0 {
            health.count(&self.pool, Seen::Failed);
        }
        if record.head.epoch == Epoch(1)
            && let Some(spec) = &record.spec
            && let Some(limit) = degrade::late(spec.class)
        {
            health.count(&self.pool, Seen::Started { late: now.since(spec.created) > limit });
        }
    }
}

/// One job in the hands of one worker.
pub(crate) struct Work {
    place: Arc<Workplace>,
    spec: JobSpec,
    receipt: Receipt,
    epoch: Epoch,
    next_seq: u32,
    last: Option<Position>,
}

/// How the run of a sequence ended.
enum Run {
    /// With an answer or an error that is the job's end.
    Ended(Outcome),
    /// The job goes back to the queue: the engine stops, or failed.
    GiveBack(WhyReleased),
    /// The claim is lost, or nobody wants the answer: nothing more to write.
    Abandon { ack: bool },
}

/// Handles one delivery to its end. Errors are logged here: whatever goes wrong, the message comes back.
pub(crate) async fn handle(place: Arc<Workplace>, delivery: Delivery, mut slot: Slot) {
    let receipt = delivery.receipt.clone();
    let message = match delivery.message {
        Ok(message) => message,
        Err(cause) => {
            tracing::error!(%cause, receives = delivery.receives, "unreadable message; it goes to the dead-letter queue");
            return;
        }
    };
    let job = message.spec.id;
    if let Err(error) = work_on(place, message, receipt, &mut slot).await {
        tracing::warn!(%job, %error, "job set aside; its message comes back");
    }
}

async fn work_on(place: Arc<Workplace>, message: Message, receipt: Receipt, slot: &mut Slot) -> PortResult<()> {
    let Message { spec, payload } = message;
    let service = &place.service;
    let ports = service.ports();
    let now = ports.clock.now();
    if spec.due <= now {
        return expire(&place, &spec, &receipt, now).await;
    }
    let claim = Claim {
        spec: spec.clone(),
        owner: place.worker.clone(),
        digest: place.engine.info().digest.clone(),
        lease_until: now.after(service.timing().lease),
    };
    match ports.jobs.claim(&claim, service.nonce(), now).await? {
        Claimed::No { denied, .. } => refused(&place, &spec, &receipt, denied, now).await,
        Claimed::OtherDigest(_) => ports.queue.hide(&receipt, spec.due.since(now) / OTHER_DIGEST_PART).await,
        Claimed::Yes(record) => {
            let epoch = record.head.epoch;
            place.begun(&record, now);
            let mut work = Work { place: Arc::clone(&place), spec, receipt, epoch, next_seq: 0, last: None };
            work.claimed(&record, payload, slot).await
        }
    }
}

/// A claim that was not granted: the job has ended (its message is done), or another holds it (look again later).
async fn refused(
    place: &Workplace,
    spec: &JobSpec,
    receipt: &Receipt,
    denied: Denied,
    now: Timestamp,
) -> PortResult<()> {
    let ports = place.service.ports();
    match denied {
        Denied::Ended(_) => {
            place.service.settle(spec.id).await?;
            ports.queue.ack(receipt).await
        }
        Denied::Leased(until) => ports.queue.hide(receipt, until.since(now) + BEYOND_LEASE).await,
        // The table denies a claim for no other reason; should it, the message comes back by itself.
        Denied::Absent
        | Denied::Present
        | Denied::Fenced
        | Denied::Wanted
        | Denied::Unwanted
        | Denied::NotEnded
        | Denied::Settled
        | Denied::Unparked => Ok(()),
    }
}

async fn expire(place: &Workplace, spec: &JobSpec, receipt: &Receipt, now: Timestamp) -> PortResult<()> {
    let ports = place.service.ports();
    match ports.jobs.step(spec.id, &Stepped::from(Step::Expire), place.service.nonce(), now).await? {
        Ok(_) => {
            tracing::info!(job = %spec.id, "job expired before it could run");
            place.service.health.count(&place.pool, Seen::TimedOut);
            place.service.settle(spec.id).await?;
            ports.queue.ack(receipt).await
        }
        Err(denied) => refused(place, spec, receipt, denied, now).await,
    }
}

impl Work {
    async fn claimed(&mut self, record: &JobRecord, payload: Payload, slot: &mut Slot) -> PortResult<()> {
        if record.head.failed_attempts() >= MOST_FAILED_ATTEMPTS {
            return self.finish(Err(poison())).await;
        }
        // A joiner of a better class may have raised the record above its message.
        let class = record.spec.as_ref().unwrap_or(&self.spec).class;
        match self.assignment(payload).await? {
            Ok(Assignment::Generate(generation)) => self.generate(*generation, class, slot).await,
            Ok(Assignment::Embed(embedding)) => self.embed(embedding, class).await,
            Err(verdict) => self.finish(Err(verdict)).await,
        }
    }

    async fn generate(&mut self, generation: Generation, class: Class, slot: &mut Slot) -> PortResult<()> {
        slot.widen(generation.choices);
        let inherited = self.open(generation.choices).await?;
        let mut streams = Vec::with_capacity(inherited.len());
        for (choice, Inherited { ids, bytes }) in (0..).zip(inherited) {
            let sequence = Sequence {
                job: self.spec.id,
                tenant: self.spec.tenant.clone(),
                class,
                generation: generation.clone(),
                choice,
                resume_ids: ids,
                resume_bytes: bytes,
            };
            streams.push(self.place.engine.start(sequence).await);
        }
        let run = self.run(Voices::new(streams, generation.prompt_count())).await?;
        self.conclude(run).await
    }

    /// Does what the end of a run asks for.
    async fn conclude(&mut self, run: Run) -> PortResult<()> {
        match run {
            Run::Ended(outcome) => self.finish(outcome).await,
            Run::GiveBack(why) => self.give_back(why).await,
            Run::Abandon { ack: true } => {
                self.place.service.settle(self.spec.id).await?;
                self.place.service.ports().queue.ack(&self.receipt).await
            }
            Run::Abandon { ack: false } => Ok(()),
        }
    }

    async fn assignment(&self, payload: Payload) -> PortResult<Result<Assignment, ErrorVerdict>> {
        let text = match payload {
            Payload::Inline(text) => text.into_bytes(),
            Payload::Blob(key) => match self.place.service.ports().blobs.get(&key).await? {
                Some(bytes) => bytes.to_vec(),
                None => return Ok(Err(fault("payload_missing", "the request's stored text is gone; send it again"))),
            },
        };
        Ok(Assignment::read(&text)
            .ok_or_else(|| fault("payload_unreadable", "the request's stored form cannot be read; send it again")))
    }

    /// By answer, what earlier workers have said.
    async fn open(&mut self, choices: u32) -> PortResult<Vec<Inherited>> {
        // A payload cannot ask for none; should it, the first answer is given.
        let choices = choices.max(1) as usize;
        let said = self.inherit().await?;
        Ok(Inherited::of(&said, choices))
    }

    /// What earlier workers have said, which this one declares, from the second epoch on, to continue from.
    async fn inherit(&mut self) -> PortResult<Vec<Chunk>> {
        if self.epoch <= Epoch(1) {
            return Ok(Vec::new());
        }
        let chunks = self.place.service.ports().jobs.chunks(self.spec.id, None).await?;
        let said = penstock_policy::resume::continuation(&chunks, self.epoch);
        let said: Vec<Chunk> = said.into_iter().cloned().collect();
        let parent = said.last().map(|chunk| chunk.position);
        self.write_chunk(parent, Pending::default()).await?;
        Ok(said)
    }

    /// Follows the engine, writing down and renewing as time passes.
    async fn run(&mut self, mut voices: Voices) -> PortResult<Run> {
        let timing = *self.place.service.timing();
        let clock = Arc::clone(&self.place.service.ports().clock);
        let flush_every = if self.spec.streamed { timing.stream_flush } else { timing.checkpoint };
        let heartbeat = timing.lease / 3;
        let mut beat_at = clock.now().after(heartbeat);
        let mut flush_at: Option<Timestamp> = None;
        let engine = Arc::clone(&self.place.engine);
        let mut steps = engine.steps();
        let mut advanced = true;
        let mut silent_until = Some(clock.now().after(FIRST_WORDS));
        loop {
            let wake = flush_at.map_or(beat_at, |flush| flush.min(beat_at));
            let heard = match select(voices.listen().boxed(), clock.sleep_until(wake)).await {
                Either::Left((heard, _)) => Some(heard),
                Either::Right(_) => None,
            };
            let now = clock.now();
            match heard {
                Some(Heard::More) => {
                    advanced = true;
                    if silent_until.take().is_some_and(|until| until < now) {
                        self.place.service.health.count(&self.place.pool, Seen::TimedOut);
                    }
                    if voices.is_full() {
                        flush_at = Some(now);
                    } else if voices.has_pending() {
                        flush_at.get_or_insert_with(|| self.first_flush(now, flush_every));
                    }
                }
                Some(Heard::Ended(answer)) => {
                    self.flush(&mut voices).await?;
                    return Ok(Run::Ended(Ok(answer)));
                }
                Some(Heard::Failed(EngineFault::BadRequest { code, param, message })) => {
                    return Ok(Run::Ended(Err(ErrorVerdict { status: 400, code, param, message })));
                }
                Some(Heard::Failed(EngineFault::Fault(cause))) => {
                    tracing::error!(job = %self.spec.id, %cause, "the engine failed on a job");
                    return Ok(Run::GiveBack(WhyReleased::EngineFault));
                }
                Some(Heard::Failed(EngineFault::Stopping)) => {
                    self.flush(&mut voices).await?;
                    return Ok(Run::GiveBack(WhyReleased::Stopping));
                }
                Some(Heard::Failed(EngineFault::Preempted)) => {
                    self.flush(&mut voices).await?;
                    return Ok(Run::GiveBack(WhyReleased::Preempted));
                }
                Some(Heard::Silence) => return Ok(Run::GiveBack(WhyReleased::EngineSilent)),
                None => {}
            }
            if flush_at.is_some_and(|flush| flush <= now) {
                self.flush(&mut voices).await?;
                flush_at = None;
            }
            if beat_at <= now {
                // Its streams may stay open for ever, held by a thread that hangs.
                if !engine.is_alive() {
                    return Ok(Run::GiveBack(WhyReleased::EngineDead));
                }
                // A long prompt says nothing for a while, but the engine that reads it goes on.
                if (advanced || engine.steps() > steps)
                    && let Some(end) = self.renew(now).await?
                {
                    return Ok(end);
                }
                steps = engine.steps();
                advanced = false;
                beat_at = now.after(heartbeat);
            }
        }
    }

    /// The first words of a streamed answer are shown at once; later ones are gathered.
    fn first_flush(&self, now: Timestamp, every: Duration) -> Timestamp {
        if self.spec.streamed && self.last.is_none() { now } else { now.after(every) }
    }

    /// Prolongs the claim, then the message's hiding; says how to end if the claim is lost.
    async fn renew(&self, now: Timestamp) -> PortResult<Option<Run>> {
        let service = &self.place.service;
        let step = Step::Renew { epoch: self.epoch, lease_until: now.after(service.timing().lease) };
        match service.ports().jobs.step(self.spec.id, &Stepped::from(step), service.nonce(), now).await {
            Ok(Ok(_)) => {
                // A message that comes back early meets the claim that was just prolonged.
                if let Err(error) = service.ports().queue.hide(&self.receipt, service.timing().visibility).await {
                    tracing::warn!(job = %self.spec.id, %error, "cannot keep a message hidden");
                }
                Ok(None)
            }
            Ok(Err(Denied::Ended(_))) => Ok(Some(Run::Abandon { ack: true })),
            Ok(Err(_)) => Ok(Some(Run::Abandon { ack: false })),
            // The next beat tries again; if the lease lapses meanwhile, the end will be refused.
            Err(error) if error.is_passing() => {
                tracing::warn!(job = %self.spec.id, %error, "cannot renew a claim");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn flush(&mut self, voices: &mut Voices) -> PortResult<()> {
        for pending in voices.take_pending() {
            self.write_chunk(None, pending).await?;
        }
        Ok(())
    }

    async fn write_chunk(&mut self, parent: Option<Position>, pending: Pending) -> PortResult<()> {
        let position = Position { epoch: self.epoch, seq: self.next_seq };
        let chunk = Chunk { position, parent, ids: pending.ids, words: pending.words };
        let (place, job) = (Arc::clone(&self.place), self.spec.id);
        persist(&self.place, || place.service.ports().jobs.put_chunk(job, &chunk).boxed()).await?;
        self.next_seq = self.next_seq.saturating_add(1);
        self.last = Some(position);
        Ok(())
    }

    /// Writes the job's end, draws its consequences, and is done with the message.
    async fn finish(&mut self, outcome: Outcome) -> PortResult<()> {
        let place = Arc::clone(&self.place);
        let ports = place.service.ports();
        let end = if outcome.is_ok() { End::Succeeded } else { End::Failed };
        let seen = match &outcome {
            // Its attempts are counted already, each by the next.
            Err(verdict) if verdict.code == POISON => None,
            Err(verdict) if !verdict.is_for_good() => Some(Seen::Failed),
            Ok(_) | Err(_) => Some(Seen::Well),
        };
        let step = Stepped {
            step: Step::Finish { epoch: self.epoch, end, last: self.last },
            outcome: Some(outcome),
            event: None,
            addition: None,
        };
        let (job, nonce) = (self.spec.id, place.service.nonce());
        let written = persist(&place, || ports.jobs.step(job, &step, nonce, ports.clock.now()).boxed()).await?;
        if written.is_ok()
            && let Some(seen) = seen
        {
            place.service.health.count(&place.pool, seen);
        }
        match written {
            Ok(_) | Err(Denied::Ended(_)) => {
                place.service.settle(job).await?;
                ports.queue.ack(&self.receipt).await
            }
            // Another worker has the job now, and its message will be that worker's to acknowledge.
            Err(denied) => {
                tracing::info!(%job, ?denied, "finished a job that another worker has taken over");
                Ok(())
            }
        }
    }

    async fn give_back(&mut self, why: WhyReleased) -> PortResult<()> {
        let place = Arc::clone(&self.place);
        let ports = place.service.ports();
        let now = ports.clock.now();
        let (epoch, blameless) = (self.epoch, why.is_blameless());
        let event = Some(Event::Released { at: now, epoch, why });
        let step = Stepped { step: Step::Release { epoch, blameless }, outcome: None, event, addition: None };
        if ports.jobs.step(self.spec.id, &step, place.service.nonce(), now).await?.is_ok() {
            let pause = if blameless {
                Duration::ZERO
            } else {
                full_jitter(Duration::from_secs(1), Duration::from_secs(30), self.epoch.0, place.service.fraction())
            };
            ports.queue.hide(&self.receipt, pause).await?;
        }
        Ok(())
    }
}

/// Tries a write that may be repeated until the store answers, a bounded number of times.
async fn persist<'f, T>(
    place: &Workplace,
    mut write: impl FnMut() -> futures_util::future::BoxFuture<'f, PortResult<T>>,
) -> PortResult<T> {
    let clock = &place.service.ports().clock;
    let mut attempt = 0;
    loop {
        match write().await {
            Err(error) if error.is_passing() && attempt + 1 < MOST_TRIES => {
                let wait = full_jitter(FIRST_WAIT, Duration::from_secs(2), attempt, place.service.fraction());
                clock.sleep_until(clock.now().after(wait)).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn fault(code: &str, message: &str) -> ErrorVerdict {
    ErrorVerdict { status: 500, code: code.to_owned(), param: None, message: message.to_owned() }
}
