//! Single-flight and idempotency markers: which job answers a request that is known already.

use async_trait::async_trait;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::marker::Marker;

use super::PortResult;

/// A marker's key: a keyed digest that already contains the tenant, so that keys of two tenants never meet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkerKey {
    /// Whose marker it is; kept so that a tenant's markers can be erased.
    pub tenant: TenantId,
    /// HMAC-SHA-256 of the canonical request or of the idempotency key, in lower-case hexadecimal.
    pub digest: String,
}

/// Looks markers up. They are written by [`Jobs::accept`](super::Jobs::accept) alone, as a part of accepting.
#[async_trait]
pub trait Markers: Send + Sync {
    /// The marker under `key`. May lag behind the newest write, and may return a marker past its `expires`: the caller
    /// compares. `accept` checks again exactly.
    async fn find(&self, key: &MarkerKey) -> PortResult<Option<Marker>>;

    /// Removes the marker if it still names `job`.
    async fn clear(&self, key: &MarkerKey, job: JobId) -> PortResult<()>;
}
