//! Parked jobs: an item `J#<id>`, `D` with the request beside the record, and an index of the records in state P.
//!
//! Of the index (see `census` for its other part) a parked record has the keys `gp` (`P#<pool>#<class>`) and `gs`
//! (`<tenant>#<due, 15 digits>#<job>`). `tok`, the job's tokens, is projected, so that
//! a count reads the index alone. All that is parked for a queue is one partition of the index, which takes 1,000 writes a
//! second: what parks in bulk meets it as a throttle and goes on at that pace.
//!
//! The request item stays until it expires, like the payloads in the bucket: a deletion would cost a write a job.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::job::State;
use penstock_policy::parking::Parked;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Backlog, BlobKey, JobSpec, Message, Parking, Payload, PortError, PortResult, QueueId};

use crate::Aws;
use crate::error::{DYNAMODB, classify, corrupt};
use crate::item::{Fields, Item, VERSION, item, n, s};
use crate::jobs::guard::INDEXED;
use crate::jobs::{KEPT, record};
use crate::table::{Repeats, Write, ttl};

/// The index's name.
pub(crate) const INDEX: &str = "open";

/// The sort key of a parked job's request: behind every chunk's, before the record's.
pub(crate) const PAYLOAD: &str = "D";

const WHAT: &str = "parked job";

/// What sorts behind every place of a tenant, and before the next tenant's: no tenant's id holds `#`.
const AFTER: char = '~';

#[async_trait]
impl Parking for Aws {
    async fn tenants(&self, queue: &QueueId, after: Option<&TenantId>, most: usize) -> PortResult<Vec<TenantId>> {
        let mut found: Vec<TenantId> = Vec::new();
        let mut from = after.map_or_else(|| "!".to_owned(), past);
        while found.len() < most.max(1) {
            let (page, _) = self.page(&partition_of(queue), (&from, "~"), Some(1), None).await?;
            let Some(first) = page.first() else { break };
            let tenant = read(first)?.tenant;
            from = past(&tenant);
            found.push(tenant);
        }
        Ok(found)
    }

    async fn parked(
        &self,
        queue: &QueueId,
        tenant: &TenantId,
        from: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Parked>> {
        let (partition, first, last) = (partition_of(queue), place(tenant, from), past(tenant));
        let (mut found, mut start) = (Vec::new(), None);
        loop {
            let left = i32::try_from(most.max(1) - found.len()).unwrap_or(i32::MAX);
            let (page, next) = self.page(&partition, (&first, &last), Some(left), start).await?;
            for entry in &page {
                found.push(read(entry)?);
            }
            if next.is_none() || found.len() >= most {
                return Ok(found);
            }
            start = next;
        }
    }

    async fn backlog(&self, queue: &QueueId) -> PortResult<Backlog> {
        let (partition, mut backlog, mut start) = (partition_of(queue), Backlog::default(), None);
        loop {
            let (page, next) = self.page(&partition, ("!", "~"), None, start).await?;
            for entry in &page {
                backlog.jobs += 1;
                backlog.tokens = backlog.tokens.saturating_add(read(entry)?.tokens);
            }
            if next.is_none() {
                return Ok(backlog);
            }
            start = next;
        }
    }

    async fn message(&self, job: JobId) -> PortResult<Option<Message>> {
        let range = (PAYLOAD, "M");
        let found = self.query(&self.names.job_table, &record::job_pk(job), range, true, None).await?;
        let of = |sk: &str| found.iter().find(|item| item.get("sk") == Some(&s(sk)));
        let Some(record) = of("M").map(record::read).transpose()? else { return Ok(None) };
        let Some(spec) = record.spec.filter(|_| record.head.state == State::Parked) else { return Ok(None) };
        let missing = || corrupt(WHAT, format!("job {job} has no request"));
        Ok(Some(Message { spec, payload: payload(of(PAYLOAD).ok_or_else(missing)?)? }))
    }
}

impl Aws {
    /// Stores a job's request beside its record. May be repeated.
    pub(crate) async fn store_payload(&self, message: &Message, now: Timestamp) -> PortResult<()> {
        let key = item([("pk", s(record::job_pk(message.spec.id))), ("sk", s(PAYLOAD))]);
        let mut write = Write::on(key);
        write.set("v", n(VERSION)).set("ttl", ttl(now, KEPT));
        match &message.payload {
            Payload::Inline(text) => write.set("req", s(text)).remove("blob"),
            Payload::Blob(key) => write.set("blob", s(key.as_str())).remove("req"),
        };
        self.update(&self.names.job_table, write, Repeats::BySdk).await.map(|_| ())
    }

