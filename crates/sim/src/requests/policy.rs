//! The policies that are compared: who is let in, and how many workers there are.

use core::time::Duration;

use penstock_policy::gcra::Limit;

use super::door;
use super::scaling;
use super::simulation::Prepared;

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name in tables.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Who is let in.
    pub door: door::Kind,
    /// How many workers there are.
    pub fleet: scaling::Kind,
}

const fn policy(name: &'static str, about: &'static str, door: door::Kind, fleet: scaling::Kind) -> Policy {
    Policy { name, about, door, fleet }
}

impl Policy {
    /// All of them, ours first.
    pub const ALL: [Self; 8] = [
        policy("penstock", "admission and the planner", door::Kind::Admission, scaling::Kind::Planned),
        policy("no_admission", "everybody is let in; target tracking", door::Kind::Open, scaling::Kind::Reactive),
        policy("limiter_only", "tenants' limits alone; target tracking", door::Kind::Limiter, scaling::Kind::Reactive),
        policy("reactive", "our admission; target tracking", door::Kind::Admission, scaling::Kind::Reactive),
        policy("static_peak", "our admission; the peak, always", door::Kind::Admission, scaling::Kind::StaticPeak),
        policy("aws_like", "our admission; predictive scaling", door::Kind::Admission, scaling::Kind::AwsLike),
        policy(
            "spothedge_like",
            "our admission; an even spread with two more, on demand for what is not ready",
            door::Kind::Admission,
            scaling::Kind::SpotHedgeLike,
        ),
        policy("oracle", "our admission; a fleet that knows the load", door::Kind::Admission, scaling::Kind::Oracle),
    ];

    /// The policy of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name == name)
    }

    /// Whether it degrades instead of failing: with our admission alone.
    #[must_use]
    pub fn degrades(&self) -> bool {
        self.door == door::Kind::Admission
    }

    /// Whether it says when an answer will be there.
    #[must_use]
    pub fn promises(&self) -> bool {
        self.door == door::Kind::Admission
    }

    /// Whether the market can surprise it.
    #[must_use]
    pub fn loses_workers(&self) -> bool {
        !self.knows_beforehand()
    }

    /// Whether it knows what will come.
    #[must_use]
    pub fn knows_beforehand(&self) -> bool {
        self.fleet == scaling::Kind::Oracle
    }

    /// Limits of tenants who have none, for a door that knows nothing else: twice what each asks for on average, with a
    /// minute's worth at once.
    #[must_use]
    pub fn usual_limits(&self, prepared: &Prepared) -> Vec<[Limit; 2]> {
        let minutes = (prepared.load.secs() / 60.0).max(1.0);
        let limit = |count: u64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
            let units = ((2.0 * count as f64 / minutes).ceil() as u64).max(1);
            Limit::new(units, Duration::from_secs(60), units)
        };
        let demand = &prepared.demand;
        let pairs = demand.by_tenant.iter().zip(&demand.tokens_by_tenant);
        pairs
            .filter_map(|(requests, tokens)| Some([limit(*requests).ok()?, limit((*tokens).max(4096)).ok()?]))
            .collect()
    }
}
