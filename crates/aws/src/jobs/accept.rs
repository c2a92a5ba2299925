//! Accepting: take, marker, send, record. The message is the outbox: once it is sent the job is accepted, and a claim
//! makes the record if this process dies before it does. A job to be parked is accepted by its record, its request being
//! stored before; nothing is sent that could make one.
//!
//! What can go wrong, and what is left behind:
//! - a take or the marker refuses, or fails: what was taken is given back, and nothing else was done;
//! - the queue refuses for certain: the marker is removed too;
//! - the outcome of the send stays unknown: a tombstone keeps the message, if there is one, from ever running. Only then
//!   the marker is removed and the takes given back. A record that is there already proves that a message was sent;
//! - the request of a job to be parked cannot be stored: the marker is removed too. Its record cannot be written: as after a
//!   send of unknown outcome;
//! - the record cannot be written after the send: the job will run, but no id may be told without a record, so the
//!   caller gets an error and the marker stays, for the client's next try to find the job by.

use std::time::Duration;

use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{State, Step};
use penstock_policy::parking::Berth;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Acceptance, Accepted, AttemptClaim, Attempts, JobRecord, JobSpec, Levels, MarkerClaim, Markers, Message, PortError,
    PortResult, QueueId, Reservation, TakeOutcome,
};

use crate::Aws;
use crate::error::{DYNAMODB, SQS};
use crate::item::ms;
use crate::jobs::{guard, record};
use crate::parking;
use crate::table::{Repeats, Written};

/// The pauses before each try of the send.
const SEND_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(200)];
/// The pauses before each try of the record, on top of the SDK's own.
const PUT_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(400)];
/// Makes the tombstone's nonce another than the record's, of which it must not be taken for a repetition.
const CALLED_OFF: u64 = 0x9e37_79b9_7f4a_7c15;

/// What became of the send.
enum Sent {
    Yes,
    /// Not sent but stored, its record with it.
    Stored(Box<JobRecord>),
    /// Refused, every time; nothing is in the queue.
    No(PortError),
    /// At least one try may have succeeded.
    Unknown(PortError),
}

/// What the tombstone met.
enum CalledOff {
    /// The job will not run.
    Dead,
    /// It has a record: a message had been sent, by us or by one that took us for dead.
    Alive(Box<JobRecord>),
}

/// What this attempt has done and may have to undo.
#[derive(Default)]
struct Done<'a> {
    levels: Vec<Levels>,
    reservations: Vec<Reservation>,
    marker: Option<&'a MarkerClaim>,
    attempt: Option<&'a AttemptClaim>,
}

impl Aws {
    pub(crate) async fn accept_job(&self, acceptance: &Acceptance, now: Timestamp) -> PortResult<Accepted> {
        let mut message = acceptance.message.clone();
        let mut done = Done::default();
        if let Some(refusal) = self.take_all(acceptance, &mut message.spec, &mut done, now).await? {
            return Ok(refusal);
        }
        if let Some(claim) = &acceptance.marker {
            done.marker = Some(claim);
            match self.claim_marker(claim, message.spec.id, now).await {
                Ok(None) => {}
                Ok(Some(found)) => {
                    done.marker = None;
                    self.undo(done, message.spec.id, acceptance.nonce).await;
                    return Ok(Accepted::Held(found));
                }
                Err(error) => {
                    self.undo(done, message.spec.id, acceptance.nonce).await;
                    return Err(error);
                }
            }
        }
        if let Some(claim) = &acceptance.attempt {
            done.attempt = Some(claim);
            if let Err(error) = self.note_try(claim, message.spec.id).await {
                self.undo(done, message.spec.id, acceptance.nonce).await;
                return Err(error);
            }
        }
        let sent = match acceptance.berth {
            Berth::Queue => self.send_surely(&message).await,
            Berth::Parked => self.park(&message, acceptance.nonce, now).await,
        };
        let found = match sent {
            Sent::Yes => self.put_record(&message.spec, Step::Put, acceptance.nonce, now).await?,
            Sent::Stored(found) => *found,
            Sent::No(error) => {
                self.undo(done, message.spec.id, acceptance.nonce).await;
                return Err(error);
            }
            Sent::Unknown(error) => match self.call_off(message.spec.id, acceptance.nonce, now).await? {
                CalledOff::Alive(found) => return Ok(accepted(found.spec, message.spec, done)),
                CalledOff::Dead => {
                    self.undo(done, message.spec.id, acceptance.nonce).await;
                    return Err(error);
                }
            },
        };
        if found.spec.is_none() && found.head.state.is_terminal() {
            // By one that took us for dead, sent the job again and did not hear whether that had succeeded; or somebody did not
            // want it before it was there. Our message will not run, so what we took is ours to give back.
            self.undo(done, message.spec.id, acceptance.nonce).await;
            return Err(PortError::Unavailable {
                store: DYNAMODB,
                cause: "the job was called off meanwhile".to_owned(),
            });
        }
        Ok(accepted(found.spec, message.spec, done))
    }

    /// Stores the request, and then the record of a job that is parked; as far as accepting goes, that is its send.
    async fn park(&self, message: &Message, nonce: Nonce, now: Timestamp) -> Sent {
        if let Err(error) = self.store_payload(message, now).await {
            return Sent::No(error);
        }
        match self.put_record(&message.spec, Step::Park, nonce, now).await {
            Ok(found) => Sent::Stored(Box::new(found)),
            Err(error) if error.is_passing() => Sent::Unknown(error),
            Err(error) => Sent::No(error),
        }
    }

