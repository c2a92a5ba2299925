//! What each row of the cache holds, and who needs it.
//!
//! The decoder has the keys and values, this has the tokens they belong to. A row goes on holding its tokens after its
//! sequence has ended, so that a later prompt that begins with them need not compute them again
//! ([`penstock_policy::prefix`] decides).
//!
//! Tokens that were chosen one at a time may have gone through other kernels than tokens that are read as a prompt, and
//! their last bits differ then. Where that matters ([`ChosenTokens::Apart`]), only tokens that were read are given to
//! others.

use penstock_policy::id::TenantId;
use penstock_policy::prefix::{self, Held, Occupied, Placement, Prompt, Source};

use super::decoder::ChosenTokens;

/// The rows of a cache, all empty at first.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<Row>,
    chosen: ChosenTokens,
    /// Counts what happens to rows, to know which was needed last.
    now: u64,
}

#[derive(Debug)]
struct Row {
    /// Whose tokens these are.
    tenant: Option<TenantId>,
    /// The tokens in the cache.
    tokens: Vec<u32>,
    /// How many of them, from the first on, were read as part of a prompt.
    read: usize,
    occupied: Occupied,
}

impl Rows {
    /// `count` empty rows.
    pub(super) fn new(count: usize, chosen: ChosenTokens) -> Self {
        let empty = || Row { tenant: None, tokens: Vec::new(), read: 0, occupied: Occupied::Idle { since: 0 } };
        Self { rows: std::iter::repeat_with(empty).take(count).collect(), chosen, now: 0 }
    }

    /// How many rows nobody needs.
    pub(super) fn idle(&self) -> usize {
        self.rows.iter().filter(|row| row.occupied != Occupied::Busy).count()
    }

    /// How many tokens all rows hold together.
    pub(super) fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.tokens.len()).sum()
    }

    /// The rows that nobody needs but that hold tokens, the one that was needed longest ago first.
    pub(super) fn expendable(&self) -> Vec<usize> {
        let since = |row: &Row| match row.occupied {
            Occupied::Busy => None,
            Occupied::Idle { since } => Some(since),
        };
        let mut idle: Vec<(u64, usize)> = self
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| !row.tokens.is_empty())
            .filter_map(|(place, row)| Some((since(row)?, place)))
            .collect();
        idle.sort_unstable();
        idle.into_iter().map(|(_, place)| place).collect()
    }

    /// The tokens that a row holds.
    pub(super) fn tokens_of(&self, row: usize) -> &[u32] {
        &self.rows[row].tokens
    }

    /// The row that a prompt would take tokens over from, if it takes any over.
    pub(super) fn source(&self, prompt: &Prompt<'_>) -> Option<usize> {
        let held: Vec<Held<'_>> = (0..self.rows.len()).map(|row| self.held(row)).collect();
        let placement = prefix::place(prompt, &held).filter(|placement| placement.reused > 0)?;
        Some(match placement.source {
            Source::Itself => placement.row,
            Source::Row(from) => from,
        })
    }

    /// How many tokens a row holds.
    pub(super) fn length(&self, row: usize) -> usize {
        self.rows[row].tokens.len()
    }

    /// The most of a prompt that any row holds.
    pub(super) fn most_shared(&self, prompt: &Prompt<'_>) -> usize {
        (0..self.rows.len()).map(|row| prefix::shared(prompt, &self.held(row))).max().unwrap_or(0)
    }

    /// Takes a row for a prompt, and says what the decoder has to do so that it holds the reused tokens: copy them from
    /// another row, or keep them. `None` if every row is needed.
    pub(super) fn take(&mut self, prompt: &Prompt<'_>) -> Option<Placement> {
        let held: Vec<Held<'_>> = (0..self.rows.len()).map(|row| self.held(row)).collect();
        let placement = prefix::place(prompt, &held)?;
        let from = match placement.source {
            Source::Itself => placement.row,
            Source::Row(from) => from,
        };
        let read = self.rows[from].read.min(placement.reused);
        let row = &mut self.rows[placement.row];
        row.tenant = Some(prompt.tenant.clone());
        row.tokens.clear();
        row.tokens.extend_from_slice(&prompt.tokens[..placement.reused]);
        row.read = read;
        row.occupied = Occupied::Busy;
        Some(placement)
    }

    /// Records that tokens of a prompt were read into a row.
    pub(super) fn read(&mut self, row: usize, tokens: &[u32]) {
        let row = &mut self.rows[row];
        // What follows a token that was chosen is not what a prompt of the same tokens would have computed.
        if row.read == row.tokens.len() {
            row.read += tokens.len();
        }
        row.tokens.extend_from_slice(tokens);
    }

    /// Records that a chosen token was put into a row.
    pub(super) fn decoded(&mut self, row: usize, token: u32) {
        self.rows[row].tokens.push(token);
    }

    /// Nobody needs the row any more; it keeps what it holds.
    pub(super) fn release(&mut self, row: usize) {
        self.now += 1;
        self.rows[row].occupied = Occupied::Idle { since: self.now };
    }

    /// What the row holds is lost, whoever needs it.
    pub(super) fn forget(&mut self, row: usize) {
        let row = &mut self.rows[row];
        row.tenant = None;
        row.tokens.clear();
        row.read = 0;
    }

    /// Exchanges two rows.
    pub(super) fn swap(&mut self, a: usize, b: usize) {
        self.rows.swap(a, b);
    }

    fn held(&self, row: usize) -> Held<'_> {
        let Row { tenant, tokens, read, occupied } = &self.rows[row];
        let given = match self.chosen {
            ChosenTokens::Apart => &tokens[..*read],
            ChosenTokens::LikeRead => tokens,
        };
        Held { tenant: tenant.as_ref(), tokens: given, occupied: *occupied }
    }
}
