//! Token buckets: one item a bucket key, all its parts taken in one conditional write.
//!
//! The grant rule has two branches (`penstock_policy::gcra`): a bucket in use adds to its `tat`, an idle one begins
//! anew. DynamoDB has no `max`, so each part's branch is chosen before the write from the state last seen here, and a
//! wrong choice fails the condition and comes back with the item, on which `gcra::take_all` decides what to do. Additions
//! commute, so concurrent takers only ever meet at the idle edge, where one wins and the others take the busy branch.
//!
//! Attributes: `t<i>` tat in nanoseconds, `g<i>` generation, of part `i`; `n` the nonce of the last take.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::gcra::{self, Branches, Bucket, JointVerdict, Limit, Spent};
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    BucketKey, Held, HoldClaim, HoldEntry, HoldKey, HoldName, Holding, Levels, Limits, PortError, PortResult,
    Reservation, Take, TakeOutcome,
};

use crate::Aws;
use crate::error::DYNAMODB;
use crate::item::{Fields, Item, item, n, nonce_value, s};
use crate::table::{Repeats, Write, Written};

/// How often a take meets the idle edge before it gives up. Each round lost means that another take was granted.
const ROUNDS: usize = 6;

/// How long a bucket item outlives its fullness. A bucket that is removed forgets its generation, and a refund from
/// before could meet the same number again: it must outlive every job that holds a reservation (see `jobs`).
const KEPT: Duration = Duration::from_secs(8 * 24 * 3600);

/// The states of buckets as last seen by this process: only a guess at the right branch.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<BTreeMap<String, Levels>>);

impl Seen {
    /// More keys than one process meets; beyond it, guessing begins anew.
    const MOST: usize = 10_000;

    fn guess(&self, key: &str) -> Levels {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    fn note(&self, key: &str, levels: &Levels) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= Self::MOST {
            seen.clear();
        }
        seen.insert(key.to_owned(), levels.clone());
    }
}

/// A verdict, and whether it is new: a repetition's grant was spent by the call it repeats.
pub(crate) struct Taken {
    pub(crate) outcome: TakeOutcome,
    pub(crate) fresh: bool,
}

#[async_trait]
impl Limits for Aws {
    async fn take(&self, take: &Take, nonce: Nonce, now: Timestamp) -> PortResult<TakeOutcome> {
        Ok(self.take_units(take, nonce, now).await?.outcome)
    }

    async fn refund(&self, reservation: &Reservation, _now: Timestamp) -> PortResult<()> {
        self.give_back(reservation, None).await
    }

    async fn peek(&self, key: &BucketKey) -> PortResult<Levels> {
        self.levels(key, false).await
    }

    async fn hold(&self, claim: &HoldClaim, now: Timestamp) -> PortResult<Held> {
        self.hold_units(claim, now).await
    }

    async fn unhold(&self, key: &HoldKey, name: &HoldName, used: u64, now: Timestamp) -> PortResult<Option<HoldEntry>> {
        self.end_hold(key, name, used, now).await
    }

    async fn holding(&self, key: &HoldKey) -> PortResult<Holding> {
        self.holding_of(key).await
    }
}

