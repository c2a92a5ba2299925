//! Whole requests, simulated: what holds whatever comes.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use penstock_policy::classes::Class;
use penstock_sim::requests::policy::Policy;
use penstock_sim::requests::report::{html, json, table};
use penstock_sim::requests::scenario::Scenario;
use penstock_sim::requests::simulation::{Outcome, Prepared, run};
use penstock_sim::requests::tally::End;

fn prepared(text: &str) -> Prepared {
    Prepared::new(Scenario::parse(text).unwrap()).unwrap()
}

fn outcome(prepared: &Prepared, policy: &str) -> Outcome {
    run(prepared, Policy::named(policy).unwrap(), |_| {}).unwrap()
}

/// A surge to ten times the load, with three losses, questions that are asked again, and clients of every kind.
const STORMY: &str = r#"{
    "load": {"shape": "steady 5 5m then steady 50 3m then steady 5 20m"},
    "classes": [0.1, 0.5, 0.2, 0.2],
    "repeats": {"share": 0.5, "questions": 100},
    "tenants": [{"name": "a", "share": 3.0}, {"name": "b", "share": 1.0}],
    "clients": {"obey": 0.6, "blind": 0.2, "give_up": 0.2},
    "market": {"losses": [{"at": "330s", "share": 0.5, "notice": true},
                          {"at": "7m", "share": 0.5, "notice": false},
                          {"at": "12m", "share": 0.3, "notice": true}]}
}"#;

#[test]
fn everybody_comes_to_an_end_under_every_policy() {
    let prepared = prepared(STORMY);
    for policy in Policy::ALL {
        let outcome = run(&prepared, policy, |_| {}).unwrap();
        assert_eq!(outcome.tally.all().asked(), prepared.demand.requests, "{}", policy.name);
    }
}

#[test]
fn the_same_seed_tells_the_same_story_and_another_another() {
    let told = |seed: u64| {
        let prepared = prepared(&STORMY.replacen('{', &format!("{{\"seed\": {seed},"), 1));
        let outcome = outcome(&prepared, "penstock");
        json::json(&prepared, &[outcome], true).to_string()
    };
    assert_eq!(told(1), told(1));
    assert_ne!(told(1), told(2));
}

#[test]
fn nothing_that_our_door_let_in_is_lost_though_workers_are_taken_back() {
    let prepared = prepared(STORMY);
    let outcome = outcome(&prepared, "penstock");
    assert!(outcome.bill.lost > 0, "the market did take some back");
    assert_eq!(outcome.tally.all().ended(End::Lost), 0);
}

#[test]
fn who_is_told_when_to_come_back_and_does_is_let_in_whatever_tier_the_pool_is_in() {
    // Two workers and no more; three times what they can do makes starts late, and late starts the first tier.
    let prepared = prepared(
        r#"{"load": {"shape": "steady 1 5m then steady 5 5m then steady 1 10m"}, "classes": [0, 1, 0, 0],
            "tokens": {"prompt": [50, 0.5], "output": [50, 0.5]},
            "worker": {"slots": 2, "step_ms": 40, "step_ms_per_sequence": 0, "prompt_tokens_per_step": 40},
            "market": {"least_workers": 2, "most_workers": 2, "most_on_demand": 0}}"#,
    );
    let outcome = outcome(&prepared, "penstock");
    let all = outcome.tally.all();
    assert!(outcome.timeline.iter().any(|sample| sample.tier == 1), "the tier is seen");
    assert!(all.told > 100, "{}", all.told);
    assert!(all.told_and_answered as f64 >= 0.95 * all.told as f64, "{} of {}", all.told_and_answered, all.told);
}

#[test]
fn a_light_load_finds_a_free_slot_and_the_answer_takes_what_its_steps_take() {
    let prepared = prepared(
        r#"{"load": {"shape": "steady 0.2 30m"}, "tokens": {"prompt": [64, 0], "output": [100, 0]},
            "worker": {"hand_off_ms": 0, "step_ms": 10, "step_ms_per_sequence": 0, "prompt_tokens_per_step": 64}}"#,
    );
    let outcome = outcome(&prepared, "penstock");
    // 101 steps of 10 ms.
    let half = outcome.tally.all().latency.quantile(0.5).unwrap();
    assert!((half / 1.01 - 1.0).abs() < 0.021, "{half}");
}

#[test]
fn who_waits_in_a_full_pool_waits_as_long_as_the_theory_says() {
    // One worker of one slot at 80 %: service of constant length, arrivals by chance (M/D/1): the mean wait is
    // 0.8 / (2 x 0.2) = 2 services, and the promise knows it.
    let prepared = prepared(
        r#"{"load": {"shape": "steady 0.8 10h"}, "classes": [0, 1, 0, 0],
            "tokens": {"prompt": [1, 0], "output": [99, 0], "reserved": 1},
            "worker": {"slots": 1, "hand_off_ms": 0, "step_ms": 10, "step_ms_per_sequence": 0, "prompt_tokens_per_step": 1},
            "market": {"most_workers": 1, "most_on_demand": 0}}"#,
    );
    let outcome = outcome(&prepared, "penstock");
    let class = &outcome.tally.classes[Class::P1.index()];
    let half = class.wait.quantile(0.5).unwrap();
    // The median of that wait, from the same queue simulated by Lindley's recursion.
    let mut chance = penstock_sim::chance::Chance::new(9);
    let (mut wait, mut waits) = (0.0f64, Vec::new());
    for _ in 0..200_000 {
        wait = (wait + 1.0 - chance.gap(0.8)).max(0.0);
        waits.push(wait);
    }
    waits.sort_by(f64::total_cmp);
    let theory = waits[100_000];
    assert!((half / theory - 1.0).abs() < 0.1, "{half} beside {theory}");
    assert!(class.kept_95 as f64 >= 0.95 * class.promised as f64, "{} of {}", class.kept_95, class.promised);
}

#[test]
fn the_report_stands_by_itself_and_says_what_the_table_says() {
    let prepared = prepared(STORMY);
    let outcomes = ["penstock", "no_admission"].map(|name| outcome(&prepared, name));
    let page = html::page(&prepared, &outcomes);
    assert!(
        !page.contains("http://") && !page.contains("https://") && !page.contains("<script"),
        "nothing from elsewhere"
    );
    assert_eq!(page.matches("<svg").count(), 12);
    assert_eq!((page.matches("<figure>").count(), page.matches("</figure>").count()), (12, 12));
    let table = table::table(&prepared, &outcomes);
    for outcome in &outcomes {
        let cost = format!("{:.2}", outcome.usd());
        assert!(table.contains(&cost) && page.contains(&cost));
    }
}
