//! The queues in the `message` table, fair between tenants.
//!
//! Each message has a *start tag* in tokens (start-time fair queueing: Goyal, Vin, Cheng, "Start-time fair queuing",
//! SIGCOMM 1996): the queue's virtual time or, if that is later, where its tenant's work before it ends. Messages are
//! received in the order of their tags, and the virtual time is the tag received last. So tenants with work waiting are
//! served equal tokens, whoever sent more, and one that sends little is received next. A message that comes back (its
//! worker died, or handed it back) keeps its tag and is first again. SQS does the like by message groups.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::select;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Delivery, Letters, Message, PortResult, Queue, QueueId, Receipt, Watch};
use penstock_service::stored::message;
use rusqlite::{Connection, OptionalExtension, params};

use crate::Sqlite;
use crate::rows::moment;

/// After so many receives a message goes to the dead-letter queue instead of to a receiver, as on SQS.
const MOST_RECEIVES: u32 = 20;

#[async_trait]
impl Queue for Sqlite {
    async fn send(&self, queue: &QueueId, message: &Message, delay: Duration, now: Timestamp) -> PortResult<()> {
        let (name, message) = (queue_name(queue), message.clone());
        let to_ring = name.clone();
        self.store.write(move |connection| insert(connection, &name, &message, now, now.after(delay))).await?;
        self.queue_bells.ring(&to_ring);
        Ok(())
    }

    async fn receive(
        &self,
        queue: &QueueId,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery>> {
        let name = queue_name(queue);
        let mut bell = self.queue_bells.listen(name.clone());
        let deadline = self.clock.now().after(wait);
        loop {
            let now = self.clock.now();
            let (received, next) = {
                let (name, queue) = (name.clone(), queue.clone());
                self.store.write(move |connection| receive(connection, &queue, &name, max, visibility, now)).await?
            };
            if !received.is_empty() || now >= deadline {
                return Ok(received);
            }
            // A hidden message may come back while we wait.
            let until = next.map_or(deadline, |next| next.min(deadline));
            select(bell.changed().boxed(), self.clock.sleep_until(until)).await;
        }
    }

    async fn dead_letters(&self, queue: &QueueId, max: usize, visibility: Duration) -> PortResult<Vec<Delivery>> {
        let (dead, queue, now) = (dead_name(&queue_name(queue)), queue.clone(), self.clock.now());
        self.store
            .write(move |connection| {
                let found = visible(connection, &dead, max, now)?;
                take(connection, &queue, Letters::Dead, found, visibility, now)
            })
            .await
    }

    async fn ack(&self, receipt: &Receipt) -> PortResult<()> {
        let Some((id, receives)) = handle(receipt) else {
            return Ok(());
        };
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM message WHERE id = ? AND receives = ?")?
                    .execute(params![id, receives])
                    .map(|_| ())
            })
            .await
    }

    async fn hide(&self, receipt: &Receipt, visibility: Duration) -> PortResult<()> {
        let Some((id, receives)) = handle(receipt) else {
            return Ok(());
        };
        let visible = self.clock.now().after(visibility);
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("UPDATE message SET visible = ? WHERE id = ? AND receives = ?")?
                    .execute(params![visible.as_millis(), id, receives])
                    .map(|_| ())
            })
            .await?;
        self.queue_bells.ring(&queue_name(&receipt.queue));
        Ok(())
    }

    async fn depth(&self, queue: &QueueId) -> PortResult<u64> {
        let name = queue_name(queue);
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT count(*) FROM message WHERE queue = ?")?
                    .query_row(params![name], |row| row.get::<_, i64>(0))
                    .map(i64::cast_unsigned)
            })
            .await
    }
}

