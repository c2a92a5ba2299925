//! What happens to a request, whatever it is stored on: the use cases, and the ports they need.
//!
//! Time, chance and tasks come only from ports; the AWS adapters, the SQLite adapters and the simulation are three
//! surroundings of this one crate.
//!
//! A request's path: [`door`] reads it, [`admission`] finds out whether it is known and accepts it, and the door waits for
//! the words; on the other side of the queue the [`worker`] receives, runs one job on the engine, writes down what it
//! says, and draws the consequences of its end. Beside that path, [`kept`] answers, [`degradation`], and the [`control`]
//! tick.

mod admission;
mod agenda;
mod batches;
mod cached;
pub mod config;
mod control;
pub mod degradation;
mod door;
mod error;
mod files;
mod gather;
mod kept;
pub mod outward;
pub mod ports;
mod reconcile;
pub mod stored;
#[cfg(feature = "system")]
pub mod system;
pub mod telemetry;
mod tenancy;
pub mod webhooks;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use penstock_policy::degrade::Standing;
use penstock_policy::forecast::LocalTime;
use penstock_policy::gcra::{Bucket, Limit};
use penstock_policy::id::{KeyId, Nonce, PoolId, TenantId, UpstreamId};
use penstock_policy::learned::Seen;
use penstock_policy::rates::Rates;
use penstock_policy::time::Timestamp;

use admission::debts::Debts;
use cached::Cached;
use config::Timing;
use control::breaker::Slots;
use control::fleet::Fleet;
use degradation::health::Health;
use degradation::outside::Door;
use degradation::upstreams::Outside;
use gather::Gather;
use kept::memory::Memory;
use ports::{
    Answers, Attempts, Blobs, Board, BucketKey, Census, Clock, Control, Courier, Entropy, Erasure, FleetExecutor, Jobs,
    KeyRecord, Levels, Limits, Markers, Parking, Pool, PortError, PortResult, Queue, Shelf, ShelfId, Spawner, Tally,
    Tenant, Tokens,
};
use telemetry::spans::{Tracer, Untraced};
use telemetry::{Meter, Silent};
use tenancy::usage::Arrears;
use webhooks::endpoint::Endpoint;

pub use admission::parking::Stall;
pub use admission::wanted::Wanted;
pub use agenda::{Errands, Lane};
pub use control::{Ticked, TierChange};
pub use degradation::guarded::guarded;
pub use door::admin::{OperatorKey, admin_router};
pub use door::auth::ApiKey;
pub use door::http::{front_router, jobs_router, router};
pub use door::responses::noted_of;
pub use door::route::Route;
pub use door::tokens;
pub use error::ApiError;
pub use files::contents_of;
pub use kept::preload::{MOST_PREPARED, PREPARED_LIST, Prepared};
pub use reconcile::Reconciled;
pub use worker::consume::Consumer;
pub use worker::work::Workplace;

/// How much memory kept answers may take: a handler on Lambda has 256 MB for everything.
const MEMORY_BYTES: u64 = 32 << 20;

/// The outside world, port by port.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is the port its type names")]
pub struct Ports {
    pub jobs: Arc<dyn Jobs>,
    pub queue: Arc<dyn Queue>,
    pub limits: Arc<dyn Limits>,
    pub markers: Arc<dyn Markers>,
    pub parking: Arc<dyn Parking>,
    pub census: Arc<dyn Census>,
    pub attempts: Arc<dyn Attempts>,
    pub answers: Arc<dyn Answers>,
    pub control: Arc<dyn Control>,
    pub board: Arc<dyn Board>,
    pub tally: Arc<dyn Tally>,
    pub shelf: Arc<dyn Shelf>,
    pub blobs: Arc<dyn Blobs>,
    pub erasure: Arc<dyn Erasure>,
    pub clock: Arc<dyn Clock>,
    pub spawner: Arc<dyn Spawner>,
    pub entropy: Arc<dyn Entropy>,
}

/// The use cases on one set of ports.
pub struct Service {
    ports: Ports,
    timing: Timing,
    marker_secret: Vec<u8>,
    caches: Caches,
    memory: Memory,
    arrears: Arrears,
    debts: Debts,
    gather: Gather,
    health: Health,
    /// The upstreams that may be asked, by name.
    doors: BTreeMap<UpstreamId, Arc<Door>>,
    /// Who reads signed tokens, if any are taken.
    tokens: Option<Arc<dyn Tokens>>,
    /// Drawn once: which shard of a bucket this process takes from.
    place: u16,
    /// Tells this process from others that lead.
    serial: u32,
    sharing: admission::sharing::Sharing,
    meter: Arc<dyn Meter>,
    tracer: Arc<dyn Tracer>,
    /// Who brings webhooks, if this process delivers any.
    courier: Option<Arc<dyn Courier>>,
    /// What runs the fleets of pools, if this process does.
    fleet: Option<Fleet>,
}

