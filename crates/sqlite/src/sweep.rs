//! Retention: what has ended long ago is removed.
//!
//! A job goes with its chunks once it has ended and is settled; a payload goes by its age alone, which is why the age
//! must exceed the longest time that a message waits.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_policy::time::Timestamp;
use penstock_service::ports::{PortError, PortResult};
use rusqlite::params;

use crate::{DiskBlobs, Sqlite};

/// When an answer that was not to be stored must have been delivered, whatever happened.
const DELIVERED_WITHIN: Duration = Duration::from_secs(600);

impl Sqlite {
    /// Removes jobs that have been kept as long as their tenants say (those that do not say: which ended before `before`),
    /// with their chunks, and markers, tallies and dead letters older than `before`; and the words of answers that were
    /// not to be stored, if whoever was to remove them has died. Looks at every job, so it is for now and then.
    ///
    /// # Errors
    /// If the database fails; nothing is removed then.
    pub async fn sweep(&self, before: Timestamp) -> PortResult<()> {
        // A job whose message may still come back is kept until it is past due, so that it is not run again.
        const ENDED: &str = "unsettled = 0 AND coalesce(json_extract(spec, '$.due'), 0) < ?2
            AND finished < coalesce(?2 - 1000 * json_extract(spec, '$.keep'), ?1)";
        const UNSTORED: &str = "forgotten = 0 AND finished < ?1 AND json_extract(spec, '$.unstored') = 1";
        let (before, now) = (before.as_millis(), self.clock.now());
        let delivered = now.before(DELIVERED_WITHIN).as_millis();
        let now = now.as_millis();
        self.store
            .write(move |connection| {
                let chunks = format!("DELETE FROM chunk WHERE job IN (SELECT id FROM job WHERE {ENDED})");
                connection.execute(&chunks, params![before, now])?;
                connection.execute(&format!("DELETE FROM job WHERE {ENDED}"), params![before, now])?;
                let words = format!("DELETE FROM chunk WHERE job IN (SELECT id FROM job WHERE {UNSTORED})");
                connection.execute(&words, params![delivered])?;
                connection.execute(&format!("UPDATE job SET forgotten = 1 WHERE {UNSTORED}"), params![delivered])?;
                connection.execute("DELETE FROM marker WHERE expires < ?1", params![before])?;
                connection.execute("DELETE FROM attempt WHERE expires < ?1", params![before])?;
                connection.execute("DELETE FROM answer WHERE forgotten < ?1", params![before])?;
                connection.execute("DELETE FROM shelf WHERE expires < ?1", params![now])?;
                let dead = "DELETE FROM message WHERE sent < ?1 AND queue LIKE '%-dlq'";
                connection.execute(dead, params![before])?;
                // A budget's period is over by then; a sum that something is still held of is kept.
                let sums = "DELETE FROM hold_total WHERE touched < ?1 - 40 * 86400000
                            AND NOT EXISTS (SELECT 1 FROM hold WHERE hold.key = hold_total.key)";
                connection.execute(sums, params![before])?;
                crate::tally::sweep(connection, Timestamp::from_millis(before))
            })
            .await
    }
}

/// The folders of payloads, of answers too large for an entry, and of what is kept of responses.
const SWEPT: [&str; 3] = ["req", "kept", "resp"];

impl DiskBlobs {
    /// Removes payloads, and what is kept of responses, written before `before`.
    ///
    /// # Errors
    /// If a folder cannot be read or a file not removed.
    pub fn sweep(&self, before: Timestamp) -> PortResult<()> {
        let moment = UNIX_EPOCH + Duration::from_millis(u64::try_from(before.as_millis()).unwrap_or(0));
        let failure = |error: std::io::Error| PortError::Unavailable { store: "disk", cause: error.to_string() };
        SWEPT.iter().try_for_each(|folder| sweep(&self.folder().join(folder), moment)).map_err(failure)
    }
}

fn sweep(folder: &Path, before: SystemTime) -> std::io::Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            sweep(&entry.path(), before)?;
        } else if metadata.modified()? < before {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use penstock_policy::id::{JobId, Nonce};
    use penstock_policy::job::Step;
    use penstock_service::ports::{BlobKey, Blobs, Jobs, Stepped};
    use penstock_service::system::SystemClock;

    use super::*;

    #[tokio::test]
    async fn what_ended_long_ago_goes_and_what_is_unsettled_or_young_stays() {
        let sqlite = Sqlite::in_memory(Arc::new(SystemClock)).unwrap();
        let day = |n: i64| Timestamp::from_millis(n * 86_400_000);
        let ids: Vec<JobId> = (0..3).map(|n| JobId::new(day(n), 1)).collect();
        let steps = [
            (ids[0], Step::Expire, 0),
            (ids[0], Step::Settle, 0),
            (ids[1], Step::Expire, 1),
            (ids[2], Step::Expire, 9),
            (ids[2], Step::Settle, 9),
        ];
        for (nonce, (id, step, n)) in steps.into_iter().enumerate() {
            sqlite.step(id, &Stepped::from(step), Nonce(nonce as u64 + 1), day(n)).await.unwrap().unwrap();
        }
        sqlite.sweep(day(5)).await.unwrap();
        let mut left = Vec::new();
        for id in ids {
            left.push(sqlite.record(id).await.unwrap().is_some());
        }
        assert_eq!(left, [false, true, true]);
    }

    #[tokio::test]
    async fn a_payload_goes_by_its_age() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DiskBlobs::new(folder.path());
        blobs.sweep(Timestamp::MAX).unwrap();
        for key in ["req/a", "resp/tenant/b"].map(|key| BlobKey::new(key).unwrap()) {
            blobs.put(&key, Bytes::from_static(b"x")).await.unwrap();
            blobs.sweep(Timestamp::EPOCH).unwrap();
            assert!(blobs.get(&key).await.unwrap().is_some());
            blobs.sweep(Timestamp::from_millis(i64::MAX / 2_000_000)).unwrap();
            assert!(blobs.get(&key).await.unwrap().is_none());
        }
    }
}
