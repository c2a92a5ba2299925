//! What is asked for most, told from process to process.
//!
//! Each process counts for itself (`memory`) and once a minute puts its hottest keys among those on the board, and takes the
//! list over: so a process that has just started cares for hot answers from its first minute on, and the operator can see
//! which they are. The list holds digests, which tell nothing of a prompt.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use penstock_policy::hot::{Hottest, MOST, cooled, merged};
use penstock_policy::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::kept::memory::HALVED_EVERY;
use crate::ports::{BoardKey, PortResult};

/// How often a process tells its list.
pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How many keys one process tells of.
const TOLD: usize = 32;

#[derive(Serialize, Deserialize)]
struct Listed {
    v: u32,
    /// When the counts were halved last.
    at: i64,
    keys: Hottest,
}

impl Service {
    /// Tells the others what is asked for most here, beside the caller, if a minute has passed since the last time.
    pub(crate) fn tell_heat(self: &Arc<Self>, now: Timestamp) {
        if !self.memory.is_time_to_tell(now) {
            return;
        }
        let service = Arc::clone(self);
        let telling = async move {
            if let Err(error) = service.exchange_heat(now).await {
                tracing::warn!(%error, "what is asked for most is not told");
            }
        };
        self.ports.spawner.spawn(telling.boxed());
    }

    async fn exchange_heat(&self, now: Timestamp) -> PortResult<()> {
        let ours = self.memory.hottest(TOLD);
        let posted = self.ports.board.read(&hottest_at()).await?;
        let listed = posted.as_ref().and_then(|posted| serde_json::from_str::<Listed>(&posted.text).ok());
        let (at, theirs) = match listed.filter(|listed| listed.v == 1) {
            None => (now, Hottest::new()),
            Some(listed) => {
                let at = Timestamp::from_millis(listed.at);
                let halvings = u32::try_from(now.since(at).as_secs() / HALVED_EVERY.as_secs()).unwrap_or(u32::MAX);
                (at.after(HALVED_EVERY.saturating_mul(halvings)), cooled(&listed.keys, halvings))
            }
        };
        let keys = merged(&theirs, &ours, MOST);
        self.memory.learn(&keys);
        if !ours.is_empty() {
            let text = serde_json::to_string(&Listed { v: 1, at: at.as_millis(), keys }).unwrap_or_default();
            // Whoever was faster told its own; ours is told in a minute.
            let replaces = posted.map(|posted| posted.version);
            let _ = self.ports.board.post(&hottest_at(), &text, replaces, self.nonce()).await?;
        }
        Ok(())
    }
}

fn hottest_at() -> BoardKey {
    BoardKey::new("hot", "all")
}
