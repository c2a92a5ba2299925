//! What happens to a request, whatever it is stored on: the use cases, and the ports they need.
//!
//! Time, chance and tasks come only from ports; the AWS adapters, the SQLite adapters and the simulation are three
//! surroundings of this one crate.
//!
//! A request's path: [`http`] reads it, [`obtain`] finds out whether it is known, [`admit`] accepts, [`relay`] waits for
//! the words; on the other side of the queue [`consume`] receives, [`work`] runs one job on the engine and writes down
//! what it says, and [`settle`] draws the consequences of its end.

mod admit;
mod answering;
mod asked;
mod auth;
mod cached;
mod canonical;
pub mod chunk;
pub mod config;
mod consume;
pub mod control_record;
mod draft;
mod error;
mod explain;
mod fetch;
mod http;
#[cfg(feature = "upstream")]
pub mod http_upstream;
pub mod message;
mod obtain;
pub mod ports;
pub mod record;
mod relay;
mod rendering;
mod settle;
mod single_flight;
pub mod story;
#[cfg(feature = "system")]
pub mod system;
mod told;
pub mod upstreams;
mod usage;
mod voices;
mod wanted;
mod work;

use std::sync::Arc;

use penstock_policy::id::{KeyId, Nonce, PoolId, TenantId};
use penstock_policy::time::Timestamp;

use cached::Cached;
use config::Timing;
use ports::{
    Blobs, Board, Clock, Control, Entropy, Jobs, KeyRecord, Limits, Markers, Pool, PortResult, Queue, Spawner, Tally,
    Tenant,
};
use usage::Arrears;

pub use auth::ApiKey;
pub use consume::Consumer;
pub use error::ApiError;
pub use http::{front_router, jobs_router, router};
pub use work::Workplace;

/// The outside world, port by port.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is the port its type names")]
pub struct Ports {
    pub jobs: Arc<dyn Jobs>,
    pub queue: Arc<dyn Queue>,
    pub limits: Arc<dyn Limits>,
    pub markers: Arc<dyn Markers>,
    pub control: Arc<dyn Control>,
    pub board: Arc<dyn Board>,
    pub tally: Arc<dyn Tally>,
    pub blobs: Arc<dyn Blobs>,
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
    arrears: Arrears,
}

struct Caches {
    keys: Cached<KeyId, Option<KeyRecord>>,
    tenants: Cached<TenantId, Option<Tenant>>,
    pools: Cached<(), Arc<[Pool]>>,
    capacity: Cached<PoolId, f64>,
}

impl Service {
    /// Puts the use cases on ports. `marker_secret` blinds the keys of known requests; it must be the same for all
    /// handlers of a deployment.
    #[must_use]
    pub fn new(ports: Ports, timing: Timing, marker_secret: &[u8]) -> Self {
        let caches =
            Caches { keys: Cached::new(), tenants: Cached::new(), pools: Cached::new(), capacity: Cached::new() };
        Self { ports, timing, marker_secret: marker_secret.to_vec(), caches, arrears: Arrears::default() }
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

    fn fraction(&self) -> f64 {
        (self.ports.entropy.draw() >> 96) as f64 / f64::from(u32::MAX)
    }

    async fn pools(&self, now: Timestamp) -> PortResult<Arc<[Pool]>> {
        if let Some(known) = self.caches.pools.get(&(), now) {
            return Ok(known);
        }
        let pools: Arc<[Pool]> = self.ports.control.pools().await?.into();
        // An empty list is a deployment being set up: look again soon.
        let good_for = if pools.is_empty() { self.timing.capacity_cache } else { self.timing.record_cache };
        self.caches.pools.put((), Arc::clone(&pools), now, good_for);
        Ok(pools)
    }
}
