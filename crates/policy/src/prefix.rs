//! Which row of the cache a prompt goes to, and how much of it need not be computed again.
//!
//! Rows keep their tokens after their answer has ended. A prompt that begins with the same tokens as some row (the same
//! system prompt, the same conversation one turn later) takes over those keys and values, and only the rest is
//! computed. The row that holds the most of a prompt may be idle, then it is taken as it is; or busy, or too valuable to
//! be cut short, then its beginning is copied into another row, which costs a fraction of computing it.
//!
//! Nothing is ever shared between tenants: how fast an answer begins would tell one what another has asked.
//!
//! At least two tokens of a prompt are left to compute, since its last one gives the first logits, and since a single
//! token is computed by other kernels than several (see [`crate::batch`]).
//!
//! Edge cases: a prompt of one or two tokens reuses nothing; a row without tokens belongs to nobody; without an idle
//! row there is no place, whatever the others hold.

use crate::id::TenantId;

/// Tokens of a prompt that are computed even if a row holds all of it.
const LEAST_COMPUTED: usize = 2;

/// A prompt in search of a row.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'t> {
    /// Whose it is.
    pub tenant: &'t TenantId,
    /// Its tokens.
    pub tokens: &'t [u32],
}

/// What a row of the cache holds.
#[derive(Clone, Copy, Debug)]
pub struct Held<'t> {
    /// Whose it is; `None`: it holds nothing.
    pub tenant: Option<&'t TenantId>,
    /// The tokens that others may take over, from the first on.
    pub tokens: &'t [u32],
    /// Whether somebody needs the row.
    pub occupied: Occupied,
}

/// Whether somebody needs a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupied {
    /// A sequence runs in it.
    Busy,
    /// It is free since that step of the engine.
    Idle {
        /// The step.
        since: u64,
    },
}

/// Where a prompt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The row, which was idle.
    pub row: usize,
    /// How many tokens of the prompt it will hold before anything is computed.
    pub reused: usize,
    /// Where these come from.
    pub source: Source,
}

/// Where reused tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The row holds them itself; whatever it holds beyond is forgotten.
    Itself,
    /// They are copied from this row.
    Row(usize),
}

/// How many of the prompt's tokens `held` can give.
#[must_use]
pub fn shared(prompt: &Prompt<'_>, held: &Held<'_>) -> usize {
    if held.tenant != Some(prompt.tenant) {
        return 0;
    }
    let most = prompt.tokens.len().saturating_sub(LEAST_COMPUTED);
    common(&prompt.tokens[..most], held.tokens)
}

/// The length of the longest common beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The row for a prompt, if one is idle: the one that holds the most of it if that costs nobody much, else the one that
/// was idle longest, with a copy of the most that any row holds.
#[must_use]
pub fn place(prompt: &Prompt<'_>, rows: &[Held<'_>]) -> Option<Placement> {
    // Of equals the idle row, which needs no copy; then the first.
    let idle = |held: &Held<'_>| held.occupied != Occupied::Busy;
    let best = rows
        .iter()
        .enumerate()
        .map(|(row, held)| (row, shared(prompt, held)))
        .filter(|&(_, shared)| shared > 0)
        .max_by_key(|&(row, shared)| (shared, idle(&rows[row]), core::cmp::Reverse(row)));
    // Nothing of use, then the longest idle: what was used last is the likeliest to be used again.
    let least_valuable = rows
        .iter()
        .enumerate()
        .filter_map(|(row, held)| match held.occupied {
            Occupied::Busy => None,
            Occupied::Idle { since } => Some((!held.tokens.is_empty(), since, row)),
        })
        .min()
        .map(|(_, _, row)| row)?;
    Some(match best {
        None => Placement { row: least_valuable, reused: 0, source: Source::Itself },
        Some((row, reused)) if idle(&rows[row]) && (row == least_valuable || loses_little(&rows[row], reused)) => {
            Placement { row, reused, source: Source::Itself }
        }
        Some((from, reused)) => Placement { row: least_valuable, reused, source: Source::Row(from) },
    })
}

/// Whether a row that is cut to `kept` tokens keeps most of what it holds.
fn loses_little(held: &Held<'_>, kept: usize) -> bool {
    kept >= held.tokens.len() / 2
}

