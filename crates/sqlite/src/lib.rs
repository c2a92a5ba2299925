//! The ports on SQLite and the local disk: what `penstock up` and the simulation run on.
//!
//! One writer thread owns the write connection and commits everything that has arrived in one transaction (group
//! commit), so that many callers share the price of a commit, and no caller ever waits for a lock. The guards are
//! evaluated by `penstock_policy`; SQL only stores.

mod answers;
mod attempts;
mod blobs;
mod board;
mod census;
mod control;
mod erasure;
mod holds;
mod jobs;
mod limits;
mod markers;
mod parking;
mod queue;
mod rows;
mod shelf;
mod store;
mod sweep;
mod tally;
mod watch;

use std::path::Path;
use std::sync::Arc;

use penstock_service::Ports;
use penstock_service::ports::{Clock, Entropy, Erasure, Spawner};

pub use blobs::DiskBlobs;
pub use store::{Durability, OpenError};

use erasure::Eraser;
use store::Store;
use watch::Bells;

/// The jobs, queues, limits, markers and control records in one SQLite database. Cheap to clone.
#[derive(Clone)]
pub struct Sqlite {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    job_bells: Arc<Bells>,
    queue_bells: Arc<Bells>,
}

impl Sqlite {
    /// Opens (or creates) the database file at `path` and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be opened, is no database, is used by another process, or was written by a
    /// newer version.
    pub fn open(path: &Path, durability: Durability, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Ok(Self::on(Store::open(path, durability)?, clock))
    }

    /// Makes a database in memory; it is gone when the last clone is dropped. Every call runs at once on the caller's
    /// thread, in the order of the calls, which makes runs in virtual time repeatable.
    ///
    /// # Errors
    /// [`OpenError`] if SQLite cannot allocate it.
    pub fn in_memory(clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Ok(Self::on(Store::in_memory()?, clock))
    }

    /// Every port, ready for `penstock_service::Service::new`: those of the database, and the given ones.
    #[must_use]
    pub fn ports(&self, blobs: DiskBlobs, spawner: Arc<dyn Spawner>, entropy: Arc<dyn Entropy>) -> Ports {
        let shared = Arc::new(self.clone());
        Ports {
            jobs: shared.clone(),
            queue: shared.clone(),
            limits: shared.clone(),
            markers: shared.clone(),
            parking: shared.clone(),
            census: shared.clone(),
            attempts: shared.clone(),
            answers: shared.clone(),
            control: shared.clone(),
            board: shared.clone(),
            tally: shared.clone(),
            shelf: shared,
            erasure: self.erasure(blobs.clone()),
            blobs: Arc::new(blobs),
            clock: Arc::clone(&self.clock),
            spawner,
            entropy,
        }
    }

    /// What erases the database and the folder of payloads together.
    #[must_use]
    pub fn erasure(&self, blobs: DiskBlobs) -> Arc<dyn Erasure> {
        Arc::new(Eraser { sqlite: self.clone(), blobs })
    }

    fn on(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store: Arc::new(store), clock, job_bells: Arc::default(), queue_bells: Arc::default() }
    }
}
