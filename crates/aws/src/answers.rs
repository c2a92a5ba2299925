//! Kept answers, in the `cache` table: `A#<tenant>#<digest>#<copy>`, beside the markers `K#<tenant>#<digest>`.
//!
//! Attributes: `made` in milliseconds, `b` what it says, `ttl` when it may be forgotten. A look reads the entry and the
//! marker in one call.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::KeysAndAttributes;
use bytes::Bytes;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Answers, Entry, Looked, MarkerKey, PortError, PortResult};

use crate::Aws;
use crate::error::{DYNAMODB, classify, corrupt};
use crate::item::{Fields, Item, VERSION, b, item, ms, n, s};
use crate::markers::{marker_key, read_marker};
use crate::table::ttl;

/// How often what a look left unread is asked for again.
const LOOKS: usize = 3;
/// The pause before each further look.
const PAUSE: Duration = Duration::from_millis(20);

#[async_trait]
impl Answers for Aws {
    async fn look(&self, key: &MarkerKey, copy: u8) -> PortResult<Looked> {
        let entry_pk = entry_pk(key, copy);
        let keys = KeysAndAttributes::builder().keys(entry_key(key, copy)).keys(marker_key(key)).build();
        let keys = keys.map_err(|_| corrupt("look", "a batch of two keys cannot be built"))?;
        let mut wanted = Some(HashMap::from([(self.names.cache_table.clone(), keys)]));
        let mut looked = Looked::default();
        for round in 0..LOOKS {
            let Some(keys) = wanted.take() else { break };
            if round > 0 {
                self.pause(PAUSE).await;
            }
            let sent = self.dynamo.batch_get_item().set_request_items(Some(keys)).send().await;
            let output = sent.map_err(|error| classify(DYNAMODB, &error))?;
            for found in output.responses.unwrap_or_default().into_values().flatten() {
                if Fields::new("answer", &found).text("pk")? == entry_pk {
                    looked.entry = Some(read(&found)?);
                } else {
                    looked.marker = Some(read_marker(&found)?);
                }
            }
            wanted = output.unprocessed_keys.filter(|left| !left.is_empty());
        }
        match wanted {
            None => Ok(looked),
            Some(_) => Err(PortError::Throttled { store: DYNAMODB, cause: "keys were left unread".to_owned() }),
        }
    }

    async fn keep(&self, key: &MarkerKey, copy: u8, entry: &Entry) -> PortResult<()> {
        let sent = self
            .dynamo
            .put_item()
            .table_name(&self.names.cache_table)
            .set_item(Some(stored(key, copy, entry)))
            .condition_expression("attribute_not_exists(pk) OR made <= :made")
            .expression_attribute_values(":made", ms(entry.made))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                // A later answer is there.
                Some(PutItemError::ConditionalCheckFailedException(_)) => Ok(()),
                _ => Err(classify(DYNAMODB, &error)),
            },
        }
    }

    async fn forget(&self, key: &MarkerKey, copy: u8) -> PortResult<()> {
        self.dynamo
            .delete_item()
            .table_name(&self.names.cache_table)
            .set_key(Some(entry_key(key, copy)))
            .send()
            .await
            .map_err(|error| classify(DYNAMODB, &error))?;
        Ok(())
    }
}

fn entry_pk(key: &MarkerKey, copy: u8) -> String {
    format!("A#{}#{}#{copy}", key.tenant, key.digest)
}

fn entry_key(key: &MarkerKey, copy: u8) -> Item {
    item([("pk", s(entry_pk(key, copy)))])
}

fn stored(key: &MarkerKey, copy: u8, entry: &Entry) -> Item {
    item([
        ("pk", s(entry_pk(key, copy))),
        ("v", n(VERSION)),
        ("made", ms(entry.made)),
        ("gone", ms(entry.forgotten)),
        ("b", b(entry.body.to_vec())),
        ("ttl", ttl(entry.forgotten, Duration::ZERO)),
    ])
}

fn read(found: &Item) -> PortResult<Entry> {
    let fields = Fields::versioned("answer", found)?;
    let (made, forgotten): (Timestamp, Timestamp) = (fields.moment("made")?, fields.moment("gone")?);
    Ok(Entry { made, forgotten, body: Bytes::copy_from_slice(fields.bytes("b")?) })
}

#[cfg(test)]
mod tests {
    use penstock_policy::id::TenantId;

    use super::*;

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let key = MarkerKey { tenant: TenantId::new("acme").unwrap(), digest: "ab".to_owned() };
        let entry = Entry {
            made: Timestamp::from_millis(5),
            forgotten: Timestamp::from_millis(70_000),
            body: Bytes::from_static(b"\0\xff"),
        };
        let stored = stored(&key, 3, &entry);
        assert_eq!((&stored["pk"], &stored["ttl"]), (&s("A#acme#ab#3"), &n(70)));
        assert_eq!(read(&stored), Ok(entry));
    }
}
