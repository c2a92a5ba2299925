//! Whose words a client hears: the chain of chunks through the epochs of a job.
//!
//! A worker writes its output as chunks `(epoch, seq)`, contiguous from 0 within its epoch. A worker that takes a job
//! over (epoch 2 and later) first writes an *opening chunk*, seq 0, that names the last chunk it continues from, its
//! parent. The text of a job is therefore a chain: the newest epoch's chunks, then, through the opening chunk's
//! parent, the older epoch's chunks up to that parent, and so on. Chunks that a worker wrote after it lost its lease
//! lie beyond the parent and never belong to the chain.
//!
//! A reader reads chunks first and the record second. If the record still shows the epoch it is relaying, whoever
//! claims later must have seen at least those chunks, so relaying them is safe. If the record shows a newer epoch, the
//! reader relays nothing more until it sees that epoch's opening chunk, and then follows the chain.

use std::collections::BTreeMap;

use crate::id::Epoch;
use crate::job::Position;

/// What the chain rule needs to know of a chunk.
pub trait Link {
    /// Where the chunk stands.
    fn position(&self) -> Position;
    /// The chunk this one continues from, if it opens an epoch that continues another.
    fn parent(&self) -> Option<Position>;
}

/// The chunks of the chain that ends in `epoch` (at `last`, if given), oldest first; `None` while the chain is not
/// complete: an epoch from the second on whose opening chunk is missing, or a gap below a parent or below `last`.
#[must_use]
pub fn chain<C: Link>(chunks: &[C], epoch: Epoch, last: Option<Position>) -> Option<Vec<&C>> {
    let by_place: BTreeMap<Position, &C> = chunks.iter().map(|chunk| (chunk.position(), chunk)).collect();
    let mut newest_first = Vec::new();
    let mut end = last.or_else(|| contiguous_end(&by_place, epoch));
    let mut walking = epoch;
    loop {
        match end {
            Some(position) => {
                walking = position.epoch;
                for seq in (0..=position.seq).rev() {
                    newest_first.push(*by_place.get(&Position { epoch: walking, seq })?);
                }
            }
            // The first epoch may have written nothing; a later one must at least have opened.
            None if walking <= Epoch(1) => break,
            None => return None,
        }
        match newest_first.last().and_then(|opening| opening.parent()) {
            Some(parent) if parent.epoch < walking => end = Some(parent),
            Some(_) => return None,
            None => break,
        }
    }
    newest_first.reverse();
    Some(newest_first)
}

/// What the claimer of `epoch` continues from: the chain of the newest older epoch that has one (a claimer that died
/// before its opening chunk left none), oldest first; empty if nothing was written yet.
#[must_use]
pub fn continuation<C: Link>(chunks: &[C], epoch: Epoch) -> Vec<&C> {
    (1..epoch.0).rev().find_map(|older| chain(chunks, Epoch(older), None)).unwrap_or_default()
}

fn contiguous_end<C>(by_place: &BTreeMap<Position, &C>, epoch: Epoch) -> Option<Position> {
    let seq = (0u32..).take_while(|&seq| by_place.contains_key(&Position { epoch, seq })).last()?;
    Some(Position { epoch, seq })
}

/// What of a job's output has been relayed to one client: how many chunks of the chain, the last of them, and whether
/// a newer epoch has to open first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    last: Option<Position>,
}

impl Cursor {
    /// The last chunk relayed.
    #[must_use]
    pub const fn last(&self) -> Option<Position> {
        self.last
    }

    /// The chunks to relay now, given the chunks read *before* the record, and the record's `epoch` and, once it is
    /// terminal, its `end`. Moves the cursor past them.
    ///
    /// Empty while the newest epoch has not opened. `Err` if the chain does not contain what was relayed already: the
    /// store broke its promise, and the caller must reset the connection rather than relay a text that changed.
    ///
    /// # Errors
    /// [`Diverged`], as said.
    pub fn advance<'c, C: Link>(
        &mut self,
        chunks: &'c [C],
        epoch: Epoch,
        end: Option<Position>,
    ) -> Result<Vec<&'c C>, Diverged> {
        let Some(chain) = chain(chunks, epoch, end) else {
            return Ok(Vec::new());
        };
        let fresh = match self.last {
            None => chain,
            Some(relayed) => {
                let Some(place) = chain.iter().position(|chunk| chunk.position() == relayed) else {
                    return Err(Diverged);
                };
                chain[place + 1..].to_vec()
            }
        };
        if let Some(newest) = fresh.last() {
            self.last = Some(newest.position());
        }
        Ok(fresh)
    }
}

