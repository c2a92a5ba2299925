//! How a pool fares, counted by everybody who sees one of its jobs begin or end, in slots of ten seconds.
//!
//! Counts are gathered in memory and added to the shared tally once in a few seconds: a thousand jobs a second cost one
//! write every five. What a process that dies had not added is lost, which changes a share by little.
//!
//! What counts as an error: a job that ended as our failure, and each attempt that came to nothing (an engine's fault, a
//! lease that lapsed), counted by the next worker that claims the job, since of a worker that died nobody else can
//! tell. What does not: the client's mistakes, cancelling, work handed back on purpose, refusals at the door.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use penstock_policy::degrade::{self, SLOT};
use penstock_policy::id::{Nonce, PoolId};
use penstock_policy::time::Timestamp;

use crate::Ports;
use crate::ports::{Counts, TallyKey};

/// How long counts are gathered.
const GATHER: Duration = Duration::from_secs(5);

/// How long a slot is kept, for those who look back.
const KEPT: Duration = Duration::from_secs(3600);

/// What was seen of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It ended well, or by the client's fault.
    Well,
    /// It, or an attempt at it, failed by ours.
    Failed,
    /// It was not begun in time, or did not say a word in time.
    TimedOut,
    /// A job of an urgent class was started.
    Started {
        /// It had waited too long.
        late: bool,
    },
}

/// Which slot a moment belongs to.
pub(crate) fn slot_of(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(slot_ms())
}

/// When a slot began.
pub(crate) fn begin_of(slot: i64) -> Timestamp {
    Timestamp::from_millis(slot.saturating_mul(slot_ms()))
}

fn slot_ms() -> i64 {
    i64::try_from(SLOT.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// The tally of a pool's slot.
pub(crate) fn key_of(pool: &PoolId, slot: i64) -> TallyKey {
    TallyKey::new("health", pool.as_str(), &slot.to_string())
}

/// Counts as stored; what is zero is left out.
pub(crate) fn stored(counts: &degrade::Counts) -> Counts {
    let named = [
        ("ok", counts.ok),
        ("er", counts.errors),
        ("to", counts.timeouts),
        ("st", counts.started),
        ("la", counts.late),
    ];
    let some = named.into_iter().filter(|(_, count)| *count > 0);
    some.map(|(name, count)| (name.to_owned(), i64::try_from(count).unwrap_or(i64::MAX))).collect()
}

/// Counts as read.
pub(crate) fn read(stored: &Counts) -> degrade::Counts {
    let of = |name: &str| stored.get(name).and_then(|count| u64::try_from(*count).ok()).unwrap_or(0);
    degrade::Counts { ok: of("ok"), errors: of("er"), timeouts: of("to"), started: of("st"), late: of("la") }
}

#[derive(Default)]
struct Gathered {
    slots: BTreeMap<(PoolId, i64), degrade::Counts>,
    /// A task is on its way that will add them.
    awaited: bool,
}

/// Gathers counts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health {
    ports: Ports,
    gathered: Arc<Mutex<Gathered>>,
}

impl Health {
    pub(crate) fn new(ports: Ports) -> Self {
        Self { ports, gathered: Arc::default() }
    }

    /// Counts what was seen.
    pub(crate) fn count(&self, pool: &PoolId, seen: Seen) {
        let now = self.ports.clock.now();
        let one = match seen {
            Seen::Well => degrade::Counts { ok: 1, ..degrade::Counts::default() },
            Seen::Failed => degrade::Counts { errors: 1, ..degrade::Counts::default() },
            Seen::TimedOut => degrade::Counts { timeouts: 1, ..degrade::Counts::default() },
            Seen::Started { late } => {
                degrade::Counts { started: 1, late: u64::from(late), ..degrade::Counts::default() }
            }
        };
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = gathered.slots.entry((pool.clone(), slot_of(now))).or_default();
        *slot = slot.plus(one);
        if !std::mem::replace(&mut gathered.awaited, true) {
            let health = self.clone();
            let task = async move {
                health.ports.clock.sleep_until(now.after(GATHER)).await;
                health.add().await;
            };
            self.ports.spawner.spawn(task.boxed());
        }
    }

    async fn add(&self) {
        let slots = {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            gathered.awaited = false;
            std::mem::take(&mut gathered.slots)
        };
        for ((pool, slot), counts) in slots {
            let nonce = Nonce(((self.ports.entropy.draw() >> 64) as u64).max(1));
            let expires = begin_of(slot).after(KEPT);
            if let Err(error) = self.ports.tally.add(&key_of(&pool, slot), &stored(&counts), expires, nonce).await {
                tracing::warn!(%pool, %error, "counts of a pool's health are lost");
            }
        }
    }
}