/// Whether a prompt should wait for one that is being read: once `reading` is in the cache, it gives more of the prompt
/// than `now`, which is the most that any row gives already.
#[must_use]
pub fn worth_waiting(prompt: &Prompt<'_>, reading: &Prompt<'_>, now: usize) -> bool {
    let whole = Held { tenant: Some(reading.tenant), tokens: reading.tokens, occupied: Occupied::Busy };
    shared(prompt, &whole) > now
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    const IDLE: Occupied = Occupied::Idle { since: 5 };

    #[test]
    fn the_row_that_holds_the_most_is_taken_as_it_is() {
        let a = tenant("a");
        let prompt = Prompt { tenant: &a, tokens: &[1, 2, 3, 4, 5, 6] };
        let rows = [
            Held { tenant: Some(&a), tokens: &[1, 2, 9], occupied: IDLE },
            Held { tenant: Some(&a), tokens: &[1, 2, 3, 9], occupied: IDLE },
            Held { tenant: None, tokens: &[], occupied: IDLE },
        ];
        assert_eq!(place(&prompt, &rows), Some(Placement { row: 1, reused: 3, source: Source::Itself }));
    }

    #[test]
    fn the_beginning_of_a_busy_row_is_copied() {
        let a = tenant("a");
        let prompt = Prompt { tenant: &a, tokens: &[1, 2, 3, 4, 5] };
        let rows = [
            Held { tenant: Some(&a), tokens: &[1, 2, 3, 9], occupied: Occupied::Busy },
            Held { tenant: Some(&a), tokens: &[8], occupied: Occupied::Idle { since: 9 } },
            Held { tenant: Some(&a), tokens: &[8, 9], occupied: Occupied::Idle { since: 2 } },
        ];
        assert_eq!(place(&prompt, &rows), Some(Placement { row: 2, reused: 3, source: Source::Row(0) }));
    }

    #[test]
    fn a_long_row_is_not_cut_short_for_a_short_beginning() {
        let a = tenant("a");
        let prompt = Prompt { tenant: &a, tokens: &[1, 2, 3, 4, 5] };
        let long = [1, 2, 30, 31, 32, 33, 34, 35, 36, 37];
        let rows = [
            Held { tenant: Some(&a), tokens: &long, occupied: Occupied::Idle { since: 1 } },
            Held { tenant: None, tokens: &[], occupied: Occupied::Idle { since: 7 } },
        ];
        assert_eq!(place(&prompt, &rows), Some(Placement { row: 1, reused: 2, source: Source::Row(0) }));
        let only = place(&prompt, &rows[..1]);
        assert_eq!(only, Some(Placement { row: 0, reused: 2, source: Source::Itself }), "there is no other");
    }

    #[test]
    fn the_last_two_tokens_are_always_computed() {
        let a = tenant("a");
        for (tokens, reused) in [(&[1u32][..], 0), (&[1, 2], 0), (&[1, 2, 3], 1), (&[1, 2, 3, 4], 2)] {
            let rows = [Held { tenant: Some(&a), tokens: &[1, 2, 3, 4], occupied: IDLE }];
            assert_eq!(place(&Prompt { tenant: &a, tokens }, &rows).unwrap().reused, reused);
        }
    }

    #[test]
    fn a_prompt_waits_for_one_that_is_read_if_that_saves_it_something() {
        let (a, b) = (tenant("a"), tenant("b"));
        let prompt = Prompt { tenant: &a, tokens: &[1, 2, 3, 4, 5, 6] };
        let same = Prompt { tenant: &a, tokens: &[1, 2, 3, 4, 9] };
        assert!(worth_waiting(&prompt, &same, 3));
        assert!(!worth_waiting(&prompt, &same, 4));
        assert!(!worth_waiting(&prompt, &Prompt { tenant: &b, ..same }, 0));
    }

    proptest! {
        #[test]
        fn a_place_is_idle_and_gives_exactly_what_the_same_tenant_has_computed(
            tokens in proptest::collection::vec(0u32..3, 0..12),
            held in proptest::collection::vec((0usize..3, proptest::collection::vec(0u32..3, 0..12), any::<bool>(), 0u64..9), 0..6),
        ) {
            let tenants = [tenant("a"), tenant("b")];
            let prompt = Prompt { tenant: &tenants[0], tokens: &tokens };
            let rows: Vec<Held> = held
                .iter()
                .map(|(owner, tokens, busy, since)| Held {
                    tenant: tenants.get(*owner),
                    tokens: if *owner < 2 { tokens } else { &[] },
                    occupied: if *busy { Occupied::Busy } else { Occupied::Idle { since: *since } },
                })
                .collect();
            let idle = rows.iter().any(|held| held.occupied != Occupied::Busy);
            let placement = place(&prompt, &rows);
            prop_assert_eq!(placement.is_some(), idle);
            if let Some(Placement { row, reused, source }) = placement {
                prop_assert!(rows[row].occupied != Occupied::Busy);
                let from = match source { Source::Itself => row, Source::Row(from) => from };
                prop_assert!(reused == 0 || rows[from].tenant == Some(&tenants[0]), "nothing crosses tenants");
                prop_assert_eq!(&tokens[..reused], &rows[from].tokens[..reused]);
                prop_assert!(reused == 0 || tokens.len() - reused >= 2);
                let most = rows.iter().map(|held| shared(&prompt, held)).max().unwrap_or(0);
                prop_assert_eq!(reused, most, "as much as anybody has");
            }
        }
    }
}