/// The chain no longer holds a chunk that a client has been shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diverged;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Chunk(Position, Option<Position>);

    impl Link for Chunk {
        fn position(&self) -> Position {
            self.0
        }
        fn parent(&self) -> Option<Position> {
            self.1
        }
    }

    fn at(epoch: u32, seq: u32) -> Position {
        Position { epoch: Epoch(epoch), seq }
    }

    fn places(chain: Option<Vec<&Chunk>>) -> Option<Vec<(u32, u32)>> {
        chain.map(|chunks| chunks.iter().map(|c| (c.0.epoch.0, c.0.seq)).collect())
    }

    #[test]
    fn words_written_after_the_lease_was_lost_never_belong_to_the_text() {
        let chunks = [
            Chunk(at(1, 0), None),
            Chunk(at(1, 1), None),
            Chunk(at(1, 2), None), // written by a worker that had lost the job
            Chunk(at(2, 0), Some(at(1, 1))),
            Chunk(at(2, 1), None),
        ];
        assert_eq!(places(chain(&chunks, Epoch(2), None)), Some(vec![(1, 0), (1, 1), (2, 0), (2, 1)]));
    }

    #[test]
    fn nothing_is_relayed_between_a_claim_and_its_opening_chunk() {
        let chunks = [Chunk(at(1, 0), None)];
        let mut cursor = Cursor::default();
        assert_eq!(cursor.advance(&chunks, Epoch(1), None).unwrap().len(), 1);
        let more = [Chunk(at(1, 0), None), Chunk(at(1, 1), None)];
        assert_eq!(cursor.advance(&more, Epoch(2), None), Ok(vec![]));
    }

    #[test]
    fn an_epoch_that_begins_anew_has_no_parent_and_a_gap_ends_the_text() {
        let chunks = [Chunk(at(2, 0), None), Chunk(at(2, 2), None)];
        assert_eq!(places(chain(&chunks, Epoch(2), None)), Some(vec![(2, 0)]));
        assert_eq!(places(chain(&chunks, Epoch(2), Some(at(2, 2)))), None);
    }

    #[test]
    fn a_parent_that_does_not_lie_in_an_older_epoch_is_refused() {
        let chunks = [Chunk(at(2, 0), Some(at(2, 0)))];
        assert_eq!(places(chain(&chunks, Epoch(2), None)), None);
    }

    proptest! {
        /// Workers claim at random, each continuing from what it can see; a paused one goes on writing. Whatever a
        /// reader was shown at any moment is a prefix of what it is shown later.
        #[test]
        fn a_client_never_hears_a_word_twice_or_changed(moves in proptest::collection::vec((0u8..4, 0u32..4), 1..80)) {
            let mut chunks: Vec<Chunk> = Vec::new();
            let mut newest = Epoch(0);
            let mut next_seq: BTreeMap<Epoch, u32> = BTreeMap::new();
            let mut cursor = Cursor::default();
            let mut heard: Vec<Position> = Vec::new();
            for (kind, pick) in moves {
                match kind {
                    0 => {
                        // A claimer reads strongly after its claim.
                        let parent = continuation(&chunks, newest.next()).last().map(|last| last.position());
                        newest = newest.next();
                        if newest > Epoch(1) {
                            chunks.push(Chunk(Position { epoch: newest, seq: 0 }, parent));
                            next_seq.insert(newest, 1);
                        } else {
                            next_seq.insert(newest, 0);
                        }
                    }
                    1 | 2 => {
                        let epoch = Epoch(newest.0.saturating_sub(if kind == 2 { pick } else { 0 }));
                        if let Some(seq) = next_seq.get_mut(&epoch) {
                            chunks.push(Chunk(Position { epoch, seq: *seq }, None));
                            *seq += 1;
                        }
                    }
                    _ => {
                        let fresh = cursor.advance(&chunks, newest, None).unwrap();
                        heard.extend(fresh.iter().map(|c| c.0));
                        let whole: Vec<_> = chain(&chunks, newest, None).unwrap_or_default().iter().map(|c| c.0).collect();
                        if !whole.is_empty() {
                            prop_assert_eq!(&whole[..heard.len()], &heard[..]);
                        }
                    }
                }
            }
        }
    }
}
