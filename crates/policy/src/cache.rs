//! Which answers are kept, for how long, and when a kept one is given again.
//!
//! Only answers that would come out the same are kept, unless the tenant wants more. How long starts at five minutes and
//! follows what refreshing shows: an entry that was asked for and came out the same lives twice as long, one that had
//! changed a quarter as long. A draw spreads the ends, so that entries made together do not end together. An entry is
//! refreshed by one hit in the last part of its life, while it is still given to everybody; after its end it stays for
//! a day for those who ask for stale answers, and for the hour in which nothing better can be had. The words for what a
//! request wishes are those of RFC 9111, 5.2.1.
//!
//! Edge cases: a clock that steps back makes an entry young, never old; an entry from the future is fresh; a wish that
//! nobody understands is no wish.

use core::time::Duration;

use crate::tenant::Caching;
use crate::time::Timestamp;

/// How long an entry lives at first, and at least.
pub const BASE: Duration = Duration::from_secs(5 * 60);

/// How long an entry lives at most, jitter aside.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long a failure that would repeat itself is remembered. Short, because what makes a request fail for good may be
/// mended on our side (a longer context, a model that reads more).
pub const NEGATIVE: Duration = Duration::from_secs(60);

/// For how long after its end an entry may still be given when nothing better can be had.
pub const STALE_FOR: Duration = Duration::from_secs(24 * 3600);

/// How long a process answers from its own memory before it looks at the shared entry again.
pub const MEMORY: Duration = Duration::from_secs(10);

/// The part by which lives differ, up and down.
const JITTER: f64 = 0.3;

/// What a request wishes of kept answers (`Cache-Control` of the request).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// `no-store`: neither give a kept answer nor keep this one.
    pub no_store: bool,
    /// `no-cache`: compute it anew.
    pub no_cache: bool,
    /// `only-if-cached`: a kept answer or none.
    pub only_if_cached: bool,
    /// `max-age`: none that is older.
    pub max_age: Option<Duration>,
    /// `max-stale`: one past its end is welcome, if not by more than this.
    pub max_stale: Option<Duration>,
}

impl Wish {
    /// Reads a `Cache-Control` header. Directives it does not know, and values that are no numbers, are left out.
    #[must_use]
    pub fn read(header: &str) -> Self {
        let mut wish = Self::default();
        for directive in header.split(',') {
            let (name, value) = match directive.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
                None => (directive.trim(), None),
            };
            let seconds = || value.and_then(|value| value.parse().ok()).map(Duration::from_secs);
            match name.to_ascii_lowercase().as_str() {
                "no-store" => wish.no_store = true,
                "no-cache" => wish.no_cache = true,
                "only-if-cached" => wish.only_if_cached = true,
                "max-age" => wish.max_age = seconds(),
                // Without a value: however stale.
                "max-stale" => wish.max_stale = if value.is_none() { Some(Duration::MAX) } else { seconds() },
                _ => {}
            }
        }
        wish
    }
}

/// What a request has to do with kept answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing.
    None,
    /// Its answer replaces the kept one; it is not given a kept one.
    Renew,
    /// It may be given a kept one, and its answer is kept.
    Share,
}

/// Decides what a request has to do with kept answers: by its tenant's rule, whether its answer would come out the same,
/// whether it and its tenant let anything be stored, and its wish.
#[must_use]
pub const fn usage(rule: Caching, repeatable: bool, may_store: bool, wish: &Wish) -> Use {
    let wanted = match rule {
        Caching::Off => false,
        Caching::Deterministic => repeatable,
        Caching::All => true,
    };
    if !wanted || !may_store || wish.no_store {
        Use::None
    } else if wish.no_cache {
        Use::Renew
    } else {
        Use::Share
    }
}

/// How much an entry is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heat {
    /// Like most.
    Cool,
    /// Among the most asked for: its refresh begins earlier, so that it never ends while it is asked for.
    Hot,
}

/// An entry's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When the answer was made.
    pub made: Timestamp,
    /// When it stops to be fresh.
    pub ends: Timestamp,
}

