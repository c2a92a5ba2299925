//! What the next step of a continuously batched engine runs.
//!
//! An engine whose attention keeps one cache row per sequence can do one of two things in a call: *decode*, one more
//! token for every running sequence, or *prefill*, a chunk of one waiting prompt (several rows with several tokens
//! each and a past are refused by the operator, so a chunk belongs to one prompt). Decoding first for ever starves
//! prompts; prefilling first freezes everybody's stream while a long prompt is read. So work goes in *rounds* with a
//! token budget: chunks of prompts up to the budget less what the decode will take, then one decode. A running
//! sequence therefore never waits for more than a budget of prompt tokens, and a prompt never for more than one decode.
//!
//! Among prompts the better class goes first, and within a class the shortest rest, so that a short question does not
//! wait behind a long document; each time that passes over the oldest prompt counts, and after [`Config::overtakes`] of
//! them the oldest has its turn. Plain arrival order would need no counter but would make everybody's first token as
//! late as the longest prompt. A rest is what has to be computed: what other rows hold already does not count.
//!
//! A prompt whose beginning is just being read for another one waits for it rather than computing it twice.
//!
//! A chunk has at least two tokens, never leaves a rest of one, and is never one longer than a multiple of
//! [`TILE_TOKENS`]: runtimes multiply a single token by another kernel than several, with another rounding, and read long
//! chunks tile by tile, so that the last token of 129 may stand alone too. Where the chunks of a prompt end depends on who
//! else is there; with this rule an answer does not. (Only a prompt of one token is read as one.)
//!
//! **Packed calls.** Attention over blocks has no such limits: a call takes any number of tokens of any number of sequences.
//! There every call decodes all running sequences, and chunks of as many prompts as the budget has room for ride along
//! ([`pack`]); nobody waits for anybody's prompt longer than one call.
//!
//! Edge cases: with nothing running a prompt gets whole chunks, nobody is delayed; a prompt without a cache row is
//! eligible only while a row is free; an empty prompt never occurs (admission refuses it) and is passed over.

use crate::classes::Class;

/// Room in which every prompt finds a chunk: of three tokens neither one nor two may be taken alone.
const LEAST_ROOM: u32 = 3;

/// A divisor of every tile. ONNX Runtime's attention on the CPU takes tiles of twice the head's size (128 tokens for 64
/// numbers), and heads have multiples of 16 numbers.
pub const TILE_TOKENS: u32 = 32;

/// The bounds of a round. Made by [`Config::new`] only, so that a round always has room for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    budget_tokens: u32,
    chunk_tokens: u32,
    overtakes: u32,
}

/// Why bounds are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidConfig {
    /// With all but one slot decoding, the last one's prompt needs room for a chunk.
    BudgetTooSmall {
        /// The least budget for these slots.
        least: u32,
    },
    /// Three tokens divide into chunks of at least two only as one chunk.
    ChunkTooSmall,
}

impl core::fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BudgetTooSmall { least } => {
                write!(f, "the token budget leaves no room for prompts beside these slots: use at least {least}")
            }
            Self::ChunkTooSmall => write!(f, "a prefill chunk must hold at least {LEAST_ROOM} tokens"),
        }
    }
}

impl core::error::Error for InvalidConfig {}

impl Config {
    /// Bounds for an engine with `slots` slots: at most `budget_tokens` tokens a round (a decoded row counts one), at
    /// most `chunk_tokens` a chunk, and at most `overtakes` chunks in a row past the oldest prompt.
    ///
    /// # Errors
    /// [`InvalidConfig`] if a round could have no room for a chunk of some prompt.
    pub const fn new(slots: u32, budget_tokens: u32, chunk_tokens: u32, overtakes: u32) -> Result<Self, InvalidConfig> {
        let least = slots.saturating_add(LEAST_ROOM);
        if budget_tokens < least {
            return Err(InvalidConfig::BudgetTooSmall { least });
        }
        if chunk_tokens < LEAST_ROOM {
            return Err(InvalidConfig::ChunkTooSmall);
        }
        Ok(Self { budget_tokens, chunk_tokens, overtakes })
    }

