//! What a load asks for before anybody is refused: its work, minute by minute, kept answers aside. What a benchmark would
//! measure a worker by, and what those know who know everything.

use std::collections::BTreeMap;

use super::load::Load;
use super::moment::Moment;
use super::worker::Profile;

/// A load's work.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// Estimated tokens a second, by minute.
    per_minute: Vec<f64>,
    /// Requests.
    pub requests: u64,
    /// Of them those that need a run.
    pub runs: u64,
    /// Mean estimated tokens of a run.
    pub tokens: f64,
    /// Mean steps of a run.
    pub steps: f64,
    /// Requests by tenant.
    pub by_tenant: Vec<u64>,
    /// Tokens of prompts, by tenant.
    pub tokens_by_tenant: Vec<u64>,
}

impl Demand {
    /// Draws the whole load once.
    #[must_use]
    pub fn of(load: &Load, kept_secs: f64, profile: &Profile) -> Self {
        let mut fresh: BTreeMap<u32, Moment> = BTreeMap::new();
        let tenants = load.names.len();
        let mut demand = Self {
            per_minute: Vec::new(),
            requests: 0,
            runs: 0,
            tokens: 0.0,
            steps: 0.0,
            by_tenant: vec![0; tenants],
            tokens_by_tenant: vec![0; tenants],
        };
        for arrival in load.arrivals() {
            demand.requests += 1;
            if let Some(count) = demand.by_tenant.get_mut(usize::from(arrival.tenant)) {
                *count += 1;
            }
            if let Some(question) = arrival.question {
                if fresh.get(&question).is_some_and(|until| *until >= arrival.at) {
                    continue;
                }
                fresh.insert(question, arrival.at.plus(kept_secs));
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes of a simulation")]
            let minute = (arrival.at.secs() / 60.0) as usize;
            if demand.per_minute.len() <= minute {
                demand.per_minute.resize(minute + 1, 0.0);
            }
            if let Some(tokens) = demand.tokens_by_tenant.get_mut(usize::from(arrival.tenant)) {
                *tokens += arrival.estimate();
            }
            demand.per_minute[minute] += arrival.estimate() as f64 / 60.0;
            demand.runs += 1;
            demand.tokens += arrival.estimate() as f64;
            demand.steps += profile.steps(arrival.prompt, arrival.output);
        }
        let runs = demand.runs.max(1) as f64;
        demand.tokens = (demand.tokens / runs).max(1.0);
        demand.steps = (demand.steps / runs).max(1.0);
        demand
    }

    /// Estimated tokens a second that a worker of this profile does of this load with all slots busy.
    #[must_use]
    pub fn served_by(&self, profile: &Profile) -> f64 {
        profile.jobs_per_second(self.steps) * self.tokens
    }

    /// The busiest minute, in tokens a second.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.per_minute.iter().copied().fold(0.0, f64::max)
    }

    /// The busiest minute between two moments, in tokens a second.
    #[must_use]
    pub fn most_in(&self, from: f64, to: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "minutes of a simulation")]
        let [from, to] = [from, to].map(|secs| ((secs / 60.0) as usize).min(self.per_minute.len()));
        self.per_minute[from..(to + 1).min(self.per_minute.len())].iter().copied().fold(0.0, f64::max)
    }

    /// The mean of the first minutes, in tokens a second.
    #[must_use]
    pub fn begins_with(&self) -> f64 {
        let first = &self.per_minute[..self.per_minute.len().min(5)];
        first.iter().sum::<f64>() / first.len().max(1) as f64
    }
}
