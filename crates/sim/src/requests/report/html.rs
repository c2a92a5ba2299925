//! A page that shows everything: tables and charts in one file, with nothing from elsewhere and no script.

use std::fmt::Write as _;

use penstock_policy::classes::Class;

use super::chart::{Chart, Series, Style, escaped};
use super::table::{percent, secs};
use crate::requests::simulation::{Outcome, Prepared};
use crate::requests::tally::End;
use crate::requests::timeline::Sample;

/// The page.
#[must_use]
pub fn page(prepared: &Prepared, outcomes: &[Outcome]) -> String {
    let mut out = String::from("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    let _ = write!(out, "<title>penstock simulate</title><style>{STYLE}</style></head><body><main>");
    let _ = write!(out, "<h1>penstock simulate</h1><p>{}</p>", escaped(&prepared.scenario.about));
    let demand = &prepared.demand;
    let _ = write!(
        out,
        "<p>{} requests in {}; {} of them need a run, of {:.0} estimated tokens on average. A worker does {:.1} of those a \
         second and boots in {:.0} s (median).</p>",
        demand.requests,
        secs(prepared.load.secs()),
        demand.runs,
        demand.tokens,
        prepared.tokens_per_second() / demand.tokens,
        prepared.scenario.worker.boot_secs.0,
    );
    out.push_str("<h2>Side by side</h2>");
    summary(&mut out, outcomes);
    out.push_str("<h2>By class</h2>");
    classes(&mut out, outcomes);
    for (number, outcome) in outcomes.iter().enumerate() {
        let open = if number == 0 { " open" } else { "" };
        let _ = write!(
            out,
            "<details{open}><summary><h2>{}</h2> {}</summary>",
            escaped(outcome.policy.name),
            escaped(outcome.policy.about)
        );
        for chart in charts(outcome, prepared.load.secs()) {
            out.push_str(&chart.svg());
        }
        out.push_str("</details>");
    }
    out.push_str("</main></body></html>\n");
    out
}

fn header(out: &mut String, names: &[&str]) {
    out.push_str("<table><thead><tr>");
    for name in names {
        let _ = write!(out, "<th>{name}</th>");
    }
    out.push_str("</tr></thead><tbody>");
}

fn summary(out: &mut String, outcomes: &[Outcome]) {
    header(
        out,
        &[
            "policy",
            "cost",
            "GPU-hours",
            "workers lost",
            "answered",
            "P0+P1 answered",
            "without a run",
            "lost",
            "refused at \
         first",
            "told, came back, answered",
            "within ETA 95 %",
            "ETA 95 % / actual",
        ],
    );
    for outcome in outcomes {
        let (all, urgent) = (outcome.tally.all(), outcome.tally.interactive());
        let kept = all.ended(End::Hit) + all.ended(End::Joined) + all.ended(End::Stale);
        let cells = [
            format!("{:.2} $", outcome.usd()),
            format!("{:.2}", outcome.bill.spot_hours + outcome.bill.on_demand_hours),
            outcome.bill.lost.to_string(),
            percent(all.answered(), all.asked()),
            percent(urgent.answered(), urgent.asked()),
            percent(kept, all.asked()),
            all.ended(End::Lost).to_string(),
            percent(all.refused, all.asked()),
            if all.told == 0 { "–".to_owned() } else { percent(all.told_and_answered, all.told) },
            if all.promised == 0 { "–".to_owned() } else { percent(all.kept_95, all.promised) },
            all.sharpness.quantile(0.5).map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
        ];
        row(out, outcome.policy.name, &cells);
    }
    out.push_str("</tbody></table>");
}

fn classes(out: &mut String, outcomes: &[Outcome]) {
    header(
        out,
        &[
            "policy",
            "class",
            "asked",
            "answered",
            "p50",
            "p95",
            "p99",
            "wait p95",
            "missed",
            "lost",
            "turned away",
            "gave up",
        ],
    );
    for outcome in outcomes {
        for class in Class::ALL {
            let of = &outcome.tally.classes[class.index()];
            if of.asked() == 0 {
                continue;
            }
            let time = |q| of.latency.quantile(q).map_or("–".to_owned(), secs);
            let cells = [
                class.name().to_uppercase(),
                of.asked().to_string(),
                percent(of.answered(), of.asked()),
                time(0.5),
                time(0.95),
                time(0.99),
                of.wait.quantile(0.95).map_or("–".to_owned(), secs),
                percent(of.missed, of.asked()),
                of.ended(End::Lost).to_string(),
                of.ended(End::TurnedAway).to_string(),
                of.ended(End::GaveUp).to_string(),
            ];
            row(out, outcome.policy.name, &cells);
        }
    }
    out.push_str("</tbody></table>");
}

fn row(out: &mut String, name: &str, cells: &[String]) {
    let _ = write!(out, "<tr><th>{}</th>", escaped(name));
    for cell in cells {
        let _ = write!(out, "<td>{cell}</td>");
    }
    out.push_str("</tr>");
}

/// What is shown of a run: while somebody comes, and a while longer if work is still waiting.
fn charts(outcome: &Outcome, until: f64) -> Vec<Chart> {
    let shown: Vec<&Sample> = outcome.timeline.iter().filter(|sample| sample.at <= until * 1.2).collect();
    let at: Vec<f64> = shown.iter().map(|sample| sample.at).collect();
    let of = |value: &dyn Fn(&Sample) -> Option<f64>| shown.iter().map(|sample| value(sample)).collect();
    let series = |name: &str, colour, style, value: &dyn Fn(&Sample) -> Option<f64>| Series {
        name: name.to_owned(),
        colour,
        style,
        values: of(value),
    };
    let chart = |title: &str, unit, series| Chart { title: title.to_owned(), unit, at: at.clone(), series, most: None };
    vec![
        chart(
            "Requests",
            "requests a second",
            vec![
                series("answered from what is kept", 2, Style::Stacked, &|sample| Some(sample.hits)),
                series("let in", 0, Style::Stacked, &|sample| Some(sample.accepted)),
                series("refused", 3, Style::Stacked, &|sample| Some(sample.refused)),
                series("came for the first time", 5, Style::Line, &|sample| Some(sample.offered)),
            ],
        ),
        chart(
            "Load, forecast and capacity",
            "estimated tokens a second",
            vec![
                series("offered", 5, Style::Line, &|sample| Some(sample.tokens)),
                series("forecast, median", 1, Style::Dashed, &|sample| sample.forecast.map(|(half, _)| half)),
                series("forecast, nine in ten", 4, Style::Dashed, &|sample| sample.forecast.map(|(_, most)| most)),
                series("capacity", 0, Style::Steps, &|sample| Some(sample.capacity)),
            ],
        ),
        chart(
            "Workers",
            "workers",
            vec![
                series("spot", 0, Style::Stacked, &|sample| Some(f64::from(sample.workers.spot))),
                series("on demand", 1, Style::Stacked, &|sample| Some(f64::from(sample.workers.on_demand))),
                series("booting", 4, Style::Stacked, &|sample| Some(f64::from(sample.workers.launching))),
                series("under notice or draining", 3, Style::Stacked, &|sample| Some(f64::from(sample.workers.going))),
            ],
        ),
        chart(
            "Waiting",
            "jobs",
            vec![
                series("P0", 3, Style::Stacked, &|sample| Some(sample.waiting[0] as f64)),
                series("P1", 1, Style::Stacked, &|sample| Some(sample.waiting[1] as f64)),
                series("P2", 0, Style::Stacked, &|sample| Some(sample.waiting[2] as f64)),
                series("P3", 4, Style::Stacked, &|sample| Some(sample.waiting[3] as f64)),
            ],
        ),
        Chart {
            most: Some(1200.0),
            ..chart(
                "ETA of a P1 job",
                "seconds",
                vec![
                    series("half", 0, Style::Line, &|sample| sample.eta.map(|(half, _)| half)),
                    series("nineteen of twenty", 1, Style::Line, &|sample| sample.eta.map(|(_, most)| most)),
                ],
            )
        },
        chart(
            "Tier of degradation",
            "0 normal, 1 switch, 2 cached, 3 open",
            vec![series("tier", 3, Style::Steps, &|sample| Some(f64::from(sample.tier)))],
        ),
    ]
}

/// Colours by Okabe and Ito, which nearly everybody can tell apart.
const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fff;--fg:#1c1c1c;--mute:#6b6b6b;--rule:#d9d9d9}
@media(prefers-color-scheme:dark){:root{--bg:#16181b;--fg:#e8e8e8;--mute:#9aa0a6;--rule:#34383d}}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1000px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:26px}h2{font-size:18px;margin:28px 0 8px}summary h2{display:inline;margin-right:8px}
details{border-top:1px solid var(--rule);padding:10px 0}summary{cursor:pointer;color:var(--mute)}
summary h2{color:var(--fg)}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:4px 8px;border-bottom:1px solid var(--rule);text-align:right;vertical-align:bottom}
th:first-child{text-align:left}thead th{color:var(--mute);font-weight:500}
figure{margin:16px 0}figcaption{font-weight:600}svg{width:100%;height:auto}
svg text{font-size:11px;fill:var(--mute)}.r{text-anchor:end}.m{text-anchor:middle}
.g{stroke:var(--rule);stroke-width:1}.l{fill:none;stroke:currentColor;stroke-width:1.6}.d{stroke-dasharray:5 4}
.f{fill:currentColor;fill-opacity:.55;stroke:none}
.k{margin:2px 0;font-size:12px}.k span:before{content:'\\25A0  '}.k em{color:var(--mute);float:right}
.c0{color:#0072b2}.c1{color:#e69f00}.c2{color:#009e73}.c3{color:#d55e00}.c4{color:#cc79a7}.c5{color:var(--fg)}
";
