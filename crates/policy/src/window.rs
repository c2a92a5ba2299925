//! Which texts an encoder runs together, and how long it waits for company.
//!
//! An encoder has no cache: a text is one call of the model, and many texts in one call cost little more than one until
//! the processor's arithmetic is the limit. So texts are gathered for a moment, until there are enough of them or the
//! first has waited long enough (the *window*). Texts in one call are padded to one length: only texts of the same
//! *bucket* run together, and a text's bucket depends on its own length alone, so that its vector does not depend on
//! what happened to run beside it.
//!
//! Who runs first: the earliest of arrival plus what the class may be put off, so that a flood of batch work delays
//! urgent texts by the running call at most, and is never starved itself.
//!
//! Edge cases: a clock that steps back makes texts wait a window longer at most; a text larger than the budget of a call
//! runs alone; when nobody can send more (all slots are taken), nobody waits.

use core::time::Duration;

use crate::classes::Class;
use crate::time::Timestamp;

/// How texts are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    wait: Duration,
    most_rows: u32,
    most_tokens: u32,
}

/// A configuration that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidConfig {
    /// A call must have room for a text.
    NoRoom,
}

impl core::fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoRoom => f.write_str("a call of the encoder must take at least one text and one token"),
        }
    }
}

impl core::error::Error for InvalidConfig {}

impl Config {
    /// Waits up to `wait` for company; runs at most `most_rows` texts and `most_tokens` tokens, padding included, in a
    /// call.
    ///
    /// # Errors
    /// [`InvalidConfig`] if nothing would ever run.
    pub fn new(wait: Duration, most_rows: u32, most_tokens: u32) -> Result<Self, InvalidConfig> {
        if most_rows == 0 || most_tokens == 0 {
            return Err(InvalidConfig::NoRoom);
        }
        Ok(Self { wait, most_rows, most_tokens })
    }

    /// How many texts of a bucket fill a call; at least 1.
    #[must_use]
    pub fn rows_of(&self, bucket: u32) -> usize {
        let rows = (self.most_tokens / bucket.max(1)).clamp(1, self.most_rows);
        usize::try_from(rows).unwrap_or(usize::MAX)
    }
}

/// The length to which a text of `tokens` tokens is padded: each octave has four of them, so that less than a quarter is
/// padding, and none is shorter than eight tokens. Never above `context`, which no text exceeds.
#[must_use]
pub fn bucket(tokens: u32, context: u32) -> u32 {
    const SHORTEST: u32 = 8;
    let tokens = tokens.max(SHORTEST);
    let octave = 1u32 << (31 - tokens.leading_zeros());
    let step = (octave / 4).max(1);
    let padded = tokens.checked_next_multiple_of(step).unwrap_or(tokens);
    padded.min(context.max(1))
}

/// A text that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The length it is padded to; see [`bucket`].
    pub bucket: u32,
    /// Its class.
    pub class: Class,
    /// When it came.
    pub arrived: Timestamp,
}

/// Whether company may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// It may.
    MayCome,
    /// Nobody can send anything before what waits has run.
    AllHere,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run these texts (their places among those that wait) together.
    Run {
        /// All of one bucket, the first to run first; never empty.
        members: Vec<usize>,
        /// Why now.
        why: Why,
    },
    /// Look again then, or when a text has come.
    Wait(Timestamp),
    /// Nothing waits.
    Idle,
}

/// Why texts run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The call is full.
    Full,
    /// One of them does not wait for company.
    Urgent,
    /// One of them has waited long enough.
    Waited,
    /// Waiting brings nobody.
    NobodyElse,
}

/// What to run now, of those that wait in the order they came.
#[must_use]
pub fn next(waiting: &[Waiting], company: Company, config: &Config, now: Timestamp) -> Decision {
    let mut order: Vec<usize> = (0..waiting.len()).collect();
    order.sort_by_key(|&place| (turn(&waiting[place], config), place));
    // The first in the order whose bucket may run; buckets are few, and each is looked at once.
    let mut seen: Vec<u32> = Vec::new();
    for &first in &order {
        let bucket = waiting[first].bucket;
        if seen.contains(&bucket) {
            continue;
        }
        seen.push(bucket);
        let rows = config.rows_of(bucket);
        let of_bucket = order.iter().copied().filter(|&place| waiting[place].bucket == bucket);
        if let Some(why) = why(of_bucket.clone().map(|place| &waiting[place]), rows, company, config, now) {
            return Decision::Run { members: of_bucket.take(rows).collect(), why };
        }
    }
    waiting.iter().map(|text| text.arrived.after(config.wait)).min().map_or(Decision::Idle, Decision::Wait)
}

/// Why a bucket may run now; `None`: it waits.
fn why<'w>(
    texts: impl Iterator<Item = &'w Waiting> + Clone,
    rows: usize,
    company: Company,
    config: &Config,
    now: Timestamp,
) -> Option<Why> {
    if texts.clone().count() >= rows {
        Some(Why::Full)
    } else if texts.clone().any(|text| text.class == Class::P0) {
        Some(Why::Urgent)
    } else if texts.clone().any(|text| text.arrived.after(config.wait) <= now) {
        Some(Why::Waited)
    } else {
        (company == Company::AllHere).then_some(Why::NobodyElse)
    }
}

