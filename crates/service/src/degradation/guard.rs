//! A local breaker in front of one dependency of this process: when the dependency is dead, asking it costs
//! microseconds instead of a time-out, and it is asked again by one caller at a time.
//!
//! What fails a call is that nobody answered. A throttle is an answer (one hot key must not close the door to all
//! others), and so is a refusal.

use std::sync::{Arc, Mutex, PoisonError};

use penstock_policy::breaker::{self, Breaker, Config, Decision, Outcome, Permit, State};
use penstock_policy::time::Timestamp;

use crate::ports::{Clock, PortError, PortResult};

/// The breaker.
pub(crate) struct Guard {
    name: String,
    breaker: Mutex<Breaker>,
}

impl Guard {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), breaker: Mutex::default() }
    }

    /// Asks for one call.
    ///
    /// # Errors
    /// When to ask again.
    pub(crate) fn ask(&self, now: Timestamp) -> Result<Permit, Timestamp> {
        let mut held = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let (decision, next) = breaker::ask(std::mem::take(&mut *held), &Config::LOCAL, now);
        *held = next;
        match decision {
            Decision::Go(permit) => Ok(permit),
            Decision::Refuse { until } => Err(until),
        }
    }

    /// Reports how a call ended; says until when nobody is to ask, if that is so now.
    pub(crate) fn report(&self, permit: Permit, outcome: Outcome, now: Timestamp) -> Option<Timestamp> {
        let mut held = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = name(&held.state);
        let next = breaker::report(std::mem::take(&mut *held), permit, outcome, &Config::LOCAL, now);
        let after = name(&next.state);
        let closed_until = match next.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::HalfOpen => None,
        };
        *held = next;
        drop(held);
        if before != after {
            tracing::warn!(dependency = self.name, from = before, to = after, "circuit breaker");
        }
        closed_until
    }

    /// Makes a call of a port if the breaker lets it through. A call that is dropped half-way reports nothing.
    pub(crate) async fn run<T>(
        &self,
        store: &'static str,
        clock: &Arc<dyn Clock>,
        call: impl Future<Output = PortResult<T>>,
    ) -> PortResult<T> {
        let now = clock.now();
        let permit = self.ask(now).map_err(|until| PortError::CircuitOpen { store, wait: until.since(now) })?;
        let result = call.await;
        let outcome = match &result {
            Err(PortError::Unavailable { .. } | PortError::CircuitOpen { .. }) => Outcome::Failure,
            Ok(_) | Err(PortError::Throttled { .. } | PortError::Corrupt { .. } | PortError::Refused { .. }) => {
                Outcome::Success
            }
        };
        let now = clock.now();
        match (self.report(permit, outcome, now), result) {
            // Whoever is told of this failure is told how long it lasts at least.
            (Some(until), Err(PortError::Unavailable { cause, .. })) => {
                tracing::warn!(store, cause, "store unavailable");
                Err(PortError::CircuitOpen { store, wait: until.since(now) })
            }
            (_, result) => result,
        }
    }
}

fn name(state: &State) -> &'static str {
    match state {
        State::Closed { .. } => "closed",
        State::Open { .. } => "open",
        State::HalfOpen => "half-open",
    }
}
