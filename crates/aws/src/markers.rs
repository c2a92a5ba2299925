//! Markers, in the `cache` table: `K#<tenant>#<digest>`.
//!
//! Attributes: `jid` the job, `fp` the request's fingerprint, `wr` and `exp` written and expires in milliseconds. The
//! job id serves as the nonce: a condition that fails on a marker with one's own job is a success.

use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::id::JobId;
use penstock_policy::marker::Marker;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{MarkerClaim, MarkerKey, Markers, PortResult};

use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;

use crate::Aws;
use crate::error::{DYNAMODB, classify};
use crate::item::{Fields, Item, VERSION, item, ms, n, s};
use crate::table::{Repeats, Write, Written, ttl};

#[async_trait]
impl Markers for Aws {
    async fn find(&self, key: &MarkerKey) -> PortResult<Option<Marker>> {
        self.get(&self.names.cache_table, marker_key(key), false).await?.map(|found| read_marker(&found)).transpose()
    }

    async fn clear(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        let sent = self
            .dynamo
            .delete_item()
            .table_name(&self.names.cache_table)
            .set_key(Some(marker_key(key)))
            .condition_expression("jid = :jid")
            .expression_attribute_values(":jid", s(job.to_string()))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(DeleteItemError::ConditionalCheckFailedException(_)) => Ok(()),
                _ => Err(classify(DYNAMODB, &error)),
            },
        }
    }
}

impl Aws {
    /// Writes the marker for `job`; gives the marker that stands in the way if there is one.
    pub(crate) async fn claim_marker(
        &self,
        claim: &MarkerClaim,
        job: JobId,
        now: Timestamp,
    ) -> PortResult<Option<Marker>> {
        let mut write = Write::on(marker_key(&claim.key));
        let replaces = claim.replaces.filter(|replaced| *replaced != job);
        let replaceable = if replaces.is_some() { " OR #jid = :replaces" } else { "" };
        if let Some(replaces) = replaces {
            write.bind("replaces", s(replaces.to_string()));
        }
        write
            .require(format!("attribute_not_exists(#pk) OR #exp <= :now{replaceable}"))
            .bind("now", ms(now))
            .set("v", n(VERSION))
            .set("jid", s(job.to_string()))
            .set("fp", n(claim.fingerprint))
            .set("wr", ms(now))
            .set("exp", ms(claim.expires))
            .set("ttl", ttl(claim.expires, Duration::from_secs(1)));
        match self.update(&self.names.cache_table, write, Repeats::BySdk).await? {
            Written::Done(_) => Ok(None),
            // One that names the job already is ours, and stays as it was first written.
            Written::Not(found) => Ok(Some(read_marker(&found)?).filter(|found| found.job != job)),
        }
    }
}

/// The key of a marker.
pub(crate) fn marker_key(key: &MarkerKey) -> Item {
    item([("pk", s(format!("K#{}#{}", key.tenant, key.digest)))])
}

/// The marker of an item.
pub(crate) fn read_marker(found: &Item) -> PortResult<Marker> {
    let fields = Fields::versioned("marker", found)?;
    Ok(Marker {
        job: fields.parsed("jid")?,
        fingerprint: fields.number("fp")?,
        written: fields.moment("wr")?,
        expires: fields.moment("exp")?,
    })
}
