//! A packed call as the numbers that a graph over blocks is given: tokens of several sequences one after another, and for
//! each sequence where its tokens begin, how many it has already, and its blocks.
//!
//! Plain data from parts and tables; nothing here knows ONNX Runtime. Shorter tables are filled up with block 0, which is
//! never looked at there.

use penstock_policy::paged::Table;

use super::decoder::{Logits, Part};

/// The inputs of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packed {
    /// All tokens.
    pub(super) ids: Vec<i64>,
    /// Where each sequence begins among them, and where the last ends.
    pub(super) cumulative: Vec<i32>,
    /// Tokens of each sequence before the call.
    pub(super) past: Vec<i32>,
    /// Each sequence's blocks, `width` numbers a sequence.
    pub(super) blocks: Vec<i32>,
    /// Blocks of the longest sequence.
    pub(super) width: usize,
    /// The most new tokens of a sequence, and the most tokens, new ones included.
    pub(super) longest: [i32; 2],
    /// The tokens whose logits the graph is asked for: the last of each part that wants them, or of the last part if none
    /// does, since a call without logits is no shape that kernels expect.
    pub(super) asked: Vec<i32>,
    /// The parts that want them, in the same order.
    pub(super) wanted: Vec<usize>,
}

impl Packed {
    /// Packs `parts`. The tables of their rows count the new tokens already.
    pub(super) fn new(parts: &[Part<'_>], tables: &[Table]) -> Self {
        let mut packed = Self { cumulative: vec![0], ..Self::default() };
        let table = |part: &Part<'_>| &tables[part.row];
        packed.width = parts.iter().map(|part| table(part).blocks().len()).max().unwrap_or(0);
        for (place, part) in parts.iter().enumerate() {
            let table = table(part);
            let (new, all) = (number(part.tokens.len()), number(table.tokens()));
            packed.ids.extend(part.tokens.iter().map(|&id| i64::from(id)));
            packed.cumulative.push(number(packed.ids.len()));
            packed.past.push(all - new);
            let end = packed.blocks.len() + packed.width;
            packed.blocks.extend(table.blocks().iter().map(|&block| i32::try_from(block).unwrap_or(i32::MAX)));
            packed.blocks.resize(end, 0);
            packed.longest = [packed.longest[0].max(new), packed.longest[1].max(all)];
            if part.logits == Logits::Wanted {
                packed.wanted.push(place);
                packed.asked.push(number(packed.ids.len()) - 1);
            }
        }
        if packed.asked.is_empty() {
            packed.asked.push(number(packed.ids.len()) - 1);
        }
        packed
    }
}

/// A number of tokens; a call's are bounded by memory far below the type's limit.
fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use penstock_policy::paged::{BLOCK_TOKENS, Blocks};

    use super::*;

    #[test]
    fn sequences_stand_one_after_another_with_their_own_tables() {
        let mut pool = Blocks::new(8);
        let mut tables = vec![Table::default(), Table::default(), Table::default()];
        pool.grow(&mut tables[2], BLOCK_TOKENS + 4).unwrap();
        pool.grow(&mut tables[0], 3).unwrap();
        let (decoded, read) = ([9], [5, 6, 7]);
        let parts = [
            Part { row: 2, tokens: &decoded, logits: Logits::Wanted },
            Part { row: 0, tokens: &read, logits: Logits::Unneeded },
        ];
        let packed = Packed::new(&parts, &tables);
        assert_eq!(packed.ids, [9, 5, 6, 7]);
        assert_eq!(packed.cumulative, [0, 1, 4]);
        assert_eq!(packed.past, [259, 0]);
        assert_eq!((packed.blocks, packed.width), (vec![0, 1, 2, 0], 2));
        assert_eq!(packed.longest, [3, 260]);
        assert_eq!((packed.asked, packed.wanted), (vec![0], vec![0]));
    }

    #[test]
    fn a_call_that_wants_no_logits_asks_for_the_last_ones() {
        let mut tables = vec![Table::default()];
        Blocks::new(1).grow(&mut tables[0], 2).unwrap();
        let packed = Packed::new(&[Part { row: 0, tokens: &[5, 6], logits: Logits::Unneeded }], &tables);
        assert_eq!((packed.asked, packed.wanted), (vec![1], vec![]));
    }
}