struct Caches {
    keys: Cached<KeyId, Option<KeyRecord>>,
    endpoints: Cached<TenantId, Arc<[Endpoint]>>,
    tenants: Cached<TenantId, Option<Tenant>>,
    pools: Cached<(), Arc<[Pool]>>,
    staffed: Cached<PoolId, bool>,
    standings: Cached<PoolId, Standing>,
    slots: Mutex<Slots>,
    prepared: Cached<(), Arc<BTreeSet<String>>>,
    rates: Cached<PoolId, Arc<Rates>>,
    /// Virtual queues as this process saw them last, and when.
    queues: Cached<BucketKey, (Bucket, Timestamp)>,
    /// Buckets that refused somebody a moment ago.
    denied: Cached<BucketKey, Levels>,
    /// What tenants with a ramp may do this minute.
    ramps: Cached<TenantId, Limit>,
    /// What was learned of a tenant's requests to a pool.
    seen: Cached<(TenantId, PoolId), Arc<Seen>>,
}

impl Service {
    /// Puts the use cases on ports. `marker_secret` blinds the keys of known requests; it must be the same for all
    /// handlers of a deployment.
    #[must_use]
    pub fn new(ports: Ports, timing: Timing, marker_secret: &[u8]) -> Self {
        let caches = Caches {
            keys: Cached::new(),
            endpoints: Cached::new(),
            tenants: Cached::new(),
            pools: Cached::new(),
            prepared: Cached::new(),
            staffed: Cached::new(),
            standings: Cached::new(),
            slots: Mutex::default(),
            rates: Cached::new(),
            queues: Cached::new(),
            denied: Cached::new(),
            ramps: Cached::new(),
            seen: Cached::new(),
        };
        let gather = Gather::new(ports.clone());
        let health = Health::new(ports.clone(), gather.clone());
        let drawn = ports.entropy.draw();
        let place = u16::try_from(drawn >> 112).unwrap_or_default();
        let serial = u32::try_from((drawn >> 64) & 0xffff_ffff).unwrap_or_default();
        Self {
            ports,
            timing,
            marker_secret: marker_secret.to_vec(),
            caches,
            memory: Memory::new(MEMORY_BYTES),
            arrears: Arrears::default(),
            debts: Debts::default(),
            gather,
            health,
            doors: BTreeMap::new(),
            tokens: None,
            place,
            serial,
            sharing: admission::sharing::Sharing::default(),
            meter: Arc::new(Silent),
            tracer: Arc::new(Untraced),
            courier: None,
            fleet: None,
        }
    }

    /// The same, with upstreams to fall back to.
    #[must_use]
    pub fn with_upstreams(self, upstreams: impl IntoIterator<Item = Outside>) -> Self {
        let door = |outside: Outside| (outside.config.name.clone(), Arc::new(Door::new(outside)));
        Self { doors: upstreams.into_iter().map(door).collect(), ..self }
    }

    /// The same, delivering webhooks by `courier`.
    #[must_use]
    pub fn with_courier(self, courier: Arc<dyn Courier>) -> Self {
        Self { courier: Some(courier), ..self }
    }

    /// The same, telling `meter` what is measured.
    #[must_use]
    pub fn with_meter(self, meter: Arc<dyn Meter>) -> Self {
        Self { meter, ..self }
    }

    /// The same, telling `tracer` what is done for requests and when.
    #[must_use]
    pub fn with_tracer(self, tracer: Arc<dyn Tracer>) -> Self {
        Self { tracer, ..self }
    }

    /// The same, taking signed tokens beside API keys.
    #[must_use]
    pub fn with_tokens(self, tokens: Option<Arc<dyn Tokens>>) -> Self {
        Self { tokens, ..self }
    }

    /// The same, running the fleets of pools in its control ticks: the executor's, by the users' local time.
    #[must_use]
    pub fn with_fleet(self, executor: Arc<dyn FleetExecutor>, local: LocalTime) -> Self {
        Self { fleet: Some(Fleet::new(executor, local)), ..self }
    }

    /// The ports, for compositions that set records up.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The timing in force.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    fn nonce(&self) -> Nonce {
        // Never 0, which is the nonce of a record nobody has written.
        Nonce(((self.ports.entropy.draw() >> 64) as u64).max(1))
    }

    /// Places a document; `false` if it is no longer the version that was to be replaced.
    async fn place(
        &self,
        shelf: &ShelfId,
        name: &str,
        document: &impl serde::Serialize,
        replaces: Option<u64>,
        expires: Option<Timestamp>,
    ) -> PortResult<bool> {
        let text = serde_json::to_string(document)
            .map_err(|error| PortError::Corrupt { what: "document", cause: error.to_string() })?;
        Ok(self.ports.shelf.place(shelf, name, &text, replaces, expires, self.nonce()).await?.is_ok())
    }

    fn fraction(&self) -> f64 {
        (self.ports.entropy.draw() >> 96) as f64 / f64::from(u32::MAX)
    }

    async fn pools(&self, now: Timestamp) -> PortResult<Arc<[Pool]>> {
        // An empty list is a deployment being set up: look again soon.
        let good_for = |pools: &Arc<[Pool]>| {
            if pools.is_empty() { self.timing.capacity_cache } else { self.timing.record_cache }
        };
        let read = async { Ok(self.ports.control.pools().await?.into()) };
        self.caches.pools.fetch(&(), now, good_for, read).await
    }
}
