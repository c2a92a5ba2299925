//! The control table: small and precious records that everybody reads: tenants, keys, pools, workers.

use async_trait::async_trait;
use penstock_policy::classes::Class;
use penstock_policy::cost::Price;
use penstock_policy::id::{KeyId, PoolId, TenantId, WorkerId};
use penstock_policy::tenant::{Caching, FallbackConsent, Retention, TenantLimits};
use penstock_policy::time::Timestamp;

use super::PortResult;

/// An API key's record. The secret itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The public half of the key.
    pub id: KeyId,
    /// Whose key it is.
    pub tenant: TenantId,
    /// SHA-256 of the secret half.
    pub secret_sha256: [u8; 32],
    /// When it stops to be valid; a moment to come leaves its holders time to change over.
    pub revoked: Option<Timestamp>,
    /// What its owner calls it.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used, within a day or so.
    pub used: Option<Timestamp>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// The best class it may have.
    pub ceiling: Class,
    /// What it may use.
    pub limits: TenantLimits,
    /// Which answers may be given again.
    pub caching: Caching,
    /// What may answer in a model's place.
    pub fallback: FallbackConsent,
    /// What is kept of its requests.
    pub retention: Retention,
    /// Whether a job whose clients have all gone runs to its end all the same, and its answer is kept for them.
    pub keep_orphans: bool,
    /// Signed tokens issued before this moment are refused; API keys have revocations of their own.
    pub tokens_not_before: Option<Timestamp>,
    /// Set while none of its requests are taken.
    pub suspended: bool,
    /// When it was added.
    pub created: Timestamp,
}

impl Tenant {
    /// A tenant on the usual terms: deterministic answers cached, nothing answering in a model's place, answers kept for
    /// a week.
    #[must_use]
    pub fn new(id: TenantId, ceiling: Class, limits: TenantLimits, created: Timestamp) -> Self {
        Self {
            id,
            ceiling,
            limits,
            caching: Caching::default(),
            fallback: FallbackConsent::default(),
            retention: Retention::default(),
            keep_orphans: false,
            tokens_not_before: None,
            suspended: false,
            created,
        }
    }
}

/// What a pool's model makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolKind {
    /// Text, token by token.
    #[default]
    Generation,
    /// One vector for each text.
    Embedding,
}

/// What may answer when a pool cannot, if the tenant consents to its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Another pool of the same model.
    Pool(PoolId),
    /// A pool of a smaller model.
    SmallerModel(PoolId),
    /// An upstream outside this deployment, by its configured name.
    Upstream(String),
}

/// A pool: one model on one kind of capacity.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its id; part of its queues' names.
    pub id: PoolId,
    /// The name clients put into `model`.
    pub model: String,
    /// The most tokens prompt and answer may have together.
    pub context_length: u32,
    /// Tokens per prompt byte, for estimates at the door (the front never tokenises).
    pub tokens_per_byte: f64,
    /// Tokens an answer is expected to have when the request sets no maximum.
    pub usual_output_tokens: u32,
    /// When it was added.
    pub created: Timestamp,
    /// What its model makes.
    pub kind: PoolKind,
    /// What its answers cost.
    pub price: Price,
    /// What may answer in its place, in this order.
    pub fallbacks: Vec<Fallback>,
    /// The text that answers when nothing else can.
    pub default_answer: Option<String>,
}

impl Pool {
    /// A pool of `model` that generates text, free of charge, with nothing to fall back to, and estimates that suit most
    /// models until its own have been learned.
    #[must_use]
    pub fn new(id: PoolId, model: &str, context_length: u32, created: Timestamp) -> Self {
        Self {
            id,
            model: model.to_owned(),
            context_length,
            tokens_per_byte: 0.3,
            usual_output_tokens: 256,
            created,
            kind: PoolKind::default(),
            price: Price::default(),
            fallbacks: Vec::new(),
            default_answer: None,
        }
    }
}

/// A worker, as it last reported itself.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRecord {
    /// Its id.
    pub id: WorkerId,
    /// The pool it serves.
    pub pool: PoolId,
    /// The digest of the model it runs.
    pub digest: String,
    /// Its slots.
    pub slots: u32,
    /// The tokens a second it makes with all slots busy, measured at its start.
    pub tokens_per_second: f64,
    /// When it reported.
    pub seen: Timestamp,
    /// It takes no new work.
    pub draining: bool,
}

/// Reads and writes control records. Reads may lag behind writes by a second.
#[async_trait]
pub trait Control: Send + Sync {
    /// The record of an API key.
    async fn key(&self, id: &KeyId) -> PortResult<Option<KeyRecord>>;
    /// Writes a key's record.
    async fn put_key(&self, key: &KeyRecord) -> PortResult<()>;
    /// The keys of a tenant, sorted by id.
    async fn keys(&self, tenant: &TenantId) -> PortResult<Vec<KeyRecord>>;
    /// Notes that a key was used, and nothing else about it; does nothing if there is no such key.
    async fn touch_key(&self, id: &KeyId, now: Timestamp) -> PortResult<()>;
    /// Removes a key's record.
    async fn remove_key(&self, key: &KeyRecord) -> PortResult<()>;

    /// A tenant.
    async fn tenant(&self, id: &TenantId) -> PortResult<Option<Tenant>>;
    /// Writes a tenant.
    async fn put_tenant(&self, tenant: &Tenant) -> PortResult<()>;
    /// All tenants, sorted by id.
    async fn tenants(&self) -> PortResult<Vec<Tenant>>;
    /// Removes a tenant's record, and nothing that belongs to it.
    async fn remove_tenant(&self, id: &TenantId) -> PortResult<()>;

    /// All pools, sorted by id.
    async fn pools(&self) -> PortResult<Vec<Pool>>;
    /// Writes a pool.
    async fn put_pool(&self, pool: &Pool) -> PortResult<()>;

    /// The workers of a pool that reported at or after `since`, sorted by id.
    async fn workers(&self, pool: &PoolId, since: Timestamp) -> PortResult<Vec<WorkerRecord>>;
    /// Writes a worker's report.
    async fn put_worker(&self, worker: &WorkerRecord) -> PortResult<()>;
    /// Removes a worker that has gone.
    async fn remove_worker(&self, pool: &PoolId, id: &WorkerId) -> PortResult<()>;
}
