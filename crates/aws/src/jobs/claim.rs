//! Claiming: an upsert, so that the message alone is enough to make the record.
//!
//! The digest rule comes on top of the policy's guard: words written by one model are only continued by the same. A
//! claim requires that the record's digest is its own or none; if it is another's, and no word has been written yet, a
//! second try replaces it, provided that nothing happened to the record in between.

use penstock_policy::id::{JobId, Nonce};
use penstock_policy::job::{Step, apply};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Claim, Claimed, JobRecord, PortResult};
use penstock_service::stored::story::Event;

use crate::Aws;
use crate::item::{ms, n, s};
use crate::jobs::{TRIES, chunks, contended, guard, record};
use crate::table::{Repeats, Write, Written};

impl Aws {
    pub(crate) async fn claim_job(&self, claim: &Claim, nonce: Nonce, now: Timestamp) -> PortResult<Claimed> {
        let job = claim.spec.id;
        let step = Step::Claim { lease_until: claim.lease_until };
        let mut replaced: Option<JobRecord> = None;
        let mut told = false;
        // One try more than for a step: the one that replaces a digest follows one that found it.
        for _ in 0..=TRIES {
            let mut write = claim_write(claim, replaced.as_ref(), nonce, now);
            if !told {
                record::append_event(&mut write, &Event::claimed(now, &claim.owner, &claim.digest));
            }
            let found = match self.update(&self.names.job_table, write, Repeats::BySdk).await? {
                Written::Done(item) => return Ok(Claimed::Yes(Box::new(record::read(&item)?))),
                Written::Not(found) if found.is_empty() => {
                    // Removed between two tries.
                    replaced = None;
                    continue;
                }
                Written::Not(found) => {
                    told = record::is_told(&found);
                    record::read(&found)?
                }
            };
            match apply(step, nonce, Some(&found.head), now) {
                Err(denied) => return Ok(Claimed::No { denied, record: Box::new(found) }),
                Ok(_) if found.head.nonce == nonce => return Ok(Claimed::Yes(Box::new(found))),
                Ok(_) => {}
            }
            replaced = None;
            if let Some(fixed) = found.digest.as_ref().filter(|digest| **digest != claim.digest) {
                if self.has_chunks(job).await? {
                    return Ok(Claimed::OtherDigest(fixed.clone()));
                }
                replaced = Some(found);
            }
        }
        Err(contended())
    }

    async fn has_chunks(&self, job: JobId) -> PortResult<bool> {
        let range = (chunks::FIRST, chunks::LAST);
        let first = self.query(&self.names.job_table, &record::job_pk(job), range, true, Some(1)).await?;
        Ok(!first.is_empty())
    }
}

fn claim_write(claim: &Claim, replaced: Option<&JobRecord>, nonce: Nonce, now: Timestamp) -> Write {
    let mut write = guard::write(claim.spec.id, Step::Claim { lease_until: claim.lease_until }, nonce, now);
    record::set_spec(&mut write, &claim.spec);
    write.set("ow", s(claim.owner.as_str())).set("dig", s(&claim.digest)).set("sta", ms(now));
    match replaced {
        None => {
            write.require("attribute_not_exists(#dig) OR #dig = :set_dig");
        }
        Some(found) => {
            write
                .require("#dig = :fixed AND #ep = :found")
                .bind("fixed", s(found.digest.clone().unwrap_or_default()))
                .bind("found", n(found.head.epoch.0));
        }
    }
    write
}

#[cfg(test)]
mod tests {
    use penstock_policy::classes::Class;
    use penstock_policy::cost::Price;
    use penstock_policy::id::{PoolId, TenantId, WorkerId};
    use penstock_policy::job::Head;
    use penstock_policy::tenant::Retention;
    use penstock_service::ports::JobSpec;
    use penstock_service::stored::story::Admitted;

    use super::*;

    #[test]
    fn both_forms_of_a_claim_are_expressions_dynamodb_takes() {
        let now = Timestamp::from_millis(1);
        let spec = JobSpec {
            id: JobId::new(now, 2),
            route: penstock_service::Route::Chat,
            tenant: TenantId::new("acme").unwrap(),
            class: Class::P0,
            pool: PoolId::new("main").unwrap(),
            model: String::new(),
            created: now,
            due: now,
            streamed: false,
            estimated_tokens: 0,
            reservations: Vec::new(),
            price: Price::default(),
            retention: Retention::default(),
            admitted: Admitted::default(),
            keep: None,
        };
        let owner = WorkerId::new("w").unwrap();
        let claim = Claim { spec, owner, digest: "new".to_owned(), lease_until: now };
        let found = JobRecord { digest: Some("old".to_owned()), ..JobRecord::bare(Head::queued(Nonce(1))) };
        for replaced in [None, Some(&found)] {
            let mut write = claim_write(&claim, replaced, Nonce(3), now);
            record::append_event(&mut write, &Event::claimed(now, &claim.owner, &claim.digest));
            assert_eq!(write.problems(), [""; 0]);
        }
    }
}
