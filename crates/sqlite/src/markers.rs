//! Single-flight and idempotency markers in the `marker` table.

use async_trait::async_trait;
use penstock_policy::id::JobId;
use penstock_policy::marker::Marker;
use penstock_service::ports::{MarkerClaim, MarkerKey, Markers, PortResult};
use rusqlite::{Connection, OptionalExtension, params};

use penstock_policy::time::Timestamp;

use crate::Sqlite;
use crate::rows::{moment, parsed, stored, unstored};

#[async_trait]
impl Markers for Sqlite {
    async fn find(&self, key: &MarkerKey) -> PortResult<Option<Marker>> {
        let key = key.clone();
        self.store.read(move |connection| find(connection, &key)).await
    }

    async fn clear(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        let key = key.clone();
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM marker WHERE tenant = ? AND digest = ? AND job = ?")?
                    .execute(params![key.tenant.as_str(), key.digest, job.to_string()])
                    .map(|_| ())
            })
            .await
    }
}

/// Reads a marker.
pub(crate) fn find(connection: &Connection, key: &MarkerKey) -> rusqlite::Result<Option<Marker>> {
    connection
        .prepare_cached("SELECT job, fingerprint, written, expires FROM marker WHERE tenant = ? AND digest = ?")?
        .query_row(params![key.tenant.as_str(), key.digest], |row| {
            Ok(Marker {
                job: parsed(row, 0, "job id")?,
                fingerprint: unstored(row.get(1)?),
                written: moment(row, 2)?,
                expires: moment(row, 3)?,
            })
        })
        .optional()
}

/// Removes a marker, whosever it is.
pub(crate) fn remove(connection: &Connection, key: &MarkerKey) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM marker WHERE tenant = ? AND digest = ?")?
        .execute(params![key.tenant.as_str(), key.digest])
        .map(|_| ())
}

/// Writes `claim`'s marker for `job`.
pub(crate) fn write(connection: &Connection, claim: &MarkerClaim, job: JobId, now: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO marker (tenant, digest, job, fingerprint, written, expires) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            claim.key.tenant.as_str(),
            claim.key.digest,
            job.to_string(),
            stored(claim.fingerprint),
            now.as_millis(),
            claim.expires.as_millis()
        ])
        .map(|_| ())
}
