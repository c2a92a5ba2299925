//! Control records: tenants, keys, pools, workers.

use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{KeyId, PoolId, TenantId, WorkerId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Control, KeyRecord, Pool, PortResult, Tenant, TenantLimits, WorkerRecord};
use rusqlite::{OptionalExtension, Row, params};

use crate::Sqlite;
use crate::rows::{malformed, moment, parsed, stored, unstored};

#[async_trait]
impl Control for Sqlite {
    async fn key(&self, id: &KeyId) -> PortResult<Option<KeyRecord>> {
        let id = id.clone();
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT tenant, secret_sha256, revoked FROM api_key WHERE id = ?")?
                    .query_row(params![id.as_str()], |row| {
                        Ok(KeyRecord {
                            id: id.clone(),
                            tenant: parsed(row, 0, "tenant")?,
                            secret_sha256: row.get(1)?,
                            revoked: row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis),
                        })
                    })
                    .optional()
            })
            .await
    }

    async fn put_key(&self, key: &KeyRecord) -> PortResult<()> {
        let key = key.clone();
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO api_key VALUES (?, ?, ?, ?)")?
                    .execute(params![
                        key.id.as_str(),
                        key.tenant.as_str(),
                        key.secret_sha256,
                        key.revoked.map(Timestamp::as_millis)
                    ])
                    .map(|_| ())
            })
            .await
    }

    async fn tenant(&self, id: &TenantId) -> PortResult<Option<Tenant>> {
        let id = id.clone();
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT ceiling, request_period_ns, request_burst, token_period_ns, token_burst
                         FROM tenant WHERE id = ?",
                    )?
                    .query_row(params![id.as_str()], |row| {
                        Ok(Tenant {
                            id: id.clone(),
                            ceiling: Class::from_name(row.get_ref(0)?.as_str()?)
                                .ok_or_else(|| malformed(0, "class"))?,
                            limits: TenantLimits { requests: limit(row, 1)?, tokens: limit(row, 3)? },
                        })
                    })
                    .optional()
            })
            .await
    }

    async fn put_tenant(&self, tenant: &Tenant) -> PortResult<()> {
        let tenant = tenant.clone();
        self.store
            .write(move |connection| {
                let TenantLimits { requests, tokens } = tenant.limits;
                connection
                    .prepare_cached("INSERT OR REPLACE INTO tenant VALUES (?, ?, ?, ?, ?, ?)")?
                    .execute(params![
                        tenant.id.as_str(),
                        tenant.ceiling.name(),
                        requests.period_ns(),
                        stored(requests.burst()),
                        tokens.period_ns(),
                        stored(tokens.burst())
                    ])
                    .map(|_| ())
            })
            .await
    }

    async fn pools(&self) -> PortResult<Vec<Pool>> {
        self.store
            .read(|connection| {
                connection
                    .prepare_cached(
                        "SELECT id, model, context_length, tokens_per_byte, usual_output_tokens, created
                         FROM pool ORDER BY id",
                    )?
                    .query_map([], |row| {
                        Ok(Pool {
                            id: parsed(row, 0, "pool")?,
                            model: row.get(1)?,
                            context_length: row.get(2)?,
                            tokens_per_byte: row.get(3)?,
                            usual_output_tokens: row.get(4)?,
                            created: moment(row, 5)?,
                        })
                    })?
                    .collect()
            })
            .await
    }

    async fn put_pool(&self, pool: &Pool) -> PortResult<()> {
        let pool = pool.clone();
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO pool VALUES (?, ?, ?, ?, ?, ?)")?
                    .execute(params![
                        pool.id.as_str(),
                        pool.model,
                        pool.context_length,
                        pool.tokens_per_byte,
                        pool.usual_output_tokens,
                        pool.created.as_millis()
                    ])
                    .map(|_| ())
            })
            .await
    }

    async fn workers(&self, pool: &PoolId, since: Timestamp) -> PortResult<Vec<WorkerRecord>> {
        let pool = pool.clone();
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT id, digest, slots, tokens_per_second, seen, draining
                         FROM worker WHERE pool = ? AND seen >= ? ORDER BY id",
                    )?
                    .query_map(params![pool.as_str(), since.as_millis()], |row| {
                        Ok(WorkerRecord {
                            id: parsed(row, 0, "worker")?,
                            pool: pool.clone(),
                            digest: row.get(1)?,
                            slots: row.get(2)?,
                            tokens_per_second: row.get(3)?,
                            seen: moment(row, 4)?,
                            draining: row.get(5)?,
                        })
                    })?
                    .collect()
            })
            .await
    }

    async fn put_worker(&self, worker: &WorkerRecord) -> PortResult<()> {
        let worker = worker.clone();
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?, ?, ?)")?
                    .execute(params![
                        worker.pool.as_str(),
                        worker.id.as_str(),
                        worker.digest,
                        worker.slots,
                        worker.tokens_per_second,
                        worker.seen.as_millis(),
                        worker.draining
                    ])
                    .map(|_| ())
            })
            .await
    }

    async fn remove_worker(&self, pool: &PoolId, id: &WorkerId) -> PortResult<()> {
        let (pool, id) = (pool.clone(), id.clone());
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM worker WHERE pool = ? AND id = ?")?
                    .execute(params![pool.as_str(), id.as_str()])
                    .map(|_| ())
            })
            .await
    }
}

fn limit(row: &Row<'_>, index: usize) -> rusqlite::Result<Limit> {
    let period_ns: i64 = row.get(index)?;
    let burst = unstored(row.get(index + 1)?);
    let per = Duration::from_nanos(u64::try_from(period_ns).map_err(|_| malformed(index, "limit"))?);
    Limit::new(1, per, burst).map_err(|_| malformed(index, "limit"))
}
