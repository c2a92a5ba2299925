//! The earlier tries of requests, in the `cache` table: `T#<tenant>#<digest>`, one item a request.
//!
//! Attributes: `j<job id>` a try's hold as text, `<until in ms> <holder> <deliveries>`, so that tries are added beside
//! each other without a read and a hold is compared as a whole; `exp` when all may be forgotten.

use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::attempt::{Attempt, Hold, MOST};
use penstock_policy::id::{JobId, Nonce};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{AttemptClaim, Attempts, MarkerKey, PortResult, Swapped};

use crate::Aws;
use crate::item::{Fields, Item, VERSION, item, n, s};
use crate::table::{Repeats, Write, Written, ttl};

#[async_trait]
impl Attempts for Aws {
    async fn tries(&self, key: &MarkerKey) -> PortResult<Vec<Attempt>> {
        let found = self.get(&self.names.cache_table, tries_key(key), true).await?;
        let mut tries = found.map_or(Ok(Vec::new()), |found| read(&found))?;
        Ok(tries.split_off(tries.len().saturating_sub(MOST)))
    }

    async fn swap(&self, key: &MarkerKey, job: JobId, from: &Hold, to: &Hold) -> PortResult<Swapped> {
        let mut write = Write::on(tries_key(key));
        let name = attribute(job);
        write.require(format!("#{name} IN (:from, :set_{name})")).bind("from", s(text(from))).set(&name, s(text(to)));
        match self.update(&self.names.cache_table, write, Repeats::BySdk).await? {
            Written::Done(_) => Ok(Swapped::Yes),
            Written::Not(_) => Ok(Swapped::No),
        }
    }

    async fn forget_try(&self, key: &MarkerKey, job: JobId) -> PortResult<()> {
        self.forget_tries(key, [job].into_iter()).await
    }
}

impl Aws {
    /// Remembers a try, and forgets the oldest beyond the most that are kept.
    pub(crate) async fn note_try(&self, claim: &AttemptClaim, job: JobId) -> PortResult<()> {
        match self.update(&self.names.cache_table, note_write(claim, job), Repeats::BySdk).await? {
            // A repetition: its hold may be another's by now.
            Written::Not(_) => Ok(()),
            Written::Done(found) => {
                let tries = read(&found)?;
                let beyond = tries.len().saturating_sub(MOST);
                self.forget_tries(&claim.key, tries.iter().take(beyond).map(|attempt| attempt.job)).await
            }
        }
    }

    async fn forget_tries(&self, key: &MarkerKey, jobs: impl Iterator<Item = JobId> + Send) -> PortResult<()> {
        let mut write = Write::on(tries_key(key));
        let mut some = false;
        for job in jobs {
            write.remove(&attribute(job));
            some = true;
        }
        if some {
            // On an item that has gone the write would make an empty one.
            write.require("attribute_exists(#pk)");
            self.update(&self.names.cache_table, write, Repeats::BySdk).await?;
        }
        Ok(())
    }
}

fn note_write(claim: &AttemptClaim, job: JobId) -> Write {
    let mut write = Write::on(tries_key(&claim.key));
    let name = attribute(job);
    write
        .require(format!("attribute_not_exists(#{name})"))
        .set(&name, s(text(&claim.hold)))
        .set("v", n(VERSION))
        .set("ttl", ttl(claim.expires, Duration::from_secs(1)));
    write
}

fn tries_key(key: &MarkerKey) -> Item {
    item([("pk", s(format!("T#{}#{}", key.tenant, key.digest)))])
}

fn attribute(job: JobId) -> String {
    format!("j{job}")
}

fn text(hold: &Hold) -> String {
    format!("{} {:x} {}", hold.until.as_millis(), hold.holder.0, hold.deliveries)
}

fn hold(text: &str) -> Option<Hold> {
    let mut words = text.split(' ');
    let until = Timestamp::from_millis(words.next()?.parse().ok()?);
    let holder = Nonce(u64::from_str_radix(words.next()?, 16).ok()?);
    Some(Hold { until, holder, deliveries: words.next()?.parse().ok()? })
}

/// The tries of an item, oldest first.
fn read(found: &Item) -> PortResult<Vec<Attempt>> {
    let fields = Fields::versioned("tries", found)?;
    let mut tries = Vec::new();
    for name in found.keys() {
        let Some(job) = name.strip_prefix('j').and_then(|id| id.parse().ok()) else { continue };
        let hold = hold(fields.text(name)?).ok_or_else(|| fields.broken(name))?;
        tries.push(Attempt { job, hold });
    }
    tries.sort_by_key(|attempt| attempt.job);
    Ok(tries)
}

#[cfg(test)]
mod tests {
    use penstock_policy::id::TenantId;

    use super::*;

    #[test]
    fn a_hold_reads_back_as_it_was_written() {
        let one = Hold { until: Timestamp::from_millis(-5), holder: Nonce(u64::MAX), deliveries: 2 };
        assert_eq!(hold(&text(&one)), Some(one));
        for broken in ["", "1", "1 2", "x 2 3", "1 g 3"] {
            assert_eq!(hold(broken), None);
        }
    }

    #[test]
    fn remembering_is_an_expression_dynamodb_takes() {
        let key = MarkerKey { tenant: TenantId::new("acme").unwrap(), digest: "ab".to_owned() };
        let now = Timestamp::from_millis(1);
        let claim = AttemptClaim { key, hold: Hold::fresh(Nonce(1), now), expires: now };
        assert_eq!(note_write(&claim, JobId::new(now, 2)).problems(), [""; 0]);
    }
}
