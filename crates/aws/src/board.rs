//! The board, in the `ctl` table: `BRD#<key>`, sort key `M`. Attributes: `doc` the text, `ver` its version, `n` the nonce
//! of the last posting.

use async_trait::async_trait;
use penstock_policy::id::Nonce;
use penstock_service::ports::{Board, BoardKey, PortResult, Posted, Stale};

use crate::Aws;
use crate::item::{Fields, Item, VERSION, item, n, nonce_value, s};
use crate::table::{Repeats, Write, Written};

#[async_trait]
impl Board for Aws {
    async fn read(&self, key: &BoardKey) -> PortResult<Option<Posted>> {
        let found = self.get(&self.names.ctl_table, place(key), false).await?;
        found.map(|found| posted(&found)).transpose()
    }

    async fn post(
        &self,
        key: &BoardKey,
        text: &str,
        replaces: Option<u64>,
        nonce: Nonce,
    ) -> PortResult<Result<u64, Stale>> {
        let write = post_write(key, text, replaces, nonce);
        match self.update(&self.names.ctl_table, write, Repeats::BySdk).await? {
            Written::Done(now) => Ok(Ok(posted(&now)?.version)),
            Written::Not(found) if Fields::new("board", &found).nonce()? == Some(nonce) => {
                Ok(Ok(posted(&found)?.version))
            }
            Written::Not(_) => Ok(Err(Stale)),
        }
    }
}

fn post_write(key: &BoardKey, text: &str, replaces: Option<u64>, nonce: Nonce) -> Write {
    let mut write = Write::on(place(key));
    match replaces {
        None => write.require("attribute_not_exists(#ver)"),
        Some(version) => write.require("#ver = :replaced").bind("replaced", n(version)),
    };
    write
        .set("v", n(VERSION))
        .set("doc", s(text))
        .set("ver", n(replaces.unwrap_or(0).saturating_add(1)))
        .set("n", nonce_value(nonce));
    write
}

fn place(key: &BoardKey) -> Item {
    item([("pk", s(format!("BRD#{}", key.as_str()))), ("sk", s("M"))])
}

fn posted(found: &Item) -> PortResult<Posted> {
    let fields = Fields::versioned("board", found)?;
    Ok(Posted { text: fields.text("doc")?.to_owned(), version: fields.number("ver")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_posting_is_an_expression_dynamodb_takes() {
        for replaces in [None, Some(3)] {
            assert_eq!(post_write(&BoardKey::new("rates", "main"), "{}", replaces, Nonce(1)).problems(), [""; 0]);
        }
    }
}
