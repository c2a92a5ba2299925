//! Erasing on DynamoDB and S3: by scans, which nothing but erasing pays for. An index by tenant would cost a write a job.

use std::collections::BTreeSet;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join_all;
use penstock_policy::id::{JobId, TenantId};
use penstock_service::ports::{Erasure, Forget, Page, PortError, PortResult};
use penstock_service::{contents_of, noted_of};

use crate::Aws;
use crate::error::{DYNAMODB, S3, classify, corrupt};
use crate::item::{Item, item, s};
use crate::jobs::{chunks, record};
use crate::parking::PAYLOAD;
use crate::table::{Repeats, Write};

/// Items looked at in one page of a scan: a second's worth of what a table reads at ease.
const LOOKED_AT: i32 = 1000;

/// Items removed at the same time.
const TOGETHER: usize = 25;

#[async_trait]
impl Erasure for Aws {
    async fn jobs_of(&self, tenant: &TenantId, after: Option<&str>) -> PortResult<Page<Vec<JobId>>> {
        let start = after.and_then(|after| after.split_once(' ')).map(|(pk, sk)| item([("pk", s(pk)), ("sk", s(sk))]));
        let filter = "sk = :m AND ten = :ten";
        let values = [(":m", s("M")), (":ten", s(tenant.as_str()))];
        let (items, next) = self.scan(&self.names.job_table, filter, &values, start).await?;
        let job = |item: &Item| {
            let pk = item.get("pk").and_then(|pk| pk.as_s().ok()).and_then(|pk| pk.strip_prefix("J#"));
            pk.and_then(|id| id.parse().ok()).ok_or_else(|| corrupt("job record", "its key is malformed".to_owned()))
        };
        let found = items.iter().map(job).collect::<PortResult<_>>()?;
        Ok(Page { found, next })
    }

    async fn forget(&self, job: JobId, what: Forget) -> PortResult<()> {
        for kind in ["req", "res"] {
            self.remove_blobs(&format!("{kind}/{job}-")).await?;
        }
        // Chunks, and the request of a job that was parked.
        let range = (chunks::FIRST, PAYLOAD);
        let said = self.query(&self.names.job_table, &record::job_pk(job), range, true, None).await?;
        for some in said.chunks(TOGETHER) {
            try_join_all(some.iter().map(|chunk| self.remove_item(&self.names.job_table, chunk, &["pk", "sk"])))
                .await?;
        }
        let mut write = Write::on(record::job_key(job));
        write.require("attribute_exists(#pk)").set("gone", AttributeValue::Bool(true));
        if what == Forget::Everything {
            for attribute in ["spec", "ten", "ow", "dig", "out", "story"] {
                write.remove(attribute);
            }
        }
        // One that has expired meanwhile is gone too.
        self.update(&self.names.job_table, write, Repeats::BySdk).await.map(|_| ())
    }

    async fn remove_traces(&self, tenant: &TenantId, after: Option<&str>) -> PortResult<Page<u64>> {
        if after.is_none() {
            self.remove_blobs(&noted_of(tenant)).await?;
            self.remove_blobs(&contents_of(tenant)).await?;
        }
        let start = after.map(|pk| item([("pk", s(pk))]));
        // Markers, kept answers and tries.
        let values = [":k", ":a", ":t"].map(|name| (name, s(format!("{}#{tenant}#", name[1..].to_uppercase()))));
        let filter = "begins_with(pk, :k) OR begins_with(pk, :a) OR begins_with(pk, :t)";
        let (items, next) = self.scan(&self.names.cache_table, filter, &values, start).await?;
        let kept = format!("A#{tenant}#");
        let digests =
            items.iter().filter_map(|item| item.get("pk")?.as_s().ok()?.strip_prefix(&kept)?.split('#').next());
        for digest in digests.collect::<BTreeSet<_>>() {
            self.remove_blobs(&format!("kept/{digest}-")).await?;
        }
        for some in items.chunks(TOGETHER) {
            try_join_all(some.iter().map(|marker| self.remove_item(&self.names.cache_table, marker, &["pk"]))).await?;
        }
        Ok(Page { found: u64::try_from(items.len()).unwrap_or(u64::MAX), next })
    }

    /// DynamoDB and S3 give nobody the bytes of what was removed.
    async fn scrub(&self) -> PortResult<()> {
        Ok(())
    }
}

impl Aws {
    /// One page of a scan, and the key after which the next one begins.
    async fn scan(
        &self,
        table: &str,
        filter: &str,
        values: &[(&str, AttributeValue)],
        start: Option<Item>,
    ) -> PortResult<(Vec<Item>, Option<String>)> {
        let mut call =
            self.dynamo.scan().table_name(table).filter_expression(filter).limit(LOOKED_AT).consistent_read(true);
        for (name, value) in values {
            call = call.expression_attribute_values(*name, value.clone());
        }
        let page = call.set_exclusive_start_key(start).send().await.map_err(|error| classify(DYNAMODB, &error))?;
        let next = page.last_evaluated_key.filter(|key| !key.is_empty());
        let part = |key: &Item, name: &str| key.get(name).and_then(|part| part.as_s().ok()).cloned();
        let next = next.map(|key| match (part(&key, "pk"), part(&key, "sk")) {
            (Some(pk), Some(sk)) => Ok(format!("{pk} {sk}")),
            (Some(pk), None) => Ok(pk),
            (None, _) => Err(corrupt("page", "its end has no key".to_owned())),
        });
        Ok((page.items.unwrap_or_default(), next.transpose()?))
    }

    async fn remove_item(&self, table: &str, found: &Item, keys: &[&str]) -> PortResult<()> {
        let key = keys.iter().filter_map(|key| Some(((*key).to_owned(), found.get(*key)?.clone()))).collect();
        let removal = self.dynamo.delete_item().table_name(table).set_key(Some(key));
        removal.send().await.map(|_| ()).map_err(|error| classify(DYNAMODB, &error))
    }

    /// Removes all objects whose names begin so, a listing at a time: what is removed is not listed again.
    async fn remove_blobs(&self, prefix: &str) -> PortResult<()> {
        loop {
            let listed = self.s3.list_objects_v2().bucket(&self.names.payload_bucket).prefix(prefix);
            let listed = listed.send().await.map_err(|error| classify(S3, &error))?;
            for object in listed.contents() {
                let nameless = || PortError::Corrupt { what: "object", cause: "no key".to_owned() };
                let key = object.key().ok_or_else(nameless)?;
                let removal = self.s3.delete_object().bucket(&self.names.payload_bucket).key(key).send().await;
                removal.map_err(|error| classify(S3, &error))?;
            }
            if listed.is_truncated() != Some(true) {
                return Ok(());
            }
        }
    }
}
