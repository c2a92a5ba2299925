//! Jobs: accepting them, claiming them, writing down what was said, ending them.
//!
//! The guards are one table, [`penstock_policy::job::apply`]; an adapter applies it inside a transaction or as a
//! condition expression. The methods take `now` from the caller, who read the clock once.

use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::classes::Class;
use penstock_policy::cost::Price;
use penstock_policy::id::{JobId, Nonce, PoolId, TenantId, WorkerId};
use penstock_policy::job::{Denied, Head, Position, Step};
use penstock_policy::marker::Marker;
use penstock_policy::parking::Berth;
use penstock_policy::resume::Link;
use penstock_policy::tenant::Retention;
use penstock_policy::time::Timestamp;

use super::{Addition, AttemptClaim, BucketKey, Levels, MarkerKey, Message, PortResult, Reservation, Take};
use crate::door::route::Route;
use crate::stored::chunk::Words;
use crate::stored::story::{Admitted, Event};

/// What is fixed about a job when it is accepted. Travels in the message, and makes the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// The job.
    pub id: JobId,
    /// The route it came by, whose form its answer has.
    pub route: Route,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its class.
    pub class: Class,
    /// The pool that runs it.
    pub pool: PoolId,
    /// The model asked for.
    pub model: String,
    /// When it was accepted.
    pub created: Timestamp,
    /// When running it stops to make sense.
    pub due: Timestamp,
    /// The client reads the answer as it grows: checkpoint often.
    pub streamed: bool,
    /// Estimated tokens, prompt and answer: what was taken from the buckets.
    pub estimated_tokens: u64,
    /// What accepting it spent, bucket by bucket in the order of the takes, to be settled exactly at its end.
    pub reservations: Vec<Reservation>,
    /// What its tokens cost, as it was when it was accepted.
    pub price: Price,
    /// What is kept of it once it is answered.
    pub retention: Retention,
    /// What admission saw; its `drawn` is filled in by `accept`.
    pub admitted: Admitted,
    /// What is to be kept of its answer; `None`: nothing.
    pub keep: Option<Keep>,
}

/// What is to be kept of a job's answer, for requests of the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The digest of its key; the tenant is the job's.
    pub digest: String,
    /// In how many copies, at least 1.
    pub copies: u8,
    /// How long it lives at least; zero: as long as any.
    pub at_least: Duration,
    /// The kept answer that this one replaces.
    pub replaces: Option<Replaced>,
}

/// A kept answer that is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// A digest of what it says.
    pub answer: u64,
    /// How long it was to live.
    pub ttl: Duration,
    /// How often it was asked for, at least.
    pub hits: u64,
}

/// A job's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// What is fixed; `None` in a tombstone written before the record existed.
    pub spec: Option<JobSpec>,
    /// What the guards look at.
    pub head: Head,
    /// Who claimed it last.
    pub owner: Option<WorkerId>,
    /// The digest of the model that answers, fixed by the first claim.
    pub digest: Option<String>,
    /// When it was claimed last.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// What the worker that ended it says.
    pub outcome: Option<Outcome>,
    /// Its words are removed: there is a record, but no answer any more.
    pub forgotten: bool,
    /// What happened to it, in order; at most [`MOST_EVENTS`](crate::stored::story::MOST_EVENTS).
    pub story: Vec<Event>,
}

impl JobRecord {
    /// A record of which nothing is known but its head: a tombstone, or the beginning of a record.
    #[must_use]
    pub const fn bare(head: Head) -> Self {
        Self {
            spec: None,
            head,
            owner: None,
            digest: None,
            started: None,
            finished: None,
            outcome: None,
            forgotten: false,
            story: Vec::new(),
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model was done, or a stop string appeared.
    Stop,
    /// It reached the most tokens allowed.
    Length,
    /// The model wants tools called.
    ToolCalls,
}

impl FinishReason {
    /// The word clients see and stores keep.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }

    /// The reason of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Stop, Self::Length, Self::ToolCalls].into_iter().find(|reason| reason.name() == name)
    }
}

/// A successful end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Why each of the answers asked for ended; at least one.
    pub reasons: Vec<FinishReason>,
    /// Tokens of the prompt, which all answers share.
    pub prompt_tokens: u32,
    /// Tokens of all answers, end tokens included.
    pub completion_tokens: u32,
    /// Tokens of the prompt that the worker had in its cache already.
    pub cached_tokens: u32,
    /// Tokens of all answers that the model said to itself.
    pub reasoning_tokens: u32,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorVerdict {
    /// The HTTP status a client gets: 4xx if the request is at fault and would fail again, 5xx if not.
    pub status: u16,
    /// A stable word.
    pub code: String,
    /// The field at fault.
    pub param: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl ErrorVerdict {
    /// Whether the same request would fail again the same way.
    #[must_use]
    pub fn is_for_good(&self) -> bool {
        (400..500).contains(&self.status)
    }
}

/// How a job ended.
pub type Outcome = Result<Answer, ErrorVerdict>;

/// A piece of one of a job's answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Where it stands.
    pub position: Position,
    /// What it continues from, if it opens an epoch that continues another.
    pub parent: Option<Position>,
    /// The token ids it adds, held-back ones included.
    pub ids: Vec<u32>,
    /// What it says, and in which of the answers.
    pub words: Words,
}

impl Link for Chunk {
    fn position(&self) -> Position {
        self.position
    }
    fn parent(&self) -> Option<Position> {
        self.parent
    }
}

/// Everything `accept` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The message to send; its spec makes the record (with the reservations filled in by `accept`).
    pub message: Message,
    /// Whether it is sent now, or stored to be sent later.
    pub berth: Berth,
    /// The buckets to take from, the tenant's first, the virtual queue's second.
    pub takes: Vec<Take>,
    /// The marker to write.
    pub marker: Option<MarkerClaim>,
    /// The try to remember, in the place of a marker.
    pub attempt: Option<AttemptClaim>,
    /// The nonce of this attempt.
    pub nonce: Nonce,
}

