//! Holds: one item a key, with an attribute a hold, so that every hold and every end of one is one conditional write that
//! may be repeated freely. What a key may hold bounds the item: a few dozen jobs at a time, or open return slots.
//!
//! Attributes: `m` the sum; of a hold by the name N: `hN` its units, `uN` until (ms), `xN` its note.

use std::time::Duration;

use penstock_policy::time::Timestamp;
use penstock_service::ports::{Held, HoldClaim, HoldEntry, HoldKey, HoldName, Holding, PortError, PortResult};

use crate::Aws;
use crate::error::DYNAMODB;
use crate::item::{Fields, Item, item, ms, n, s};
use crate::table::{Repeats, Write, Written, ttl};

const WHAT: &str = "hold";

/// How long an item is kept after its last change: longer than a budget's period and than any job.
const KEPT: Duration = Duration::from_secs(40 * 24 * 3600);

/// How often the end of a hold is tried whose units differ from what was last seen. They never change, so the second try
/// succeeds.
const TRIES: usize = 3;

impl Aws {
    pub(crate) async fn hold_units(&self, claim: &HoldClaim, now: Timestamp) -> PortResult<Held> {
        if claim.units > claim.most {
            return Ok(Held::Full(self.holding_of(&claim.key).await?));
        }
        match self.update(&self.names.adm_table, hold_write(claim, now), Repeats::BySdk).await? {
            Written::Done(_) => Ok(Held::Yes),
            Written::Not(found) if found.contains_key(&format!("h{}", claim.name.as_str())) => Ok(Held::Yes),
            Written::Not(found) => Ok(Held::Full(read(&found)?)),
        }
    }

    pub(crate) async fn end_hold(
        &self,
        key: &HoldKey,
        name: &HoldName,
        used: u64,
        now: Timestamp,
    ) -> PortResult<Option<HoldEntry>> {
        let mut seen = self.holding_of(key).await?;
        for _ in 0..TRIES {
            let Some(entry) = seen.entries.into_iter().find(|entry| entry.name == *name) else { return Ok(None) };
            match self.update(&self.names.adm_table, unhold_write(key, &entry, used, now), Repeats::BySdk).await? {
                Written::Done(_) => return Ok(Some(entry)),
                Written::Not(found) => seen = read(&found)?,
            }
        }
        Err(PortError::Throttled { store: DYNAMODB, cause: "the hold changed at every try".to_owned() })
    }

    pub(crate) async fn holding_of(&self, key: &HoldKey) -> PortResult<Holding> {
        let found = self.get(&self.names.adm_table, item([("pk", s(hold_pk(key)))]), true).await?;
        found.map_or(Ok(Holding::default()), |found| read(&found))
    }
}

fn hold_write(claim: &HoldClaim, now: Timestamp) -> Write {
    let name = claim.name.as_str();
    let mut write = Write::on(item([("pk", s(hold_pk(&claim.key)))]));
    write
        .require(format!("attribute_not_exists(#h{name})"))
        .require("attribute_not_exists(#m) OR #m <= :room")
        .bind("room", n(claim.most.saturating_sub(claim.units)))
        .bind("zero", n(0))
        .bind("units", n(claim.units))
        .clause("#m = if_not_exists(#m, :zero) + :units")
        .clause(format!("#h{name} = :units"))
        .set(&format!("u{name}"), ms(claim.until))
        .set(&format!("x{name}"), s(&claim.note))
        .set("ttl", ttl(now, KEPT));
    write
}

fn unhold_write(key: &HoldKey, entry: &HoldEntry, used: u64, now: Timestamp) -> Write {
    let name = entry.name.as_str();
    let mut write = Write::on(item([("pk", s(hold_pk(key)))]));
    write.require(format!("#h{name} = :units")).bind("units", n(entry.units));
    if used >= entry.units {
        write.clause("#m = #m + :more").bind("more", n(used - entry.units));
    } else {
        write.clause("#m = #m - :less").bind("less", n(entry.units - used));
    }
    write
        .remove(&format!("h{name}"))
        .remove(&format!("u{name}"))
        .remove(&format!("x{name}"))
        .set("ttl", ttl(now, KEPT));
    write
}

fn read(found: &Item) -> PortResult<Holding> {
    let fields = Fields::new(WHAT, found);
    let names = found.keys().filter_map(|key| key.strip_prefix('h')).filter_map(HoldName::new);
    let entry = |name: HoldName| {
        Ok(HoldEntry {
            units: fields.number(&format!("h{}", name.as_str()))?,
            until: fields.moment(&format!("u{}", name.as_str()))?,
            note: fields.text(&format!("x{}", name.as_str()))?.to_owned(),
            name,
        })
    };
    let mut entries = names.map(entry).collect::<PortResult<Vec<HoldEntry>>>()?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Holding { total: fields.maybe_number("m")?.unwrap_or_default(), entries })
}

fn hold_pk(key: &HoldKey) -> String {
    match key {
        HoldKey::Concurrency { tenant } => format!("HOLD#C#{tenant}"),
        HoldKey::Money { tenant, period } => format!("HOLD#M#{tenant}#{period}"),
        HoldKey::Returns { tenant, pool, class } => format!("HOLD#R#{tenant}#{pool}#{}", class.name()),
    }
}

#[cfg(test)]
mod tests {
    use penstock_policy::id::TenantId;

    use super::*;

    #[test]
    fn a_hold_and_its_end_are_expressions_dynamodb_takes() {
        let now = Timestamp::from_millis(1_000);
        let key = HoldKey::Concurrency { tenant: TenantId::new("acme").unwrap() };
        let name = HoldName::new("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let claim =
            HoldClaim { key: key.clone(), name: name.clone(), units: 3, most: 5, until: now, note: String::new() };
        assert_eq!(hold_write(&claim, now).problems(), [""; 0]);
        let entry = HoldEntry { name, units: 3, until: now, note: String::new() };
        for used in [0, 3, 5] {
            assert_eq!(unhold_write(&key, &entry, used, now).problems(), [""; 0]);
        }
    }
}
