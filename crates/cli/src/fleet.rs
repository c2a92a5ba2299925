//! `penstock fleet`.

use axum::http::Method;
use jiff::Timestamp;
use penstock_policy::id::PoolId;
use penstock_wire::fleet::{FleetLog, FleetTick};
use serde_json::json;

use crate::command::FleetArgs;
use crate::desk::Desk;
use crate::error::CliError;
use crate::tenant::{print, print_json};

/// Shows or records what a pool's fleet did.
pub(crate) async fn run(args: FleetArgs) -> Result<(), CliError> {
    // Read here, so that what is no name never becomes part of a path.
    let pool: PoolId = args.pool.parse().map_err(CliError::Name)?;
    let desk = Desk::open(&args.place).await?;
    let log: FleetLog = desk.ask(Method::GET, &format!("/admin/v1/pools/{pool}/fleet"), &json!({})).await?;
    if let Some(file) = &args.record {
        let line = |tick: &FleetTick| format!("{}\n", serde_json::to_string(tick).unwrap_or_default());
        let lines: String = log.data.iter().map(line).collect();
        return std::fs::write(file, lines).map_err(CliError::file("writing", file));
    }
    if args.place.json {
        print_json(&log);
        return Ok(());
    }
    if log.data.is_empty() {
        print(&format!("no fleet is run for {pool}: start with --autoscale MIN..MAX"));
        return Ok(());
    }
    print("when                  offered  needed   aimed  launching ready noticed draining  done");
    log.data.iter().for_each(|tick| print(&shown(tick)));
    Ok(())
}

/// One tick as one line.
fn shown(tick: &FleetTick) -> String {
    let when = Timestamp::from_millisecond(tick.at_ms).map(|when| when.strftime("%FT%TZ").to_string());
    let [launching, ready, noticed, draining, drained] = tick.workers;
    format!(
        "{:<20} {:>8.0} {:>7.0} {:>7.0}  {launching:>9} {ready:>5} {noticed:>7} {:>8}  {}",
        when.unwrap_or_default(),
        tick.offered,
        tick.needed,
        tick.target,
        draining + drained,
        tick.steps.join("; ")
    )
}
