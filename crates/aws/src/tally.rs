//! Tallies, in the `adm` table: `TLY#<key>#<shard>`. Attributes: `c_<name>` the counts, `n` the nonce of the last
//! addition, `ttl`.
//!
//! One partition takes a thousand writes a second; a tally has four, chosen by the nonce, so that a repetition meets the
//! same one.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use futures_util::future::try_join_all;
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Addition, Counts, PortError, PortResult, Tally, TallyKey};

use crate::Aws;
use crate::error::{DYNAMODB, classify, corrupt};
use crate::item::{Item, item, n, nonce_value, s};
use crate::table::{Repeats, Write, ttl};

/// Parts of a tally.
const SHARDS: u64 = 4;

/// The most keys of one call.
const BATCH: usize = 100;

/// How often what a call left out is asked for again.
const ROUNDS: u32 = 5;

#[async_trait]
impl Tally for Aws {
    async fn add(&self, key: &TallyKey, counts: &Counts, expires: Timestamp, nonce: Nonce) -> PortResult<()> {
        if counts.is_empty() {
            return Ok(());
        }
        // A condition that fails says that the addition was made before: a success either way.
        self.update(&self.names.adm_table, add_write(key, counts, expires, nonce), Repeats::BySdk).await.map(|_| ())
    }

    async fn sums(&self, keys: &[TallyKey]) -> PortResult<Vec<Counts>> {
        let mut wanted: Vec<String> = keys.iter().flat_map(|key| (0..SHARDS).map(|shard| part(key, shard))).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found: HashMap<String, Item> = HashMap::new();
        for batch in wanted.chunks(BATCH) {
            self.batch(batch, &mut found).await?;
        }
        keys.iter()
            .map(|key| {
                let mut sums = Counts::new();
                for item in (0..SHARDS).filter_map(|shard| found.get(&part(key, shard))) {
                    add_up(item, &mut sums)?;
                }
                Ok(sums)
            })
            .collect()
    }

    async fn clear(&self, key: &TallyKey) -> PortResult<()> {
        let removals = (0..SHARDS).map(|shard| {
            let removal = self.dynamo.delete_item().table_name(&self.names.adm_table).key("pk", s(part(key, shard)));
            async move { removal.send().await.map_err(|error| classify(DYNAMODB, &error)) }
        });
        try_join_all(removals).await.map(|_| ())
    }
}

impl Aws {
    /// Reads up to [`BATCH`] parts; a call may leave some out, which are asked for again.
    async fn batch(&self, keys: &[String], found: &mut HashMap<String, Item>) -> PortResult<()> {
        let mut left: Vec<Item> = keys.iter().map(|key| item([("pk", s(key))])).collect();
        for round in 0..ROUNDS {
            self.pause(Duration::from_millis(25) * round).await;
            let asked = KeysAndAttributes::builder().set_keys(Some(left)).build();
            let asked = asked.map_err(|error| corrupt("tally", error.to_string()))?;
            let answer = self.dynamo.batch_get_item().request_items(&self.names.adm_table, asked).send().await;
            let answer = answer.map_err(|error| classify(DYNAMODB, &error))?;
            for item in answer.responses.into_iter().flatten().flat_map(|(_, items)| items) {
                if let Some(AttributeValue::S(pk)) = item.get("pk") {
                    found.insert(pk.clone(), item);
                }
            }
            let unread = answer.unprocessed_keys.and_then(|mut tables| tables.remove(&self.names.adm_table));
            left = unread.map(|unread| unread.keys).unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(PortError::Throttled { store: DYNAMODB, cause: "a batch was left unfinished at every try".to_owned() })
    }
}

fn add_write(key: &TallyKey, counts: &Counts, expires: Timestamp, nonce: Nonce) -> Write {
    let mut write = Write::on(item([("pk", s(part(key, nonce.0 % SHARDS)))]));
    write.bind("zero", n(0)).require("attribute_not_exists(#n) OR #n <> :set_n");
    add_counts(&mut write, counts);
    write.set("n", nonce_value(nonce)).set("ttl", ttl(expires, Duration::ZERO));
    write
}

/// The write that adds as a part of a transaction, which happens once: without a condition of its own.
pub(crate) fn addition_write(addition: &Addition, nonce: Nonce) -> Write {
    let mut write = Write::on(item([("pk", s(part(&addition.key, nonce.0 % SHARDS)))]));
    write.bind("zero", n(0)).set("ttl", ttl(addition.expires, Duration::ZERO));
    add_counts(&mut write, &addition.counts);
    write
}

fn add_counts(write: &mut Write, counts: &Counts) {
    for (name, value) in counts {
        write
            .clause(format!("#c_{name} = if_not_exists(#c_{name}, :zero) + :by_{name}"))
            .bind(&format!("by_{name}"), n(value));
    }
}

fn part(key: &TallyKey, shard: u64) -> String {
    format!("TLY#{}#{shard}", key.as_str())
}

fn add_up(item: &Item, sums: &mut Counts) -> PortResult<()> {
    for (name, value) in item {
        let Some(name) = name.strip_prefix("c_") else { continue };
        let value: Option<i64> = value.as_n().ok().and_then(|digits| digits.parse().ok());
        let value = value.ok_or_else(|| corrupt("tally", format!("count '{name}' is no number")))?;
        *sums.entry(name.to_owned()).or_default() += value;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_addition_is_an_expression_dynamodb_takes() {
        let counts = Counts::from([("ok".to_owned(), 3), ("error".to_owned(), -1)]);
        let write = add_write(&TallyKey::new("health", "main", "7"), &counts, Timestamp::from_millis(1), Nonce(9));
        assert_eq!(write.problems(), [""; 0]);
        let key = TallyKey::new("usage", "acme", "2026-11-25");
        let addition = Addition { key, counts, expires: Timestamp::from_millis(1) };
        assert_eq!(addition_write(&addition, Nonce(9)).problems(), [""; 0]);
    }
}
