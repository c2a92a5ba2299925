//! The clock, the tasks and the chance of the machine we run on: what the ports are outside a simulation.
//!
//! The one file of this crate that may touch them; behind the feature `system`, so that a build without it cannot.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "implements the ports everybody else must use"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use penstock_policy::time::Timestamp;

use crate::ports::{Clock, Entropy, Spawner};

/// The system's clock, and sleep on the tokio runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    async fn sleep_until(&self, moment: Timestamp) {
        // The runtime's timer counts whole milliseconds; a wall clock that steps meanwhile is looked at again.
        loop {
            let left = moment.since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_secs(60))).await;
        }
    }
}

/// Tasks on the tokio runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskSpawner;

impl Spawner for TaskSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // Outside a runtime, which is being shut down then, there is nobody left to run anything.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(task);
        }
    }
}

/// The operating system's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn draw(&self) -> u128 {
        let mut bytes = [0u8; 16];
        if let Err(error) = getrandom::fill(&mut bytes) {
            // Ids and keys made without it would be guessable: a machine without randomness must not serve.
            tracing::error!(%error, "the operating system has no random numbers");
            std::process::abort();
        }
        u128::from_le_bytes(bytes)
    }
}
