//! The ports: what the use cases need of the outside world, as steps of the protocol rather than as stores.
//!
//! There are two adapters of each, on SQLite and the local disk (`crates/sqlite`) and on DynamoDB, SQS and S3
//! (`crates/aws`), and one contract suite (`tests/contract`) that holds both against the policy model.
//!
//! Common to all: every conditional write takes a [`Nonce`](penstock_policy::id::Nonce) and may be repeated with the
//! same nonce after a lost reply; the repetition changes nothing and gives the first answer. Refunds are the one
//! exception and are never repeated.

mod answers;
mod attempts;
mod blobs;
mod board;
mod census;
mod clock;
mod control;
mod courier;
mod embedding;
mod engine;
mod erasure;
mod fleet;
mod generation;
mod holds;
mod jobs;
mod limits;
mod markers;
mod parking;
mod queue;
mod said;
mod shelf;
mod tally;
mod tokens;
mod upstream;

pub use answers::{Answers, ENTRY_BYTES, Entry, Looked};
pub use attempts::{AttemptClaim, Attempts, Swapped};
pub use blobs::{BlobKey, Blobs};
pub use board::{Board, BoardKey, Posted, Stale};
pub use census::Census;
pub use clock::{Clock, Entropy, Spawner};
pub use control::{Control, Fallback, KeyRecord, Pool, PoolKind, Tenant, WorkerRecord};
pub use courier::{Courier, Letter, Undelivered};
pub use embedding::{Assignment, Embedded, Embedding, Texts, VectorPlace, Vectors};
pub use engine::{Engine, EngineFault, EngineInfo, Sequence, TokenEvent, TokenStream};
pub use erasure::{Erasure, Forget, Page};
pub use fleet::{FleetExecutor, FleetSight};
pub use generation::{Generation, Sampling};
pub use holds::{Held, HoldClaim, HoldEntry, HoldKey, HoldName, Holding};
pub use jobs::{
    Acceptance, Accepted, Answer, Chunk, Claim, Claimed, ErrorVerdict, FinishReason, JobRecord, JobSpec, Jobs, Keep,
    MarkerClaim, Outcome, Replaced, StepResult, Stepped, Watch,
};
pub use limits::{BucketKey, Levels, Limits, Reservation, Take, TakeOutcome, TakePart};
pub use markers::{MarkerKey, Markers};
pub use parking::{Backlog, Parking};
pub use queue::{Delivery, INLINE_BYTES, Letters, Message, Payload, Queue, QueueId, Receipt};
pub use said::{Likelihood, Part, TokenLogprob};
pub use shelf::{Order, Shelf, ShelfId, Shelved, TENANT_SHELVES};
pub use tally::{Addition, Counts, Tally, TallyKey};

pub use penstock_policy::tenant::TenantLimits;
pub use tokens::{Bearer, KeyFetch, NoKeys, TokenError, Tokens};
pub use upstream::{Upstream, UpstreamCall, UpstreamError, UpstreamReply};

/// Why a port could not do what it was asked. Refusals that belong to the protocol are not errors: each method says
/// them in its own answer type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The store refuses for the moment because it is asked too much. Nothing was changed.
    #[error("{store} throttles: {cause}")]
    Throttled {
        /// Which store.
        store: &'static str,
        /// Its own word for why.
        cause: String,
    },
    /// The store cannot be reached or failed; a read changed nothing, a write may or may not have been applied.
    #[error("{store} is unavailable: {cause}")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// What was seen.
        cause: String,
    },
    /// This process has stopped asking for a while, because nobody answered. Nothing was changed.
    #[error("{store} has not answered of late; it is asked again in {} ms", wait.as_millis())]
    CircuitOpen {
        /// Which store.
        store: &'static str,
        /// When it is asked again.
        wait: std::time::Duration,
    },
    /// What is stored cannot be read: a newer version's record, or damage.
    #[error("a stored {what} cannot be read: {cause}")]
    Corrupt {
        /// What kind of record.
        what: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// The store refuses the request for good: a bug or a wrong configuration, such as a missing table.
    #[error("{store} refuses: {cause}")]
    Refused {
        /// Which store.
        store: &'static str,
        /// Its words.
        cause: String,
    },
}

impl PortError {
    /// Whether the same call can succeed later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::CircuitOpen { .. } => true,
            Self::Corrupt { .. } | Self::Refused { .. } => false,
        }
    }
}

/// What ports answer.
pub type PortResult<T> = Result<T, PortError>;
