//! Jobs that are not over: an end whose consequences nobody drew, a job past due that nobody receives, a job whose workers
//! have all died.

use futures_util::future::try_join_all;
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, PoolId};
use penstock_policy::job::{End, Step};
use penstock_policy::parking::FLEXIBLE;
use penstock_policy::reconcile::{self, MOST_FAILED_ATTEMPTS, Verdict};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::ports::{ErrorVerdict, JobRecord, PortResult, QueueId, Stepped};
use crate::reconcile::Reconciled;

/// Pages of open jobs that one run looks at.
const MOST_PAGES: u32 = 20;

/// Records that are read at the same time.
const TOGETHER: usize = 16;

/// Parked jobs past due that one run ends, of a tenant and class.
const MOST_EXPIRED: usize = 200;

/// Tenants that one run looks for them at.
const MOST_TENANTS: usize = 500;

/// The word for a job that was given up.
pub(crate) const POISON: &str = "poison";

/// What a job that was given up ends with.
pub(crate) fn poison() -> ErrorVerdict {
    let message = format!("the job was given up after {MOST_FAILED_ATTEMPTS} failed attempts");
    ErrorVerdict { status: 500, code: POISON.to_owned(), param: None, message }
}

impl Service {
    /// Looks at open jobs, some at a time.
    pub(super) async fn look_at_open_jobs(
        &self,
        at: &mut Option<String>,
        done: &mut Reconciled,
        now: Timestamp,
    ) -> PortResult<()> {
        for _ in 0..MOST_PAGES {
            let page = self.ports.census.open_jobs(at.as_deref()).await?;
            for some in page.found.chunks(TOGETHER) {
                for verdict in try_join_all(some.iter().map(|job| self.look_at(*job, now))).await? {
                    match verdict {
                        Verdict::Leave => {}
                        Verdict::Settle => done.settled += 1,
                        Verdict::Expire => done.expired += 1,
                        Verdict::GiveUp => done.given_up += 1,
                    }
                }
            }
            *at = page.next;
            if at.is_none() {
                return Ok(());
            }
        }
        done.more = true;
        Ok(())
    }

    /// Does what is to be done about a job, and says what was.
    async fn look_at(&self, job: JobId, now: Timestamp) -> PortResult<Verdict> {
        let Some(record) = self.ports.jobs.record(job).await? else { return Ok(Verdict::Leave) };
        let due = record.spec.as_ref().map(|spec| spec.due);
        let verdict = reconcile::verdict(&record.head, due, record.finished, now);
        let done = match verdict {
            Verdict::Leave => true,
            Verdict::Settle => {
                self.settle(job).await?;
                true
            }
            Verdict::Expire => self.expire_left(job, now).await?,
            Verdict::GiveUp => self.give_up(job, &record, now).await?,
        };
        Ok(if done { verdict } else { Verdict::Leave })
    }

    /// Ends a job that is past due, unless somebody runs it after all.
    pub(super) async fn expire_left(&self, job: JobId, now: Timestamp) -> PortResult<bool> {
        let expired = self.ports.jobs.step(job, &Stepped::from(Step::Expire), self.nonce(), now).await?.is_ok();
        if expired {
            self.settle(job).await?;
        }
        Ok(expired)
    }

    /// Ends a job whose workers have died of it, in the place of the last of them, unless another has taken it meanwhile.
    pub(super) async fn give_up(&self, job: JobId, record: &JobRecord, now: Timestamp) -> PortResult<bool> {
        let finish = Step::Finish { epoch: record.head.epoch, end: End::Failed, last: None };
        let finish = Stepped { outcome: Some(Err(poison())), ..Stepped::from(finish) };
        let given_up = self.ports.jobs.step(job, &finish, self.nonce(), now).await?.is_ok();
        if given_up {
            tracing::warn!(%job, "a job has outlived its workers too often and is given up");
            self.settle(job).await?;
        }
        Ok(given_up)
    }

    /// Ends parked jobs that are past due: nobody sends them any more.
    pub(super) async fn expire_parked(&self, pool: &PoolId, done: &mut Reconciled, now: Timestamp) -> PortResult<()> {
        for class in FLEXIBLE {
            let queue = QueueId { pool: pool.clone(), class };
            let tenants = self.ports.parking.tenants(&queue, None, MOST_TENANTS).await?;
            for tenant in tenants {
                let parked = self.ports.parking.parked(&queue, &tenant, Timestamp::EPOCH, MOST_EXPIRED).await?;
                let late: Vec<JobId> = parked.iter().filter(|job| job.due < now).map(|job| job.job).collect();
                done.more |= late.len() == MOST_EXPIRED;
                for some in late.chunks(TOGETHER) {
                    let ended = try_join_all(some.iter().map(|job| self.expire_left(*job, now))).await?;
                    done.expired += ended.into_iter().map(u64::from).sum::<u64>();
                }
            }
        }
        Ok(())
    }
}

/// The classes' queues of a pool.
pub(super) fn queues(pool: &PoolId) -> [QueueId; 4] {
    Class::ALL.map(|class| QueueId { pool: pool.clone(), class })
}
