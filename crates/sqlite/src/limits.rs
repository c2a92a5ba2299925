//! Token buckets in the `bucket` table.

use async_trait::async_trait;
use penstock_policy::gcra::{self, Bucket, JointVerdict, Spent};
use penstock_policy::id::Nonce;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    BucketKey, Held, HoldClaim, HoldEntry, HoldKey, HoldName, Holding, Levels, Limits, PortResult, Reservation, Take,
    TakeOutcome,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::rows::{stored, unstored};
use crate::{Sqlite, holds};

#[async_trait]
impl Limits for Sqlite {
    async fn take(&self, take: &Take, nonce: Nonce, now: Timestamp) -> PortResult<TakeOutcome> {
        let take = take.clone();
        self.store
            .write(move |connection| {
                let decided = decide(connection, &take, nonce, now)?;
                if let Decided { outcome: TakeOutcome::Granted { levels, .. }, fresh: true } = &decided {
                    write(connection, &take.key, levels, nonce)?;
                }
                Ok(decided.outcome)
            })
            .await
    }

    async fn refund(&self, reservation: &Reservation, _now: Timestamp) -> PortResult<()> {
        let reservation = reservation.clone();
        self.store.write(move |connection| refund(connection, &reservation)).await
    }

    async fn peek(&self, key: &BucketKey) -> PortResult<Levels> {
        let key = key.clone();
        self.store.read(move |connection| Ok(read(connection, &key)?.0)).await
    }

    async fn hold(&self, claim: &HoldClaim, now: Timestamp) -> PortResult<Held> {
        let claim = claim.clone();
        self.store.write(move |connection| holds::hold(connection, &claim, now)).await
    }

    async fn unhold(&self, key: &HoldKey, name: &HoldName, used: u64, now: Timestamp) -> PortResult<Option<HoldEntry>> {
        let (key, name) = (key.clone(), name.clone());
        self.store.write(move |connection| holds::unhold(connection, &key, &name, used, now)).await
    }

    async fn holding(&self, key: &HoldKey) -> PortResult<Holding> {
        let key = key.clone();
        self.store.read(move |connection| holds::holding(connection, &key)).await
    }
}

/// A verdict, and whether it is new: a repetition's verdict must not be written again.
pub(crate) struct Decided {
    pub(crate) outcome: TakeOutcome,
    pub(crate) fresh: bool,
}

/// Decides a take on what is stored, writing nothing.
pub(crate) fn decide(connection: &Connection, take: &Take, nonce: Nonce, now: Timestamp) -> rusqlite::Result<Decided> {
    let (levels, last) = read(connection, &take.key)?;
    if last == Some(nonce) {
        let spent = take.parts.iter().enumerate().map(|(index, part)| Spent {
            cost_ns: part.limit.cost(part.units).unwrap_or(0),
            generation: levels.part(index).generation,
        });
        let reservation = Reservation { key: take.key.clone(), spent: spent.collect() };
        return Ok(Decided { outcome: TakeOutcome::Granted { reservation, levels }, fresh: false });
    }
    Ok(Decided { outcome: verdict(take, levels, now), fresh: true })
}

fn verdict(take: &Take, levels: Levels, now: Timestamp) -> TakeOutcome {
    let parts: Vec<_> = take.parts.iter().map(|part| (part.limit, part.units)).collect();
    match gcra::take_all(&levels.0, &parts, now) {
        JointVerdict::Refused { part, until } => TakeOutcome::Refused { part, until, levels },
        JointVerdict::Granted { buckets, spent } => {
            let reservation = Reservation { key: take.key.clone(), spent };
            TakeOutcome::Granted { reservation, levels: Levels(buckets) }
        }
    }
}

/// Writes a bucket's new state.
pub(crate) fn write(connection: &Connection, key: &BucketKey, levels: &Levels, nonce: Nonce) -> rusqlite::Result<()> {
    let [first, second, third] = [levels.part(0), levels.part(1), levels.part(2)];
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO bucket (key, tat0, gen0, tat1, gen1, tat2, gen2, nonce)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            key_text(key),
            first.tat_ns,
            stored(first.generation),
            second.tat_ns,
            stored(second.generation),
            third.tat_ns,
            stored(third.generation),
            stored(nonce.0)
        ])
        .map(|_| ())
}

/// Takes back what an acceptance that came to nothing had taken, and forgets its nonce, so that a repetition takes anew.
pub(crate) fn give_back(connection: &Connection, taken: &[Reservation]) -> rusqlite::Result<()> {
    taken.iter().try_for_each(|reservation| {
        refund(connection, reservation)?;
        connection
            .prepare_cached("UPDATE bucket SET nonce = 0 WHERE key = ?")?
            .execute(params![key_text(&reservation.key)])
            .map(|_| ())
    })
}

fn refund(connection: &Connection, reservation: &Reservation) -> rusqlite::Result<()> {
    let (levels, Some(last)) = read(connection, &reservation.key)? else {
        return Ok(());
    };
    let parts = levels.0.iter().enumerate().map(|(index, bucket)| match reservation.spent.get(index) {
        Some(spent) => gcra::refund(*bucket, *spent),
        None => *bucket,
    });
    write(connection, &reservation.key, &Levels(parts.collect()), last)
}

fn read(connection: &Connection, key: &BucketKey) -> rusqlite::Result<(Levels, Option<Nonce>)> {
    let found = connection
        .prepare_cached("SELECT tat0, gen0, tat1, gen1, tat2, gen2, nonce FROM bucket WHERE key = ?")?
        .query_row(params![key_text(key)], |row| {
            let bucket = |at: usize| -> rusqlite::Result<Bucket> {
                Ok(Bucket { tat_ns: row.get(at)?, generation: unstored(row.get(at + 1)?) })
            };
            Ok((Levels(vec![bucket(0)?, bucket(2)?, bucket(4)?]), Some(Nonce(unstored(row.get(6)?)))))
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

fn key_text(key: &BucketKey) -> String {
    match key {
        BucketKey::Tenant { tenant, shard } => format!("T#{tenant}#{shard}"),
        BucketKey::VirtualQueue { pool, class, shard } => format!("V#{pool}#{}#{shard}", class.name()),
        BucketKey::Upstream { upstream, day } => format!("U#{upstream}#{day}"),
    }
}
