//! Forecasts, fleets and spot markets on recorded load keep to what was measured when they were made.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::{Path, PathBuf};

use penstock_sim::bars::{Harm, cost_of_50_pools, harmed};
use penstock_sim::baselines::Baseline;
use penstock_sim::forecasting::{self, ForecastRun, Scored};
use penstock_sim::spot::{self, Markets, Policy};
use penstock_sim::trace::{Source, Trace, TraceError};
use penstock_sim::{planning, report};

fn source(column: &str) -> Source {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/servegen_m_large.csv");
    Source { file, column: column.to_owned(), step_secs: 600, start: None, zone: None }
}

fn naive_day(run: &ForecastRun, window: usize) -> f64 {
    let found = run.baselines.iter().find(|(baseline, _)| *baseline == Baseline::NaiveDay).unwrap();
    found.1.by_window()[window].pinball
}

#[test]
fn a_real_service_is_forecast_better_than_by_yesterday_and_the_bounds_hold() {
    let trace = Trace::read(&source("requests")).unwrap();
    let run = forecasting::run(&trace, Scored { warm_up_days: 4, until: trace.raw.len() }, |_| {}).unwrap();
    let ours = run.ours.by_window();
    assert!(ours[0].pinball < 0.62 * naive_day(&run, 0), "{ours:?}");
    assert!(ours[1].pinball < 0.80 * naive_day(&run, 1), "{ours:?}");
    assert!((0.85..0.95).contains(&ours[0].coverage90), "{ours:?}");
    let json = report::forecast_json(&run);
    assert!(json["methods"]["penstock"]["1-2h"]["pinball"].as_f64().unwrap() > 0.0);
    assert!(json["pinball_ratios"]["1-2h"]["naive_day"].as_f64().unwrap() < 0.62);
    assert!(report::forecast_table(&run).contains("naive_week"));
}

#[test]
fn an_outage_is_forgotten_within_days() {
    let trace = Trace::read(&source("requests")).unwrap();
    let week = Scored { warm_up_days: 7, until: trace.raw.len() };
    let clean = forecasting::run(&trace, week, |_| {}).unwrap().ours.by_window()[0].pinball;
    let hurt = forecasting::run(&harmed(&trace, Harm::Outage(6)), week, |_| {}).unwrap().ours.by_window()[0].pinball;
    assert!(hurt < 1.10 * clean, "{hurt} after {clean}");
}

#[test]
fn a_fleet_for_a_real_service_costs_less_than_tracking_and_predictive_scaling() {
    let trace = Trace::read(&source("requests")).unwrap();
    let run = planning::run(&trace, 4, trace.raw.len(), |_| {}).unwrap();
    let cost = |family: usize| run.cost(&run.families[family].online);
    assert_eq!(
        run.families.iter().map(|family| family.name).collect::<Vec<_>>()[..3],
        ["penstock", "static_peak", "reactive"]
    );
    assert!(cost(0) < cost(1) && cost(0) < cost(2) && cost(0) < cost(3), "{}", report::plan_table(&run));
    assert!(run.oracle.above == 0.0 && run.families[0].online.gpu_hours > run.oracle.gpu_hours);
    let json = report::plan_json(&run);
    assert!(json["policies"]["penstock"]["at_1_percent"].as_f64().unwrap() < 1.3);
}

/// Two pools that take turns, an hour each, and one that is never open.
fn markets(days: i64) -> Markets {
    let mut text = "pool,t_s,available\nshut,0,0\n".to_owned();
    for hour in 0..24 * days {
        text += &format!("a,{},{}\nb,{},{}\n", hour * 3600, hour % 2, hour * 3600, 1 - hour % 2);
    }
    text += &format!("shut,{0},-1\na,{0},-1\nb,{0},-1\n", days * 86_400);
    Markets::parse(&text).unwrap()
}

#[test]
fn markets_that_take_turns_are_followed_for_less_than_on_demand() {
    let markets = markets(5);
    let ours = spot::run(&markets, Policy::Planned, 4, 120);
    let single = spot::run(&markets, Policy::BestZone, 4, 120);
    let on_demand = spot::run(&markets, Policy::OnDemand, 4, 120);
    assert!((on_demand.cost - 1.0).abs() < 0.01 && on_demand.availability > 0.99, "{on_demand:?}");
    assert!(single.availability < 0.6, "{single:?}");
    assert!(ours.availability > 0.95 && ours.cost < 0.65, "{ours:?}");
}

#[test]
fn files_that_are_no_traces_are_refused_with_what_to_do() {
    let refused = |source: &Source| Trace::read(source).unwrap_err().to_string();
    assert!(refused(&source("nothing")).contains("there are t_s, requests, output_tokens"));
    assert!(refused(&Source { file: PathBuf::from("nowhere.csv"), ..source("requests") }).contains("nowhere.csv"));
    assert!(refused(&Source { step_secs: 7, ..source("requests") }).contains("no step"));
    assert!(refused(&Source { zone: Some("Mars/Base".into()), ..source("requests") }).contains("Europe/Berlin"));
    assert!(refused(&Source { start: Some("soon".into()), ..source("requests") }).contains("2026-11-25"));
    assert!(matches!(Markets::parse("pool,t_s,available\na,x,1\n"), Err(TraceError::NoNumber { line: 2, .. })));
}

#[test]
fn local_starts_are_read_in_their_zone() {
    let read = |start: &str, zone: Option<&str>| {
        let asked = Source { start: Some(start.to_owned()), zone: zone.map(str::to_owned), ..source("requests") };
        Trace::read(&asked).unwrap().first
    };
    assert_eq!(read("2014-07-01T00:00", Some("America/New_York")), read("2014-07-01T04:00Z", None));
}

#[test]
fn fifty_pools_are_forecast_in_a_moment() {
    // The bar is 0.25 s in a release build; this one is not optimised.
    let secs = cost_of_50_pools();
    assert!(secs < 10.0, "{secs} s");
}
