//! Return slots: a refused request is given a moment and the room for it, and recognised when it comes back.
//!
//! The decision is `penstock_policy::returns`. A slot is stored as a hold of the tenant's, under the digest of the request,
//! so that a tenant has only so many and each is claimed once. What is booked and what has come back is tallied by the
//! slot's moment, so that the control loop knows how much of the queue is room that is kept for somebody.

use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::gcra::{Limit, Spent};
use penstock_policy::id::PoolId;
use penstock_policy::returns::{self, Return, Slot};
use penstock_policy::time::Timestamp;

use crate::Service;
use crate::admission::draft::Draft;
use crate::ports::{
    BucketKey, Counts, Held, HoldClaim, HoldKey, HoldName, PortResult, Reservation, Take, TakeOutcome, TakePart,
    TallyKey,
};

/// The span of time that bookings are tallied by.
const TALLY_SPAN_MS: i64 = 10_000;

/// How long a tally of bookings is kept.
const TALLY_KEPT: Duration = Duration::from_secs(600);

/// What is known of a request that comes again.
pub(crate) enum Again {
    /// Nothing: it is a newcomer, or came too late.
    Newcomer,
    /// It comes before its moment.
    Early(Timestamp),
    /// It comes in time, and this is the room that was kept for it.
    InTime(Reservation),
}

/// The name a request's slot is stored under.
fn name_of(draft: &Draft) -> Option<HoldName> {
    HoldName::new(&format!("{:016x}", draft.fingerprint))
}

fn key_of(draft: &Draft) -> HoldKey {
    let spec = &draft.spec;
    HoldKey::Returns { tenant: spec.tenant.clone(), pool: spec.pool.clone(), class: spec.class }
}

impl Service {
    /// Recognises a request that was refused before, and claims its slot if it comes in time.
    pub(crate) async fn recognise(&self, draft: &Draft, now: Timestamp) -> PortResult<Again> {
        let (Some(name), key) = (name_of(draft), key_of(draft)) else { return Ok(Again::Newcomer) };
        let holding = self.ports.limits.holding(&key).await?;
        let Some(entry) = holding.entries.into_iter().find(|entry| entry.name == name) else {
            return Ok(Again::Newcomer);
        };
        let Some(slot) = read(entry.until, &entry.note) else { return Ok(Again::Newcomer) };
        match returns::judge(&slot, now) {
            Return::Early { at } => Ok(Again::Early(at)),
            Return::InTime if self.ports.limits.unhold(&key, &name, 0, now).await?.is_some() => {
                self.tally_return(&draft.spec.pool, draft.spec.class, slot.at, "back", entry.units, now).await?;
                Ok(Again::InTime(reservation(draft, &slot)))
            }
            // Another of the same name was quicker, or it is too late.
            Return::InTime => Ok(Again::Newcomer),
            Return::Lapsed => {
                self.ports.limits.unhold(&key, &name, 0, now).await?;
                Ok(Again::Newcomer)
            }
        }
    }

