//! When an issuer's keys are fetched, and how long fetched ones are trusted.
//!
//! Keys are fetched anew every [`FRESH`], so a withdrawn one is used no longer than that; and at once when a token names
//! a key that is not there, since issuers sign with a new key as soon as they publish it. Anybody can name a key that is
//! not there, so nothing makes us ask more often than every [`PAUSE`]. While the issuer does not answer, its last keys
//! are good for [`STALE`].

use core::time::Duration;

use crate::time::Timestamp;

/// How long keys are used without asking.
pub const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long they are used if nobody answers.
pub const STALE: Duration = Duration::from_secs(60 * 60);
/// The least time between two fetches, whatever they came to.
pub const PAUSE: Duration = Duration::from_secs(30);

/// What is known of an issuer's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    /// When they were fetched last.
    pub fetched: Option<Timestamp>,
    /// When that was tried last.
    pub tried: Option<Timestamp>,
}

/// What to do about a token's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Use the key that is known.
    Use,
    /// Fetch the keys anew and look again; if somebody does so already, use the key that is known.
    Refresh,
    /// Fetch the keys and look again: without that nothing can be said.
    Fetch,
    /// The issuer has no such key, as far as is known: refuse the token.
    Unknown,
    /// Nothing can be said until the issuer answers; it is asked again after this time.
    Wait(Duration),
}

impl KeySet {
    /// Says what to do about a key that is `known` or not.
    #[must_use]
    pub fn look(self, known: bool, now: Timestamp) -> Look {
        // A clock that stepped back makes no fetch wait for the old time to come again.
        let since = |moment: Timestamp| (moment <= now).then(|| now.since(moment));
        let paused =
            self.tried.and_then(since).and_then(|since| PAUSE.checked_sub(since)).filter(|left| !left.is_zero());
        let age = self.fetched.and_then(since);
        let young = |most: Duration| age.is_some_and(|age| age < most);
        match (known, paused) {
            (true, _) if young(FRESH) => Look::Use,
            (true, None) if young(STALE) => Look::Refresh,
            (true, Some(_)) if young(STALE) => Look::Use,
            (true | false, None) => Look::Fetch,
            (false, Some(_)) if young(STALE) => Look::Unknown,
            (true | false, Some(left)) => Look::Wait(left),
        }
    }

    /// What is known after a fetch that was begun at `now`.
    #[must_use]
    pub fn after_fetch(self, succeeded: bool, now: Timestamp) -> Self {
        Self { fetched: if succeeded { Some(now) } else { self.fetched }, tried: Some(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_secs(1_000_000 + secs))
    }

    #[test]
    fn keys_are_used_for_ten_minutes_then_refreshed_and_without_an_answer_used_for_an_hour() {
        let set = KeySet::default().after_fetch(true, at(0));
        assert_eq!(set.look(true, at(599)), Look::Use);
        assert_eq!(set.look(true, at(600)), Look::Refresh);
        let failed = set.after_fetch(false, at(600));
        assert_eq!(failed.look(true, at(629)), Look::Use, "not asked again so soon");
        assert_eq!(failed.look(true, at(630)), Look::Refresh);
        assert_eq!(failed.look(true, at(3600)), Look::Fetch, "too old to be used unseen");
        let failed = failed.after_fetch(false, at(3600));
        assert_eq!(failed.look(true, at(3610)), Look::Wait(Duration::from_secs(20)));
    }

    #[test]
    fn a_key_that_is_not_there_is_asked_for_at_most_every_half_minute() {
        assert_eq!(KeySet::default().look(false, at(0)), Look::Fetch);
        let set = KeySet::default().after_fetch(true, at(0));
        assert_eq!(set.look(false, at(0)), Look::Unknown);
        assert_eq!(set.look(false, at(29)), Look::Unknown);
        assert_eq!(set.look(false, at(30)), Look::Fetch);
        let never = KeySet::default().after_fetch(false, at(0));
        assert_eq!(
            never.look(false, at(10)),
            Look::Wait(Duration::from_secs(20)),
            "nothing can be said of a silent issuer"
        );
    }

    #[test]
    fn a_flood_of_unknown_keys_makes_two_fetches_a_minute_and_a_new_key_is_known_half_a_minute_later() {
        let (mut set, mut fetches) = (KeySet::default(), 0);
        for secs in 0..600 {
            if set.look(false, at(secs)) == Look::Fetch {
                fetches += 1;
                set = set.after_fetch(true, at(secs));
            }
        }
        assert_eq!(fetches, 20);
    }

    #[test]
    fn a_clock_that_steps_back_makes_nobody_wait_for_it() {
        let set = KeySet::default().after_fetch(true, at(5000));
        assert_eq!(set.look(true, at(0)), Look::Fetch);
        assert_eq!(set.look(false, at(0)), Look::Fetch);
    }
}