impl Life {
    /// A life that begins now; `draw` in `[0, 1)` spreads its end.
    #[must_use]
    pub fn of(ttl: Duration, draw: f64, now: Timestamp) -> Self {
        Self { made: now, ends: now.after(jittered(ttl, draw)) }
    }

    /// How old it is.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.made)
    }

    /// When the store may forget it.
    #[must_use]
    pub fn forgotten(&self) -> Timestamp {
        self.ends.after(STALE_FOR)
    }

    /// From when on a hit refreshes it.
    #[must_use]
    pub fn refresh_from(&self, heat: Heat) -> Timestamp {
        let life = self.ends.since(self.made);
        self.ends.before(match heat {
            Heat::Cool => life / 10,
            Heat::Hot => life / 5,
        })
    }
}

/// What a kept answer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To be given.
    Fresh,
    /// To be given, and computed anew beside it.
    FreshRefresh,
    /// Past its end, and welcome all the same.
    WelcomeStale,
    /// To be given only if nothing better can be had.
    InNeed,
    /// Of no use.
    Useless,
}

/// Decides what a kept answer is good for to a request that may be given one.
#[must_use]
pub fn verdict(life: &Life, heat: Heat, wish: &Wish, now: Timestamp) -> Verdict {
    if now >= life.forgotten() {
        return Verdict::Useless;
    }
    let young_enough = wish.max_age.is_none_or(|most| life.age(now) <= most);
    if !young_enough {
        return Verdict::InNeed;
    }
    if now < life.ends {
        return if now >= life.refresh_from(heat) { Verdict::FreshRefresh } else { Verdict::Fresh };
    }
    match wish.max_stale {
        Some(most) if now.since(life.ends) <= most => Verdict::WelcomeStale,
        Some(_) | None => Verdict::InNeed,
    }
}

/// What a refresh showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was nothing to compare with.
    First,
    /// The answer came out the same.
    Same,
    /// It came out differently.
    Changed,
}

/// How long an entry lives after an answer that is a `change` to the one before it, which was to live for `before` and was
/// given `hits` times. Without jitter: see [`Life::of`].
#[must_use]
pub fn ttl(change: Change, hits: u64, before: Duration) -> Duration {
    let before = before.clamp(BASE, LONGEST);
    match change {
        Change::First => BASE,
        Change::Same if hits > 0 => before.saturating_mul(2).min(LONGEST),
        Change::Same => before,
        Change::Changed => (before / 4).max(BASE),
    }
}

