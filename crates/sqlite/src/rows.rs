//! Values of ours as SQLite stores them, and back.

use std::str::FromStr;

use penstock_policy::id::{Epoch, Nonce};
use penstock_policy::job::{Head, Position, State};
use penstock_policy::time::Timestamp;
use penstock_service::ports::JobRecord;
use penstock_service::stored::record::{outcome_from, spec_from};
use penstock_service::stored::story::story_from;
use rusqlite::{Row, types::Type};

/// A `u64` in SQLite's signed integer, bit for bit.
pub(crate) const fn stored(value: u64) -> i64 {
    value.cast_signed()
}

/// Back again.
pub(crate) const fn unstored(value: i64) -> u64 {
    value.cast_unsigned()
}

/// Says that column `index` holds what it should not.
pub(crate) fn malformed(index: usize, what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, format!("malformed {what}").into())
}

/// Reads a column that holds the text of an id or a name.
pub(crate) fn parsed<T: FromStr>(row: &Row<'_>, index: usize, what: &str) -> rusqlite::Result<T> {
    row.get_ref(index)?.as_str()?.parse().map_err(|_| malformed(index, what))
}

/// Reads a column that holds a moment.
pub(crate) fn moment(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    row.get(index).map(Timestamp::from_millis)
}

/// Reads a position from two columns.
pub(crate) fn position(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Position>> {
    let epoch: Option<u32> = row.get(index)?;
    let seq: Option<u32> = row.get(index + 1)?;
    Ok(epoch.zip(seq).map(|(epoch, seq)| Position { epoch: Epoch(epoch), seq }))
}

/// The columns of a job, in the order [`job_record`] reads them.
pub(crate) const JOB_COLUMNS: &str = "state, epoch, lease_until, releases, interest, last_epoch, last_seq, unsettled, \
                                      nonce, spec, owner, digest, started, finished, outcome, story, forgotten";

/// Reads a job's record.
pub(crate) fn job_record(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    let spec: Option<String> = row.get(9)?;
    let outcome: Option<String> = row.get(14)?;
    let owner: Option<String> = row.get(10)?;
    let story: Option<String> = row.get(15)?;
    Ok(JobRecord {
        spec: spec.map(|text| spec_from(&text).ok_or_else(|| malformed(9, "spec"))).transpose()?,
        head: Head {
            state: State::from_code(row.get_ref(0)?.as_str()?).ok_or_else(|| malformed(0, "state"))?,
            epoch: Epoch(row.get(1)?),
            lease_until: moment(row, 2)?,
            releases: row.get(3)?,
            interest: row.get(4)?,
            last: position(row, 5)?,
            unsettled: row.get(7)?,
            nonce: Nonce(unstored(row.get(8)?)),
        },
        owner: owner.map(|text| text.parse().map_err(|_| malformed(10, "owner"))).transpose()?,
        digest: row.get(11)?,
        started: row.get::<_, Option<i64>>(12)?.map(Timestamp::from_millis),
        finished: row.get::<_, Option<i64>>(13)?.map(Timestamp::from_millis),
        outcome: outcome.map(|text| outcome_from(&text).ok_or_else(|| malformed(14, "outcome"))).transpose()?,
        forgotten: row.get(16)?,
        story: story.map_or(Ok(Vec::new()), |text| story_from(&text).ok_or_else(|| malformed(15, "story")))?,
    })
}

/// Token ids as stored bytes.
pub(crate) fn ids_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Back again; `None` if the length is no multiple of four.
pub(crate) fn ids_from(bytes: &[u8]) -> Option<Vec<u32>> {
    let (words, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}
