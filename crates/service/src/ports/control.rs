//! The control table: small and precious records that everybody reads: tenants, keys, pools, workers.

use async_trait::async_trait;
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{KeyId, PoolId, TenantId, WorkerId};
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
    /// When it stopped to be valid.
    pub revoked: Option<Timestamp>,
}

/// A tenant's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// Requests.
    pub requests: Limit,
    /// Tokens, prompt and answer together.
    pub tokens: Limit,
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

    /// A tenant.
    async fn tenant(&self, id: &TenantId) -> PortResult<Option<Tenant>>;
    /// Writes a tenant.
    async fn put_tenant(&self, tenant: &Tenant) -> PortResult<()>;

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
