//! A pool's standing on the board: written by the control tick and by probes, read by every front and worker.
//!
//! Readers keep it for a second. When the board cannot be read they go on with the last one for a minute (fail static),
//! then as if all were well (fail open): the queue and its leases still protect the pool.

use std::time::Duration;

use penstock_policy::breaker::{Lease, Outcome, Permit, Probes};
use penstock_policy::degrade::{self, Order, Reason, Standing, Tier};
use penstock_policy::id::PoolId;
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::ports::{BoardKey, PortError, PortResult};

/// How long a standing is kept in memory; up to half as long again by lot, so that readers spread.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// How long it is used when it cannot be read anew.
const FAIL_STATIC: Duration = Duration::from_secs(60);

/// How often a lost race for the board is run again.
const MOST_ROUNDS: u32 = 16;

impl Service {
    /// A pool's standing, as lately read.
    pub(crate) async fn standing(&self, pool: &PoolId, now: Timestamp) -> Standing {
        if let Some(known) = self.caches.standings.get(pool, now) {
            return known;
        }
        let good_for = GOOD_FOR + (GOOD_FOR / 2).mul_f64(self.fraction());
        let standing = match self.posted(pool).await {
            Ok((_, standing)) => standing,
            Err(error) => match self.caches.standings.stale(pool, FAIL_STATIC, now) {
                // Not put again: its time runs on.
                Some(known) => return known,
                None => {
                    tracing::warn!(%pool, %error, "a pool's standing is unknown: taken for normal");
                    Standing::default()
                }
            },
        };
        self.caches.standings.put(pool.clone(), standing.clone(), now, good_for);
        standing
    }

    /// Lets an operator close a pool until a moment, or, with `None`, opens it again.
    ///
    /// # Errors
    /// If the board does not answer.
    pub async fn order(&self, pool: &PoolId, order: Option<(Order, Timestamp)>) -> PortResult<()> {
        let ordered =
            |standing: &Standing| Some(Standing { order, ..standing.clone() }).filter(|next| next != standing);
        self.revise(pool, ordered).await.map(|_| ())
    }

    /// Asks for leave to probe an open pool.
    pub(crate) async fn take_probe(&self, pool: &PoolId, now: Timestamp) -> Option<Permit> {
        let mut given = None;
        let revised = self
            .revise(pool, |standing| {
                let (permit, next) = degrade::probe(standing, now);
                given = permit;
                permit.map(|_| next)
            })
            .await;
        match revised {
            Ok(_) => given,
            Err(error) => {
                tracing::warn!(%pool, %error, "no probe: the board does not answer");
                None
            }
        }
    }

    /// Reports how a probe ended. What cannot be reported lapses with its lease.
    pub(crate) async fn report_probe(&self, pool: &PoolId, permit: Permit, outcome: Outcome) {
        let now = self.ports.clock.now();
        if let Err(error) = self.revise(pool, |standing| degrade::probed(standing, permit, outcome, now)).await {
            tracing::warn!(%pool, %error, "a probe's outcome is lost");
        }
    }

    /// Takes back a probe of which nothing was learned. What cannot be taken back lapses with its lease.
    pub(crate) async fn withdraw_probe(&self, pool: &PoolId, permit: Permit) {
        if let Err(error) = self.revise(pool, |standing| degrade::withdrawn(standing, permit)).await {
            tracing::info!(%pool, %error, "a probe is not taken back");
        }
    }

    /// Replaces a pool's standing by what `change` makes of it, if it makes anything of it; decides anew whenever
    /// somebody else was quicker.
    pub(crate) async fn revise(
        &self,
        pool: &PoolId,
        mut change: impl FnMut(&Standing) -> Option<Standing>,
    ) -> PortResult<Standing> {
        let nonce = self.nonce();
        for _ in 0..MOST_ROUNDS {
            let (version, standing) = self.posted(pool).await?;
            let Some(next) = change(&standing) else { return Ok(standing) };
            if self.ports.board.post(&key_of(pool), &encode(&next), version, nonce).await?.is_ok() {
                let now = self.ports.clock.now();
                self.caches.standings.put(pool.clone(), next.clone(), now, GOOD_FOR);
                return Ok(next);
            }
        }
        Err(PortError::Throttled { store: "board", cause: "the standing changed at every try".to_owned() })
    }

    /// A pool's standing, as posted last.
    pub(crate) async fn standing_anew(&self, pool: &PoolId) -> PortResult<Standing> {
        self.posted(pool).await.map(|(_, standing)| standing)
    }

