//! Fairness between the tenants that share a queue: how much of it one may fill, and how much of it stands before its next
//! job.
//!
//! The queue itself is served fairly (equal tokens for whoever has work waiting), so what others have queued beyond what a
//! tenant has queued itself does not delay it. Room is given by a dynamic threshold (Choudhury and Hahne, "Dynamic queue
//! length thresholds for shared-memory packet switches", 1998): nobody may queue more than a multiple of what is still
//! free. So one tenant alone has nearly the whole queue, several greedy ones keep each other in bounds, and there is
//! always room for one that asks for little.
//!
//! Who queued how much is an estimate: each process knows the shares of what it let in itself, lately. Exact is the whole.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::gcra::Limit;
use crate::time::Timestamp;

/// A tenant may queue so many times what is free.
const MULTIPLE: f64 = 4.0;

/// A tenant that has queued less than this part of the queue is let in even while others' return slots fill it.
const LITTLE: f64 = 0.125;

/// What a process remembers of what it let in fades within the time that the queue takes, but not faster than this.
const LEAST_HORIZON: Duration = Duration::from_secs(5);

/// What has faded to less than so many tokens is forgotten.
const FORGOTTEN: f64 = 0.5;

/// Who queued how much of one queue, as one process saw it: what it let in itself, fading as the queue is worked off.
#[derive(Clone, Debug, PartialEq)]
pub struct LetIn<T: Ord> {
    /// Tokens, with the moment they were last faded to.
    tenants: BTreeMap<T, (f64, Timestamp)>,
}

impl<T: Ord> Default for LetIn<T> {
    fn default() -> Self {
        Self { tenants: BTreeMap::new() }
    }
}

impl<T: Ord> LetIn<T> {
    /// Remembers what was let in.
    pub fn note(&mut self, tenant: T, tokens: u64, now: Timestamp) {
        self.tenants.entry(tenant).or_insert((0.0, now)).0 += tokens as f64;
    }

    /// The shares of a queue that takes `backlog` to be worked off, from the view of `tenant`.
    pub fn shares(&mut self, tenant: &T, backlog: Duration, now: Timestamp) -> Shares {
        let horizon = backlog.max(LEAST_HORIZON).as_secs_f64();
        self.tenants.retain(|_, (tokens, at)| {
            *tokens *= (-now.since(*at).as_secs_f64() / horizon).exp();
            *at = (*at).max(now);
            *tokens > FORGOTTEN
        });
        let all: f64 = self.tenants.values().map(|(tokens, _)| tokens).sum();
        if all <= 0.0 {
            return Shares::default();
        }
        let own = self.tenants.get(tenant).map_or(0.0, |(tokens, _)| tokens / all);
        let others = self.tenants.iter().filter(|(other, _)| *other != tenant).map(|(_, (tokens, _))| tokens / all);
        Shares { own, others: others.collect() }
    }
}

/// What tenants have queued, by share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shares {
    /// The asking tenant's share, 0 to 1.
    pub own: f64,
    /// Those of the others.
    pub others: Vec<f64>,
}

impl Shares {
    /// Work that stands before the tenant's next job, of `queued` that wait in all: of each other's as much as is its own.
    #[must_use]
    pub fn ahead(&self, queued: f64) -> f64 {
        if self.others.is_empty() {
            return queued.max(0.0);
        }
        let own = self.own * queued;
        let of_others: f64 = self.others.iter().map(|share| (share * queued).min(own)).sum();
        (own + of_others).clamp(0.0, queued.max(0.0))
    }

    /// The limit that holds for this tenant's next job in a queue of `limit` in which `queued` tokens wait already, where
    /// return slots reach `window` beyond it.
    #[must_use]
    pub fn limit(&self, limit: &Limit, queued: f64, window: Duration) -> Limit {
        if self.others.is_empty() {
            return *limit;
        }
        let (burst, beyond) = (limit.burst() as f64, limit.refilled_in(window) as f64);
        let own = self.own * queued;
        let little = (1.0 - own / (LITTLE * burst)).clamp(0.0, 1.0);
        let free = (burst + beyond - queued).max(0.0);
        let threshold = queued + (MULTIPLE * free - own).max(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
        let most = (burst + beyond * little).min(threshold).max(1.0) as u64;
        limit.with_burst(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(55);

    fn queue() -> Limit {
        Limit::new(100, Duration::from_secs(1), 30_000).unwrap()
    }

    #[test]
    fn a_tenant_alone_has_the_whole_queue() {
        let alone = Shares { own: 1.0, others: Vec::new() };
        assert_eq!(alone.limit(&queue(), 29_000.0, WINDOW), queue());
        assert_eq!(alone.ahead(500.0), 500.0);
    }

    #[test]
    fn greedy_tenants_leave_room_and_one_that_asks_for_little_finds_it() {
        let (mut greedy, mut queued) = ([0.0f64; 3], 0.0f64);
        let shares = |greedy: &[f64; 3], who: usize, queued: f64| Shares {
            own: if queued > 0.0 { greedy[who] / queued } else { 0.0 },
            others: (0..3).filter(|other| *other != who).map(|other| greedy[other] / queued.max(1.0)).collect(),
        };
        for round in 0..10_000 {
            let who = round % 3;
            if queued + 50.0 <= shares(&greedy, who, queued).limit(&queue(), queued, WINDOW).burst() as f64 {
                greedy[who] += 50.0;
                queued += 50.0;
            }
        }
        let quiet = Shares { own: 0.0, others: greedy.map(|tokens| tokens / queued).to_vec() };
        let room = quiet.limit(&queue(), queued, WINDOW).burst() as f64 - queued;
        assert!(room > 500.0 && queued > 28_000.0, "{room} left of {queued}");
        assert!(greedy.iter().all(|tokens| (tokens / queued - 1.0 / 3.0).abs() < 0.01), "{greedy:?}");
    }

    #[test]
    fn what_others_queued_beyond_ones_own_does_not_stand_ahead() {
        let quiet = Shares { own: 0.01, others: vec![0.9, 0.09] };
        assert!((quiet.ahead(10_000.0) - 300.0).abs() < 1e-6);
        let noisy = Shares { own: 0.9, others: vec![0.01, 0.09] };
        assert!((noisy.ahead(10_000.0) - 10_000.0).abs() < 1e-6);
    }

    #[test]
    fn shares_follow_what_was_let_in_and_fade_with_the_queue() {
        let mut seen = LetIn::default();
        let at = |secs: i64| Timestamp::from_millis(secs * 1000);
        assert_eq!(seen.shares(&"b", Duration::ZERO, at(0)), Shares::default());
        seen.note("a", 900, at(0));
        seen.note("b", 100, at(0));
        let shares = seen.shares(&"b", Duration::from_secs(60), at(0));
        assert!((shares.own - 0.1).abs() < 1e-9 && (shares.others[0] - 0.9).abs() < 1e-9);
        // Whoever lets somebody in has looked at the shares just before.
        seen.shares(&"b", Duration::from_secs(60), at(60));
        seen.note("b", 100, at(60));
        let later = seen.shares(&"b", Duration::from_secs(60), at(60));
        assert!(later.own > 0.28, "{later:?}");
        assert_eq!(seen.shares(&"b", Duration::ZERO, at(600)), Shares::default());
    }
}
