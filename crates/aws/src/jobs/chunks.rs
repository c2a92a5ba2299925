//! Chunks as items. The sort key orders them: `C#<epoch>#<seq>`, both as eight hexadecimal digits, so that every epoch and
//! number there can be has the same width.
//!
//! Attributes: `ids` the token ids, little-endian, four bytes each; `t` the text; `pe` and `ps` the parent.

use penstock_policy::id::{Epoch, JobId};
use penstock_policy::job::Position;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Chunk, PortResult};

use crate::item::{Fields, Item, VERSION, b, item, n, s};
use crate::jobs::{KEPT, record};
use crate::table::ttl;

/// Before every chunk's sort key.
pub(crate) const FIRST: &str = "C#";
/// After every chunk's sort key.
pub(crate) const LAST: &str = "C#~";

/// The chunk as an item.
pub(crate) fn chunk_item(job: JobId, chunk: &Chunk, now: Timestamp) -> Item {
    let ids = chunk.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut stored = item([
        ("pk", s(record::job_pk(job))),
        ("sk", s(sort_key(chunk.position))),
        ("v", n(VERSION)),
        ("ids", b(ids)),
        ("t", s(&chunk.text)),
        ("ttl", ttl(now, KEPT)),
    ]);
    if let Some(parent) = chunk.parent {
        stored.insert("pe".to_owned(), n(parent.epoch.0));
        stored.insert("ps".to_owned(), n(parent.seq));
    }
    stored
}

/// The chunk of an item.
pub(crate) fn read_chunk(found: &Item) -> PortResult<Chunk> {
    let fields = Fields::versioned("chunk", found)?;
    let (words, rest) = fields.bytes("ids")?.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(fields.broken("ids"));
    }
    let parent = fields.maybe_number("pe")?.zip(fields.maybe_number("ps")?);
    Ok(Chunk {
        position: position(fields.text("sk")?).ok_or_else(|| fields.broken("sk"))?,
        parent: parent.map(|(epoch, seq)| Position { epoch: Epoch(epoch), seq }),
        ids: words.iter().map(|word| u32::from_le_bytes(*word)).collect(),
        text: fields.text("t")?.to_owned(),
    })
}

/// The lower end of the range of chunks after a position.
pub(crate) fn range_after(after: Option<Position>) -> String {
    // A longer key sorts behind the key it begins with, and before every other chunk's.
    after.map_or_else(|| FIRST.to_owned(), |after| sort_key(after) + "!")
}

fn sort_key(position: Position) -> String {
    format!("{FIRST}{:08x}#{:08x}", position.epoch.0, position.seq)
}

fn position(sort_key: &str) -> Option<Position> {
    let (epoch, seq) = sort_key.strip_prefix(FIRST)?.split_once('#')?;
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    Some(Position { epoch: Epoch(number(epoch)?), seq: number(seq)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u32, seq: u32) -> Position {
        Position { epoch: Epoch(epoch), seq }
    }

    #[test]
    fn a_chunk_reads_back_as_it_was_written() {
        let chunk =
            Chunk { position: at(2, 0), parent: Some(at(1, 7)), ids: vec![0, 1, u32::MAX], text: "naïve".to_owned() };
        let job = JobId::new(Timestamp::from_millis(1), 2);
        assert_eq!(read_chunk(&chunk_item(job, &chunk, Timestamp::from_millis(3))), Ok(chunk));
    }

    #[test]
    fn sort_keys_sort_as_positions_do_and_ranges_leave_out_their_start() {
        let places = [at(0, 0), at(0, u32::MAX), at(1, 0), at(1, 9), at(1, 10), at(16, 0), at(u32::MAX, 0)];
        for pair in places.windows(2) {
            assert!(sort_key(pair[0]) < sort_key(pair[1]));
            let after = range_after(Some(pair[0]));
            assert!(sort_key(pair[0]) < after && after < sort_key(pair[1]));
        }
        assert!(
            places.iter().all(|place| sort_key(*place).as_str() < LAST && position(&sort_key(*place)) == Some(*place))
        );
    }
}
