//! Erasing on SQLite and the local disk.

use async_trait::async_trait;
use penstock_policy::id::{JobId, TenantId};
use penstock_service::ports::{Erasure, Forget, Page, PortError, PortResult};
use penstock_service::{contents_of, noted_of};
use rusqlite::params;

use crate::rows::parsed;
use crate::{DiskBlobs, Sqlite};

/// Jobs of one page.
const PAGE: u32 = 100;

/// The database and the folder of payloads, which are erased together.
pub(crate) struct Eraser {
    pub(crate) sqlite: Sqlite,
    pub(crate) blobs: DiskBlobs,
}

#[async_trait]
impl Erasure for Eraser {
    async fn jobs_of(&self, tenant: &TenantId, after: Option<&str>) -> PortResult<Page<Vec<JobId>>> {
        let (tenant, after) = (tenant.clone(), after.unwrap_or_default().to_owned());
        let found: Vec<JobId> = self
            .sqlite
            .store
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT id FROM job WHERE id > ? AND json_extract(spec, '$.ten') = ? ORDER BY id LIMIT ?",
                    )?
                    .query_map(params![after, tenant.as_str(), PAGE], |row| parsed(row, 0, "job"))?
                    .collect()
            })
            .await?;
        let next = (found.len() == PAGE as usize).then(|| found.last().map(ToString::to_string)).flatten();
        Ok(Page { found, next })
    }

    async fn forget(&self, job: JobId, what: Forget) -> PortResult<()> {
        for kind in ["req", "res"] {
            self.blobs.remove_all(kind, &format!("{job}-"))?;
        }
        let change = match what {
            Forget::Words => "UPDATE job SET forgotten = 1 WHERE id = ?",
            Forget::Everything => {
                "UPDATE job SET forgotten = 1, spec = NULL, owner = NULL, digest = NULL, outcome = NULL, story = NULL
                 WHERE id = ?"
            }
        };
        self.sqlite
            .store
            .write(move |connection| {
                connection.prepare_cached("DELETE FROM chunk WHERE job = ?")?.execute(params![job.to_string()])?;
                connection.prepare_cached(change)?.execute(params![job.to_string()]).map(|_| ())
            })
            .await
    }

    async fn remove_traces(&self, tenant: &TenantId, _after: Option<&str>) -> PortResult<Page<u64>> {
        let tenant = tenant.clone();
        let of = tenant.clone();
        let digests: Vec<String> = self
            .sqlite
            .store
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT DISTINCT digest FROM answer WHERE tenant = ?")?
                    .query_map(params![of.as_str()], |row| row.get(0))?
                    .collect()
            })
            .await?;
        for kept in [noted_of(&tenant), contents_of(&tenant)] {
            self.blobs.remove_all(&kept, "")?;
        }
        for digest in digests {
            self.blobs.remove_all("kept", &format!("{digest}-"))?;
        }
        let removed = self
            .sqlite
            .store
            .write(move |connection| {
                let messages = "DELETE FROM message WHERE json_extract(body, '$.ten') = ?";
                let mut removed = connection.execute(messages, params![tenant.as_str()])?;
                for table in ["marker", "attempt", "answer", "parked"] {
                    let rows = format!("DELETE FROM {table} WHERE tenant = ?");
                    removed += connection.execute(&rows, params![tenant.as_str()])?;
                }
                Ok(removed)
            })
            .await?;
        Ok(Page { found: u64::try_from(removed).unwrap_or(u64::MAX), next: None })
    }

    async fn scrub(&self) -> PortResult<()> {
        self.sqlite.store.compact().await
    }
}

impl DiskBlobs {
    /// Removes the blobs of a kind whose names begin so: payloads are `req/<job>-<attempt>`, vectors `res/<job>-<epoch>`,
    /// large answers `kept/<digest>-<job>`.
    fn remove_all(&self, kind: &str, prefix: &str) -> PortResult<()> {
        let failure = |error: std::io::Error| PortError::Unavailable { store: "disk", cause: error.to_string() };
        let Ok(entries) = std::fs::read_dir(self.folder().join(kind)) else { return Ok(()) };
        for entry in entries {
            let entry = entry.map_err(failure)?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                std::fs::remove_file(entry.path()).map_err(failure)?;
            }
        }
        Ok(())
    }
}
