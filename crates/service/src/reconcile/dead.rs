//! Dead letters: messages that were received too often, by workers that died, or gave back what they could not run.

use std::time::Duration;

use penstock_policy::id::PoolId;
use penstock_policy::reconcile::{DeadLetter, triage};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::ports::{Delivery, PortResult, QueueId};
use crate::reconcile::Reconciled;
use crate::reconcile::open::queues;

/// How long a dead letter is hidden while it is looked at.
const LOOKED_AT: Duration = Duration::from_secs(120);

/// How long one that nobody can read is left for a person to see.
const UNREADABLE: Duration = Duration::from_secs(12 * 3600);

/// The most messages of one receive, a limit of SQS, and receives of one run.
const MOST_RECEIVED: usize = 10;
const MOST_RECEIVES: u32 = 20;

/// The longest delay of a message.
const MOST_DELAY: Duration = Duration::from_secs(15 * 60);

impl Service {
    /// Looks through a pool's dead letters.
    pub(super) async fn triage_dead_letters(
        &self,
        pool: &PoolId,
        done: &mut Reconciled,
        now: Timestamp,
    ) -> PortResult<()> {
        for queue in queues(pool) {
            let mut receives = 0;
            loop {
                let letters = self.ports.queue.dead_letters(&queue, MOST_RECEIVED, LOOKED_AT).await?;
                if letters.is_empty() {
                    break;
                }
                for letter in letters {
                    self.triage_one(&queue, letter, done, now).await?;
                }
                receives += 1;
                if receives == MOST_RECEIVES {
                    done.more = true;
                    break;
                }
            }
        }
        Ok(())
    }

    async fn triage_one(
        &self,
        queue: &QueueId,
        letter: Delivery,
        done: &mut Reconciled,
        now: Timestamp,
    ) -> PortResult<()> {
        let message = match letter.message {
            Ok(message) => message,
            Err(cause) => {
                tracing::error!(%cause, pool = %queue.pool, class = queue.class.name(), "an unreadable dead letter");
                return self.ports.queue.hide(&letter.receipt, UNREADABLE).await;
            }
        };
        let job = message.spec.id;
        let record = self.ports.jobs.record(job).await?;
        let sorted = triage(record.as_ref().map(|record| &record.head), message.spec.due, now);
        match (sorted, &record) {
            (DeadLetter::SendAgain(delay), _) => {
                // Sent before it is removed: whoever dies in between has sent one too many.
                self.ports.queue.send(queue, &message, delay.min(MOST_DELAY), now).await?;
                done.sent_again += 1;
            }
            (DeadLetter::Expire, _) => {
                if !self.expire_left(job, now).await? {
                    // Somebody has claimed it just now: it is looked at again.
                    return Ok(());
                }
                done.expired += 1;
            }
            (DeadLetter::GiveUp, Some(record)) => {
                if !self.give_up(job, record, now).await? {
                    return Ok(());
                }
                done.given_up += 1;
            }
            // There is no record to give up: it never had a worker.
            (DeadLetter::GiveUp, None) => return Ok(()),
            (DeadLetter::Remove, _) => {
                self.settle(job).await?;
                done.removed += 1;
            }
        }
        self.ports.queue.ack(&letter.receipt).await
    }
}
