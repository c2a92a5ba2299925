//! Parked jobs: a row each in the `parked` table, with the message, as long as the job's state is P.

use async_trait::async_trait;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::parking::Parked;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Backlog, Message, Parking, PortError, PortResult, QueueId};
use penstock_service::stored::message;
use rusqlite::{Connection, OptionalExtension, params};

use crate::Sqlite;
use crate::rows::{moment, parsed, stored, unstored};

#[async_trait]
impl Parking for Sqlite {
    async fn tenants(&self, queue: &QueueId, after: Option<&TenantId>, most: usize) -> PortResult<Vec<TenantId>> {
        let (queue, mut after) = (queue.clone(), after.map_or_else(String::new, ToString::to_string));
        self.store
            .read(move |connection| {
                // One seek in the index a tenant, however many jobs each has.
                let mut next = connection.prepare_cached(
                    "SELECT tenant FROM parked WHERE pool = ? AND class = ? AND tenant > ? ORDER BY tenant LIMIT 1",
                )?;
                let mut found = Vec::new();
                while found.len() < most.max(1) {
                    let place = params![queue.pool.as_str(), queue.class.name(), after];
                    let tenant: Option<TenantId> = next.query_row(place, |row| parsed(row, 0, "tenant")).optional()?;
                    let Some(tenant) = tenant else { break };
                    after = tenant.to_string();
                    found.push(tenant);
                }
                Ok(found)
            })
            .await
    }

    async fn parked(
        &self,
        queue: &QueueId,
        tenant: &TenantId,
        from: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Parked>> {
        let (queue, tenant) = (queue.clone(), tenant.clone());
        let most = i64::try_from(most.max(1)).unwrap_or(i64::MAX);
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT due, job, tokens FROM parked
                         WHERE pool = ? AND class = ? AND tenant = ? AND due >= ? ORDER BY due, job LIMIT ?",
                    )?
                    .query_map(
                        params![queue.pool.as_str(), queue.class.name(), tenant.as_str(), from.as_millis(), most],
                        |row| {
                            let (due, job) = (moment(row, 0)?, parsed(row, 1, "job")?);
                            Ok(Parked { due, job, tenant: tenant.clone(), tokens: unstored(row.get(2)?) })
                        },
                    )?
                    .collect()
            })
            .await
    }

    async fn backlog(&self, queue: &QueueId) -> PortResult<Backlog> {
        let queue = queue.clone();
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT count(*), coalesce(sum(tokens), 0) FROM parked WHERE pool = ? AND class = ?",
                    )?
                    .query_row(params![queue.pool.as_str(), queue.class.name()], |row| {
                        Ok(Backlog { jobs: unstored(row.get(0)?), tokens: unstored(row.get(1)?) })
                    })
            })
            .await
    }

    async fn message(&self, job: JobId) -> PortResult<Option<Message>> {
        let body: Option<String> = self
            .store
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT body FROM parked WHERE job = ?")?
                    .query_row(params![job.to_string()], |row| row.get(0))
                    .optional()
            })
            .await?;
        let corrupt = |cause| PortError::Corrupt { what: "parked message", cause };
        body.map(|body| message::decode(&body).map_err(corrupt)).transpose()
    }
}

/// Stores the message of a job that is parked by the same transaction.
pub(crate) fn insert(connection: &Connection, message: &Message) -> rusqlite::Result<()> {
    let spec = &message.spec;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO parked (job, pool, class, tenant, due, tokens, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            spec.id.to_string(),
            spec.pool.as_str(),
            spec.class.name(),
            spec.tenant.as_str(),
            spec.due.as_millis(),
            stored(spec.estimated_tokens),
            message::encode(message)
        ])
        .map(|_| ())
}

/// Removes what is stored of a job that the same transaction takes out of state P.
pub(crate) fn remove(connection: &Connection, job: JobId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM parked WHERE job = ?")?.execute(params![job.to_string()]).map(|_| ())
}
