//! The fleet: whoever launches, drains and ends the workers of pools. On one machine it is the process itself, on AWS it
//! is EC2.

use async_trait::async_trait;
use penstock_policy::fleet::Limits;
use penstock_policy::fleet::offering::{Instance, Offering};
use penstock_policy::fleet::orders::Orders;
use penstock_policy::id::PoolId;

use super::PortResult;

/// A pool's fleet as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSight {
    /// The workers there are, in any order.
    pub instances: Vec<Instance>,
    /// What can be had; the scores are the planner's to fill in.
    pub offerings: Vec<Offering>,
    /// What the pool may be.
    pub limits: Limits,
}

/// Looks at fleets and carries orders out.
#[async_trait]
pub trait FleetExecutor: Send + Sync {
    /// A pool's fleet; `None` if its workers are none of this executor's.
    async fn observe(&self, pool: &PoolId) -> PortResult<Option<FleetSight>>;

    /// Carries orders out, or begins to: what becomes of them shows in the next look. Numbers are what is to be there, and
    /// workers are named, so the same orders again change nothing again. Orders about workers that have gone are no error.
    async fn apply(&self, pool: &PoolId, orders: &Orders) -> PortResult<()>;
}
