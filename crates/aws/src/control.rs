//! Control records, in the `ctl` table: `KEY#<kid>`, `TEN#<id>` (sort key `M`), `POOL` (sort key: the pool) and
//! `WRK#<pool>` (sort key: the worker), and as indexes without content `TENANTS` (sort key: the tenant) and `TEN#<id>`
//! (sort key `KEY#<kid>`). Tenants and pools are documents in the attribute `doc`.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use penstock_policy::id::{KeyId, PoolId, TenantId, WorkerId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Control, KeyRecord, Pool, PortResult, Tenant, WorkerRecord};
use penstock_service::stored::control::{pool_from, pool_text, tenant_from, tenant_text};

use crate::Aws;
use crate::error::{DYNAMODB, classify};
use crate::item::{Fields, Item, VERSION, b, item, ms, n, s};
use crate::table::ttl;

/// The sort key of a record that is alone in its partition.
const ALONE: &str = "M";
/// The index of all tenants, and in a tenant's partition that of its keys.
const TENANTS: &str = "TENANTS";
const LISTED_KEY: &str = "KEY#";
const LISTED_KEY_END: &str = "KEY#~";
/// The partition of all pools.
const POOLS: &str = "POOL";
/// How long a worker's last report is kept.
const REPORT_KEPT: Duration = Duration::from_secs(3600);
/// Sort keys of names lie between these.
const ALL_NAMES: (&str, &str) = (" ", "~");

#[async_trait]
impl Control for Aws {
    async fn key(&self, id: &KeyId) -> PortResult<Option<KeyRecord>> {
        let found = self.control_record(&format!("KEY#{id}")).await?;
        found.map(|found| read_key(id, &found)).transpose()
    }

    async fn put_key(&self, key: &KeyRecord) -> PortResult<()> {
        let mut record = item([
            ("pk", s(format!("KEY#{}", key.id))),
            ("sk", s(ALONE)),
            ("v", n(VERSION)),
            ("ten", s(key.tenant.as_str())),
            ("sec", b(key.secret_sha256.to_vec())),
            ("lab", s(&key.label)),
            ("crt", ms(key.created)),
        ]);
        if let Some(revoked) = key.revoked {
            record.insert("rev".to_owned(), ms(revoked));
        }
        if let Some(used) = key.used {
            record.insert("us".to_owned(), ms(used));
        }
        // The index first: one that leads nowhere is left out when keys are listed, and a key that is not listed could
        // not be revoked.
        let listed = item([("pk", s(format!("TEN#{}", key.tenant))), ("sk", s(format!("{LISTED_KEY}{}", key.id)))]);
        self.put(&self.names.ctl_table, listed).await?;
        self.put(&self.names.ctl_table, record).await
    }

    async fn keys(&self, tenant: &TenantId) -> PortResult<Vec<KeyRecord>> {
        let (pk, range) = (format!("TEN#{tenant}"), (LISTED_KEY, LISTED_KEY_END));
        let listed = self.query(&self.names.ctl_table, &pk, range, true, None).await?;
        let mut keys = Vec::new();
        for item in &listed {
            let fields = Fields::new("key's index", item);
            let id: KeyId =
                fields.text("sk")?.trim_start_matches(LISTED_KEY).parse().map_err(|_| fields.broken("sk"))?;
            let key = self.get(&self.names.ctl_table, alone(&format!("KEY#{id}")), true).await?;
            keys.extend(key.map(|found| read_key(&id, &found)).transpose()?);
        }
        Ok(keys)
    }

