//! The earlier tries of requests, in the `attempt` table.

use async_trait::async_trait;
use penstock_policy::attempt::{Attempt, Hold, MOST};
use penstock_policy::id::{JobId, Nonce};
use penstock_service::ports::{AttemptClaim, Attempts, MarkerKey, PortResult, Swapped};
use rusqlite::{Connection, params};

use crate::Sqlite;
use crate::rows::{moment, parsed, stored, unstored};

#[async_trait]
impl Attempts for Sqlite {
    async fn tries(&self, key: &MarkerKey) -> PortResult<Vec<Attempt>> {
        let key = key.clone();
        self.store.read(move |connection| tries(connection, &key)).await
    }

    async fn swap(&self, key: &MarkerKey, job: JobId, from: &Hold, to: &Hold) -> PortResult<Swapped> {
        let (key, from, to) = (key.clone(), *from, *to);
        self.store
            .write(move |connection| {
                let found = tries(connection, &key)?.into_iter().find(|attempt| attempt.job == job);
                match found {
                    Some(attempt) if attempt.hold == from || attempt.hold == to => {
                        write_hold(connection, &key, job, &to)?;
                        Ok(Swapped::Yes)
                    }
                    Some(_) | None => Ok(Swapped::No),
                }
            })
            .await
    }

    async fn forget_try(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        let key = key.clone();
        self.store.write(move |connection| forget(connection, &key, job)).await
    }
}

/// Remembers a try, and forgets the oldest beyond the most that are kept. One that is remembered already stays as it is.
pub(crate) fn note(connection: &Connection, claim: &AttemptClaim, job: JobId) -> rusqlite::Result<()> {
    let AttemptClaim { key, hold, expires } = claim;
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO attempt (tenant, digest, job, until, holder, deliveries, expires)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            key.tenant.as_str(),
            key.digest,
            job.to_string(),
            hold.until.as_millis(),
            stored(hold.holder.0),
            hold.deliveries,
            expires.as_millis()
        ])?;
    connection
        .prepare_cached(
            "DELETE FROM attempt WHERE tenant = ?1 AND digest = ?2 AND job NOT IN
             (SELECT job FROM attempt WHERE tenant = ?1 AND digest = ?2 ORDER BY job DESC LIMIT ?3)",
        )?
        .execute(params![key.tenant.as_str(), key.digest, i64::try_from(MOST).unwrap_or(i64::MAX)])
        .map(|_| ())
}

fn tries(connection: &Connection, key: &MarkerKey) -> rusqlite::Result<Vec<Attempt>> {
    connection
        .prepare_cached(
            "SELECT job, until, holder, deliveries FROM attempt WHERE tenant = ? AND digest = ? ORDER BY job",
        )?
        .query_map(params![key.tenant.as_str(), key.digest], |row| {
            let hold = Hold { until: moment(row, 1)?, holder: Nonce(unstored(row.get(2)?)), deliveries: row.get(3)? };
            Ok(Attempt { job: parsed(row, 0, "job id")?, hold })
        })?
        .collect()
}

fn write_hold(connection: &Connection, key: &MarkerKey, job: JobId, hold: &Hold) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE attempt SET until = ?, holder = ?, deliveries = ? WHERE tenant = ? AND digest = ? AND job = ?",
        )?
        .execute(params![
            hold.until.as_millis(),
            stored(hold.holder.0),
            hold.deliveries,
            key.tenant.as_str(),
            key.digest,
            job.to_string()
        ])
        .map(|_| ())
}

fn forget(connection: &Connection, key: &MarkerKey, job: JobId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM attempt WHERE tenant = ? AND digest = ? AND job = ?")?
        .execute(params![key.tenant.as_str(), key.digest, job.to_string()])
        .map(|_| ())
}