/// The marker a job is accepted under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerClaim {
    /// Its key.
    pub key: MarkerKey,
    /// The digest of the request.
    pub fingerprint: u64,
    /// When it stops to count.
    pub expires: Timestamp,
    /// The job whose marker may be replaced. `None`: there must be none, or an expired one. The job's own id:
    /// the marker is ours already, its acceptor having died before the record was written.
    pub replaces: Option<JobId>,
}

/// The verdict on accepting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The message is sent, or stored, and the record exists: the job is ours to finish.
    Yes {
        /// The spec as stored, its reservations filled in.
        spec: Box<JobSpec>,
        /// The state of each bucket after its take, in the order of the takes.
        levels: Vec<Levels>,
    },
    /// A bucket refused. Nothing was taken, written or sent.
    Refused {
        /// Which.
        key: BucketKey,
        /// Which of its parts.
        part: usize,
        /// When to come back; `None`: never.
        until: Option<Timestamp>,
        /// Its state.
        levels: Levels,
    },
    /// Another request wrote the marker meanwhile. What was taken has been given back; look at that job.
    Held(Marker),
}

/// A claim to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// From the message: makes the record if there is none.
    pub spec: JobSpec,
    /// Who claims.
    pub owner: WorkerId,
    /// The digest of the model the claimer runs.
    pub digest: String,
    /// How long the claim holds.
    pub lease_until: Timestamp,
}

/// The verdict on a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The job is the claimer's, in the epoch of the record's head.
    Yes(Box<JobRecord>),
    /// It is not, because of this.
    No {
        /// Why.
        denied: Denied,
        /// The record found.
        record: Box<JobRecord>,
    },
    /// An earlier claim fixed another digest; this worker cannot continue its words.
    OtherDigest(String),
}

/// The verdict on a step.
pub type StepResult = Result<Head, Denied>;

/// A step with what it stores beside the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stepped {
    /// The step; not [`Step::Put`], [`Step::Park`] or [`Step::Claim`], which have methods of their own.
    pub step: Step,
    /// The end's particulars, for [`Step::Finish`].
    pub outcome: Option<Outcome>,
    /// What is appended to the job's story if the step is made.
    pub event: Option<Event>,
    /// What is added to a tally if the step is made, and with it: both or neither, and once however often the step is
    /// repeated.
    pub addition: Option<Addition>,
}

impl From<Step> for Stepped {
    fn from(step: Step) -> Self {
        Self { step, outcome: None, event: None, addition: None }
    }
}

/// Hears, or guesses, that a job may have changed.
#[async_trait]
pub trait Watch: Send {
    /// Returns when the job's record or chunks may have changed since this watch was made or last returned. An adapter
    /// that is told of changes returns at once; another sleeps for [`penstock_policy::retry::poll_interval`]. May
    /// return early; may never return if nothing changes, so callers bound it by a clock of their own.
    async fn changed(&mut self);
}

/// The jobs.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Accepts a job: takes from the buckets, writes the marker or remembers the try, sends the message, puts the record, in
    /// this order. A job to be parked has its message stored in the place of being sent, and its record put by
    /// [`Step::Park`].
    ///
    /// *Accepted* means that the message is durably in its queue, or stored; [`Accepted::Yes`] is returned only after the
    /// record exists too. A bucket's refusal or a marker held by another leaves nothing behind. A repetition with the same
    /// nonce and job id accepts once. A second acceptance of the same job under another nonce (its first acceptor was
    /// taken for dead) takes from the buckets again and leaves the record as it is.
    ///
    /// # Errors
    /// A passing [`PortError`](super::PortError) if the queue or a table did not do its part, or if a tombstone lies in the
    /// place of the job's record: what was taken is given back where that is known to be safe, the marker goes, and the
    /// job will not run.
    async fn accept(&self, acceptance: &Acceptance, now: Timestamp) -> PortResult<Accepted>;

    /// Claims a job by [`Step::Claim`], creating its record from the spec if there is none. The claim fixes the digest
    /// if none is fixed and no chunk exists, and appends itself to the job's story.
    async fn claim(&self, claim: &Claim, nonce: Nonce, now: Timestamp) -> PortResult<Claimed>;

    /// Applies any other step to a job's record. [`Step::Expire`] and [`Step::Cancel`] write a tombstone if there is
    /// no record.
    async fn step(&self, job: JobId, step: &Stepped, nonce: Nonce, now: Timestamp) -> PortResult<StepResult>;

    /// Writes a chunk. Unconditional: the epoch in its position fences it. Durable when this returns.
    async fn put_chunk(&self, job: JobId, chunk: &Chunk) -> PortResult<()>;

    /// The chunks of a job that stand after `after` (all of them if `None`), in the order of their positions. Sees every
    /// finished `put_chunk`.
    async fn chunks(&self, job: JobId, after: Option<Position>) -> PortResult<Vec<Chunk>>;

    /// A job's record, as it is now.
    async fn record(&self, job: JobId) -> PortResult<Option<JobRecord>>;

    /// A watch on a job. Made before looking at the job, it misses nothing that is written after the look.
    fn watch(&self, job: JobId) -> Box<dyn Watch>;
}
