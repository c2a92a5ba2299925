//! The board.

use async_trait::async_trait;
use penstock_policy::id::Nonce;
use penstock_service::ports::{Board, BoardKey, PortResult, Posted, Stale};
use rusqlite::{OptionalExtension, params};

use crate::Sqlite;
use crate::rows::{stored, unstored};

#[async_trait]
impl Board for Sqlite {
    async fn read(&self, key: &BoardKey) -> PortResult<Option<Posted>> {
        let key = key.clone();
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT text, version FROM board WHERE key = ?")?
                    .query_row(params![key.as_str()], |row| {
                        Ok(Posted { text: row.get(0)?, version: unstored(row.get(1)?) })
                    })
                    .optional()
            })
            .await
    }

    async fn post(
        &self,
        key: &BoardKey,
        text: &str,
        replaces: Option<u64>,
        nonce: Nonce,
    ) -> PortResult<Result<u64, Stale>> {
        let (key, text) = (key.clone(), text.to_owned());
        self.store
            .write(move |connection| {
                let found = connection
                    .prepare_cached("SELECT version, nonce FROM board WHERE key = ?")?
                    .query_row(params![key.as_str()], |row| Ok((unstored(row.get(0)?), Nonce(unstored(row.get(1)?)))))
                    .optional()?;
                match found {
                    Some((version, before)) if before == nonce => return Ok(Ok(version)),
                    found if found.map(|(version, _)| version) != replaces => return Ok(Err(Stale)),
                    Some(_) | None => {}
                }
                let version = replaces.unwrap_or(0).saturating_add(1);
                connection
                    .prepare_cached("INSERT OR REPLACE INTO board (key, text, version, nonce) VALUES (?, ?, ?, ?)")?
                    .execute(params![key.as_str(), text, stored(version), stored(nonce.0)])?;
                Ok(Ok(version))
            })
            .await
    }
}
