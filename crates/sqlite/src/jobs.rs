//! Jobs and their chunks. Accepting is one transaction; every step asks `penstock_policy::job::apply`.

use async_trait::async_trait;
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{Denied, Head, Position, State, Step, apply};
use penstock_policy::parking::Berth;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    Acceptance, Accepted, Chunk, Claim, Claimed, JobRecord, Jobs, PortError, PortResult, QueueId, Reservation,
    StepResult, Stepped, TakeOutcome, Watch,
};
use penstock_service::stored::chunk::{self, StoredWords};
use penstock_service::stored::record::{outcome_text, spec_text};
use penstock_service::stored::story::{self, Event, story_text};
use rusqlite::{Connection, OptionalExtension, params};

use crate::rows::{JOB_COLUMNS, ids_bytes, ids_from, job_record, malformed, position, stored};
use crate::{Sqlite, attempts, limits, markers, parking, queue, tally};

#[async_trait]
impl Jobs for Sqlite {
    async fn accept(&self, acceptance: &Acceptance, now: Timestamp) -> PortResult<Accepted> {
        let spec = &acceptance.message.spec;
        let queue = queue::queue_name(&QueueId { pool: spec.pool.clone(), class: spec.class });
        let (to_ring, job) = (queue.clone(), spec.id);
        let acceptance = acceptance.clone();
        let accepted = self.store.write(move |connection| accept(connection, &acceptance, &queue, now)).await?;
        let Some(accepted) = accepted else {
            return Err(PortError::Unavailable {
                store: "sqlite",
                cause: "the job was called off meanwhile".to_owned(),
            });
        };
        if matches!(accepted, Accepted::Yes { .. }) {
            self.queue_bells.ring(&to_ring);
            self.job_bells.ring(&job.to_string());
        }
        Ok(accepted)
    }

    async fn claim(&self, claim: &Claim, nonce: Nonce, now: Timestamp) -> PortResult<Claimed> {
        let (job, claim) = (claim.spec.id, claim.clone());
        let claimed = self.store.write(move |connection| self::claim(connection, &claim, nonce, now)).await?;
        self.job_bells.ring(&job.to_string());
        Ok(claimed)
    }

    async fn step(&self, job: JobId, step: &Stepped, nonce: Nonce, now: Timestamp) -> PortResult<StepResult> {
        let stepped = step.clone();
        let result = self.store.write(move |connection| self::step(connection, job, &stepped, nonce, now)).await?;
        self.job_bells.ring(&job.to_string());
        Ok(result)
    }

    async fn put_chunk(&self, job: JobId, chunk: &Chunk) -> PortResult<()> {
        let chunk = chunk.clone();
        self.store.write(move |connection| put_chunk(connection, job, &chunk)).await?;
        self.job_bells.ring(&job.to_string());
        Ok(())
    }

    async fn chunks(&self, job: JobId, after: Option<Position>) -> PortResult<Vec<Chunk>> {
        self.store.read(move |connection| chunks(connection, job, after)).await
    }

    async fn record(&self, job: JobId) -> PortResult<Option<JobRecord>> {
        self.store.read(move |connection| record(connection, job)).await
    }

    fn watch(&self, job: JobId) -> Box<dyn Watch> {
        Box::new(self.job_bells.listen(job.to_string()))
    }
}

