//! Control records: tenants, keys, pools, workers.

use async_trait::async_trait;
use penstock_policy::id::{KeyId, PoolId, TenantId, WorkerId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Control, KeyRecord, Pool, PortResult, Tenant, WorkerRecord};
use penstock_service::stored::control::{pool_from, pool_text, tenant_from, tenant_text};
use rusqlite::{OptionalExtension, Row, params};

use crate::Sqlite;
use crate::rows::{malformed, moment, parsed};

const KEY_COLUMNS: &str = "id, tenant, secret_sha256, revoked, label, created, used";

#[async_trait]
impl Control for Sqlite {
    async fn key(&self, id: &KeyId) -> PortResult<Option<KeyRecord>> {
        let id = id.clone();
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM api_key WHERE id = ?"))?
                    .query_row(params![id.as_str()], key_record)
                    .optional()
            })
            .await
    }

    async fn put_key(&self, key: &KeyRecord) -> PortResult<()> {
        let key = key.clone();
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached(&format!(
                        "INSERT OR REPLACE INTO api_key ({KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
                    ))?
                    .execute(params![
                        key.id.as_str(),
                        key.tenant.as_str(),
                        key.secret_sha256,
                        key.revoked.map(Timestamp::as_millis),
                        key.label,
                        key.created.as_millis(),
                        key.used.map(Timestamp::as_millis)
                    ])
                    .map(|_| ())
            })
            .await
    }

    async fn keys(&self, tenant: &TenantId) -> PortResult<Vec<KeyRecord>> {
        let tenant = tenant.clone();
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM api_key WHERE tenant = ? ORDER BY id"))?
                    .query_map(params![tenant.as_str()], key_record)?
                    .collect()
            })
            .await
    }

    async fn touch_key(&self, id: &KeyId, now: Timestamp) -> PortResult<()> {
        let id = id.clone();
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("UPDATE api_key SET used = ? WHERE id = ?")?
                    .execute(params![now.as_millis(), id.as_str()])
                    .map(|_| ())
            })
            .await
    }

    async fn remove_key(&self, key: &KeyRecord) -> PortResult<()> {
        let id = key.id.clone();
        self.store
            .write(move |connection| {
                connection.prepare_cached("DELETE FROM api_key WHERE id = ?")?.execute(params![id.as_str()]).map(|_| ())
            })
            .await
    }

    async fn tenant(&self, id: &TenantId) -> PortResult<Option<Tenant>> {
        let id = id.clone();
        self.store
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT record FROM tenant WHERE id = ?")?
                    .query_row(params![id.as_str()], |row| {
                        tenant_from(&id, row.get_ref(0)?.as_str()?).ok_or_else(|| malformed(0, "tenant"))
                    })
                    .optional()
            })
            .await
    }

    async fn put_tenant(&self, tenant: &Tenant) -> PortResult<()> {
        let (id, record) = (tenant.id.clone(), tenant_text(tenant));
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO tenant VALUES (?, ?)")?
                    .execute(params![id.as_str(), record])
                    .map(|_| ())
            })
            .await
    }

    async fn tenants(&self) -> PortResult<Vec<Tenant>> {
        self.store
            .read(|connection| {
                connection
                    .prepare_cached("SELECT id, record FROM tenant ORDER BY id")?
                    .query_map([], |row| {
                        let id: TenantId = parsed(row, 0, "tenant")?;
                        tenant_from(&id, row.get_ref(1)?.as_str()?).ok_or_else(|| malformed(1, "tenant"))
                    })?
                    .collect()
            })
            .await
    }

    async fn remove_tenant(&self, id: &TenantId) -> PortResult<()> {
        let id = id.clone();
        self.store
            .write(move |connection| {
                connection.prepare_cached("DELETE FROM tenant WHERE id = ?")?.execute(params![id.as_str()]).map(|_| ())
            })
            .await
    }

    async fn pools(&self) -> PortResult<Vec<Pool>> {
        self.store
            .read(|connection| {
                connection
                    .prepare_cached("SELECT id, record FROM pool ORDER BY id")?
                    .query_map([], |row| {
                        let id: PoolId = parsed(row, 0, "pool")?;
                        pool_from(&id, row.get_ref(1)?.as_str()?).ok_or_else(|| malformed(1, "pool"))
                    })?
                    .collect()
            })
            .await
    }

    async fn put_pool(&self, pool: &Pool) -> PortResult<()> {
        let (id, record) = (pool.id.clone(), pool_text(pool));
        self.store
            .write(move |connection| {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO pool VALUES (?, ?)")?
                    .execute(params![id.as_str(), record])
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

fn key_record(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    Ok(KeyRecord {
        id: parsed(row, 0, "key")?,
        tenant: parsed(row, 1, "tenant")?,
        secret_sha256: row.get(2)?,
        revoked: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_millis),
        label: row.get(4)?,
        created: moment(row, 5)?,
        used: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_millis),
    })
}