/// Puts a message into a queue, behind what its tenant has there.
pub(crate) fn insert(
    connection: &Connection,
    queue: &str,
    message: &Message,
    sent: Timestamp,
    visible: Timestamp,
) -> rusqlite::Result<()> {
    let tenant = message.spec.tenant.as_str();
    let now: Option<i64> = connection
        .prepare_cached("SELECT tag FROM queue_clock WHERE queue = ?")?
        .query_row(params![queue], |row| row.get(0))
        .optional()?;
    let last: Option<i64> = connection
        .prepare_cached("SELECT max(ends) FROM message WHERE queue = ? AND tenant = ?")?
        .query_row(params![queue, tenant], |row| row.get(0))?;
    let tag = now.unwrap_or(0).max(last.unwrap_or(0));
    let ends = tag.saturating_add(i64::try_from(message.spec.estimated_tokens.max(1)).unwrap_or(i64::MAX));
    connection
        .prepare_cached(
            "INSERT INTO message (queue, body, sent, visible, receives, tenant, tag, ends)
             VALUES (?, ?, ?, ?, 0, ?, ?, ?)",
        )?
        .execute(params![queue, message::encode(message), sent.as_millis(), visible.as_millis(), tenant, tag, ends])
        .map(|_| ())
}

/// The name of a queue, in the table and as a bell.
pub(crate) fn queue_name(queue: &QueueId) -> String {
    format!("{}-{}", queue.pool, queue.class.name())
}

/// The name of the place where a queue's messages go that were received too often.
fn dead_name(name: &str) -> String {
    format!("{name}-dlq")
}

/// Takes what is visible, by its tag; if there is nothing, says when the next hidden message comes back.
fn receive(
    connection: &Connection,
    queue: &QueueId,
    name: &str,
    max: usize,
    visibility: Duration,
    now: Timestamp,
) -> rusqlite::Result<(Vec<Delivery>, Option<Timestamp>)> {
    connection
        .prepare_cached(
            "UPDATE message SET queue = queue || '-dlq' WHERE queue = ? AND visible <= ? AND receives >= ?",
        )?
        .execute(params![name, now.as_millis(), MOST_RECEIVES])?;
    let rows = visible(connection, name, max, now)?;
    if let Some(newest) = rows.iter().map(|row| row.4).max() {
        connection
            .prepare_cached(
                "INSERT INTO queue_clock (queue, tag) VALUES (?1, ?2)
                 ON CONFLICT (queue) DO UPDATE SET tag = max(tag, ?2)",
            )?
            .execute(params![name, newest])?;
    }
    let received = take(connection, queue, Letters::Live, rows, visibility, now)?;
    if !received.is_empty() {
        return Ok((received, None));
    }
    let next: Option<i64> = connection
        .prepare_cached("SELECT min(visible) FROM message WHERE queue = ?")?
        .query_row(params![name], |row| row.get(0))?;
    Ok((received, next.map(Timestamp::from_millis)))
}

/// A message's id, body, when it was sent, how often it was received, its tag.
type Row = (i64, String, Timestamp, u32, i64);

/// What is visible of a queue.
fn visible(connection: &Connection, name: &str, max: usize, now: Timestamp) -> rusqlite::Result<Vec<Row>> {
    connection
        .prepare_cached(
            "SELECT id, body, sent, receives, tag FROM message
             WHERE queue = ? AND visible <= ? ORDER BY tag, id LIMIT ?",
        )?
        .query_map(params![name, now.as_millis(), i64::try_from(max).unwrap_or(i64::MAX)], |row| {
            Ok((row.get(0)?, row.get(1)?, moment(row, 2)?, row.get(3)?, row.get(4)?))
        })?
        .collect()
}

/// Hides messages and hands them out.
fn take(
    connection: &Connection,
    queue: &QueueId,
    letters: Letters,
    rows: Vec<Row>,
    visibility: Duration,
    now: Timestamp,
) -> rusqlite::Result<Vec<Delivery>> {
    let mut received = Vec::with_capacity(rows.len());
    for (id, body, sent, receives, _) in rows {
        let receives = receives.saturating_add(1);
        connection.prepare_cached("UPDATE message SET visible = ?, receives = ? WHERE id = ?")?.execute(params![
            now.after(visibility).as_millis(),
            receives,
            id
        ])?;
        let receipt = Receipt { queue: queue.clone(), letters, handle: format!("{id}:{receives}") };
        received.push(Delivery { message: message::decode(&body), receipt, sent, receives });
    }
    Ok(received)
}

/// The message's id and the number of the receive; `None` for a handle that is not one of ours.
fn handle(receipt: &Receipt) -> Option<(i64, u32)> {
    let (id, receives) = receipt.handle.split_once(':')?;
    Some((id.parse().ok()?, receives.parse().ok()?))
}
