//! The census: the part of the index that has the jobs which wait, run or are not settled.
//!
//! Their keys are `gp` (`L#` and the last character of the id, which is drawn by chance: 32 partitions) and `gs`, the id.
//! They are set when the record is made and removed when it is settled, and never change in between, so that a job pays for
//! two writes of the index in its life.

use async_trait::async_trait;
use penstock_policy::id::JobId;
use penstock_service::ports::{Census, Page, PortResult};

use crate::Aws;
use crate::error::corrupt;
use crate::item::{Fields, item, s};
use crate::jobs::guard::INDEXED;
use crate::jobs::record;

/// The characters that an id ends with.
const LAST: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Jobs of one page.
const PAGE: i32 = 200;

/// Where a job is found.
pub(crate) fn partition_of(job: JobId) -> String {
    let id = job.to_string();
    format!("L#{}", &id[id.len() - 1..])
}

#[async_trait]
impl Census for Aws {
    async fn open_jobs(&self, after: Option<&str>) -> PortResult<Page<Vec<JobId>>> {
        // Where to go on: behind a job in its own partition, or at the beginning of a partition.
        let (mut partition, start) = match after {
            None => (0, None),
            Some(after) => match after.parse::<JobId>() {
                Ok(job) => (number_of(job), Some(job)),
                Err(_) => (after.parse().unwrap_or(0), None),
            },
        };
        let [key, place, _] = INDEXED;
        let mut start = start.map(|job| {
            let (pk, at) = (record::job_pk(job), job.to_string());
            item([("pk", s(pk)), ("sk", s("M")), (key, s(partition_of(job))), (place, s(at))])
        });
        // An empty partition is cheap: a page is what is found in the first that is not.
        while partition < LAST.len() {
            let of = format!("L#{}", char::from(LAST[partition]));
            let (found, next) = self.page(&of, ("!", "~"), Some(PAGE), start.take()).await?;
            let jobs: Vec<JobId> =
                found.iter().map(|entry| Fields::new("open job", entry).parsed(place)).collect::<PortResult<_>>()?;
            let more = match (next.is_some(), jobs.last()) {
                (true, Some(last)) => Some(last.to_string()),
                (true, None) => return Err(corrupt("page", "it is empty and not the last".to_owned())),
                (false, _) => (partition + 1 < LAST.len()).then(|| (partition + 1).to_string()),
            };
            if !jobs.is_empty() {
                return Ok(Page { found: jobs, next: more });
            }
            partition += 1;
        }
        Ok(Page { found: Vec::new(), next: None })
    }
}

fn number_of(job: JobId) -> usize {
    let id = job.to_string();
    let last = id.as_bytes().last();
    LAST.iter().position(|letter| Some(letter) == last).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use penstock_policy::time::Timestamp;

    use super::*;

    #[test]
    fn every_id_ends_with_a_character_that_has_a_partition() {
        for draw in 0..64u128 {
            let job = JobId::new(Timestamp::from_millis(7), draw);
            assert_eq!(partition_of(job), format!("L#{}", char::from(LAST[number_of(job)])));
        }
        assert_eq!(number_of(JobId::new(Timestamp::EPOCH, 31)), 31);
    }
}