    /// The most tokens of a round.
    #[must_use]
    pub const fn budget_tokens(&self) -> u32 {
        self.budget_tokens
    }

    /// The most times in a row that the oldest prompt is passed over.
    #[must_use]
    pub const fn overtakes(&self) -> u32 {
        self.overtakes
    }
}

/// A prompt that is not in the cache completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its tokens that have to be computed; at least 1.
    pub remaining: u32,
    /// Its class.
    pub class: Class,
    /// Whether it has a cache row already.
    pub placed: Placed,
}

/// Whether a prompt has a cache row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It has: some of it is in the cache.
    InSlot,
    /// It has not; its first chunk takes a free row.
    Queued,
    /// It has not, and another prompt that has one is reading what this one begins with.
    Awaiting,
}

/// What there is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load<'w> {
    /// Sequences that decode.
    pub rows: u32,
    /// Prompts, oldest first.
    pub waiting: &'w [Waiting],
    /// Rows that neither decode nor hold part of a prompt.
    pub free_slots: u32,
}

/// Where in a round the engine is. Start from the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Prompt tokens since the last decode.
    spent: u32,
    /// Chunks in a row that passed over the oldest eligible prompt.
    passed_over: u32,
}

/// What to run next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Idle,
    /// One token for each running sequence.
    Decode,
    /// The next tokens of a prompt.
    Prefill {
        /// The prompt's place in [`Load::waiting`].
        which: usize,
        /// How many, by [`chunk`].
        tokens: u32,
    },
}

/// Decides the next step, and the state after it. Linear in the number of waiting prompts.
#[must_use]
pub fn next(state: State, load: &Load<'_>, config: &Config) -> (Step, State) {
    let Some((which, prompt, passed_over)) = pick(state, load, config) else {
        return if load.rows == 0 {
            (Step::Idle, State::default())
        } else {
            (Step::Decode, State { spent: 0, ..state })
        };
    };
    // With nothing running there is no decode to make room for, and none that would end the round.
    let spent = if load.rows == 0 { 0 } else { state.spent };
    // The prompt may become a row in this very round: its own decode is counted too.
    let taken = load.rows.saturating_add(1).saturating_add(spent);
    let room = config.budget_tokens.saturating_sub(taken);
    let tokens = chunk(prompt.remaining, config.chunk_tokens.min(room));
    if tokens == 0 {
        return (Step::Decode, State { spent: 0, ..state });
    }
    let spent = spent.saturating_add(tokens);
    (Step::Prefill { which, tokens }, State { spent, passed_over })
}

/// A chunk that rides along in a packed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The prompt's place in [`Load::waiting`].
    pub which: usize,
    /// How many of its tokens, by [`chunk`].
    pub tokens: u32,
}

/// The next chunk to add to a packed call, which decodes `load.rows` sequences and has `taken` tokens of prompts already,
/// and the state once it is added; `None` if nothing fits or waits. Prompts that are in the call already have nothing
/// remaining. Linear in the number of waiting prompts.
#[must_use]
pub fn pack(state: State, load: &Load<'_>, taken: u32, config: &Config) -> Option<(Chunk, State)> {
    let (which, prompt, passed_over) = pick(state, load, config)?;
    let room = config.budget_tokens.saturating_sub(load.rows).saturating_sub(taken);
    let tokens = chunk(prompt.remaining, config.chunk_tokens.min(room));
    // Who is in the call is not passed over.
    let oldest_is_in = load.waiting.first().is_some_and(|oldest| oldest.remaining == 0);
    let passed_over = if oldest_is_in { 0 } else { passed_over };
    (tokens > 0).then_some((Chunk { which, tokens }, State { spent: 0, passed_over }))
}