    async fn posted(&self, pool: &PoolId) -> PortResult<(Option<u64>, Standing)> {
        match self.ports.board.read(&key_of(pool)).await? {
            None => Ok((None, Standing::default())),
            Some(posted) => match decode(&posted.text) {
                Ok(standing) => Ok((Some(posted.version), standing)),
                Err(cause) => Err(PortError::Corrupt { what: "standing", cause }),
            },
        }
    }
}

fn key_of(pool: &PoolId) -> BoardKey {
    BoardKey::new("breaker", pool.as_str())
}

/// An order's word, stored and shown.
pub(crate) const fn name_of(order: Order) -> &'static str {
    match order {
        Order::Refuse => "refuse",
        Order::Fallbacks => "fallbacks",
    }
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    tier: u8,
    since: i64,
    from: i64,
    reason: String,
    #[serde(default)]
    bad: u64,
    #[serde(default)]
    all: u64,
    recovering: bool,
    generation: u64,
    leases: Vec<(u64, i64)>,
    successes: u32,
    given: u64,
    probed: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<(String, i64)>,
}

fn encode(standing: &Standing) -> String {
    let (bad, all) = match standing.reason {
        Reason::Errors { bad, all } | Reason::Late { late: bad, all } => (bad, all),
        Reason::Healthy | Reason::NoWorker | Reason::Calm | Reason::Recovering => (0, 0),
    };
    let order = |(order, until): (Order, Timestamp)| (name_of(order).to_owned(), until.as_millis());
    let stored = Stored {
        v: VERSION,
        tier: standing.tier.number(),
        since: standing.since.as_millis(),
        from: standing.counts_from.as_millis(),
        reason: standing.reason.name().to_owned(),
        bad,
        all,
        recovering: standing.recovering,
        generation: standing.probes.generation,
        leases: standing.probes.leases.iter().map(|lease| (lease.probe, lease.until.as_millis())).collect(),
        successes: standing.probes.successes,
        given: standing.probes.given,
        probed: standing.probed.as_millis(),
        order: standing.order.map(order),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

fn decode(text: &str) -> Result<Standing, String> {
    let stored: Stored = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if stored.v > VERSION {
        return Err(format!("version {} is newer than {VERSION}", stored.v));
    }
    let reason = match stored.reason.as_str() {
        "errors" => Reason::Errors { bad: stored.bad, all: stored.all },
        "late" => Reason::Late { late: stored.bad, all: stored.all },
        "no_worker" => Reason::NoWorker,
        "calm" => Reason::Calm,
        "recovering" => Reason::Recovering,
        "healthy" => Reason::Healthy,
        other => return Err(format!("'{other}' is no reason")),
    };
    let order = match stored.order {
        None => None,
        Some((name, until)) => {
            let order = match name.as_str() {
                "refuse" => Order::Refuse,
                "fallbacks" => Order::Fallbacks,
                other => return Err(format!("'{other}' is no order")),
            };
            Some((order, Timestamp::from_millis(until)))
        }
    };
    let lease = |(probe, until): (u64, i64)| Lease { probe, until: Timestamp::from_millis(until) };
    Ok(Standing {
        tier: Tier::from_number(stored.tier).ok_or_else(|| format!("{} is no tier", stored.tier))?,
        since: Timestamp::from_millis(stored.since),
        counts_from: Timestamp::from_millis(stored.from),
        reason,
        recovering: stored.recovering,
        probes: Probes {
            generation: stored.generation,
            leases: stored.leases.into_iter().map(lease).collect(),
            successes: stored.successes,
            given: stored.given,
        },
        probed: Timestamp::from_millis(stored.probed),
        order,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_reads_back_as_it_was_written() {
        let at = Timestamp::from_millis;
        let mut standing = Standing {
            tier: Tier::Open,
            since: at(5),
            counts_from: at(4),
            reason: Reason::Errors { bad: 3, all: 9 },
            recovering: true,
            probes: Probes { generation: 7, leases: vec![Lease { probe: 2, until: at(99) }], successes: 11, given: 12 },
            probed: at(8),
            order: Some((Order::Fallbacks, at(1000))),
        };
        assert_eq!(decode(&encode(&standing)), Ok(standing.clone()));
        for reason in [Reason::Healthy, Reason::Late { late: 1, all: 2 }, Reason::NoWorker, Reason::Calm] {
            standing.reason = reason;
            assert_eq!(decode(&encode(&standing)), Ok(standing.clone()));
        }
        assert!(decode(&encode(&standing).replace("\"v\":1", "\"v\":2")).is_err());
    }
}