    /// One page of a partition of the index, in the order of `gs`, and where the next one begins.
    pub(crate) async fn page(
        &self,
        of: &str,
        range: (&str, &str),
        limit: Option<i32>,
        start: Option<Item>,
    ) -> PortResult<(Vec<Item>, Option<Item>)> {
        let [partition, place, _] = INDEXED;
        let values = [(":gp", s(of)), (":from", s(range.0)), (":to", s(range.1))];
        let values: HashMap<String, AttributeValue> =
            values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let page = self
            .dynamo
            .query()
            .table_name(&self.names.job_table)
            .index_name(INDEX)
            .key_condition_expression(format!("{partition} = :gp AND {place} BETWEEN :from AND :to"))
            .set_expression_attribute_values(Some(values))
            .set_exclusive_start_key(start)
            .set_limit(limit)
            .send()
            .await
            .map_err(|error| classify(DYNAMODB, &error))?;
        Ok((page.items.unwrap_or_default(), page.last_evaluated_key.filter(|key| !key.is_empty())))
    }
}

/// Puts a record into the index.
pub(crate) fn set_place(write: &mut Write, spec: &JobSpec) {
    let queue = QueueId { pool: spec.pool.clone(), class: spec.class };
    let [partition, at, tokens] = INDEXED;
    write
        .set(partition, s(partition_of(&queue)))
        .set(at, s(format!("{}#{}", place(&spec.tenant, spec.due), spec.id)))
        .set(tokens, n(spec.estimated_tokens));
}

fn partition_of(queue: &QueueId) -> String {
    format!("P#{}#{}", queue.pool, queue.class.name())
}

/// Where a tenant's jobs begin that are due at `due`.
fn place(tenant: &TenantId, due: Timestamp) -> String {
    format!("{tenant}#{:015}", due.as_millis().max(0))
}

fn past(tenant: &TenantId) -> String {
    format!("{tenant}#{AFTER}")
}

fn read(entry: &Item) -> PortResult<Parked> {
    let fields = Fields::new(WHAT, entry);
    let [_, at, tokens] = INDEXED;
    let broken = || fields.broken(at);
    let mut parts = fields.text(at)?.split('#');
    let mut next = || parts.next().ok_or_else(broken);
    let tenant = next()?.parse().map_err(|_| broken())?;
    let due = next()?.parse().map(Timestamp::from_millis).map_err(|_| broken())?;
    Ok(Parked { due, job: next()?.parse().map_err(|_| broken())?, tenant, tokens: fields.number(tokens)? })
}

fn payload(found: &Item) -> PortResult<Payload> {
    let fields = Fields::versioned(WHAT, found)?;
    match (fields.maybe_text("req")?, fields.maybe_text("blob")?) {
        (Some(text), None) => Ok(Payload::Inline(text.to_owned())),
        (None, Some(key)) => Ok(Payload::Blob(BlobKey::new(key).ok_or_else(|| fields.broken("blob"))?)),
        (Some(_), Some(_)) | (None, None) => {
            Err(PortError::Corrupt { what: WHAT, cause: "neither a request nor a blob".to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_sort_by_tenant_and_then_by_due_moment_whatever_the_tenant_is_called() {
        let names = ["a", "a-b", "a.b", "a1", "a:", "aA", "a_", "b"];
        let tenants: Vec<TenantId> = names.iter().map(|name| TenantId::new(name).unwrap()).collect();
        let mut sorted = tenants.clone();
        sorted.sort();
        let mut places: Vec<String> = Vec::new();
        for tenant in &sorted {
            places.extend([1, 20, 1_800_000_000_000].map(|ms| place(tenant, Timestamp::from_millis(ms))));
            places.push(past(tenant));
        }
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn a_place_in_the_index_reads_back() {
        let job = JobId::new(Timestamp::from_millis(5), 6);
        let tenant = TenantId::new("acme:1").unwrap();
        let due = Timestamp::from_millis(1_800_000_000_000);
        let [_, at, tokens] = INDEXED;
        let entry = item([(at, s(format!("{}#{job}", place(&tenant, due)))), (tokens, n(7))]);
        assert_eq!(read(&entry), Ok(Parked { due, job, tenant, tokens: 7 }));
    }
}
