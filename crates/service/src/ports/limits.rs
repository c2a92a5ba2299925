//! Token buckets shared by every handler: exact, whoever takes from them and wherever.

use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::classes::Class;
use penstock_policy::gcra::{Bucket, Limit, Spent};
use penstock_policy::id::{Nonce, PoolId, TenantId, UpstreamId};
use penstock_policy::time::Timestamp;

use super::{Held, HoldClaim, HoldEntry, HoldKey, HoldName, Holding, PortResult};

/// Which bucket item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BucketKey {
    /// A tenant's limits: two parts, requests and tokens, and a third if its rate may only grow so fast.
    Tenant {
        /// The tenant.
        tenant: TenantId,
        /// Which of its shards; 0 unless the tenant's rate needs more than one item.
        shard: u16,
    },
    /// A pool's virtual queue for one class: one part, estimated tokens.
    VirtualQueue {
        /// The pool.
        pool: PoolId,
        /// The class.
        class: Class,
        /// Which of its shards.
        shard: u16,
    },
    /// What may be spent at an upstream on one day: two parts, micro-dollars within a minute and within the day.
    Upstream {
        /// The upstream.
        upstream: UpstreamId,
        /// The day, counted from the epoch, in UTC.
        day: u32,
    },
}

/// One part of a take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakePart {
    /// The limit that holds for this part.
    pub limit: Limit,
    /// How much to take.
    pub units: u64,
}

/// A take from one bucket item: all parts or none, in one atomic step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// The bucket item.
    pub key: BucketKey,
    /// One to three parts, always in the same order for the same key.
    pub parts: Vec<TakePart>,
}

/// The state of a bucket item, one bucket a part; a part never used is the default bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels(pub Vec<Bucket>);

impl Levels {
    /// The bucket of part `index`.
    #[must_use]
    pub fn part(&self, index: usize) -> Bucket {
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// What a granted take spent, part by part: enough to give it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The bucket item.
    pub key: BucketKey,
    /// What was spent of each part.
    pub spent: Vec<Spent>,
}

/// The verdict on a take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeOutcome {
    /// All parts were taken.
    Granted {
        /// What was spent.
        reservation: Reservation,
        /// The state afterwards.
        levels: Levels,
    },
    /// Nothing was taken.
    Refused {
        /// The part that refuses latest (or for ever).
        part: usize,
        /// When the same take would be granted if nobody else took anything; `None`: never, it exceeds the burst.
        until: Option<Timestamp>,
        /// The state found.
        levels: Levels,
    },
}

impl TakeOutcome {
    /// How long the bucket's first part is from being full again: a virtual queue's backlog.
    #[must_use]
    pub fn backlog(&self, now: Timestamp) -> Duration {
        let (Self::Granted { levels, .. } | Self::Refused { levels, .. }) = self;
        penstock_policy::gcra::backlog(levels.part(0), now)
    }
}

/// Takes from buckets and gives back.
#[async_trait]
pub trait Limits: Send + Sync {
    /// Takes all parts at once if each conforms, as [`penstock_policy::gcra::take`] says for each part.
    ///
    /// Exact under any concurrency: the sum of grants never exceeds what one sequential bucket would grant. A
    /// repetition with the same nonce, if no other take came between, takes nothing more; if one did, it may take
    /// twice (which refuses others too early, and never admits too much).
    async fn take(&self, take: &Take, nonce: Nonce, now: Timestamp) -> PortResult<TakeOutcome>;

    /// Gives back what was spent, for each part whose bucket is still in the reservation's generation. A part with
    /// `cost_ns` 0 gives nothing back.
    ///
    /// Never repeated by adapter or caller: a refund lost is a little less admitted, one applied twice too much.
    async fn refund(&self, reservation: &Reservation, now: Timestamp) -> PortResult<()>;

    /// The state of a bucket item. May lag behind the newest take.
    async fn peek(&self, key: &BucketKey) -> PortResult<Levels>;

    /// Holds what is claimed if there is room for it; holding a name again changes nothing and is granted. Exact under any
    /// concurrency: `units` of all holds and what was used up never exceed the `most` of the claim that was granted last.
    async fn hold(&self, claim: &HoldClaim, now: Timestamp) -> PortResult<Held>;

    /// Ends a hold, of which `used` units stay used up for good, and gives it to whoever ended it: `None` if there is no
    /// such hold any more. May be repeated; a repetition after a lost reply gives `None`.
    async fn unhold(&self, key: &HoldKey, name: &HoldName, used: u64, now: Timestamp) -> PortResult<Option<HoldEntry>>;

    /// All that is held under a key; sees every finished `hold` and `unhold`.
    async fn holding(&self, key: &HoldKey) -> PortResult<Holding>;
}
