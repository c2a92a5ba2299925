//! The control tick: what one process does now and then for all of a deployment.
//!
//! It decides nothing that a request waits for: fronts go by what was published last, and go on with it if nobody publishes
//! any more. `penstock up` runs it as a loop beside the router; on AWS the function `control` does, once a minute, and
//! every few seconds of that minute while there is anything to do.

pub(crate) mod breaker;
pub(crate) mod fleet;
mod publish;
mod release;

use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::time::Timestamp;
use penstock_wire::promises::{PromiseFigures, PromiseList};

use crate::Service;
use crate::ports::{BoardKey, PortResult};
use crate::telemetry::Metric;
use publish::{Memory, memory_key};

pub use breaker::TierChange;

/// Who ticks holds this document for so long.
const LEASE: Duration = Duration::from_secs(15);

/// What a tick found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ticked {
    /// Some pool has workers or work: look again soon.
    Busy,
    /// Nothing anywhere.
    Idle,
    /// Another process does it.
    Elsewhere,
}

impl Service {
    /// One tick. Two processes never tick at once for longer than a store's lag; should they, both publish the same.
    ///
    /// # Errors
    /// If a store does not answer; the pools before are published, the rest keep their rates.
    pub async fn control_tick(&self, now: Timestamp) -> PortResult<Ticked> {
        if !self.lead("control", now).await? {
            return Ok(Ticked::Elsewhere);
        }
        self.meter.record(&[], &[(Metric::ControlTicks, 1.0)]);
        let mut ticked = Ticked::Idle;
        for pool in self.pools(now).await?.iter() {
            let (is_busy, waits) = self.publish(pool, now).await?;
            if is_busy {
                ticked = Ticked::Busy;
            }
            // A fleet that cannot be looked at keeps no other pool from being published.
            if let Err(error) = self.tick_fleet(pool, &waits, now).await {
                tracing::warn!(pool = %pool.id, %error, "a fleet's tick did not finish");
            }
        }
        Ok(ticked)
    }

    /// Ticks for ever, every `every`.
    pub async fn control_loop(&self, every: Duration) {
        let clock = &self.ports.clock;
        loop {
            let now = clock.now();
            if let Err(error) = self.control_tick(now).await {
                tracing::warn!(%error, "a control tick did not finish");
            }
            clock.sleep_until(now.after(every)).await;
        }
    }

    /// Takes or keeps the lead in something, if nobody else has it.
    pub(crate) async fn lead(&self, what: &'static str, now: Timestamp) -> PortResult<bool> {
        let key = BoardKey::new(what, "lead");
        let me = format!("{:04x}{:08x}", self.place, self.serial);
        let found = self.ports.board.read(&key).await?;
        if let Some((holder, until)) = found.as_ref().and_then(|posted| posted.text.split_once(' ')) {
            let until = Timestamp::from_millis(until.parse().unwrap_or(0));
            if holder != me && until > now {
                return Ok(false);
            }
        }
        let text = format!("{me} {}", now.after(LEASE).as_millis());
        let version = found.map(|posted| posted.version);
        Ok(self.ports.board.post(&key, &text, version, self.nonce()).await?.is_ok())
    }

    /// How well promises were kept of late, by pool and class.
    pub(crate) async fn promises_kept(&self, now: Timestamp) -> PortResult<PromiseList> {
        let mut list = PromiseList::default();
        for pool in self.pools(now).await?.iter() {
            let posted = self.ports.board.read(&memory_key(pool)).await?;
            let memory: Memory = posted.and_then(|posted| serde_json::from_str(&posted.text).ok()).unwrap_or_default();
            for class in Class::ALL {
                let of = |name: &str| u64::try_from(memory.total(&format!("{name}{}", class.index()))).unwrap_or(0);
                let made = of("made");
                if made > 0 {
                    list.data.push(PromiseFigures {
                        model: pool.model.clone(),
                        service_tier: penstock_policy::admission::tier_of_class(class).to_owned(),
                        made,
                        kept_50: of("half") as f64 / made as f64,
                        kept_95: of("most") as f64 / made as f64,
                        stated_over_actual: of("sharp") as f64 / made as f64 / 1000.0,
                    });
                }
            }
        }
        Ok(list)
    }
}