/// `None`: a tombstone lies in the place of the record, and nothing was done.
fn accept(
    connection: &Connection,
    acceptance: &Acceptance,
    queue: &str,
    now: Timestamp,
) -> rusqlite::Result<Option<Accepted>> {
    let id = acceptance.message.spec.id;
    let mut spec = acceptance.message.spec.clone();
    let mut taken: Vec<Reservation> = Vec::new();
    let mut levels = Vec::new();
    for take in &acceptance.takes {
        let decided = limits::decide(connection, take, acceptance.nonce, now)?;
        match decided.outcome {
            TakeOutcome::Refused { part, until, levels } => {
                limits::give_back(connection, &taken)?;
                return Ok(Some(Accepted::Refused { key: take.key.clone(), part, until, levels }));
            }
            TakeOutcome::Granted { reservation, levels: after } => {
                // A repetition's grant belongs to the acceptance it repeats.
                if decided.fresh {
                    limits::write(connection, &take.key, &after, acceptance.nonce)?;
                    taken.push(reservation.clone());
                }
                spec.reservations.push(reservation);
                spec.admitted.drawn.push(story::drawn(take, &after, now));
                levels.push(after);
            }
        }
    }
    let marker = match &acceptance.marker {
        Some(claim) => markers::find(connection, &claim.key)?.filter(|found| found.expires > now),
        None => None,
    };
    if let (Some(claim), Some(found)) = (&acceptance.marker, marker)
        && found.job != id
        && Some(found.job) != claim.replaces
    {
        limits::give_back(connection, &taken)?;
        return Ok(Some(Accepted::Held(found)));
    }
    let found = record(connection, id)?;
    if found.as_ref().is_some_and(|found| found.spec.is_none() && found.head.state.is_terminal()) {
        limits::give_back(connection, &taken)?;
        if let Some(claim) = &acceptance.marker {
            markers::remove(connection, &claim.key)?;
        }
        return Ok(None);
    }
    // A marker that is ours already stays as it is.
    if let Some(claim) = &acceptance.marker
        && marker.is_none_or(|found| found.job != id)
    {
        markers::write(connection, claim, id, now)?;
    }
    if let Some(claim) = &acceptance.attempt {
        attempts::note(connection, claim, id)?;
    }
    if let Some(JobRecord { spec: Some(known), .. }) = found {
        // Accepted before, or claimed from its message: it is in the queue already.
        return Ok(Some(Accepted::Yes { spec: Box::new(known), levels }));
    }
    let message = penstock_service::ports::Message { spec, payload: acceptance.message.payload.clone() };
    let put = match acceptance.berth {
        Berth::Queue => {
            queue::insert(connection, queue, &message, now, now)?;
            Step::Put
        }
        Berth::Parked => Step::Park,
    };
    if let Ok(head) = apply(put, acceptance.nonce, record(connection, id)?.map(|record| record.head).as_ref(), now) {
        if head.state == State::Parked {
            parking::insert(connection, &message)?;
        }
        let record = JobRecord { spec: Some(message.spec.clone()), ..JobRecord::bare(head) };
        write(connection, id, &record)?;
    }
    Ok(Some(Accepted::Yes { spec: Box::new(message.spec), levels }))
}

fn claim(connection: &Connection, claim: &Claim, nonce: Nonce, now: Timestamp) -> rusqlite::Result<Claimed> {
    let id = claim.spec.id;
    let found = record(connection, id)?;
    let step = Step::Claim { lease_until: claim.lease_until };
    let head = match (apply(step, nonce, found.as_ref().map(|record| &record.head), now), &found) {
        (Ok(head), _) => head,
        (Err(denied), Some(record)) => {
            return Ok(Claimed::No { denied, record: Box::new(record.clone()) });
        }
        // The table denies a claim only on a record; a job without one is always free.
        (Err(_), None) => return Err(malformed(0, "claim")),
    };
    if let Some(fixed) = found.as_ref().and_then(|record| record.digest.as_ref())
        && *fixed != claim.digest
        && !chunks(connection, id, None)?.is_empty()
    {
        return Ok(Claimed::OtherDigest(fixed.clone()));
    }
    if let Some(record) = &found
        && record.head == head
    {
        return Ok(Claimed::Yes(Box::new(record.clone())));
    }
    if found.as_ref().is_some_and(|record| record.head.state == State::Parked) {
        parking::remove(connection, id)?;
    }
    let (known, mut told) = found.map_or((None, Vec::new()), |record| (record.spec, record.story));
    story::append(&mut told, Some(Event::claimed(now, &claim.owner, &claim.digest)));
    let record = JobRecord {
        spec: known.or_else(|| Some(claim.spec.clone())),
        owner: Some(claim.owner.clone()),
        digest: Some(claim.digest.clone()),
        started: Some(now),
        story: told,
        ..JobRecord::bare(head)
    };
    write(connection, id, &record)?;
    Ok(Claimed::Yes(Box::new(record)))
}

