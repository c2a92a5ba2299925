//! How pools stand, told to an operator, and an operator's orders about them.

use std::time::Duration;

use penstock_policy::degrade::{Order, Standing};
use penstock_policy::id::PoolId;
use penstock_policy::time::Timestamp;
use penstock_wire::standing::{OrderGiven, StandingList, StandingShown};

use crate::Service;
use crate::degradation::standing::name_of;
use crate::error::ApiError;
use crate::ports::Pool;

/// The longest order: whoever means longer removes the pool.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

impl Service {
    /// How every pool stands, read anew.
    pub(crate) async fn list_standings(&self) -> Result<StandingList, ApiError> {
        let now = self.ports.clock.now();
        let mut list = StandingList::default();
        for pool in self.pools(now).await?.iter() {
            list.data.push(shown(pool, &self.standing_anew(&pool.id).await?, now));
        }
        Ok(list)
    }

    /// Gives an order about a pool, in place of an earlier one. Known everywhere within two seconds.
    ///
    /// # Errors
    /// 404 without such a pool; 400 about an order that is none or has no end.
    pub(crate) async fn give_order(&self, id: &str, given: &OrderGiven) -> Result<StandingShown, ApiError> {
        let now = self.ports.clock.now();
        let pool = self.pool_named(id, now).await?;
        let order = read(given, now)?;
        self.order(&pool.id, order).await?;
        Ok(shown(&pool, &self.standing_anew(&pool.id).await?, now))
    }

    /// The pool that the operator names.
    ///
    /// # Errors
    /// 404 without such a pool.
    pub(crate) async fn pool_named(&self, id: &str, now: Timestamp) -> Result<Pool, ApiError> {
        let pools = self.pools(now).await?;
        let known = || pools.iter().map(|pool| pool.id.as_str()).collect::<Vec<_>>().join(", ");
        let id = PoolId::new(id).ok();
        let pool = pools.iter().find(|pool| Some(&pool.id) == id.as_ref());
        pool.cloned().ok_or_else(|| ApiError::no_such_pool(&known()))
    }
}

fn read(given: &OrderGiven, now: Timestamp) -> Result<Option<(Order, Timestamp)>, ApiError> {
    let order = match given.order.as_str() {
        "none" => return Ok(None),
        "refuse" => Order::Refuse,
        "fallbacks" => Order::Fallbacks,
        _ => return Err(ApiError::invalid("order", "invalid_value", "'order' must be refuse, fallbacks or none")),
    };
    match given.for_s.map(Duration::from_secs) {
        Some(time) if !time.is_zero() && time <= LONGEST => Ok(Some((order, now.after(time)))),
        Some(_) | None => {
            let message = format!("'for_s' must say how long the order holds: 1 to {} seconds", LONGEST.as_secs());
            Err(ApiError::invalid("for_s", "invalid_value", message))
        }
    }
}

fn shown(pool: &Pool, standing: &Standing, now: Timestamp) -> StandingShown {
    let order = standing.ordered(now);
    StandingShown {
        pool: pool.id.to_string(),
        model: pool.model.clone(),
        tier: standing.tier(now).number(),
        tier_by_evidence: standing.tier.number(),
        reason: standing.reason.name().to_owned(),
        since: (standing.since != Timestamp::EPOCH).then(|| standing.since.as_secs()),
        probes_succeeded: standing.probes.successes,
        order: order.map(|(order, _)| name_of(order).to_owned()),
        order_until: order.map(|(_, until)| until.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_must_be_one_and_end() {
        let now = Timestamp::from_millis(1000);
        let given = |order: &str, for_s| OrderGiven { order: order.to_owned(), for_s };
        assert_eq!(read(&given("refuse", Some(9)), now), Ok(Some((Order::Refuse, Timestamp::from_millis(10_000)))));
        assert_eq!(read(&given("none", None), now), Ok(None));
        for (order, for_s) in
            [("refuse", None), ("fallbacks", Some(0)), ("fallbacks", Some(u64::MAX)), ("open", Some(1))]
        {
            assert!(read(&given(order, for_s), now).is_err(), "{order} {for_s:?}");
        }
    }
}