impl Aws {
    /// Takes, and says whether anything was taken by this very call.
    pub(crate) async fn take_units(&self, take: &Take, nonce: Nonce, now: Timestamp) -> PortResult<Taken> {
        let branches: Option<Vec<Branches>> =
            take.parts.iter().map(|part| gcra::branches(&part.limit, part.units, now)).collect();
        let Some(branches) = branches else {
            // Never satisfiable: nothing to write; the read is only for the answer's levels.
            let levels = self.levels(&take.key, true).await?;
            let never = TakeOutcome::Refused { part: 0, until: None, levels: levels.clone() };
            return Ok(Taken { outcome: refusal(take, &levels, now).unwrap_or(never), fresh: true });
        };
        let pk = bucket_pk(&take.key);
        let mut levels = self.seen.guess(&pk);
        for _ in 0..ROUNDS {
            let write = take_write(&pk, take, &branches, &levels, nonce, now);
            let (found, fresh) = match self.update(&self.names.adm_table, write, Repeats::BySdk).await? {
                Written::Done(item) => (item, true),
                Written::Not(item) => (item, false),
            };
            levels = read_levels(&found)?;
            self.seen.note(&pk, &levels);
            if fresh || Fields::new("bucket", &found).nonce()? == Some(nonce) {
                return Ok(Taken { outcome: granted(take, &branches, levels), fresh });
            }
            if let Some(outcome) = refusal(take, &levels, now) {
                return Ok(Taken { outcome, fresh: true });
            }
        }
        Err(PortError::Throttled { store: DYNAMODB, cause: "the bucket changed at every try".to_owned() })
    }

    /// Refunds each part whose generation still matches. Two writes at most, the second only after the first was
    /// refused for certain. With `nonce`, the take of that nonce is forgotten too, so that a repetition takes anew.
    pub(crate) async fn give_back(&self, reservation: &Reservation, nonce: Option<Nonce>) -> PortResult<()> {
        let pk = bucket_pk(&reservation.key);
        let mut parts: Vec<(usize, Spent)> =
            reservation.spent.iter().copied().enumerate().filter(|(_, spent)| spent.cost_ns != 0).collect();
        for _ in 0..2 {
            if parts.is_empty() {
                return Ok(());
            }
            let write = refund_write(&pk, &parts, nonce);
            match self.update(&self.names.adm_table, write, Repeats::Never).await? {
                Written::Done(_) => return Ok(()),
                Written::Not(found) => {
                    let levels = read_levels(&found)?;
                    parts.retain(|(index, spent)| {
                        found.contains_key(&format!("t{index}")) && levels.part(*index).generation == spent.generation
                    });
                }
            }
        }
        Ok(())
    }

    async fn levels(&self, key: &BucketKey, strongly: bool) -> PortResult<Levels> {
        let key = item([("pk", s(bucket_pk(key)))]);
        self.get(&self.names.adm_table, key, strongly).await?.map_or(Ok(Levels::default()), |found| read_levels(&found))
    }
}

fn take_write(pk: &str, take: &Take, branches: &[Branches], guess: &Levels, nonce: Nonce, now: Timestamp) -> Write {
    let mut write = Write::on(item([("pk", s(pk))]));
    write.bind("now", n(now.as_nanos())).bind("zero", n(0)).bind("one", n(1));
    let mut full_ns = now.as_nanos();
    for (index, (part, branch)) in take.parts.iter().zip(branches).enumerate() {
        let (t, g) = (format!("#t{index}"), format!("#g{index}"));
        if guess.part(index).tat_ns >= branch.now_ns {
            write
                .require(format!("{t} BETWEEN :now AND :ceiling{index}"))
                .clause(format!("{t} = {t} + :cost{index}"))
                .bind(&format!("ceiling{index}"), n(branch.ceiling_ns))
                .bind(&format!("cost{index}"), n(branch.cost_ns));
        } else {
            write
                .require(format!("attribute_not_exists({t}) OR {t} < :now"))
                .clause(format!("{t} = :full{index}"))
                .clause(format!("{g} = if_not_exists({g}, :zero) + :one"))
                .bind(&format!("full{index}"), n(branch.now_ns.saturating_add(branch.cost_ns)));
        }
        let burst_ns = part.limit.cost(part.limit.burst()).unwrap_or(i64::MAX);
        full_ns = full_ns.max(branch.now_ns.saturating_add(burst_ns));
    }
    write
        .require("attribute_not_exists(#n) OR #n <> :set_n")
        .set("n", nonce_value(nonce))
        .set("ttl", crate::table::ttl(Timestamp::from_millis(full_ns / 1_000_000), KEPT));
    write
}