    /// Books a slot for a refused request; `None` if there is none within the time that clients wait, or its tenant has
    /// enough of them.
    pub(crate) async fn book(
        &self,
        draft: &Draft,
        queue: &Limit,
        shard: u16,
        now: Timestamp,
    ) -> PortResult<Option<Timestamp>> {
        let units = draft.spec.estimated_tokens.min(queue.burst());
        let Some(name) = name_of(draft) else { return Ok(None) };
        let bucket = queue_key(&draft.spec.pool, draft.spec.class, shard);
        let take = Take { key: bucket, parts: vec![TakePart { limit: returns::limit(queue), units }] };
        let TakeOutcome::Granted { reservation, levels } = self.ports.limits.take(&take, self.nonce(), now).await?
        else {
            return Ok(None);
        };
        let spent = reservation.spent.first().copied().unwrap_or(Spent { cost_ns: 0, generation: 0 });
        let slot = returns::slot(queue, levels.part(0), spent, shard);
        let claim = HoldClaim {
            key: key_of(draft),
            name,
            units,
            most: returns::tenant_cap(queue, levels.part(0), units, now),
            until: slot.at,
            note: written(&slot),
        };
        let mut held = self.ports.limits.hold(&claim, now).await?;
        if let Held::Full(holding) = &held {
            // Slots that nobody came back for make room.
            let lapsed: Vec<_> = holding.entries.iter().filter(|entry| returns::lapses(entry.until) < now).collect();
            for entry in &lapsed {
                self.ports.limits.unhold(&claim.key, &entry.name, 0, now).await?;
            }
            if !lapsed.is_empty() {
                held = self.ports.limits.hold(&claim, now).await?;
            }
        }
        match held {
            Held::Yes => {
                self.tally_return(&draft.spec.pool, draft.spec.class, slot.at, "booked", units, now).await?;
                Ok(Some(slot.at))
            }
            Held::Full(_) => {
                self.ports.limits.refund(&reservation, now).await?;
                Ok(None)
            }
        }
    }

    /// Tokens of a queue that are kept for those who have not come back yet and still may.
    pub(crate) async fn kept_for_returns(&self, pool: &PoolId, class: Class, now: Timestamp) -> PortResult<u64> {
        let first = span_of(now.before(returns::GRACE));
        let last = span_of(now.after(returns::WINDOW)) + 1;
        let keys: Vec<TallyKey> = (first..=last).map(|span| tally_key(pool, class, span)).collect();
        let sums = self.ports.tally.sums(&keys).await?;
        let of = |name: &str| sums.iter().filter_map(|counts| counts.get(name)).sum::<i64>();
        Ok(u64::try_from(of("booked").saturating_sub(of("back"))).unwrap_or(0))
    }

    async fn tally_return(
        &self,
        pool: &PoolId,
        class: Class,
        at: Timestamp,
        what: &str,
        units: u64,
        now: Timestamp,
    ) -> PortResult<()> {
        let counts = Counts::from([(what.to_owned(), i64::try_from(units).unwrap_or(i64::MAX))]);
        let key = tally_key(pool, class, span_of(at));
        self.ports.tally.add(&key, &counts, now.after(TALLY_KEPT), self.nonce()).await
    }
}

/// The bucket of a virtual queue's shard.
pub(crate) fn queue_key(pool: &PoolId, class: Class, shard: u16) -> BucketKey {
    BucketKey::VirtualQueue { pool: pool.clone(), class, shard }
}

fn reservation(draft: &Draft, slot: &Slot) -> Reservation {
    Reservation { key: queue_key(&draft.spec.pool, draft.spec.class, slot.shard), spent: vec![slot.spent] }
}

fn span_of(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(TALLY_SPAN_MS)
}

fn tally_key(pool: &PoolId, class: Class, span: i64) -> TallyKey {
    TallyKey::new("returns", &format!("{pool}.{}", class.name()), &span.to_string())
}

/// A slot as stored beside its moment: cost, generation, shard.
fn written(slot: &Slot) -> String {
    format!("{} {} {}", slot.spent.cost_ns, slot.spent.generation, slot.shard)
}

fn read(at: Timestamp, note: &str) -> Option<Slot> {
    let mut words = note.split(' ');
    let cost_ns = words.next()?.parse().ok()?;
    let generation = words.next()?.parse().ok()?;
    let shard = words.next()?.parse().ok()?;
    Some(Slot { at, spent: Spent { cost_ns, generation }, shard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_reads_back_as_it_was_written() {
        let slot = Slot { at: Timestamp::from_millis(7), spent: Spent { cost_ns: 5, generation: 6 }, shard: 3 };
        assert_eq!(read(slot.at, &written(&slot)), Some(slot));
        assert_eq!(read(slot.at, "5 6"), None);
    }
}
