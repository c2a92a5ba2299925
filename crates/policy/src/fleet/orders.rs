//! What a plan comes to for whoever carries it out.
//!
//! Launches become numbers that are to be there, not numbers to add: an order that is repeated, because its reply was
//! lost or because two processes gave it, launches nothing twice, and a worker that was lost between look and order is
//! replaced by the very order that counted it.

use core::time::Duration;
use std::collections::BTreeMap;

use super::Plan;
use super::offering::{Instance, OfferingId, Stage};
use super::report::Step;
use crate::time::Timestamp;

/// What is to be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Workers that are to be there or to come, by offering: those under notice or on their way out are not among them.
    pub wanted: BTreeMap<OfferingId, u32>,
    /// Who takes nothing new from now on.
    pub drain: Vec<String>,
    /// Who has nothing left and goes.
    pub release: Vec<String>,
    /// Launches that never came, and go.
    pub give_up: Vec<String>,
}

impl Orders {
    /// What `plan` comes to where `instances` are there and launches usually take `lead`.
    #[must_use]
    pub fn of(plan: &Plan, instances: &[Instance], lead: Duration, now: Timestamp) -> Self {
        let mut orders = Self::default();
        for step in &plan.steps {
            match step {
                Step::Launch { offering, count, .. } => *orders.wanted.entry(offering.clone()).or_default() += count,
                Step::Drain { instance, .. } => orders.drain.push(instance.clone()),
                Step::Release { instance } => orders.release.push(instance.clone()),
            }
        }
        for instance in instances {
            if instance.counts(now, lead) {
                let stays = u32::from(!orders.drain.contains(&instance.id));
                *orders.wanted.entry(instance.offering.clone()).or_default() += stays;
            } else if instance.stage == Stage::Launching {
                orders.give_up.push(instance.id.clone());
            }
        }
        orders
    }
}
