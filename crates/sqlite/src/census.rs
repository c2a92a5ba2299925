//! The census, by an index of the jobs it lists.

use async_trait::async_trait;
use penstock_policy::id::JobId;
use penstock_service::ports::{Census, Page, PortResult};
use rusqlite::params;

use crate::Sqlite;
use crate::rows::parsed;

/// Jobs of one page.
const PAGE: u32 = 200;

#[async_trait]
impl Census for Sqlite {
    async fn open_jobs(&self, after: Option<&str>) -> PortResult<Page<Vec<JobId>>> {
        let after = after.unwrap_or_default().to_owned();
        let found: Vec<JobId> = self
            .store
            .read(move |connection| {
                // The first condition is the index's own, word for word.
                connection
                    .prepare_cached(
                        "SELECT id FROM job WHERE (state IN ('Q', 'R') OR unsettled = 1) AND id > ? ORDER BY id LIMIT ?",
                    )?
                    .query_map(params![after, PAGE], |row| parsed(row, 0, "job"))?
                    .collect()
            })
            .await?;
        let next = (found.len() == PAGE as usize).then(|| found.last().map(ToString::to_string)).flatten();
        Ok(Page { found, next })
    }
}
