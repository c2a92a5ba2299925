//! Chunks as items. The sort key orders them: `C#<epoch>#<seq>`, both as eight hexadecimal digits, so that every epoch and
//! number there can be has the same width.
//!
//! Attributes: `ids` the token ids, little-endian, four bytes each; `t` the plain text, or `more` what a plain text does
//! not hold (version 2); `pe` and `ps` the parent.

use penstock_policy::id::{Epoch, JobId};
use penstock_policy::job::Position;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Chunk, PortResult};
use penstock_service::stored::chunk::{self, StoredWords};

use crate::item::{Fields, Item, VERSION, b, item, n, s};
use crate::jobs::{KEPT, record};
use crate::table::ttl;

/// The version of a chunk that says more than plain text.
const WITH_MORE: u32 = 2;

/// Before every chunk's sort key.
pub(crate) const FIRST: &str = "C#";
/// After every chunk's sort key.
pub(crate) const LAST: &str = "C#~";

/// The chunk as an item.
pub(crate) fn chunk_item(job: JobId, chunk: &Chunk, now: Timestamp) -> Item {
    let words = chunk::stored(&chunk.words);
    let ids = chunk.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut stored = item([
        ("pk", s(record::job_pk(job))),
        ("sk", s(sort_key(chunk.position))),
        // A reader of the first form must not take an empty text for all there is.
        ("v", n(if words.more.is_some() { WITH_MORE } else { VERSION })),
        ("ids", b(ids)),
        ("t", s(words.text)),
        ("ttl", ttl(now, KEPT)),
    ]);
    if let Some(more) = words.more {
        stored.insert("more".to_owned(), s(more));
    }
    if let Some(parent) = chunk.parent {
        stored.insert("pe".to_owned(), n(parent.epoch.0));
        stored.insert("ps".to_owned(), n(parent.seq));
    }
    stored
}

/// The chunk of an item.
pub(crate) fn read_chunk(found: &Item) -> PortResult<Chunk> {
    let fields = Fields::up_to("chunk", found, WITH_MORE)?;
    let (ids, rest) = fields.bytes("ids")?.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(fields.broken("ids"));
    }
    let words = StoredWords { text: fields.text("t")?.to_owned(), more: fields.maybe_text("more")?.map(str::to_owned) };
    let parent = fields.maybe_number("pe")?.zip(fields.maybe_number("ps")?);
    Ok(Chunk {
        position: position(fields.text("sk")?).ok_or_else(|| fields.broken("sk"))?,
        parent: parent.map(|(epoch, seq)| Position { epoch: Epoch(epoch), seq }),
        ids: ids.iter().map(|id| u32::from_le_bytes(*id)).collect(),
        words: chunk::words(words).ok_or_else(|| fields.broken("more"))?,
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
    use penstock_service::ports::Part;
    use penstock_service::stored::chunk::Words;

    use super::*;

    fn at(epoch: u32, seq: u32) -> Position {
        Position { epoch: Epoch(epoch), seq }
    }

    fn reads_back(words: Words) -> Item {
        let chunk = Chunk { position: at(2, 0), parent: Some(at(1, 7)), ids: vec![0, 1, u32::MAX], words };
        let job = JobId::new(Timestamp::from_millis(1), 2);
        let stored = chunk_item(job, &chunk, Timestamp::from_millis(3));
        assert_eq!(read_chunk(&stored), Ok(chunk));
        stored
    }

    #[test]
    fn a_chunk_reads_back_as_it_was_written() {
        let plain = reads_back(Words { parts: vec![Part::Content("naïve".to_owned())], ..Words::default() });
        assert_eq!((&plain["v"], &plain["t"]), (&n(VERSION), &s("naïve")), "as the first form has it");
        assert!(!plain.contains_key("more"));
        let other = reads_back(Words { choice: 1, parts: vec![Part::Reasoning("hm".to_owned())], ..Words::default() });
        assert_eq!(other["v"], n(2), "which readers of the first form refuse");
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
