//! Shelves.

use async_trait::async_trait;
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Order, PortResult, Posted, Shelf, ShelfId, Shelved, Stale};
use rusqlite::{OptionalExtension, params};

use crate::Sqlite;
use crate::rows::{stored, unstored};

#[async_trait]
impl Shelf for Sqlite {
    async fn find(&self, shelf: &ShelfId, name: &str) -> PortResult<Option<Posted>> {
        let (shelf, name) = (shelf.clone(), name.to_owned());
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT text, version FROM shelf WHERE shelf = ? AND name = ?")?
                    .query_row(params![shelf.as_str(), name], |row| {
                        Ok(Posted { text: row.get(0)?, version: unstored(row.get(1)?) })
                    })
                    .optional()
            })
            .await
    }

    async fn place(
        &self,
        shelf: &ShelfId,
        name: &str,
        text: &str,
        replaces: Option<u64>,
        expires: Option<Timestamp>,
        nonce: Nonce,
    ) -> PortResult<Result<u64, Stale>> {
        let (shelf, name, text) = (shelf.clone(), name.to_owned(), text.to_owned());
        self.store
            .write(move |connection| {
                let found = connection
                    .prepare_cached("SELECT version, nonce FROM shelf WHERE shelf = ? AND name = ?")?
                    .query_row(params![shelf.as_str(), name], |row| {
                        Ok((unstored(row.get(0)?), Nonce(unstored(row.get(1)?))))
                    })
                    .optional()?;
                match found {
                    Some((version, before)) if before == nonce => return Ok(Ok(version)),
                    found if found.map(|(version, _)| version) != replaces => return Ok(Err(Stale)),
                    Some(_) | None => {}
                }
                let version = replaces.unwrap_or(0).saturating_add(1);
                connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO shelf (shelf, name, text, version, nonce, expires)
                         VALUES (?, ?, ?, ?, ?, ?)",
                    )?
                    .execute(params![
                        shelf.as_str(),
                        name,
                        text,
                        stored(version),
                        stored(nonce.0),
                        expires.map(Timestamp::as_millis)
                    ])?;
                Ok(Ok(version))
            })
            .await
    }

    async fn walk(&self, shelf: &ShelfId, order: Order, after: Option<&str>, most: usize) -> PortResult<Vec<Shelved>> {
        let (shelf, after) = (shelf.clone(), after.map(str::to_owned));
        let query = match order {
            Order::Rising => {
                "SELECT name, text, version FROM shelf WHERE shelf = ?1 AND (?2 IS NULL OR name > ?2)
                 ORDER BY name LIMIT ?3"
            }
            Order::Falling => {
                "SELECT name, text, version FROM shelf WHERE shelf = ?1 AND (?2 IS NULL OR name < ?2)
                 ORDER BY name DESC LIMIT ?3"
            }
        };
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached(query)?
                    .query_map(params![shelf.as_str(), after, most], |row| {
                        let document = Posted { text: row.get(1)?, version: unstored(row.get(2)?) };
                        Ok(Shelved { name: row.get(0)?, document })
                    })?
                    .collect()
            })
            .await
    }

    async fn take_away(&self, shelf: &ShelfId, name: &str) -> PortResult<()> {
        let (shelf, name) = (shelf.clone(), name.to_owned());
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM shelf WHERE shelf = ? AND name = ?")?
                    .execute(params![shelf.as_str(), name])
                    .map(|_| ())
            })
            .await
    }
}
