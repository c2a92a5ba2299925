//! What the front knows of a pool: the rates that the control loop publishes, kept for a moment.
//!
//! A deployment whose control loop has never run is read from its workers' own reports, so that it serves from the first
//! second. Rates that are old are kept: nobody admits more because nobody counts any more.

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::admission::{self, Capacity};
use penstock_policy::id::PoolId;
use penstock_policy::promise::{Errors, Pace, Spread};
use penstock_policy::rates::{Origin, Rates};
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::ports::{BoardKey, Pool, PortResult, WorkerRecord};

/// A worker's rate that is assumed while none has ever reported, in tokens a second: a small model on one CPU core.
pub(crate) const ASSUMED_RATE: f64 = 200.0;

/// Slots that are assumed then.
pub(crate) const ASSUMED_SLOTS: u32 = 4;

/// The document's version.
const VERSION: u32 = 1;

/// Where a pool's rates are posted.
pub(crate) fn key_of(pool: &PoolId) -> BoardKey {
    BoardKey::new("rates", pool.as_str())
}

impl Service {
    /// The rates in force.
    pub(crate) async fn rates(&self, pool: &PoolId, now: Timestamp) -> PortResult<Arc<Rates>> {
        let read = async {
            let posted = self.ports.board.read(&key_of(pool)).await?.and_then(|posted| rates_from(&posted.text));
            let rates = match posted {
                Some(rates) => rates,
                None => {
                    let workers = self.ports.control.workers(pool, now.before(admission::WORKER_SILENCE)).await?;
                    let pools = self.pools(now).await?;
                    unpublished(&workers, pools.iter().find(|known| known.id == *pool), now)
                }
            };
            if let Some(age) = rates.stale_for(now) {
                tracing::warn!(%pool, ?age, "the published rates are old; does the control loop run?");
            }
            Ok(Arc::new(rates))
        };
        self.caches.rates.fetch(pool, now, |_| self.timing.capacity_cache, read).await
    }
}

/// Rates nobody has published: what the workers say of themselves, and caution about the rest.
fn unpublished(workers: &[WorkerRecord], pool: Option<&Pool>, now: Timestamp) -> Rates {
    let live = || workers.iter().filter(|worker| !worker.draining);
    let capacity = Capacity::of(live().map(|worker| worker.tokens_per_second), ASSUMED_RATE);
    let slots = live().map(|worker| worker.slots).sum::<u32>();
    let pace = Pace {
        tokens_per_second: capacity.tokens_per_second,
        slots: if slots == 0 { ASSUMED_SLOTS } else { slots },
        mean_job_tokens: usual_job_tokens(pool),
        // Unknown yet: computed from rate and slots.
        ms_per_token: 0.0,
        ready_in: Duration::ZERO,
    };
    let spread = Spread::of(&Errors::default());
    Rates { at: now, origin: Origin::Guess, pace, ahead: [0.0; 4], shards: 1, spread: [[spread; 3]; 4] }
}

/// What a job of a pool is taken to be before any was seen.
pub(crate) fn usual_job_tokens(pool: Option<&Pool>) -> f64 {
    pool.map_or(256.0, |pool| f64::from(pool.usual_output_tokens.max(1)) * 1.25)
}

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    at: i64,
    tokens_per_second: f64,
    slots: u32,
    mean_job_tokens: f64,
    ms_per_token: f64,
    ready_in_ms: u64,
    ahead: [f64; 4],
    shards: u16,
    /// Half and most, by class and regime.
    spread: [[(f64, f64); 3]; 4],
}

/// Rates as stored text.
pub(crate) fn rates_text(rates: &Rates) -> String {
    let pace = &rates.pace;
    let stored = Stored {
        v: VERSION,
        at: rates.at.as_millis(),
        tokens_per_second: pace.tokens_per_second,
        slots: pace.slots,
        mean_job_tokens: pace.mean_job_tokens,
        ms_per_token: pace.ms_per_token,
        ready_in_ms: u64::try_from(pace.ready_in.as_millis()).unwrap_or(u64::MAX),
        ahead: rates.ahead,
        shards: rates.shards,
        spread: rates.spread.map(|class| class.map(|spread| (spread.half, spread.most))),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// Back again; `None` if the text is damaged or a newer program's: the workers are asked then.
pub(crate) fn rates_from(text: &str) -> Option<Rates> {
    let stored: Stored = serde_json::from_str(text).ok().filter(|stored: &Stored| stored.v == VERSION)?;
    Some(Rates {
        at: Timestamp::from_millis(stored.at),
        origin: Origin::Control,
        pace: Pace {
            tokens_per_second: stored.tokens_per_second,
            slots: stored.slots,
            mean_job_tokens: stored.mean_job_tokens,
            ms_per_token: stored.ms_per_token,
            ready_in: Duration::from_millis(stored.ready_in_ms),
        },
        ahead: stored.ahead,
        shards: stored.shards.max(1),
        spread: stored.spread.map(|class| class.map(|(half, most)| Spread { half, most })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_back_as_they_were_written_and_a_newer_form_is_not_read() {
        let now = Timestamp::from_millis(9);
        let mut rates = Rates { origin: Origin::Control, ..unpublished(&[], None, now) };
        rates.ahead = [1.0, 2.5, 0.0, 4.0];
        rates.spread[2][1] = Spread { half: 0.75, most: 1.5 };
        rates.pace.ready_in = Duration::from_millis(1500);
        let text = rates_text(&rates);
        assert_eq!(rates_from(&text), Some(rates));
        assert_eq!(rates_from(&text.replacen("\"v\":1", "\"v\":2", 1)), None);
    }
}