    async fn touch_key(&self, id: &KeyId, now: Timestamp) -> PortResult<()> {
        // Nothing is asked back, and the key and `us` are all that is named: a handler's role allows no more.
        let sent = self
            .dynamo
            .update_item()
            .table_name(&self.names.ctl_table)
            .set_key(Some(alone(&format!("KEY#{id}"))))
            .update_expression("SET us = :now")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":now", ms(now))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(()),
                _ => Err(classify(DYNAMODB, &error)),
            },
        }
    }

    async fn remove_key(&self, key: &KeyRecord) -> PortResult<()> {
        self.remove_control(&format!("KEY#{}", key.id), ALONE).await?;
        self.remove_control(&format!("TEN#{}", key.tenant), &format!("{LISTED_KEY}{}", key.id)).await
    }

    async fn tenant(&self, id: &TenantId) -> PortResult<Option<Tenant>> {
        let Some(found) = self.control_record(&format!("TEN#{id}")).await? else { return Ok(None) };
        let fields = Fields::versioned("tenant", &found)?;
        tenant_from(id, fields.text("doc")?).map(Some).ok_or_else(|| fields.broken("doc"))
    }

    async fn put_tenant(&self, tenant: &Tenant) -> PortResult<()> {
        let record = item([
            ("pk", s(format!("TEN#{}", tenant.id))),
            ("sk", s(ALONE)),
            ("v", n(VERSION)),
            ("doc", s(tenant_text(tenant))),
        ]);
        self.put(&self.names.ctl_table, item([("pk", s(TENANTS)), ("sk", s(tenant.id.as_str()))])).await?;
        self.put(&self.names.ctl_table, record).await
    }

    async fn tenants(&self) -> PortResult<Vec<Tenant>> {
        let listed = self.query(&self.names.ctl_table, TENANTS, ALL_NAMES, true, None).await?;
        let mut tenants = Vec::new();
        for item in &listed {
            let id: TenantId = Fields::new("tenant's index", item).parsed("sk")?;
            tenants.extend(self.tenant(&id).await?);
        }
        Ok(tenants)
    }

    async fn remove_tenant(&self, id: &TenantId) -> PortResult<()> {
        self.remove_control(&format!("TEN#{id}"), ALONE).await?;
        self.remove_control(TENANTS, id.as_str()).await
    }

    async fn pools(&self) -> PortResult<Vec<Pool>> {
        let found = self.query(&self.names.ctl_table, POOLS, ALL_NAMES, false, None).await?;
        found.iter().map(read_pool).collect()
    }

    async fn put_pool(&self, pool: &Pool) -> PortResult<()> {
        let record =
            item([("pk", s(POOLS)), ("sk", s(pool.id.as_str())), ("v", n(VERSION)), ("doc", s(pool_text(pool)))]);
        self.put(&self.names.ctl_table, record).await
    }

    async fn workers(&self, pool: &PoolId, since: Timestamp) -> PortResult<Vec<WorkerRecord>> {
        let found = self.query(&self.names.ctl_table, &workers_pk(pool), ALL_NAMES, false, None).await?;
        let mut workers: Vec<WorkerRecord> =
            found.iter().map(|found| read_worker(pool, found)).collect::<PortResult<_>>()?;
        workers.retain(|worker| worker.seen >= since);
        Ok(workers)
    }

    async fn put_worker(&self, worker: &WorkerRecord) -> PortResult<()> {
        let record = item([
            ("pk", s(workers_pk(&worker.pool))),
            ("sk", s(worker.id.as_str())),
            ("v", n(VERSION)),
            ("dig", s(&worker.digest)),
            ("slots", n(worker.slots)),
            ("tps", float(worker.tokens_per_second)),
            ("seen", ms(worker.seen)),
            ("drain", AttributeValue::Bool(worker.draining)),
            ("ttl", ttl(worker.seen, REPORT_KEPT)),
        ]);
        self.put(&self.names.ctl_table, record).await
    }

    async fn remove_worker(&self, pool: &PoolId, id: &WorkerId) -> PortResult<()> {
        self.dynamo
            .delete_item()
            .table_name(&self.names.ctl_table)
            .key("pk", s(workers_pk(pool)))
            .key("sk", s(id.as_str()))
            .send()
            .await
            .map_err(|error| classify(DYNAMODB, &error))?;
        Ok(())
    }
}

impl Aws {
    async fn control_record(&self, pk: &str) -> PortResult<Option<Item>> {
        self.get(&self.names.ctl_table, alone(pk), false).await
    }

    async fn remove_control(&self, pk: &str, sk: &str) -> PortResult<()> {
        let key = item([("pk", s(pk)), ("sk", s(sk))]);
        let removal = self.dynamo.delete_item().table_name(&self.names.ctl_table).set_key(Some(key));
        removal.send().await.map(|_| ()).map_err(|error| classify(DYNAMODB, &error))
    }
}

fn alone(pk: &str) -> Item {
    item([("pk", s(pk)), ("sk", s(ALONE))])
}

fn read_key(id: &KeyId, found: &Item) -> PortResult<KeyRecord> {
    let fields = Fields::versioned("key", found)?;
    Ok(KeyRecord {
        id: id.clone(),
        tenant: fields.parsed("ten")?,
        secret_sha256: fields.bytes("sec")?.try_into().map_err(|_| fields.broken("sec"))?,
        revoked: fields.maybe_moment("rev")?,
        label: fields.maybe_text("lab")?.unwrap_or_default().to_owned(),
        created: fields.maybe_moment("crt")?.unwrap_or_default(),
        used: fields.maybe_moment("us")?,
    })
}

fn read_pool(found: &Item) -> PortResult<Pool> {
    let fields = Fields::versioned("pool", found)?;
    pool_from(&fields.parsed("sk")?, fields.text("doc")?).ok_or_else(|| fields.broken("doc"))
}

fn read_worker(pool: &PoolId, found: &Item) -> PortResult<WorkerRecord> {
    let fields = Fields::versioned("worker", found)?;
    Ok(WorkerRecord {
        id: fields.parsed("sk")?,
        pool: pool.clone(),
        digest: fields.text("dig")?.to_owned(),
        slots: fields.number("slots")?,
        tokens_per_second: fields.number("tps")?,
        seen: fields.moment("seen")?,
        draining: fields.flag("drain")?,
    })
}

/// A measured number. With an exponent, so that no magnitude is written out in zeros.
fn float(value: f64) -> AttributeValue {
    n(format_args!("{value:e}"))
}

fn workers_pk(pool: &PoolId) -> String {
    format!("WRK#{pool}")
}