/// The tokens of a chunk: as many of the `remaining` ones as can be, `most` at most, such that none is read alone, in
/// this chunk or later. 0 if there is no room for that; there is if `most` is at least 3.
#[must_use]
pub const fn chunk(remaining: u32, most: u32) -> u32 {
    let longest = if remaining < most { remaining } else { most };
    if remaining == 1 {
        return longest;
    }
    // Of three neighbours one at most ends in a lone token, and one at most leaves one.
    let mut tokens = longest;
    while tokens >= 2 {
        if tokens % TILE_TOKENS != 1 && remaining - tokens != 1 {
            return tokens;
        }
        tokens -= 1;
    }
    0
}

/// The prompt whose turn it is, and how often the oldest has then been passed over in a row.
///
/// Chunks also count while the oldest has no row to go to: else a young prompt could take every row that becomes free
/// and the count would begin anew in between.
fn pick(state: State, load: &Load<'_>, config: &Config) -> Option<(usize, Waiting, u32)> {
    let eligible = |prompt: &Waiting| {
        prompt.remaining > 0
            && match prompt.placed {
                Placed::InSlot => true,
                Placed::Queued => load.free_slots > 0,
                Placed::Awaiting => false,
            }
    };
    if let Some(oldest) = load.waiting.first().filter(|oldest| eligible(oldest))
        && state.passed_over >= config.overtakes
    {
        return Some((0, *oldest, 0));
    }
    let candidates = load.waiting.iter().copied().enumerate();
    // Of equals the first: the oldest.
    let (which, prompt) =
        candidates.filter(|(_, prompt)| eligible(prompt)).min_by_key(|(_, prompt)| (prompt.class, prompt.remaining))?;
    let passed_over = if which == 0 { 0 } else { state.passed_over.saturating_add(1) };
    Some((which, prompt, passed_over))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompt(remaining: u32) -> Waiting {
        Waiting { remaining, class: Class::P1, placed: Placed::InSlot }
    }

    fn queued(remaining: u32) -> Waiting {
        Waiting { remaining, class: Class::P1, placed: Placed::Queued }
    }

    fn config(slots: u32, budget: u32, chunk: u32) -> Config {
        Config::new(slots, budget, chunk, 3).unwrap()
    }

    fn decide(state: State, rows: u32, waiting: &[Waiting], free_slots: u32, config: &Config) -> (Step, State) {
        let load = Load { rows, waiting, free_slots };
        next(state, &load, config)
    }

    #[test]
    fn without_work_the_engine_rests() {
        let bounds = config(4, 64, 32);
        assert_eq!(decide(State::default(), 0, &[], 4, &bounds).0, Step::Idle);
        assert_eq!(decide(State::default(), 0, &[queued(9)], 0, &bounds).0, Step::Idle);
    }

    #[test]
    fn a_packed_call_takes_chunks_of_several_prompts_beside_all_rows() {
        let bounds = config(4, 40, 32);
        let add =
            |state, waiting: &[Waiting], taken| pack(state, &Load { rows: 2, waiting, free_slots: 1 }, taken, &bounds);
        let (first, state) = add(State::default(), &[prompt(50), queued(9)], 0).unwrap();
        assert_eq!(first, Chunk { which: 1, tokens: 9 }, "the shortest rest first");
        let (second, state) = add(state, &[prompt(50), queued(0)], 9).unwrap();
        assert_eq!(second, Chunk { which: 0, tokens: 29 });
        assert_eq!(add(state, &[prompt(0), queued(0)], 38), None);
        assert_eq!(add(state, &[prompt(0), queued(30)], 38), None, "the call is full");
    }

    #[test]
    fn a_prompt_that_nobody_waits_for_is_read_in_whole_chunks() {
        let bounds = config(4, 64, 32);
        let mut state = State::default();
        for remaining in [100, 68, 36] {
            let (step, after) = decide(state, 0, &[prompt(remaining)], 3, &bounds);
            assert_eq!(step, Step::Prefill { which: 0, tokens: 32 });
            state = after;
        }
    }

    #[test]
    fn running_sequences_wait_for_no_more_than_a_budget_of_prompt_tokens() {
        let bounds = config(4, 22, 16);
        let (step, state) = decide(State::default(), 2, &[prompt(100)], 1, &bounds);
        assert_eq!(step, Step::Prefill { which: 0, tokens: 16 });
        let (step, state) = decide(state, 2, &[prompt(84)], 1, &bounds);
        assert_eq!(step, Step::Prefill { which: 0, tokens: 3 });
        let (step, state) = decide(state, 2, &[prompt(81)], 1, &bounds);
        assert_eq!(step, Step::Decode);
        let (step, _) = decide(state, 2, &[prompt(81)], 1, &bounds);
        assert_eq!(step, Step::Prefill { which: 0, tokens: 16 });
    }

    #[test]
    fn a_short_question_overtakes_a_long_document_but_not_for_ever() {
        let bounds = config(4, 1000, 10);
        let mut state = State::default();
        let mut turns = Vec::new();
        for _ in 0..8 {
            let (step, after) = decide(state, 0, &[prompt(500), prompt(20)], 2, &bounds);
            turns.push(step);
            state = after;
        }
        let document = turns.iter().filter(|step| matches!(step, Step::Prefill { which: 0, .. })).count();
        assert_eq!(document, 2, "{turns:?}");
        assert_eq!(turns[0], Step::Prefill { which: 1, tokens: 10 });
    }

    #[test]
    fn an_urgent_prompt_overtakes_shorter_ones_of_worse_classes() {
        let bounds = config(4, 1000, 10);
        let urgent = Waiting { class: Class::P0, ..prompt(500) };
        let (step, _) = decide(State::default(), 0, &[prompt(20), urgent], 2, &bounds);
        assert_eq!(step, Step::Prefill { which: 1, tokens: 10 });
    }

    #[test]
    fn a_prompt_that_awaits_another_is_passed_over() {
        let bounds = config(4, 1000, 10);
        let awaiting = Waiting { placed: Placed::Awaiting, ..prompt(5) };
        let (step, _) = decide(State::default(), 0, &[awaiting, prompt(20)], 2, &bounds);
        assert_eq!(step, Step::Prefill { which: 1, tokens: 10 });
    }

    #[test]
    fn a_prompt_without_a_row_waits_for_one() {
        let bounds = config(2, 64, 32);
        assert_eq!(decide(State::default(), 2, &[queued(5)], 0, &bounds).0, Step::Decode);
        assert_eq!(decide(State::default(), 1, &[queued(5)], 1, &bounds).0, Step::Prefill { which: 0, tokens: 5 });
    }

    #[test]
    fn a_prompt_is_never_read_by_a_single_token_unless_it_is_one() {
        for (remaining, most, tokens) in [(1, 9, 1), (2, 9, 2), (9, 9, 9), (10, 9, 8), (11, 9, 9), (3, 2, 0), (9, 1, 0)]
        {
            assert_eq!(chunk(remaining, most), tokens, "{remaining} with room for {most}");
        }
    }

    #[test]
    fn a_chunk_never_ends_one_token_behind_a_tile() {
        for (remaining, most, tokens) in
            [(129, 512, 127), (129, 128, 127), (130, 129, 128), (200, 129, 128), (33, 40, 31)]
        {
            assert_eq!(chunk(remaining, most), tokens, "{remaining} with room for {most}");
        }
        for remaining in 2..300 {
            for most in LEAST_ROOM..300 {
                let tokens = chunk(remaining, most);
                assert!(
                    (2..=most).contains(&tokens) && tokens + 2 >= remaining.min(most),
                    "{remaining}, {most}: {tokens}"
                );
                assert!(tokens % TILE_TOKENS != 1 && remaining - tokens != 1, "{remaining}, {most}: {tokens}");
            }
        }
    }

    #[test]
    fn bounds_that_leave_no_room_for_a_prompt_are_refused() {
        assert_eq!(Config::new(8, 10, 4, 1), Err(InvalidConfig::BudgetTooSmall { least: 11 }));
        assert_eq!(Config::new(8, 11, 2, 1), Err(InvalidConfig::ChunkTooSmall));
    }

    /// A sequence of the model: how much of its prompt is left, how many tokens it will decode, what it has waited for.
    #[derive(Clone, Debug)]
    struct Run {
        prompt: u32,
        answer: u32,
        class: Class,
        placed: bool,
        tokens_since_decode: u32,
    }

    proptest! {
        /// Packed calls: every running sequence decodes in each, no call exceeds the budget, the oldest prompt that can be
        /// read is never passed over for long, and all work gets done.
        #[test]
        fn packed_calls_keep_to_the_budget_and_nobody_starves(
            slots in 1u32..6,
            spare in 3u32..40,
            longest in 3u32..24,
            overtakes in 0u32..4,
            arrivals in proptest::collection::vec((0u32..6, 1u32..60, 1u32..12, 0usize..4), 1..40),
        ) {
            let bounds = Config::new(slots, slots + spare, longest, overtakes).unwrap();
            let mut state = State::default();
            let mut arrivals: std::collections::VecDeque<_> = arrivals.into();
            let (mut waiting, mut running): (Vec<Run>, Vec<Run>) = (Vec::new(), Vec::new());
            let mut calls_without_the_oldest = 0;
            for _ in 0..20_000 {
                if let Some((delay, prompt, answer, class)) = arrivals.pop_front() {
                    if delay > 0 {
                        arrivals.push_front((delay - 1, prompt, answer, class));
                    } else {
                        let class = Class::ALL[class];
                        waiting.push(Run { prompt, answer, class, placed: false, tokens_since_decode: 0 });
                    }
                }
                let rows = u32::try_from(running.len()).unwrap();
                let mut list: Vec<Waiting> = waiting
                    .iter()
                    .map(|run| Waiting {
                        class: run.class,
                        ..if run.placed { prompt(run.prompt) } else { queued(run.prompt) }
                    })
                    .collect();
                let (mut taken, mut read) = (0, vec![0; waiting.len()]);
                loop {
                    let placed = u32::try_from(waiting.iter().filter(|run| run.placed).count()).unwrap();
                    let load = Load { rows, waiting: &list, free_slots: slots - rows - placed };
                    let Some((Chunk { which, tokens }, after)) = pack(state, &load, taken, &bounds) else {
                        break;
                    };
                    prop_assert!(tokens > 0 && tokens <= longest && tokens <= waiting[which].prompt && read[which] == 0);
                    state = after;
                    taken += tokens;
                    read[which] = tokens;
                    list[which].remaining = 0;
                    waiting[which].placed = true;
                }
                prop_assert!(rows + taken <= bounds.budget_tokens());
                if rows == 0 && taken == 0 {
                    prop_assert!(running.is_empty() && waiting.is_empty());
                    if arrivals.is_empty() {
                        break;
                    }
                }
                let oldest_could = waiting.first().is_some_and(|run| run.placed);
                calls_without_the_oldest = if oldest_could && read[0] == 0 { calls_without_the_oldest + 1 } else { 0 };
                prop_assert!(calls_without_the_oldest <= overtakes);
                running.iter_mut().for_each(|run| run.answer -= 1);
                running.retain(|run| run.answer > 0);
                waiting.iter_mut().zip(&read).for_each(|(run, tokens)| run.prompt -= tokens);
                let (done, left) = waiting.into_iter().partition(|run| run.prompt == 0);
                running.extend::<Vec<Run>>(done);
                waiting = left;
            }
            prop_assert!(arrivals.is_empty() && waiting.is_empty() && running.is_empty());
        }

        /// Plays whole days: random arrivals, every decision carried out. No round exceeds the budget, no running
        /// sequence and no placed prompt waits longer than promised, and all work gets done.
        #[test]
        fn no_round_exceeds_the_budget_and_nobody_starves(
            slots in 1u32..6,
            spare in 3u32..40,
            chunk in 3u32..24,
            overtakes in 0u32..4,
            arrivals in proptest::collection::vec((0u32..6, 1u32..60, 1u32..12, 0usize..4), 1..40),
        ) {
            let bounds = Config::new(slots, slots + spare, chunk, overtakes).unwrap();
            let mut state = State::default();
            let mut pending = arrivals.into_iter();
            let mut upcoming = pending.next();
            let (mut waiting, mut running): (Vec<Run>, Vec<Run>) = (Vec::new(), Vec::new());
            let (mut round, mut passed_over) = (0u32, 0u32);
            let mut done = 0;
            for _ in 0..20_000 {
                while let Some((delay, prompt, answer, class)) = upcoming {
                    if delay > 0 {
                        upcoming = Some((delay - 1, prompt, answer, class));
                        break;
                    }
                    let class = Class::ALL[class];
                    waiting.push(Run { prompt, answer, class, placed: false, tokens_since_decode: 0 });
                    upcoming = pending.next();
                }
                let placed = u32::try_from(waiting.iter().filter(|run| run.placed).count()).unwrap();
                let rows = u32::try_from(running.len()).unwrap();
                prop_assert!(rows + placed <= slots);
                let list: Vec<Waiting> = waiting
                    .iter()
                    .map(|run| Waiting {
                        class: run.class,
                        ..if run.placed { prompt(run.prompt) } else { queued(run.prompt) }
                    })
                    .collect();
                let (step, after) = decide(state, rows, &list, slots - rows - placed, &bounds);
                state = after;
                match step {
                    Step::Idle => {
                        prop_assert!(running.is_empty() && waiting.is_empty());
                        if upcoming.is_none() {
                            break;
                        }
                    }
                    Step::Decode => {
                        prop_assert!(rows > 0);
                        prop_assert!(round + rows <= bounds.budget_tokens(), "round of {} + {}", round, rows);
                        round = 0;
                        for run in &mut running {
                            run.answer -= 1;
                            run.tokens_since_decode = 0;
                        }
                        done += running.iter().filter(|run| run.answer == 0).count();
                        running.retain(|run| run.answer > 0);
                    }
                    Step::Prefill { which, tokens } => {
                        let rest = waiting[which].prompt;
                        prop_assert!(tokens <= chunk && tokens <= rest);
                        prop_assert!(rest - tokens != 1 && (tokens >= 2 || !waiting[which].placed && rest == 1));
                        round = if rows == 0 { tokens } else { round + tokens };
                        for run in &mut running {
                            run.tokens_since_decode += tokens;
                            prop_assert!(run.tokens_since_decode < bounds.budget_tokens());
                        }
                        // Whenever the oldest prompt has or can have a row, it gets a chunk of every `overtakes + 1`.
                        let oldest_can_run = waiting[0].placed || slots > rows + placed;
                        passed_over = if which == 0 { 0 } else { passed_over + u32::from(oldest_can_run) };
                        prop_assert!(passed_over <= overtakes);
                        let run = &mut waiting[which];
                        run.placed = true;
                        run.prompt -= tokens;
                        if run.prompt == 0 {
                            let mut run = waiting.remove(which);
                            run.tokens_since_decode = 0;
                            running.push(run);
                        }
                    }
                }
            }
            prop_assert!(upcoming.is_none() && waiting.is_empty() && running.is_empty(), "work is left after {} answers", done);
        }
    }
}
