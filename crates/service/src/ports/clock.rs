//! Time, tasks and chance. Nothing in this crate reads a clock, sleeps, starts a task or draws a number by other means,
//! so that a simulation can turn the clock by hand and replay a run exactly.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use penstock_policy::time::Timestamp;

/// The clock.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The present moment. Read once per decision.
    fn now(&self) -> Timestamp;

    /// Returns at `moment`, or at once if it has passed.
    async fn sleep_until(&self, moment: Timestamp);
}

/// Starts tasks.
pub trait Spawner: Send + Sync {
    /// Runs `task` to its end, beside the caller.
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

/// Draws random numbers.
pub trait Entropy: Send + Sync {
    /// 128 fresh random bits, unpredictable to clients outside a simulation.
    fn draw(&self) -> u128;
}
