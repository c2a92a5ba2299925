//! Who queued how much of a virtual queue, as this process saw it: what it let in itself, fading as the queue is worked off.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_policy::classes::Class;
use penstock_policy::fair::Shares;
use penstock_policy::id::{PoolId, TenantId};
use penstock_policy::time::Timestamp;

/// What is remembered fades within the time that the queue takes, but not faster than this.
const LEAST: Duration = Duration::from_secs(5);

/// What has faded to less than so many tokens is forgotten.
const FORGOTTEN: f64 = 0.5;

/// Tokens let in, with the moment they were last faded to.
type Tenants = BTreeMap<TenantId, (f64, Timestamp)>;

/// What was let in, by queue and tenant.
#[derive(Default)]
pub(crate) struct Sharing(Mutex<BTreeMap<(PoolId, Class), Tenants>>);

impl Sharing {
    /// Remembers what was let in.
    pub(crate) fn note(&self, pool: &PoolId, class: Class, tenant: &TenantId, tokens: u64, now: Timestamp) {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = queues.entry((pool.clone(), class)).or_default().entry(tenant.clone()).or_insert((0.0, now));
        entry.0 += tokens as f64;
    }

    /// The shares of a queue that takes `backlog` to be worked off, from the view of `tenant`.
    pub(crate) fn shares(
        &self,
        pool: &PoolId,
        class: Class,
        tenant: &TenantId,
        backlog: Duration,
        now: Timestamp,
    ) -> Shares {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tenants) = queues.get_mut(&(pool.clone(), class)) else { return Shares::default() };
        let horizon = backlog.max(LEAST).as_secs_f64();
        tenants.retain(|_, (tokens, at)| {
            *tokens *= (-now.since(*at).as_secs_f64() / horizon).exp();
            *at = (*at).max(now);
            *tokens > FORGOTTEN
        });
        let all: f64 = tenants.values().map(|(tokens, _)| tokens).sum();
        if all <= 0.0 {
            return Shares::default();
        }
        let own = tenants.get(tenant).map_or(0.0, |(tokens, _)| tokens / all);
        let others = tenants.iter().filter(|(other, _)| *other != tenant).map(|(_, (tokens, _))| tokens / all);
        Shares { own, others: others.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_what_was_let_in_and_fade_with_the_queue() {
        let (sharing, pool) = (Sharing::default(), PoolId::new("main").unwrap());
        let [a, b] = ["a", "b"].map(|name| TenantId::new(name).unwrap());
        let at = |secs: i64| Timestamp::from_millis(secs * 1000);
        sharing.note(&pool, Class::P1, &a, 900, at(0));
        sharing.note(&pool, Class::P1, &b, 100, at(0));
        let seen = sharing.shares(&pool, Class::P1, &b, Duration::from_secs(60), at(0));
        assert!((seen.own - 0.1).abs() < 1e-9 && (seen.others[0] - 0.9).abs() < 1e-9);
        assert_eq!(sharing.shares(&pool, Class::P0, &b, Duration::ZERO, at(0)), Shares::default());
        // Whoever lets somebody in has looked at the shares just before.
        sharing.shares(&pool, Class::P1, &b, Duration::from_secs(60), at(60));
        sharing.note(&pool, Class::P1, &b, 100, at(60));
        let later = sharing.shares(&pool, Class::P1, &b, Duration::from_secs(60), at(60));
        assert!(later.own > 0.28, "{later:?}");
        assert_eq!(sharing.shares(&pool, Class::P1, &b, Duration::ZERO, at(600)), Shares::default());
    }
}
