//! `penstock breaker`.

use axum::http::Method;
use penstock_policy::id::PoolId;
use penstock_wire::standing::{OrderGiven, StandingList, StandingShown};
use serde_json::json;

use crate::command::Breaker;
use crate::desk::Desk;
use crate::error::CliError;
use crate::tenant::{print, print_json};

/// Shows how the pools stand, or gives an order about one.
pub(crate) async fn run(args: Breaker) -> Result<(), CliError> {
    // Read here, so that what is no name never becomes part of a path.
    let pool: Option<PoolId> = args.pool.as_deref().map(str::parse).transpose().map_err(CliError::Name)?;
    let desk = Desk::open(&args.place).await?;
    let shown = match (pool, order(&args)) {
        (Some(pool), Some(order)) => {
            let path = format!("/admin/v1/pools/{pool}/order");
            vec![desk.ask::<StandingShown>(Method::PUT, &path, &order).await?]
        }
        (pool, _) => {
            let list: StandingList = desk.ask(Method::GET, "/admin/v1/pools/standing", &json!({})).await?;
            let wanted = |shown: &StandingShown| pool.as_ref().is_none_or(|pool| pool.as_str() == shown.pool);
            list.data.into_iter().filter(wanted).collect()
        }
    };
    if args.place.json {
        print_json(&StandingList { data: shown });
        return Ok(());
    }
    for StandingShown { pool, model, tier, reason, order, order_until, .. } in &shown {
        let why = match (order, order_until) {
            (Some(order), Some(until)) => format!("by order ({order}) until {until}"),
            _ => reason.clone(),
        };
        print(&format!("{pool:<20} tier {tier}  {why}  (model {model})"));
    }
    Ok(())
}

fn order(args: &Breaker) -> Option<OrderGiven> {
    let order = match (args.refuse, args.fallbacks, args.clear) {
        (true, _, _) => "refuse",
        (_, true, _) => "fallbacks",
        (_, _, true) => "none",
        (false, false, false) => return None,
    };
    Some(OrderGiven { order: order.to_owned(), for_s: args.time.map(|time| time.as_secs().max(1)) })
}
