//! Kept answers in the `answer` table.

use async_trait::async_trait;
use bytes::Bytes;
use penstock_service::ports::{Answers, Entry, Looked, MarkerKey, PortResult};
use rusqlite::{Connection, OptionalExtension, params};

use crate::rows::moment;
use crate::{Sqlite, markers};

#[async_trait]
impl Answers for Sqlite {
    async fn look(&self, key: &MarkerKey, copy: u8) -> PortResult<Looked> {
        let key = key.clone();
        self.store
            .read(move |connection| {
                Ok(Looked { entry: find(connection, &key, copy)?, marker: markers::find(connection, &key)? })
            })
            .await
    }

    async fn keep(&self, key: &MarkerKey, copy: u8, entry: &Entry) -> PortResult<()> {
        let (key, entry) = (key.clone(), entry.clone());
        self.store.write(move |connection| keep(connection, &key, copy, &entry)).await
    }

    async fn forget(&self, key: &MarkerKey, copy: u8) -> PortResult<()> {
        let key = key.clone();
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM answer WHERE tenant = ? AND digest = ? AND copy = ?")?
                    .execute(params![key.tenant.as_str(), key.digest, copy])
                    .map(|_| ())
            })
            .await
    }
}

fn find(connection: &Connection, key: &MarkerKey, copy: u8) -> rusqlite::Result<Option<Entry>> {
    connection
        .prepare_cached("SELECT made, forgotten, body FROM answer WHERE tenant = ? AND digest = ? AND copy = ?")?
        .query_row(params![key.tenant.as_str(), key.digest, copy], |row| {
            let body: Vec<u8> = row.get(2)?;
            Ok(Entry { made: moment(row, 0)?, forgotten: moment(row, 1)?, body: Bytes::from(body) })
        })
        .optional()
}

fn keep(connection: &Connection, key: &MarkerKey, copy: u8, entry: &Entry) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO answer (tenant, digest, copy, made, forgotten, body) VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT (tenant, digest, copy) DO UPDATE
             SET made = excluded.made, forgotten = excluded.forgotten, body = excluded.body
             WHERE answer.made <= excluded.made",
        )?
        .execute(params![
            key.tenant.as_str(),
            key.digest,
            copy,
            entry.made.as_millis(),
            entry.forgotten.as_millis(),
            entry.body.as_ref()
        ])
        .map(|_| ())
}