fn refund_write(pk: &str, parts: &[(usize, Spent)], nonce: Option<Nonce>) -> Write {
    let mut write = Write::on(item([("pk", s(pk))]));
    for (index, spent) in parts {
        write
            .require(format!("#g{index} = :generation{index}"))
            .clause(format!("#t{index} = #t{index} - :cost{index}"))
            .bind(&format!("generation{index}"), n(spent.generation))
            .bind(&format!("cost{index}"), n(spent.cost_ns));
    }
    if let Some(nonce) = nonce {
        write.set("n", s(format!("taken back: {:x}", nonce.0)));
    }
    write
}

fn granted(take: &Take, branches: &[Branches], levels: Levels) -> TakeOutcome {
    let spent = branches
        .iter()
        .enumerate()
        .map(|(index, branch)| Spent { cost_ns: branch.cost_ns, generation: levels.part(index).generation })
        .collect();
    TakeOutcome::Granted { reservation: Reservation { key: take.key.clone(), spent }, levels }
}

/// The policy's refusal of the whole take on the state found, if it refuses.
fn refusal(take: &Take, levels: &Levels, now: Timestamp) -> Option<TakeOutcome> {
    let parts: Vec<(Limit, u64)> = take.parts.iter().map(|part| (part.limit, part.units)).collect();
    match gcra::take_all(&levels.0, &parts, now) {
        JointVerdict::Granted { .. } => None,
        JointVerdict::Refused { part, until } => Some(TakeOutcome::Refused { part, until, levels: levels.clone() }),
    }
}

fn read_levels(found: &Item) -> PortResult<Levels> {
    let fields = Fields::new("bucket", found);
    let part = |index: usize| -> PortResult<Option<Bucket>> {
        let Some(tat_ns) = fields.maybe_number(&format!("t{index}"))? else { return Ok(None) };
        let generation = fields.maybe_number(&format!("g{index}"))?.unwrap_or_default();
        Ok(Some(Bucket { tat_ns, generation }))
    };
    let mut levels = Vec::new();
    while let Some(bucket) = part(levels.len())? {
        levels.push(bucket);
    }
    Ok(Levels(levels))
}

fn bucket_pk(key: &BucketKey) -> String {
    match key {
        BucketKey::Tenant { tenant, shard } => format!("B#T#{tenant}#{shard}"),
        BucketKey::VirtualQueue { pool, class, shard } => format!("B#V#{pool}#{}#{shard}", class.name()),
        BucketKey::Upstream { upstream, day } => format!("B#U#{upstream}#{day}"),
    }
}

#[cfg(test)]
mod tests {
    use penstock_policy::id::TenantId;
    use penstock_service::ports::TakePart;

    use super::*;

    #[test]
    fn every_branch_of_a_take_and_a_refund_is_an_expression_dynamodb_takes() {
        let now = Timestamp::from_millis(1_000);
        let part = TakePart { limit: Limit::per_minute(60).unwrap(), units: 2 };
        let key = BucketKey::Tenant { tenant: TenantId::new("acme").unwrap(), shard: 0 };
        let take = Take { key, parts: vec![part, part] };
        let branches: Vec<Branches> =
            take.parts.iter().map(|part| gcra::branches(&part.limit, part.units, now).unwrap()).collect();
        let (idle, busy) = (Bucket::default(), Bucket { tat_ns: i64::MAX, generation: 1 });
        for guess in [[idle, idle], [idle, busy], [busy, idle], [busy, busy]] {
            let write = take_write("B#", &take, &branches, &Levels(guess.to_vec()), Nonce(1), now);
            assert_eq!(write.problems(), [""; 0], "{guess:?}");
        }
        let spent = Spent { cost_ns: 5, generation: 1 };
        for parts in [vec![(1, spent)], vec![(0, spent), (1, spent)]] {
            assert_eq!(refund_write("B#", &parts, Some(Nonce(1))).problems(), [""; 0]);
        }
    }
}
