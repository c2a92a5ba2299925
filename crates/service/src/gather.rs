//! Counts gathered in memory and added to the shared tallies once in a few seconds: a thousand requests a second cost one
//! write every five. What a process that dies had not added is lost, which changes a share by little.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;

use crate::Ports;
use crate::ports::{Counts, TallyKey};

/// How long counts are gathered.
const GATHER: Duration = Duration::from_secs(5);

/// When a span of time has ended for so long, nobody adds to its tallies any more; a little longer, for a slow store.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Gathered {
    tallies: BTreeMap<TallyKey, (Counts, Timestamp)>,
    /// A task is on its way that will add them.
    awaited: bool,
}

/// Gathers counts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gather {
    ports: Ports,
    gathered: Arc<Mutex<Gathered>>,
}

impl Gather {
    pub(crate) fn new(ports: Ports) -> Self {
        Self { ports, gathered: Arc::default() }
    }

    /// Counts under `key`, which may be removed at `expires`.
    pub(crate) fn count<'n>(
        &self,
        key: TallyKey,
        counts: impl IntoIterator<Item = (&'n str, i64)>,
        expires: Timestamp,
        now: Timestamp,
    ) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let (tally, until) = gathered.tallies.entry(key).or_insert_with(|| (Counts::new(), expires));
        *until = expires;
        for (name, count) in counts {
            *tally.entry(name.to_owned()).or_default() += count;
        }
        if !std::mem::replace(&mut gathered.awaited, true) {
            let gather = self.clone();
            let task = async move {
                gather.ports.clock.sleep_until(now.after(GATHER)).await;
                gather.add().await;
            };
            self.ports.spawner.spawn(task.boxed());
        }
    }

    async fn add(&self) {
        let tallies = {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            gathered.awaited = false;
            std::mem::take(&mut gathered.tallies)
        };
        for (key, (counts, expires)) in tallies {
            let nonce = Nonce(((self.ports.entropy.draw() >> 64) as u64).max(1));
            if let Err(error) = self.ports.tally.add(&key, &counts, expires, nonce).await {
                tracing::warn!(tally = key.as_str(), %error, "gathered counts are lost");
            }
        }
    }
}
