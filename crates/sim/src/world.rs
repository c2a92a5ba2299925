//! A whole deployment in virtual time: a store, a front door, workers that come and go.

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId, WorkerId};
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Control, Pool, PoolKind, Tenant, TenantLimits};
use penstock_service::{ApiKey, Consumer, Ports, Service, Workplace};
use penstock_sqlite::{DiskBlobs, Sqlite};

use crate::adversary::{Adversary, Side};
use crate::engine::{Faults, Runs, ScriptedEngine};
use crate::kernel::{Group, Kernel};

/// The group of the front door; workers count up from 1.
const FRONT: Group = Group(0);

/// A deployment.
pub struct World {
    /// The kernel everything runs on.
    pub kernel: Kernel,
    /// The front door.
    pub service: Arc<Service>,
    /// A key of the only tenant.
    pub key: String,
    /// What the workers were asked to run.
    pub runs: Runs,
    /// Stands between the processes and their store.
    pub adversary: Adversary,
    sqlite: Sqlite,
    timing: Timing,
    next_worker: u32,
}

impl World {
    /// A deployment with one tenant, a pool of the scripted model, one of its encoder, and no worker.
    ///
    /// # Errors
    /// If the store cannot be made or written.
    pub fn new(seed: u64, timing: Timing, limits: TenantLimits) -> Result<Self, Box<dyn std::error::Error>> {
        Self::furnished(seed, timing, limits, |ports, _| Service::new(ports, timing, b"sim"))
    }

    /// The same, with a front door made by `furnish` of its ports: behind breakers, on stores that fail, with upstreams.
    ///
    /// # Errors
    /// If the store cannot be made or written.
    pub fn furnished(
        seed: u64,
        timing: Timing,
        limits: TenantLimits,
        furnish: impl FnOnce(Ports, &Kernel) -> Service,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let kernel = Kernel::new(seed);
        let sqlite = Sqlite::in_memory(Arc::new(kernel.clone()))?;
        let adversary = Adversary::new(&kernel);
        let service = Arc::new(furnish(adversary.over(ports(&kernel, &sqlite, FRONT), Side::Front), &kernel));
        let key = ApiKey::generate(|| penstock_service::ports::Entropy::draw(&kernel));
        let tenant = Tenant::new(TenantId::new("tenant")?, Class::P0, limits, kernel.now());
        let scripted = Pool::new(pool_id()?, "scripted", 4096, kernel.now());
        let pool = Pool { tokens_per_byte: 1.0, usual_output_tokens: 32, ..scripted };
        let encoder = Pool::new(encoder_pool_id()?, "scripted-vectors", 64, kernel.now());
        let encoder = Pool { tokens_per_byte: 1.0, kind: PoolKind::Embedding, ..encoder };
        futures_util::FutureExt::now_or_never(async {
            sqlite.put_key(&key.record(tenant.id.clone())).await?;
            sqlite.put_tenant(&tenant).await?;
            sqlite.put_pool(&pool).await?;
            sqlite.put_pool(&encoder).await
        })
        .ok_or("the store in memory answers at once")??;
        let (key, runs) = (key.expose(), Runs::default());
        Ok(Self { kernel, service, key, runs, adversary, sqlite, timing, next_worker: 1 })
    }

    /// Adds a tenant on other terms, and gives its key.
    ///
    /// # Errors
    /// If the name is none, or the store cannot be written.
    pub fn add_tenant(
        &self,
        name: &str,
        terms: impl FnOnce(&mut Tenant),
    ) -> Result<String, Box<dyn std::error::Error>> {
        let limits = Self::wide_limits().map_err(|_| "the wide limits are no limits")?;
        let mut tenant = Tenant::new(TenantId::new(name)?, Class::P0, limits, self.kernel.now());
        terms(&mut tenant);
        let key = ApiKey::generate(|| penstock_service::ports::Entropy::draw(&self.kernel));
        futures_util::FutureExt::now_or_never(async {
            self.sqlite.put_key(&key.record(tenant.id.clone())).await?;
            self.sqlite.put_tenant(&tenant).await
        })
        .ok_or("the store in memory answers at once")??;
        Ok(key.expose())
    }

