//! The durable queues: one per pool and class.

use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::classes::Class;
use penstock_policy::id::PoolId;
use penstock_policy::time::Timestamp;

use super::{BlobKey, JobSpec, PortResult};

/// The largest payload carried inside a message, in bytes; a larger one travels as a blob. Four such messages fit one
/// SQS batch of 1 MiB.
pub const INLINE_BYTES: usize = 240 * 1024;

/// Which queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId {
    /// The pool.
    pub pool: PoolId,
    /// The class.
    pub class: Class,
}

/// The request a worker will run, as JSON text (see [`Generation`](super::Generation)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Small enough to travel with the message.
    Inline(String),
    /// Stored as a blob, put before the message is sent.
    Blob(BlobKey),
}

/// What a queue carries: everything needed to create the job's record and to run it. The message is the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The job.
    pub spec: JobSpec,
    /// The request.
    pub payload: Payload,
}

/// Which of a queue's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Letters {
    /// Those that are received.
    Live,
    /// Those that were received too often.
    Dead,
}

/// The handle of one delivery of a message; only valid until the delivery's visibility runs out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The queue it was received from.
    pub queue: QueueId,
    /// As which of its messages.
    pub letters: Letters,
    /// The store's own handle.
    pub handle: String,
}

/// A message received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message, or why its body cannot be read (a newer version's message, or damage). An unreadable message is
    /// never acknowledged: after the queue's receive limit it lies in the dead-letter queue for a person to see.
    pub message: Result<Message, String>,
    /// The handle for `ack` and `hide`.
    pub receipt: Receipt,
    /// When the message was first sent.
    pub sent: Timestamp,
    /// How often it has been received, this time included.
    pub receives: u32,
}

/// Sends and receives. Delivery is at least once, in no promised order; effects are made exact by the job record.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Sends `message` to `queue`; it becomes visible after `delay` (at most 15 minutes). Durable when this returns.
    async fn send(&self, queue: &QueueId, message: &Message, delay: Duration, now: Timestamp) -> PortResult<()>;

    /// Receives up to `max` (1 to 10) messages and hides them from others for `visibility`. If there are none, waits
    /// for one up to `wait` (at most 20 s), woken as soon as one arrives.
    async fn receive(
        &self,
        queue: &QueueId,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery>>;

    /// Receives up to `max` (1 to 10) of the messages that were received too often, and hides them for `visibility`. Waits
    /// for none.
    async fn dead_letters(&self, queue: &QueueId, max: usize, visibility: Duration) -> PortResult<Vec<Delivery>>;

    /// Removes a received message for good. A receipt that has run out, or a message already removed, is no error.
    async fn ack(&self, receipt: &Receipt) -> PortResult<()>;

    /// Hides a received message until `visibility` from now; zero gives it back at once. A receipt that has run out is
    /// no error and changes nothing.
    async fn hide(&self, receipt: &Receipt, visibility: Duration) -> PortResult<()>;

    /// About how many messages wait or are in flight.
    async fn depth(&self, queue: &QueueId) -> PortResult<u64>;
}