/// When it is a text's turn: the later its class may be put off, the later. Measured in windows, or in tenths of a second
/// where there is no window.
fn turn(text: &Waiting, config: &Config) -> Timestamp {
    let unit = config.wait.max(Duration::from_millis(100));
    let windows = match text.class {
        Class::P0 => 0,
        Class::P1 => 1,
        Class::P2 => 10,
        Class::P3 => 50,
    };
    text.arrived.after(unit * windows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(100);

    fn config() -> Config {
        Config::new(WINDOW, 4, 256).unwrap()
    }

    fn text(bucket: u32, class: Class, ms: i64) -> Waiting {
        Waiting { bucket, class, arrived: Timestamp::from_millis(ms) }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn run(members: &[usize], why: Why) -> Decision {
        Decision::Run { members: members.to_vec(), why }
    }

    #[test]
    fn a_lone_text_waits_a_window_for_company_and_an_urgent_one_does_not() {
        let lone = [text(16, Class::P1, 5)];
        assert_eq!(next(&lone, Company::MayCome, &config(), at(10)), Decision::Wait(at(105)));
        assert_eq!(next(&lone, Company::MayCome, &config(), at(105)), run(&[0], Why::Waited));
        assert_eq!(next(&lone, Company::AllHere, &config(), at(10)), run(&[0], Why::NobodyElse));
        assert_eq!(next(&[text(16, Class::P0, 5)], Company::MayCome, &config(), at(5)), run(&[0], Why::Urgent));
        assert_eq!(next(&[], Company::MayCome, &config(), at(5)), Decision::Idle);
    }

    #[test]
    fn a_full_call_runs_at_once_whether_of_texts_or_of_tokens() {
        let short: Vec<Waiting> = (0..5).map(|ms| text(16, Class::P1, ms)).collect();
        assert_eq!(next(&short, Company::MayCome, &config(), at(5)), run(&[0, 1, 2, 3], Why::Full));
        let long: Vec<Waiting> = (0..2).map(|ms| text(128, Class::P1, ms)).collect();
        assert_eq!(next(&long, Company::MayCome, &config(), at(5)), run(&[0, 1], Why::Full));
        assert_eq!(next(&[text(512, Class::P3, 0)], Company::MayCome, &config(), at(0)), run(&[0], Why::Full));
    }

    #[test]
    fn urgent_texts_overtake_batch_work_which_is_not_starved() {
        let mut texts: Vec<Waiting> = (0..8).map(|ms| text(16, Class::P3, ms)).collect();
        texts.push(text(16, Class::P1, 300));
        assert_eq!(next(&texts, Company::MayCome, &config(), at(301)), run(&[8, 0, 1, 2], Why::Full));
        let old = [text(16, Class::P3, 0), text(24, Class::P1, 5_000)];
        assert_eq!(next(&old, Company::MayCome, &config(), at(5_200)), run(&[0], Why::Waited));
    }

    #[test]
    fn buckets_follow_the_length_and_end_at_the_context() {
        for (tokens, padded) in
            [(1, 8), (8, 8), (9, 10), (11, 12), (17, 20), (33, 40), (100, 112), (129, 160), (511, 512)]
        {
            assert_eq!(bucket(tokens, 512), padded, "{tokens}");
        }
        assert_eq!(bucket(250, 252), 252);
        assert_eq!(bucket(3, 4), 4);
        assert_eq!(bucket(u32::MAX, u32::MAX), u32::MAX);
    }

    #[test]
    fn a_call_without_room_is_refused() {
        assert_eq!(Config::new(WINDOW, 0, 5), Err(InvalidConfig::NoRoom));
        assert_eq!(Config::new(WINDOW, 5, 0), Err(InvalidConfig::NoRoom));
    }

    fn waiting() -> impl Strategy<Value = Vec<Waiting>> {
        let one = (1u32..300, 0usize..4, 0i64..1000)
            .prop_map(|(tokens, class, ms)| text(bucket(tokens, 512), Class::ALL[class], ms));
        proptest::collection::vec(one, 0..60)
    }

    proptest! {
        #[test]
        fn a_call_holds_one_bucket_within_its_budget(texts in waiting(), now in 0i64..1200, rows in 1u32..9, tokens in 1u32..2000) {
            let config = Config::new(WINDOW, rows, tokens).unwrap();
            match next(&texts, Company::MayCome, &config, at(now)) {
                Decision::Run { members, .. } => {
                    let bucket = texts[members[0]].bucket;
                    prop_assert!(members.iter().all(|&place| texts[place].bucket == bucket));
                    prop_assert!(members.len() == 1 || members.len() as u64 * u64::from(bucket) <= u64::from(tokens));
                    prop_assert!(members.len() <= rows as usize);
                    let mut distinct = members.clone();
                    distinct.sort_unstable();
                    distinct.dedup();
                    prop_assert_eq!(distinct.len(), members.len());
                }
                Decision::Wait(until) => prop_assert!(until > at(now), "a wait that is over is no wait"),
                Decision::Idle => prop_assert!(texts.is_empty()),
            }
        }

        #[test]
        fn everything_runs_and_nothing_twice(mut texts in waiting()) {
            let (mut now, mut ran, all) = (at(0), 0, texts.len());
            for _ in 0..1000 {
                match next(&texts, Company::MayCome, &config(), now) {
                    Decision::Run { mut members, .. } => {
                        ran += members.len();
                        members.sort_unstable();
                        for place in members.into_iter().rev() {
                            texts.remove(place);
                        }
                    }
                    Decision::Wait(until) => now = until,
                    Decision::Idle => break,
                }
            }
            prop_assert_eq!((ran, texts.len()), (all, 0));
        }

        #[test]
        fn a_bucket_is_no_shorter_than_its_text_and_little_longer(tokens in 1u32..=512) {
            let padded = bucket(tokens, 512);
            prop_assert!(padded >= tokens && padded <= 512);
            prop_assert!(tokens < 8 || padded * 4 < tokens * 5 + 4);
        }
    }
}