fn jittered(ttl: Duration, draw: f64) -> Duration {
    let draw = if draw.is_finite() { draw.clamp(0.0, 1.0) } else { 0.5 };
    ttl.mul_f64(1.0 - JITTER + 2.0 * JITTER * draw)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);
    const NO_WISH: Wish =
        Wish { no_store: false, no_cache: false, only_if_cached: false, max_age: None, max_stale: None };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_wish_is_read_as_the_rfc_writes_it() {
        assert_eq!(Wish::read(""), NO_WISH);
        let wish = Wish::read("max-age=60, Max-Stale , no-transform, only-if-cached");
        assert_eq!((wish.max_age, wish.max_stale), (Some(secs(60)), Some(Duration::MAX)));
        assert!(wish.only_if_cached && !wish.no_cache && !wish.no_store);
        assert_eq!(Wish::read("max-stale=\"5\"").max_stale, Some(secs(5)));
        assert_eq!(Wish::read("max-age=soon, max-stale=x"), NO_WISH);
        assert!(Wish::read("no-cache").no_cache && Wish::read("No-Store").no_store);
    }

    #[test]
    fn what_is_kept_is_the_tenants_rule_unless_the_request_forbids_it() {
        let usage = |rule, repeatable| super::usage(rule, repeatable, true, &NO_WISH);
        assert_eq!(usage(Caching::Off, true), Use::None);
        assert_eq!(
            (usage(Caching::Deterministic, true), usage(Caching::Deterministic, false)),
            (Use::Share, Use::None)
        );
        assert_eq!(usage(Caching::All, false), Use::Share);
        assert_eq!(super::usage(Caching::All, true, false, &NO_WISH), Use::None);
        assert_eq!(super::usage(Caching::All, true, true, &Wish::read("no-store")), Use::None);
        assert_eq!(super::usage(Caching::All, true, true, &Wish::read("no-cache")), Use::Renew);
    }

    #[test]
    fn one_tenth_of_a_life_is_for_refreshing_and_one_fifth_of_a_hot_one() {
        let life = Life { made: NOW, ends: NOW.after(secs(100)) };
        let at = |s| NOW.after(secs(s));
        assert_eq!(verdict(&life, Heat::Cool, &NO_WISH, at(89)), Verdict::Fresh);
        assert_eq!(verdict(&life, Heat::Cool, &NO_WISH, at(90)), Verdict::FreshRefresh);
        assert_eq!(verdict(&life, Heat::Hot, &NO_WISH, at(80)), Verdict::FreshRefresh);
        assert_eq!(verdict(&life, Heat::Hot, &NO_WISH, at(100)), Verdict::InNeed);
        assert_eq!(verdict(&life, Heat::Cool, &NO_WISH, life.forgotten()), Verdict::Useless);
    }

    #[test]
    fn a_request_may_ask_for_younger_answers_and_for_older_ones() {
        let life = Life { made: NOW, ends: NOW.after(secs(100)) };
        let young = Wish::read("max-age=30");
        assert_eq!(verdict(&life, Heat::Cool, &young, NOW.after(secs(30))), Verdict::Fresh);
        assert_eq!(verdict(&life, Heat::Cool, &young, NOW.after(secs(31))), Verdict::InNeed);
        let old = Wish::read("max-stale=20");
        assert_eq!(verdict(&life, Heat::Cool, &old, NOW.after(secs(120))), Verdict::WelcomeStale);
        assert_eq!(verdict(&life, Heat::Cool, &old, NOW.after(secs(121))), Verdict::InNeed);
    }

    #[test]
    fn a_life_doubles_while_nothing_changes_and_is_cut_when_something_does() {
        assert_eq!(ttl(Change::First, 9, LONGEST), BASE);
        assert_eq!(ttl(Change::Same, 1, BASE), 2 * BASE);
        assert_eq!(ttl(Change::Same, 0, BASE), BASE, "what nobody asked for is no reason to keep it longer");
        assert_eq!(ttl(Change::Same, 1, LONGEST), LONGEST);
        assert_eq!(ttl(Change::Changed, 1, 8 * BASE), 2 * BASE);
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![Just(Change::First), Just(Change::Same), Just(Change::Changed)]
    }

    proptest! {
        #[test]
        fn however_answers_change_a_life_stays_between_its_bounds(
            changes in proptest::collection::vec((change(), 0u64..3), 0..40), draw in 0.0f64..1.0,
        ) {
            let mut before = BASE;
            for (change, hits) in changes {
                let next = ttl(change, hits, before);
                prop_assert!((BASE..=LONGEST).contains(&next));
                match change {
                    Change::Same => prop_assert!(next >= before),
                    Change::First | Change::Changed => prop_assert!(next <= before),
                }
                before = next;
                let life = Life::of(next, draw, NOW).ends.since(NOW);
                prop_assert!(life >= next.mul_f64(0.699) && life <= next.mul_f64(1.301));
            }
        }

        #[test]
        fn an_answer_only_gets_staler_and_a_refresh_is_due_before_the_end(
            ttl in 1u64..100_000, draw in 0.0f64..1.0, first in 0u64..300_000, later in 0u64..300_000, hot in any::<bool>(),
        ) {
            let heat = if hot { Heat::Hot } else { Heat::Cool };
            let life = Life::of(secs(ttl), draw, NOW);
            let rank = |at: u64| match verdict(&life, heat, &NO_WISH, NOW.after(secs(at))) {
                Verdict::Fresh => 0,
                Verdict::FreshRefresh => 1,
                Verdict::WelcomeStale => 2,
                Verdict::InNeed => 3,
                Verdict::Useless => 4,
            };
            prop_assert!(rank(first) <= rank(first + later));
            prop_assert!(life.refresh_from(heat) <= life.ends && life.refresh_from(heat) >= life.made);
        }

        #[test]
        fn no_header_makes_the_reader_panic(header in ".{0,60}") {
            let _ = Wish::read(&header);
        }
    }
}
