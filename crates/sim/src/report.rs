//! What the simulations print: tables for people, JSON for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::fluid::Outcome;
use crate::forecasting::ForecastRun;
use crate::planning::PlanRun;
use crate::score::{Score, Scores, WINDOWS};
use crate::spot::SpotOutcome;

/// Four digits are enough, and no number is `null`.
fn number(value: f64) -> Value {
    if value.is_finite() { json!((value * 1e4).round() / 1e4) } else { Value::Null }
}

fn window_name((from, to): (usize, usize)) -> String {
    format!("{from}-{to}h")
}

fn score(score: &Score) -> Value {
    json!({
        "pinball": number(score.pinball),
        "wape": number(score.wape),
        "coverage_90": number(score.coverage90),
        "coverage_95": number(score.coverage95),
    })
}

fn windows(scores: &Scores) -> Value {
    let windows = WINDOWS.into_iter().zip(scores.by_window());
    Value::Object(windows.map(|(window, found)| (window_name(window), score(&found))).collect())
}

/// The scores of a forecast as JSON: `methods.<name>.<horizon>`, pinball and WAPE relative to the mean load, and
/// `ratios.<horizon>.<baseline>`, our pinball by theirs.
#[must_use]
pub fn forecast_json(run: &ForecastRun) -> Value {
    let mut methods = Map::new();
    methods.insert("penstock".to_owned(), windows(&run.ours));
    let mut ratios = Map::new();
    for (baseline, scores) in &run.baselines {
        methods.insert(baseline.name().to_owned(), windows(scores));
    }
    for (at, window) in WINDOWS.into_iter().enumerate() {
        let ours = run.ours.by_window()[at].pinball;
        let to = run
            .baselines
            .iter()
            .map(|(baseline, scores)| (baseline.name().to_owned(), number(ours / scores.by_window()[at].pinball)));
        ratios.insert(window_name(window), Value::Object(to.collect()));
    }
    json!({
        "trace": run.trace, "warm_up_days": run.warm_up_days, "origins": run.origins,
        "methods": methods, "pinball_ratios": ratios,
    })
}

/// The scores of a forecast as a table.
#[must_use]
pub fn forecast_table(run: &ForecastRun) -> String {
    let mut out = format!("{}: {} hourly forecasts after {} days\n", run.trace, run.origins, run.warm_up_days);
    let _ = writeln!(
        out,
        "{:<12} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "method", "ahead", "pinball", "WAPE", "q90 held", "q95 held"
    );
    let ours = std::iter::once(("penstock", &run.ours));
    for (name, scores) in ours.chain(run.baselines.iter().map(|(baseline, scores)| (baseline.name(), scores))) {
        for (window, found) in WINDOWS.into_iter().zip(scores.by_window()).take(2) {
            let _ = writeln!(
                out,
                "{name:<12} {:>8} {:>9.4} {:>9.3} {:>9.3} {:>9.3}",
                window_name(window),
                found.pinball,
                found.wape,
                found.coverage90,
                found.coverage95
            );
        }
    }
    out
}

fn outcome(run: &PlanRun, outcome: &Outcome) -> Value {
    json!({
        "gpu_hours": number(outcome.gpu_hours),
        "of_oracle": number(outcome.gpu_hours / run.oracle.gpu_hours),
        "share_above_capacity": number(outcome.above),
        "share_late_30s": number(outcome.late_30s),
        "wait_p99_seconds": number(outcome.wait_p99_secs),
        "cost": number(run.cost(outcome)),
    })
}

/// The fleets of a load as JSON: for each policy hours by the oracle's at 1 % and 0.3 % above capacity (swept over its
/// settings), and with its setting chosen online.
#[must_use]
pub fn plan_json(run: &PlanRun) -> Value {
    let policies = run.families.iter().enumerate().map(|(at, family)| {
        let share = |share| run.at_share(at, share).map_or(Value::Null, number);
        let online = outcome(run, &family.online);
        let value = json!({ "at_1_percent": share(0.01), "at_0.3_percent": share(0.003), "online": online });
        (family.name.to_owned(), value)
    });
    let policies: Map<String, Value> = policies.collect();
    json!({ "trace": run.trace, "oracle": outcome(run, &run.oracle), "policies": policies })
}

/// The fleets of a load as a table.
#[must_use]
pub fn plan_table(run: &PlanRun) -> String {
    let mut out = format!("{}: GPU-hours relative to an oracle's {:.0}\n", run.trace, run.oracle.gpu_hours);
    let columns = ("policy", "at 1 %", "at 0.3 %", "online", "above", "late 30 s", "p99 wait", "cost");
    let _ = writeln!(
        out,
        "{:<12} {:>8} {:>9} {:>8} {:>8} {:>10} {:>9} {:>7}",
        columns.0, columns.1, columns.2, columns.3, columns.4, columns.5, columns.6, columns.7
    );
    for (at, family) in run.families.iter().enumerate() {
        let share = |share| run.at_share(at, share).map_or("-".to_owned(), |hours| format!("{hours:.3}"));
        let online = &family.online;
        let _ = writeln!(
            out,
            "{:<12} {:>8} {:>9} {:>8.3} {:>7.2}% {:>9.2}% {:>8.0}s {:>7.3}",
            family.name,
            share(0.01),
            share(0.003),
            online.gpu_hours / run.oracle.gpu_hours,
            100.0 * online.above,
            100.0 * online.late_30s,
            online.wait_p99_secs,
            run.cost(online)
        );
    }
    out
}

/// Fleets on spot markets as JSON.
#[must_use]
pub fn spot_json(trace: &str, outcomes: &[(&str, SpotOutcome)]) -> Value {
    let policies: Map<String, Value> = outcomes
        .iter()
        .map(|(name, outcome)| {
            let value = json!({
                "availability": number(outcome.availability),
                "shortfall": number(outcome.shortfall),
                "cost_of_on_demand": number(outcome.cost),
                "losses_per_day": number(outcome.losses_per_day),
            });
            ((*name).to_owned(), value)
        })
        .collect();
    json!({ "trace": trace, "policies": policies })
}

/// Fleets on spot markets as a table.
#[must_use]
pub fn spot_table(trace: &str, outcomes: &[(&str, SpotOutcome)]) -> String {
    let mut out = format!("{trace}\n");
    let _ =
        writeln!(out, "{:<18} {:>12} {:>10} {:>6} {:>11}", "policy", "availability", "shortfall", "cost", "losses/day");
    for (name, outcome) in outcomes {
        let SpotOutcome { availability, shortfall, cost, losses_per_day } = outcome;
        let _ = writeln!(out, "{name:<18} {availability:>12.4} {shortfall:>10.4} {cost:>6.3} {losses_per_day:>11.1}");
    }
    out
}
