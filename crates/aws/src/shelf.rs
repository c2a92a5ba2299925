//! Shelves, in the `job` table: `D#<shelf>`, sort key the document's name. Attributes: `doc` the text, `ver` its version,
//! `n` the nonce of the last placing, `ttl` when it may go.

use async_trait::async_trait;
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Order, PortResult, Posted, Shelf, ShelfId, Shelved, Stale};

use crate::Aws;
use crate::error::{DYNAMODB, classify};
use crate::item::{Fields, Item, VERSION, item, n, nonce_value, s};
use crate::table::{Repeats, Write, Written};

#[async_trait]
impl Shelf for Aws {
    async fn find(&self, shelf: &ShelfId, name: &str) -> PortResult<Option<Posted>> {
        let found = self.get(&self.names.job_table, place(shelf, name), true).await?;
        found.map(|found| posted(&found)).transpose()
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
        let write = place_write(place(shelf, name), text, replaces, expires, nonce);
        match self.update(&self.names.job_table, write, Repeats::BySdk).await? {
            Written::Done(now) => Ok(Ok(posted(&now)?.version)),
            Written::Not(found) if Fields::new(WHAT, &found).nonce()? == Some(nonce) => Ok(Ok(posted(&found)?.version)),
            Written::Not(_) => Ok(Err(Stale)),
        }
    }

    async fn walk(&self, shelf: &ShelfId, order: Order, after: Option<&str>, most: usize) -> PortResult<Vec<Shelved>> {
        let mut found = Vec::new();
        let mut start = after.map(|after| place(shelf, after));
        while found.len() < most {
            let page = self
                .dynamo
                .query()
                .table_name(&self.names.job_table)
                .consistent_read(true)
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", s(partition(shelf)))
                .scan_index_forward(order == Order::Rising)
                // The last page may bring more than is wanted: it is cut below.
                .limit(i32::try_from(most - found.len()).unwrap_or(i32::MAX).max(1))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| classify(DYNAMODB, &error))?;
            for item in page.items.unwrap_or_default() {
                let name = Fields::new(WHAT, &item).text("sk")?.to_owned();
                found.push(Shelved { name, document: posted(&item)? });
            }
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                break;
            }
        }
        found.truncate(most);
        Ok(found)
    }

    async fn take_away(&self, shelf: &ShelfId, name: &str) -> PortResult<()> {
        let removal = self.dynamo.delete_item().table_name(&self.names.job_table);
        removal.set_key(Some(place(shelf, name))).send().await.map(|_| ()).map_err(|error| classify(DYNAMODB, &error))
    }
}

const WHAT: &str = "document";

fn partition(shelf: &ShelfId) -> String {
    format!("D#{}", shelf.as_str())
}

fn place(shelf: &ShelfId, name: &str) -> Item {
    item([("pk", s(partition(shelf))), ("sk", s(name))])
}

fn place_write(place: Item, text: &str, replaces: Option<u64>, expires: Option<Timestamp>, nonce: Nonce) -> Write {
    let mut write = Write::on(place);
    match replaces {
        None => write.require("attribute_not_exists(#ver)"),
        Some(version) => write.require("#ver = :replaced").bind("replaced", n(version)),
    };
    write
        .set("v", n(VERSION))
        .set("doc", s(text))
        .set("ver", n(replaces.unwrap_or(0).saturating_add(1)))
        .set("n", nonce_value(nonce));
    match expires {
        Some(moment) => write.set("ttl", n(moment.as_secs())),
        None => write.remove("ttl"),
    };
    write
}

fn posted(found: &Item) -> PortResult<Posted> {
    let fields = Fields::versioned(WHAT, found)?;
    Ok(Posted { text: fields.text("doc")?.to_owned(), version: fields.number("ver")? })
}

#[cfg(test)]
mod tests {
    use penstock_policy::id::TenantId;

    use super::*;

    #[test]
    fn every_placing_is_an_expression_dynamodb_takes() {
        let shelf = ShelfId::of_tenant("files", &TenantId::new("acme").unwrap());
        for (replaces, expires) in [(None, None), (Some(3), Some(Timestamp::EPOCH))] {
            let write = place_write(place(&shelf, "file-1"), "{}", replaces, expires, Nonce(1));
            assert_eq!(write.problems(), [""; 0]);
        }
    }
}
