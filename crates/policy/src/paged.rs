//! Which blocks of a paged cache hold which tokens (Kwon et al., *PagedAttention*, 2023).
//!
//! A paged cache is a pool of blocks of the same number of tokens. A sequence has a table of blocks and takes a new one
//! only when the last is full, so that memory goes to tokens that exist instead of tokens that might. Sequences that begin
//! alike share blocks, the last, partly filled one included; whoever appends to a shared block gets a copy of it first.
//!
//! This is the bookkeeping. Which sequences begin alike is decided by comparing tokens ([`crate::prefix`]), so no hashes
//! of blocks are kept; the numbers themselves are moved by whoever owns the memory.
//!
//! Tables of sequences that have ended keep their blocks for others that begin alike, until the memory is needed:
//! [`Blocks::give_up`] says how many of them have to go, before anything is changed.
//!
//! Edge cases: growing by nothing takes nothing; a pool that is short changes nothing and says by how much; a table is
//! given back by cutting it to nothing, and a table that is dropped without that keeps its blocks for ever, so tables
//! cannot be cloned; giving up a table whose blocks others hold too frees nothing, and what it shared with one that grows
//! need not be copied any more.

/// Tokens of a block: what ONNX Runtime's operator requires multiples of.
pub const BLOCK_TOKENS: usize = 256;

/// The blocks of a sequence, first tokens first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    blocks: Vec<u32>,
    tokens: usize,
}

impl Table {
    /// Its blocks.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// How many tokens it holds.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// A pool of blocks.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// How many tables have each block.
    holders: Vec<u32>,
    free: Vec<u32>,
}

/// The pool has too few free blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// How many more it would take.
    pub blocks: usize,
}

/// A block whose contents must be copied to another before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The block that stays with its other holders.
    pub from: u32,
    /// The block that takes its place in the table.
    pub to: u32,
}

impl Blocks {
    /// A pool of `count` free blocks.
    #[must_use]
    pub fn new(count: u32) -> Self {
        Self { holders: vec![0; count as usize], free: (0..count).rev().collect() }
    }

    /// How many blocks nobody has.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many free blocks it takes to append `tokens` to `table`.
    #[must_use]
    pub fn needed(&self, table: &Table, tokens: usize) -> usize {
        needed(&self.holders, table, tokens)
    }

    /// How many of the `expendable` tables, the first ones first, have to be cut to nothing so that all of `growth`, a
    /// table and the tokens to append to it, can take place in that order. Linear in the number of blocks if any has to be.
    ///
    /// # Errors
    /// [`Shortage`]: even giving up all of them would not do.
    pub fn give_up(&self, growth: &[(&Table, usize)], expendable: &[&Table]) -> Result<usize, Shortage> {
        if needed_by_all(&self.holders, growth) <= self.free.len() {
            return Ok(0);
        }
        let mut holders = self.holders.clone();
        let mut free = self.free.len();
        for (given_up, table) in (1..).zip(expendable) {
            for &block in &table.blocks {
                let holders = &mut holders[block as usize];
                *holders = holders.saturating_sub(1);
                free += usize::from(*holders == 0);
            }
            if needed_by_all(&holders, growth) <= free {
                return Ok(given_up);
            }
        }
        Err(Shortage { blocks: needed_by_all(&holders, growth).saturating_sub(free) })
    }

    /// Makes room for `tokens` more tokens in `table`, which then counts them. Gives the copy to make first, if its last
    /// block is shared.
    ///
    /// # Errors
    /// [`Shortage`]; then nothing has changed.
    pub fn grow(&mut self, table: &mut Table, tokens: usize) -> Result<Option<Copy>, Shortage> {
        let needed = self.needed(table, tokens);
        if let Some(blocks) = needed.checked_sub(self.free.len()).filter(|&blocks| blocks > 0) {
            return Err(Shortage { blocks });
        }
        let shared = if tokens > 0 { shared_end(&self.holders, table) } else { None };
        let mut taken = self.free.split_off(self.free.len() - needed).into_iter().rev();
        let copy = shared.and_then(|from| Some((from, taken.next()?))).map(|(from, to)| {
            self.holders[from as usize] -= 1;
            self.holders[to as usize] = 1;
            table.blocks.pop();
            table.blocks.push(to);
            Copy { from, to }
        });
        for block in taken {
            self.holders[block as usize] = 1;
            table.blocks.push(block);
        }
        table.tokens += tokens;
        Ok(copy)
    }

    /// Makes `table` forget what it holds beyond its first `tokens` tokens.
    pub fn cut(&mut self, table: &mut Table, tokens: usize) {
        table.tokens = table.tokens.min(tokens);
        for block in table.blocks.split_off(table.tokens.div_ceil(BLOCK_TOKENS)) {
            let holders = &mut self.holders[block as usize];
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                self.free.push(block);
            }
        }
    }

    /// A table of the first `tokens` tokens of `table`, or of all if it holds fewer, in the same blocks.
    #[must_use]
    pub fn share(&mut self, table: &Table, tokens: usize) -> Table {
        let tokens = table.tokens.min(tokens);
        let blocks = table.blocks[..tokens.div_ceil(BLOCK_TOKENS)].to_vec();
        for &block in &blocks {
            self.holders[block as usize] += 1;
        }
        Table { blocks, tokens }
    }
}