    /// Starts another front door, with a memory of its own; its group is what [`Kernel::kill`] takes.
    pub fn start_front(&mut self) -> (Group, Arc<Service>) {
        let group = Group(self.next_worker);
        self.next_worker += 1;
        let ports = self.adversary.over(ports(&self.kernel, &self.sqlite, group), Side::Front);
        (group, Arc::new(Service::new(ports, self.timing, b"sim")))
    }

    /// Limits too wide to be met.
    ///
    /// # Errors
    /// Never in fact; the limits are well-formed.
    pub fn wide_limits() -> Result<TenantLimits, penstock_policy::gcra::InvalidLimit> {
        let wide = Limit::new(1_000_000_000, Duration::from_secs(1), 1_000_000_000)?;
        Ok(TenantLimits::rates(wide, wide))
    }

    /// Starts a worker process; its group is what [`Kernel::kill`] takes.
    ///
    /// # Errors
    /// Never in fact; the names are well-formed.
    pub fn start_worker(
        &mut self,
        slots: u32,
        tick: Duration,
    ) -> Result<(Group, Consumer), Box<dyn std::error::Error>> {
        self.start_worker_of(&pool_id()?, slots, tick, Faults::default())
    }

    /// Starts a worker process that makes vectors.
    ///
    /// # Errors
    /// Never in fact; the names are well-formed.
    pub fn start_encoder(
        &mut self,
        slots: u32,
        tick: Duration,
    ) -> Result<(Group, Consumer), Box<dyn std::error::Error>> {
        self.start(&encoder_pool_id()?, slots, tick, ScriptedEngine::encoding)
    }

    /// Starts a worker process of another pool, or one that fails.
    ///
    /// # Errors
    /// Never in fact; the names are well-formed.
    pub fn start_worker_of(
        &mut self,
        pool: &PoolId,
        slots: u32,
        tick: Duration,
        faults: Faults,
    ) -> Result<(Group, Consumer), Box<dyn std::error::Error>> {
        self.start(pool, slots, tick, |engine| engine.failing(faults))
    }

    fn start(
        &mut self,
        pool: &PoolId,
        slots: u32,
        tick: Duration,
        make: impl FnOnce(ScriptedEngine) -> ScriptedEngine,
    ) -> Result<(Group, Consumer), Box<dyn std::error::Error>> {
        let group = Group(self.next_worker);
        self.next_worker += 1;
        let ports = self.adversary.over(ports(&self.kernel, &self.sqlite, group), Side::Worker);
        let spawner = Arc::clone(&ports.spawner);
        let engine = ScriptedEngine::new(Arc::new(self.kernel.clone()), Arc::clone(&spawner), slots, tick);
        let consumer = Consumer::new(Workplace {
            service: Arc::new(Service::new(ports, self.timing, b"sim")),
            engine: Arc::new(make(engine).counted(self.runs.clone())),
            pool: pool.clone(),
            worker: WorkerId::new(&format!("worker-{}", group.0))?,
        });
        let running = consumer.clone();
        spawner.spawn(Box::pin(async move { running.run().await }));
        Ok((group, consumer))
    }

    /// The store itself, with nobody before it: for looking at what has become of everything.
    #[must_use]
    pub fn store(&self) -> Ports {
        ports(&self.kernel, &self.sqlite, FRONT)
    }

    /// Runs `task` as a client of the front door.
    pub fn client(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.kernel.spawner(FRONT).spawn(Box::pin(task));
    }
}

fn pool_id() -> Result<PoolId, penstock_policy::id::InvalidId> {
    PoolId::new("default")
}

fn encoder_pool_id() -> Result<PoolId, penstock_policy::id::InvalidId> {
    PoolId::new("encoder")
}

fn ports(kernel: &Kernel, sqlite: &Sqlite, group: Group) -> Ports {
    let blobs = DiskBlobs::new(&std::env::temp_dir().join("penstock-sim-blobs"));
    sqlite.ports(blobs, kernel.spawner(group), Arc::new(kernel.clone()))
}
