//! Prepared answers: a list of questions the operator wants answered before anybody asks.
//!
//! The list is JSON lines, each the body of a chat request; `penstock up` reads it from a file, AWS from a blob. Computing them ahead is asking them as the
//! operator, in the last class: what is kept and young is left alone, what is in the last part of its life is refreshed,
//! what is not kept is run. Their answers live for an hour at least, and are the only ones given beyond the tenant that
//! asked: to whoever sends exactly the same body and lets kept answers be given to it. The board says which there are, so
//! that a question that is on no list costs no read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use penstock_policy::cache::Wish;
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::TenantId;
use penstock_policy::tenant::{Caching, TenantLimits};
use penstock_policy::time::Timestamp;
use penstock_wire::chat::ChatRequest;
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::admission::admit::How;
use crate::admission::wanted::Wanted;
use crate::door::asked::Asked;
use crate::error::ApiError;
use crate::kept::canonical::{KeyOf, marker_key};
use crate::ports::{BlobKey, BoardKey, MarkerKey, PortResult, Tenant};

/// Where the list lies among the blobs of a deployment on AWS.
pub const PREPARED_LIST: &str = "prepared/questions.jsonl";

/// Whose the prepared answers are. No key is given to it.
const OPERATOR: &str = "penstock:prepared";

/// How long a prepared answer lives at least: preparing comes round many times before that.
pub(crate) const PREPARED_TTL: Duration = Duration::from_secs(3_600);

/// How long a process knows which answers are prepared.
const LIST_KNOWN: Duration = Duration::from_secs(60);

/// The characters of a key's digest that are on the board: enough to tell a million keys apart.
const SHORT: usize = 16;

/// The most questions of a list: as many as the board's document has room for.
pub const MOST_PREPARED: usize = 10_000;

/// What preparing came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Questions on the list.
    pub questions: usize,
    /// Answers that are kept and young.
    pub ready: usize,
    /// Questions that are being answered.
    pub asked: usize,
    /// Lines that are no good, with what is wrong, and questions that were refused.
    pub failed: Vec<(usize, String)>,
}

#[derive(Serialize, Deserialize)]
struct Listed {
    v: u32,
    keys: Vec<String>,
}

impl Service {
    /// The list that lies among the blobs, if there is one.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn prepared_list(&self) -> PortResult<Option<String>> {
        let Some(key) = BlobKey::new(PREPARED_LIST) else { return Ok(None) };
        let bytes = self.ports.blobs.get(&key).await?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Has the questions of the list answered that are not answered yet.
    ///
    /// # Errors
    /// If a store does not answer. A question that is wrong or refused is told of in the report and holds up no other.
    pub async fn preload(self: &Arc<Self>, list: &str) -> PortResult<Prepared> {
        let lines = (1..).zip(list.lines()).filter(|(_, line)| !line.trim().is_empty());
        let mut report = Prepared::default();
        let mut keys = BTreeSet::new();
        for (number, line) in lines.take(MOST_PREPARED) {
            report.questions += 1;
            match self.prepare(line).await {
                Ok((key, true)) => {
                    report.ready += 1;
                    keys.insert(short(&key));
                }
                Ok((key, false)) => {
                    report.asked += 1;
                    keys.insert(short(&key));
                }
                Err(error) => report.failed.push((number, error.body.error.message)),
            }
        }
        self.list(keys.into_iter().collect()).await?;
        Ok(report)
    }

    /// Asks one question; says whether its answer is ready.
    async fn prepare(self: &Arc<Self>, line: &str) -> Result<(MarkerKey, bool), ApiError> {
        let operator = operator().ok_or_else(ApiError::internal)?;
        let request = ChatRequest::parse(line.as_bytes())?;
        let wanted = Wanted::Chat(&request);
        let now = self.ports.clock.now();
        let pools = self.pools(now).await?;
        let pool = wanted.pool(&pools)?;
        let key = self.operator_key(&operator.id, &wanted.canonical(pool.id.as_str()));
        let admission = self.obtain_in(&operator, wanted, pool, &Asked::default(), now).await?;
        let ready = match admission.how {
            How::Kept { .. } => true,
            How::Fresh | How::Joined | How::Served | How::Elsewhere => false,
        };
        Ok((key, ready))
    }

    /// Posts which answers are prepared, if that has changed.
    async fn list(&self, keys: Vec<String>) -> PortResult<()> {
        let board = &self.ports.board;
        let posted = board.read(&listed_at()).await?;
        let text = serde_json::to_string(&Listed { v: 1, keys }).unwrap_or_default();
        if posted.as_ref().is_none_or(|posted| posted.text != text) {
            // Whoever was faster has read the same list.
            let _ = board.post(&listed_at(), &text, posted.map(|posted| posted.version), self.nonce()).await?;
        }
        Ok(())
    }

    /// The operator's key of a request, if its answer is prepared and may be given to a request of `tenant`.
    pub(crate) async fn prepared_key(
        &self,
        tenant: &Tenant,
        wish: &Wish,
        canonical: &[u8],
        now: Timestamp,
    ) -> Option<MarkerKey> {
        let unwelcome = tenant.caching == Caching::Off || wish.no_store || wish.no_cache;
        if unwelcome || tenant.id.as_str() == OPERATOR {
            return None;
        }
        let listed = match self.caches.prepared.get(&(), now) {
            Some(listed) => listed,
            None => {
                let listed = Arc::new(self.listed().await);
                self.caches.prepared.put((), Arc::clone(&listed), now, LIST_KNOWN);
                listed
            }
        };
        if listed.is_empty() {
            return None;
        }
        let key = self.operator_key(&TenantId::new(OPERATOR).ok()?, canonical);
        listed.contains(&short(&key)).then_some(key)
    }

    async fn listed(&self) -> BTreeSet<String> {
        match self.ports.board.read(&listed_at()).await {
            Ok(posted) => {
                let listed = posted.and_then(|posted| serde_json::from_str::<Listed>(&posted.text).ok());
                listed
                    .filter(|listed| listed.v == 1)
                    .map(|listed| listed.keys.into_iter().collect())
                    .unwrap_or_default()
            }
            Err(error) => {
                tracing::warn!(%error, "the list of prepared answers cannot be read");
                BTreeSet::new()
            }
        }
    }

    fn operator_key(&self, operator: &TenantId, canonical: &[u8]) -> MarkerKey {
        marker_key(&self.marker_secret, operator, &KeyOf::Request(canonical))
    }
}

/// Whether answers of this tenant are prepared ones.
pub(crate) fn is_operator(tenant: &TenantId) -> bool {
    tenant.as_str() == OPERATOR
}

fn operator() -> Option<Tenant> {
    let wide = Limit::new(1_000_000_000, Duration::from_secs(1), 1_000_000_000).ok()?;
    let limits = TenantLimits::rates(wide, wide);
    let operator = Tenant::new(TenantId::new(OPERATOR).ok()?, Class::P3, limits, Timestamp::EPOCH);
    Some(Tenant { caching: Caching::All, ..operator })
}

fn listed_at() -> BoardKey {
    BoardKey::new("prepared", "all")
}

fn short(key: &MarkerKey) -> String {
    key.digest.chars().take(SHORT).collect()
}