fn step(
    connection: &Connection,
    job: JobId,
    stepped: &Stepped,
    nonce: Nonce,
    now: Timestamp,
) -> rusqlite::Result<StepResult> {
    let found = record(connection, job)?;
    let before = found.as_ref().map(|record| record.head);
    let head = match apply(stepped.step, nonce, before.as_ref(), now) {
        Ok(head) => head,
        Err(denied) => return Ok(Err::<Head, Denied>(denied)),
    };
    if before != Some(head) {
        let ends = head.state.is_terminal() && !before.is_some_and(|before| before.state.is_terminal());
        if before.is_some_and(|before| before.state == State::Parked) && head.state != State::Parked {
            parking::remove(connection, job)?;
        }
        let mut record = found.unwrap_or(JobRecord::bare(head));
        record.head = head;
        if ends {
            record.finished = Some(now);
            record.outcome.clone_from(&stepped.outcome);
        }
        story::append(&mut record.story, stepped.event.clone());
        write(connection, job, &record)?;
        if let Some(addition) = &stepped.addition {
            tally::add_up(connection, addition)?;
        }
    }
    Ok(Ok(head))
}

fn record(connection: &Connection, job: JobId) -> rusqlite::Result<Option<JobRecord>> {
    connection
        .prepare_cached(&format!("SELECT {JOB_COLUMNS} FROM job WHERE id = ?"))?
        .query_row(params![job.to_string()], job_record)
        .optional()
}

fn write(connection: &Connection, job: JobId, record: &JobRecord) -> rusqlite::Result<()> {
    let head = &record.head;
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO job (id, {JOB_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        ))?
        .execute(params![
            job.to_string(),
            head.state.code(),
            head.epoch.0,
            head.lease_until.as_millis(),
            head.releases,
            head.interest,
            head.last.map(|last| last.epoch.0),
            head.last.map(|last| last.seq),
            head.unsettled,
            stored(head.nonce.0),
            record.spec.as_ref().map(spec_text),
            record.owner.as_ref().map(|owner| owner.as_str()),
            record.digest,
            record.started.map(Timestamp::as_millis),
            record.finished.map(Timestamp::as_millis),
            record.outcome.as_ref().map(outcome_text),
            (!record.story.is_empty()).then(|| story_text(&record.story)),
            record.forgotten,
        ])
        .map(|_| ())
}

fn put_chunk(connection: &Connection, job: JobId, chunk: &Chunk) -> rusqlite::Result<()> {
    let words = chunk::stored(&chunk.words);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO chunk (job, epoch, seq, parent_epoch, parent_seq, ids, text, more)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            job.to_string(),
            chunk.position.epoch.0,
            chunk.position.seq,
            chunk.parent.map(|parent| parent.epoch.0),
            chunk.parent.map(|parent| parent.seq),
            ids_bytes(&chunk.ids),
            words.text,
            words.more
        ])
        .map(|_| ())
}

fn chunks(connection: &Connection, job: JobId, after: Option<Position>) -> rusqlite::Result<Vec<Chunk>> {
    let (epoch, seq) = after.map_or((-1, -1), |after| (i64::from(after.epoch.0), i64::from(after.seq)));
    connection
        .prepare_cached(
            "SELECT epoch, seq, parent_epoch, parent_seq, ids, text, more FROM chunk
             WHERE job = ? AND (epoch, seq) > (?, ?) ORDER BY epoch, seq",
        )?
        .query_map(params![job.to_string(), epoch, seq], |row| {
            let words = StoredWords { text: row.get(5)?, more: row.get(6)? };
            Ok(Chunk {
                position: position(row, 0)?.ok_or_else(|| malformed(0, "position"))?,
                parent: position(row, 2)?,
                ids: ids_from(row.get_ref(4)?.as_blob()?).ok_or_else(|| malformed(4, "token ids"))?,
                words: chunk::words(words).ok_or_else(|| malformed(6, "words"))?,
            })
        })?
        .collect()
}
