//! Tallies: a row for each count, and one for the tally itself that remembers its last addition.

use async_trait::async_trait;
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Addition, Counts, PortResult, Tally, TallyKey};
use rusqlite::{Connection, OptionalExtension, params};

use crate::Sqlite;
use crate::rows::stored;

#[async_trait]
impl Tally for Sqlite {
    async fn add(&self, key: &TallyKey, counts: &Counts, expires: Timestamp, nonce: Nonce) -> PortResult<()> {
        let (key, counts) = (key.clone(), counts.clone());
        self.store.write(move |connection| add(connection, &key, &counts, expires, nonce)).await
    }

    async fn sums(&self, keys: &[TallyKey]) -> PortResult<Vec<Counts>> {
        let keys = keys.to_vec();
        self.store
            .read(move |connection| {
                let mut statement = connection.prepare_cached("SELECT name, value FROM tally_count WHERE tally = ?")?;
                keys.iter()
                    .map(|key| {
                        statement.query_map(params![key.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
                    })
                    .collect()
            })
            .await
    }

    async fn clear(&self, key: &TallyKey) -> PortResult<()> {
        let key = key.clone();
        self.store
            .write(move |connection| {
                connection.prepare_cached("DELETE FROM tally_count WHERE tally = ?")?.execute(params![key.as_str()])?;
                connection.prepare_cached("DELETE FROM tally WHERE key = ?")?.execute(params![key.as_str()]).map(|_| ())
            })
            .await
    }
}

fn add(
    connection: &Connection,
    key: &TallyKey,
    counts: &Counts,
    expires: Timestamp,
    nonce: Nonce,
) -> rusqlite::Result<()> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT nonce FROM tally WHERE key = ?")?
        .query_row(params![key.as_str()], |row| row.get(0))
        .optional()?;
    if last == Some(stored(nonce.0)) {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO tally (key, expires, nonce) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET expires = max(expires, ?2), nonce = ?3",
        )?
        .execute(params![key.as_str(), expires.as_millis(), stored(nonce.0)])?;
    add_counts(connection, key, counts)
}

/// Adds as a part of the transaction that the step it belongs to is made in, which happens once.
pub(crate) fn add_up(connection: &Connection, addition: &Addition) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO tally (key, expires, nonce) VALUES (?1, ?2, 0)
             ON CONFLICT (key) DO UPDATE SET expires = max(expires, ?2)",
        )?
        .execute(params![addition.key.as_str(), addition.expires.as_millis()])?;
    add_counts(connection, &addition.key, &addition.counts)
}

fn add_counts(connection: &Connection, key: &TallyKey, counts: &Counts) -> rusqlite::Result<()> {
    for (name, value) in counts {
        connection
            .prepare_cached(
                "INSERT INTO tally_count (tally, name, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (tally, name) DO UPDATE SET value = value + ?3",
            )?
            .execute(params![key.as_str(), name, value])?;
    }
    Ok(())
}

/// Removes the tallies that may go.
pub(crate) fn sweep(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    let before = params![before.as_millis()];
    connection.execute("DELETE FROM tally_count WHERE tally IN (SELECT key FROM tally WHERE expires < ?1)", before)?;
    connection.execute("DELETE FROM tally WHERE expires < ?1", before).map(|_| ())
}
