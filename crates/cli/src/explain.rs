//! `penstock explain`.

use axum::http::Method;
use penstock_policy::id::JobId;
use penstock_wire::explain::{Explanation, Happening};
use serde_json::json;

use crate::command::Explain;
use crate::desk::Desk;
use crate::error::CliError;
use crate::tenant::{print, print_json};

/// Tells a job's story.
pub(crate) async fn run(args: Explain) -> Result<(), CliError> {
    // Read here, so that what is no id never becomes part of a path.
    let id: JobId = args.job.parse().map_err(CliError::Name)?;
    let desk = Desk::open(&args.place).await?;
    let told: Explanation = desk.ask(Method::GET, &format!("/admin/v1/jobs/{id}/explain"), &json!({})).await?;
    if args.place.json {
        print_json(&told);
        return Ok(());
    }
    let Explanation { id, status, tenant, model, pool, class, cost_usd, timeline, .. } = &told;
    let cost = cost_usd.as_ref().map_or_else(String::new, |cost| format!(", {cost} dollars"));
    print(&format!("{id}: {status}{cost}\ntenant {tenant}, model {model}, pool {pool}, class {class}\n"));
    for Happening { after_ms, what, text, .. } in timeline {
        let secs = *after_ms as f64 / 1000.0;
        print(&format!("{secs:>10.3} s  {what:<10} {text}"));
    }
    Ok(())
}
