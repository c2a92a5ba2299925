//! Holds in the `hold` table, and their sums beside them.

use penstock_policy::time::Timestamp;
use penstock_service::ports::{Held, HoldClaim, HoldEntry, HoldKey, HoldName, Holding};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::rows::{malformed, moment, stored, unstored};

pub(crate) fn hold(connection: &Connection, claim: &HoldClaim, now: Timestamp) -> rusqlite::Result<Held> {
    let key = key_text(&claim.key);
    if entry(connection, &key, &claim.name)?.is_some() {
        return Ok(Held::Yes);
    }
    let total = total(connection, &key)?;
    if total.saturating_add(claim.units) > claim.most {
        return Ok(Held::Full(holding(connection, &claim.key)?));
    }
    connection
        .prepare_cached("INSERT INTO hold (key, name, units, until, note) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![key, claim.name.as_str(), stored(claim.units), claim.until.as_millis(), claim.note])?;
    set_total(connection, &key, total.saturating_add(claim.units), now)?;
    Ok(Held::Yes)
}

pub(crate) fn unhold(
    connection: &Connection,
    key: &HoldKey,
    name: &HoldName,
    used: u64,
    now: Timestamp,
) -> rusqlite::Result<Option<HoldEntry>> {
    let key = key_text(key);
    let Some(found) = entry(connection, &key, name)? else { return Ok(None) };
    connection.prepare_cached("DELETE FROM hold WHERE key = ? AND name = ?")?.execute(params![key, name.as_str()])?;
    let total = total(connection, &key)?.saturating_sub(found.units).saturating_add(used);
    set_total(connection, &key, total, now)?;
    Ok(Some(found))
}

pub(crate) fn holding(connection: &Connection, key: &HoldKey) -> rusqlite::Result<Holding> {
    let key = key_text(key);
    let entries = connection
        .prepare_cached("SELECT name, units, until, note FROM hold WHERE key = ? ORDER BY name")?
        .query_map(params![key], read)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Holding { total: total(connection, &key)?, entries })
}

fn entry(connection: &Connection, key: &str, name: &HoldName) -> rusqlite::Result<Option<HoldEntry>> {
    connection
        .prepare_cached("SELECT name, units, until, note FROM hold WHERE key = ? AND name = ?")?
        .query_row(params![key, name.as_str()], read)
        .optional()
}

fn read(row: &Row<'_>) -> rusqlite::Result<HoldEntry> {
    Ok(HoldEntry {
        name: HoldName::new(row.get_ref(0)?.as_str()?).ok_or_else(|| malformed(0, "hold"))?,
        units: unstored(row.get(1)?),
        until: moment(row, 2)?,
        note: row.get(3)?,
    })
}

fn total(connection: &Connection, key: &str) -> rusqlite::Result<u64> {
    let found: Option<i64> = connection
        .prepare_cached("SELECT total FROM hold_total WHERE key = ?")?
        .query_row(params![key], |row| row.get(0))
        .optional()?;
    Ok(found.map_or(0, unstored))
}

fn set_total(connection: &Connection, key: &str, total: u64, now: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO hold_total (key, total, touched) VALUES (?, ?, ?)")?
        .execute(params![key, stored(total), now.as_millis()])
        .map(|_| ())
}

fn key_text(key: &HoldKey) -> String {
    match key {
        HoldKey::Concurrency { tenant } => format!("C#{tenant}"),
        HoldKey::Money { tenant, period } => format!("M#{tenant}#{period}"),
        HoldKey::Returns { tenant, pool, class } => format!("R#{tenant}#{pool}#{}", class.name()),
    }
}