/// How many free blocks it takes to append `tokens` to `table`, with so many holders of each block.
fn needed(holders: &[u32], table: &Table, tokens: usize) -> usize {
    if tokens == 0 {
        return 0;
    }
    let blocks = (table.tokens + tokens).div_ceil(BLOCK_TOKENS) - table.blocks.len();
    blocks + usize::from(shared_end(holders, table).is_some())
}

/// How many free blocks it takes to append to several tables, one after another: of those that share a last block each
/// takes a copy but for the one that is left with it.
fn needed_by_all(holders: &[u32], growth: &[(&Table, usize)]) -> usize {
    let mut left: Vec<u32> = Vec::new();
    let mut all = 0;
    for &(table, tokens) in growth {
        let needed = needed(holders, table, tokens);
        let end = shared_end(holders, table).filter(|_| tokens > 0);
        let alone = end.is_some_and(|end| {
            let gone = left.iter().filter(|&&block| block == end).count();
            holders[end as usize] as usize - gone <= 1
        });
        left.extend(end);
        all += needed - usize::from(alone);
    }
    all
}

/// The last block of a table, if something is to be written to it and others hold it too.
fn shared_end(holders: &[u32], table: &Table) -> Option<u32> {
    let &last = table.blocks.last()?;
    (!table.tokens.is_multiple_of(BLOCK_TOKENS) && holders[last as usize] > 1).then_some(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_is_taken_when_the_last_is_full() {
        let mut pool = Blocks::new(3);
        let mut table = Table::default();
        assert_eq!(pool.grow(&mut table, BLOCK_TOKENS), Ok(None));
        assert_eq!((table.blocks().len(), pool.free()), (1, 2));
        assert_eq!(pool.grow(&mut table, 1), Ok(None));
        assert_eq!((table.blocks().len(), pool.free()), (2, 1));
        assert_eq!(pool.grow(&mut table, 2 * BLOCK_TOKENS), Err(Shortage { blocks: 1 }));
        assert_eq!(table.tokens(), BLOCK_TOKENS + 1, "nothing has changed");
    }

    #[test]
    fn a_shared_last_block_is_copied_before_it_is_written_to() {
        let mut pool = Blocks::new(4);
        let mut first = Table::default();
        pool.grow(&mut first, 300).unwrap();
        let mut second = pool.share(&first, 290);
        assert_eq!(second.blocks(), first.blocks());
        let copy = pool.grow(&mut second, 10).unwrap().unwrap();
        assert_eq!(copy.from, first.blocks()[1]);
        assert_eq!(second.blocks(), [first.blocks()[0], copy.to]);
        assert_eq!(pool.grow(&mut first, 10), Ok(None), "the other holder has it alone now");
    }

    #[test]
    fn full_blocks_are_shared_for_ever() {
        let mut pool = Blocks::new(3);
        let mut first = Table::default();
        pool.grow(&mut first, BLOCK_TOKENS).unwrap();
        let mut second = pool.share(&first, BLOCK_TOKENS);
        assert_eq!(pool.grow(&mut second, 1), Ok(None));
        pool.cut(&mut first, 0);
        assert_eq!(pool.free(), 1, "the second still holds both");
        pool.cut(&mut second, 0);
        assert_eq!(pool.free(), 3);
    }

    #[test]
    fn tables_are_given_up_in_order_and_only_as_many_as_needed() {
        let mut pool = Blocks::new(4);
        let mut tables: Vec<Table> = (0..3).map(|_| Table::default()).collect();
        for table in &mut tables {
            pool.grow(table, 200).unwrap();
        }
        let [oldest, older, growing] = &tables[..] else { panic!() };
        assert_eq!(pool.give_up(&[(growing, 300)], &[oldest, older]), Ok(0), "one block is free");
        assert_eq!(pool.give_up(&[(growing, 400)], &[oldest, older]), Ok(1));
        assert_eq!(pool.give_up(&[(growing, 800)], &[oldest, older]), Ok(2));
        assert_eq!(pool.give_up(&[(growing, 900)], &[oldest, older]), Err(Shortage { blocks: 1 }));
        assert_eq!(pool.give_up(&[(growing, 900)], &[]), Err(Shortage { blocks: 3 }));
    }

    #[test]
    fn giving_up_a_table_that_shares_the_growing_one_s_block_spares_the_copy() {
        let mut pool = Blocks::new(1);
        let mut idle = Table::default();
        pool.grow(&mut idle, 100).unwrap();
        let mut growing = pool.share(&idle, 90);
        assert_eq!(pool.give_up(&[(&growing, 20)], &[&idle]), Ok(1));
        pool.cut(&mut idle, 0);
        assert_eq!(pool.grow(&mut growing, 20), Ok(None));
    }

    /// A cache whose blocks hold what was written to them: any mix-up changes what a table reads.
    #[derive(Default)]
    struct Memory {
        blocks: Vec<Vec<u32>>,
    }

    impl Memory {
        fn read(&self, table: &Table) -> Vec<u32> {
            let all = table.blocks().iter().flat_map(|&block| self.blocks[block as usize].iter().copied());
            all.take(table.tokens()).collect()
        }

        fn write(&mut self, table: &Table, from: usize, tokens: &[u32]) {
            for (at, &token) in (from..).zip(tokens) {
                self.blocks[table.blocks()[at / BLOCK_TOKENS] as usize][at % BLOCK_TOKENS] = token;
            }
        }
    }

    proptest! {
        /// Whatever is shared with whom: after giving up as many as were told every table grows, and with one fewer the
        /// pool would be short.
        #[test]
        fn what_is_given_up_is_enough_and_not_too_much(
            count in 1u32..14,
            begun in proptest::collection::vec((0usize..600, 0usize..5, 0usize..600), 5),
            growth in proptest::collection::vec(0usize..600, 2),
        ) {
            let mut pool = Blocks::new(count);
            let mut tables: Vec<Table> = Vec::new();
            for (tokens, from, shared) in begun {
                let mut table = match tables.get(from) {
                    Some(other) => pool.share(other, shared),
                    None => Table::default(),
                };
                let _ = pool.grow(&mut table, tokens);
                tables.push(table);
            }
            let (growing, idle) = tables.split_at(2);
            let wanted: Vec<(&Table, usize)> = growing.iter().zip(growth.iter().copied()).collect();
            let expendable: Vec<&Table> = idle.iter().collect();
            let told = pool.give_up(&wanted, &expendable);
            let enough = |given_up: usize| {
                let mut pool = pool.clone();
                let copy = |table: &Table| Table { blocks: table.blocks.clone(), tokens: table.tokens };
                idle.iter().take(given_up).for_each(|table| pool.cut(&mut copy(table), 0));
                growing.iter().zip(&growth).all(|(table, &tokens)| pool.grow(&mut copy(table), tokens).is_ok())
            };
            match told {
                Ok(given_up) => prop_assert!(enough(given_up)),
                Err(Shortage { blocks }) => prop_assert!(blocks > 0 && !enough(3)),
            }
            if let Ok(given_up @ 1..) = told {
                prop_assert!(!enough(given_up - 1));
            }
        }

        /// Sequences grow, are cut, share and end, at random: each reads exactly what was written for it, and in the end
        /// every block is free again.
        #[test]
        fn every_table_reads_what_was_written_for_it_and_no_block_is_lost(
            count in 1u32..12,
            commands in proptest::collection::vec((0usize..4, 0usize..4, 0usize..4, 0usize..700), 1..60),
        ) {
            let mut pool = Blocks::new(count);
            let mut memory = Memory { blocks: vec![vec![u32::MAX; BLOCK_TOKENS]; count as usize] };
            let mut tables: Vec<(Table, Vec<u32>)> = (0..4).map(|_| (Table::default(), Vec::new())).collect();
            let mut next = 0u32;
            for (what, which, other, tokens) in commands {
                match what {
                    0 | 1 => {
                        let (table, expected) = &mut tables[which];
                        let from = table.tokens();
                        let needed = pool.needed(table, tokens);
                        match pool.grow(table, tokens) {
                            Err(Shortage { blocks }) => {
                                prop_assert_eq!(blocks, needed - pool.free());
                            }
                            Ok(copy) => {
                                if let Some(Copy { from, to }) = copy {
                                    memory.blocks[to as usize] = memory.blocks[from as usize].clone();
                                }
                                let new: Vec<u32> = (next..).take(tokens).collect();
                                next += u32::try_from(tokens).unwrap();
                                memory.write(table, from, &new);
                                expected.extend(new);
                            }
                        }
                    }
                    2 => {
                        let (table, expected) = &mut tables[which];
                        pool.cut(table, tokens);
                        expected.truncate(tokens);
                    }
                    _ if which != other => {
                        let shared = pool.share(&tables[which].0, tokens);
                        let words = tables[which].1[..shared.tokens()].to_vec();
                        let (table, expected) = &mut tables[other];
                        pool.cut(table, 0);
                        (*table, *expected) = (shared, words);
                    }
                    _ => {}
                }
                for (table, expected) in &tables {
                    prop_assert_eq!(&memory.read(table), expected);
                }
            }
            for (table, _) in &mut tables {
                pool.cut(table, 0);
            }
            prop_assert_eq!(pool.free(), count as usize);
        }
    }
}
