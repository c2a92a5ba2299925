//! The policies side by side, for programs.

use penstock_policy::classes::Class;
use serde_json::{Map, Value, json};

use crate::requests::simulation::{Outcome, Prepared};
use crate::requests::tally::{End, OfClass, share};

/// Everything that came out, the timelines included if asked for.
#[must_use]
pub fn json(prepared: &Prepared, outcomes: &[Outcome], timelines: bool) -> Value {
    let demand = &prepared.demand;
    let policies: Map<String, Value> =
        outcomes.iter().map(|outcome| (outcome.policy.name.to_owned(), policy(outcome, timelines))).collect();
    json!({
        "about": prepared.scenario.about,
        "requests": demand.requests,
        "runs": demand.runs,
        "seconds": number(prepared.load.secs()),
        "tokens_per_run": number(demand.tokens),
        "worker_tokens_per_second": number(prepared.tokens_per_second()),
        "policies": policies,
    })
}

fn policy(outcome: &Outcome, timelines: bool) -> Value {
    let classes: Map<String, Value> = Class::ALL
        .into_iter()
        .map(|class| (class.name().to_owned(), of(&outcome.tally.classes[class.index()])))
        .collect();
    let mut value = json!({
        "about": outcome.policy.about,
        "usd": number(outcome.usd()),
        "usd_elsewhere": number(outcome.elsewhere_usd),
        "spot_hours": number(outcome.bill.spot_hours),
        "on_demand_hours": number(outcome.bill.on_demand_hours),
        "workers_lost": outcome.bill.lost,
        "all": of(&outcome.tally.all()),
        "p0_p1": of(&outcome.tally.interactive()),
        "classes": classes,
    });
    if timelines {
        value["timeline"] = outcome
            .timeline
            .iter()
            .map(|sample| {
                json!({
                    "t_s": number(sample.at),
                    "offered_rps": number(sample.offered),
                    "accepted_rps": number(sample.accepted),
                    "hits_rps": number(sample.hits),
                    "refused_rps": number(sample.refused),
                    "tokens_per_second": number(sample.tokens),
                    "capacity_tokens_per_second": number(sample.capacity),
                    "forecast_50": sample.forecast.map(|(half, _)| number(half)),
                    "forecast_90": sample.forecast.map(|(_, most)| number(most)),
                    "spot": sample.workers.spot,
                    "on_demand": sample.workers.on_demand,
                    "launching": sample.workers.launching,
                    "going": sample.workers.going,
                    "waiting": sample.waiting,
                    "eta_50_s": sample.eta.map(|(half, _)| number(half)),
                    "eta_95_s": sample.eta.map(|(_, most)| number(most)),
                    "tier": sample.tier,
                })
            })
            .collect();
    }
    value
}

fn of(of: &OfClass) -> Value {
    let ends: Map<String, Value> =
        End::ALL.into_iter().map(|end| (end.name().to_owned(), Value::from(of.ended(end)))).collect();
    let time = |q| of.latency.quantile(q).map(number);
    let share = |part, whole| if whole == 0 { Value::Null } else { number(share(part, whole)) };
    json!({
        "asked": of.asked(),
        "ends": ends,
        "success": share(of.answered(), of.asked()),
        "latency_p50_s": time(0.5),
        "latency_p95_s": time(0.95),
        "latency_p99_s": time(0.99),
        "wait_p95_s": of.wait.quantile(0.95).map(number),
        "missed": share(of.missed, of.asked()),
        "refused": share(of.refused, of.asked()),
        "told": of.told,
        "told_and_answered": share(of.told_and_answered, of.told),
        "promised": of.promised,
        "kept_50": share(of.kept_50, of.promised),
        "kept_95": share(of.kept_95, of.promised),
        "sharpness": of.sharpness.quantile(0.5).map(number),
    })
}

/// Six digits are more than a simulation knows.
fn number(value: f64) -> Value {
    if !value.is_finite() {
        return Value::Null;
    }
    let digits = 10f64.powi(6);
    Value::from((value * digits).round() / digits)
}