    /// Takes from every bucket in order, and writes the reservations into the spec. Gives the refusal if one of
    /// them refuses.
    async fn take_all(
        &self,
        acceptance: &Acceptance,
        spec: &mut JobSpec,
        done: &mut Done<'_>,
        now: Timestamp,
    ) -> PortResult<Option<Accepted>> {
        for take in &acceptance.takes {
            let taken = match self.take_units(take, acceptance.nonce, now).await {
                Ok(taken) => taken,
                Err(error) => {
                    self.undo(core::mem::take(done), spec.id, acceptance.nonce).await;
                    return Err(error);
                }
            };
            match taken.outcome {
                TakeOutcome::Granted { reservation, levels } => {
                    spec.reservations.push(reservation.clone());
                    spec.admitted.drawn.push(penstock_service::stored::story::drawn(take, &levels, now));
                    // A repetition's grant may belong to a job that was accepted, and is then that job's to give back.
                    if taken.fresh {
                        done.reservations.push(reservation);
                    }
                    done.levels.push(levels);
                }
                TakeOutcome::Refused { part, until, levels } => {
                    self.undo(core::mem::take(done), spec.id, acceptance.nonce).await;
                    return Ok(Some(Accepted::Refused { key: take.key.clone(), part, until, levels }));
                }
            }
        }
        Ok(None)
    }

    /// Removes the marker or the try and gives back what was taken, as far as the stores answer. What they do not take back is a
    /// little less admitted until the bucket has refilled, and a marker whose job has no record, which the protocol
    /// takes over after a moment.
    async fn undo(&self, done: Done<'_>, job: JobId, nonce: Nonce) {
        if let Some(claim) = done.marker
            && let Err(error) = self.clear(&claim.key, job).await
        {
            tracing::warn!(%job, %error, "the marker of a job that was not accepted stays");
        }
        if let Some(claim) = done.attempt
            && let Err(error) = self.forget_try(&claim.key, job).await
        {
            tracing::warn!(%job, %error, "a try that was not accepted stays");
        }
        for reservation in &done.reservations {
            if let Err(error) = self.give_back(reservation, Some(nonce)).await {
                tracing::warn!(%job, %error, "what a job that was not accepted took is not given back");
            }
        }
    }

    /// Sends in single tries, so that it is known whether one of them may have succeeded: after a lost reply a later
    /// refusal no longer means that nothing was sent.
    async fn send_surely(&self, message: &Message) -> Sent {
        let queue = QueueId { pool: message.spec.pool.clone(), class: message.spec.class };
        let mut doubt = None;
        let mut refusal = PortError::Unavailable { store: SQS, cause: "not tried".to_owned() };
        if let Err(error) = self.queue_url(&queue).await {
            return Sent::No(error);
        }
        for pause in SEND_PAUSES {
            self.pause(pause).await;
            match self.send_message(&queue, message, Duration::ZERO, Repeats::Never).await {
                Ok(()) => return Sent::Yes,
                Err(error @ PortError::Unavailable { .. }) => doubt = Some(error),
                Err(error @ PortError::Throttled { .. }) => refusal = error,
                Err(
                    error @ (PortError::Refused { .. } | PortError::Corrupt { .. } | PortError::CircuitOpen { .. }),
                ) => {
                    refusal = error;
                    break;
                }
            }
        }
        doubt.map_or(Sent::No(refusal), Sent::Unknown)
    }

    async fn call_off(&self, job: JobId, nonce: Nonce, now: Timestamp) -> PortResult<CalledOff> {
        let nonce = Nonce(nonce.0 ^ CALLED_OFF);
        let mut write = guard::write(job, Step::CallOff, nonce, now);
        write.set("fin", ms(now));
        match self.update(&self.names.job_table, write, Repeats::BySdk).await? {
            Written::Done(_) => Ok(CalledOff::Dead),
            Written::Not(found) => {
                let found = record::read(&found)?;
                Ok(match found.head.state {
                    State::Cancelled | State::Expired => CalledOff::Dead,
                    State::Parked | State::Queued | State::Running | State::Succeeded | State::Failed => {
                        CalledOff::Alive(Box::new(found))
                    }
                })
            }
        }
    }

    /// Puts the record if there is none, and gives the record that is there now.
    async fn put_record(&self, spec: &JobSpec, put: Step, nonce: Nonce, now: Timestamp) -> PortResult<JobRecord> {
        let mut last = None;
        for pause in PUT_PAUSES {
            self.pause(pause).await;
            let mut write = guard::write(spec.id, put, nonce, now);
            record::set_spec(&mut write, spec);
            if put == Step::Park {
                parking::set_place(&mut write, spec);
            }
            match self.update(&self.names.job_table, write, Repeats::BySdk).await {
                Ok(Written::Done(item) | Written::Not(item)) => return record::read(&item),
                Err(error) if error.is_passing() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        let cause = last.map_or_else(String::new, |error| error.to_string());
        // Not `Throttled`, which would say that nothing was done: the message is sent and will run.
        Err(PortError::Unavailable { store: DYNAMODB, cause: format!("the job's record is not written yet: {cause}") })
    }
}

fn accepted(stored: Option<JobSpec>, sent: JobSpec, done: Done<'_>) -> Accepted {
    Accepted::Yes { spec: Box::new(stored.unwrap_or(sent)), levels: done.levels }
}
