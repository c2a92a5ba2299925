//! Every bar of forecasting, planning and buying, on every series of a folder, beside the plain methods.
//!
//! Which series those are is told by a list of lines `file,column,step,start,zone,main`; spot markets are all files of the
//! folder whose first line is `pool,t_s,available`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use penstock_policy::forecast::{Forecaster, Load, LocalTime, Step};
use penstock_policy::time::Timestamp;

use crate::baselines::Baseline;
use crate::forecasting::{self, ForecastRun, Scored};
use crate::planning;
use crate::spot::{self, Markets, Policy};
use crate::trace::{Source, Trace, TraceError};

/// The public series that are known by name.
pub const KNOWN_SERIES: &str = include_str!("../data/series.csv");

/// A line of the list of series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Where it is read from.
    pub source: Source,
    /// Whether coverage is held to its bar on it.
    pub main: bool,
}

/// The series of a list that are in `folder`.
#[must_use]
pub fn series(list: &str, folder: &Path) -> Vec<Series> {
    let lines = list.lines().skip(1).filter_map(|line| {
        let mut fields = line.split(',').map(str::trim);
        let mut next = || fields.next().map(str::to_owned);
        let (file, column, step_secs) = (folder.join(next()?), next()?, next()?.parse().ok()?);
        let known = |field: Option<String>| field.filter(|field| !field.is_empty());
        let (start, zone, main) = (known(next()), known(next()), next().as_deref() == Some("main"));
        file.exists().then_some(Series { source: Source { file, column, step_secs, start, zone }, main })
    });
    lines.collect()
}

/// The harm that a forecast must get over.
#[derive(Clone, Copy, Debug)]
pub enum Harm {
    /// Nothing for so many hours.
    Outage(usize),
    /// Ten times as much for half an hour.
    Spike,
}

/// The trace with harm done to it three days before its last week.
#[must_use]
pub fn harmed(trace: &Trace, harm: Harm) -> Trace {
    let mut raw = trace.raw.clone();
    let from = raw.len().saturating_sub(10 * trace.per_day());
    match harm {
        Harm::Outage(hours) => raw.iter_mut().skip(from).take(hours * trace.per_hour()).for_each(|load| *load = 0.0),
        Harm::Spike => {
            let half_hour = (trace.per_hour() / 2).max(1);
            raw.iter_mut().skip(from).take(half_hour).for_each(|load| *load *= 10.0);
        }
    }
    Trace::new(trace.name.clone(), trace.step, trace.first, raw, trace.local.clone())
}

/// A series of people who live by the wall, told in UTC, with the clocks set back an hour 8 days before the end: from
/// then on everything comes an hour later. Also the step of the change.
#[must_use]
pub fn clocks_set_back(trace: &Trace) -> (Trace, usize) {
    let (hour, change) = (trace.per_hour(), trace.raw.len().saturating_sub(8 * trace.per_day()));
    let mut raw = trace.raw[..change].to_vec();
    raw.extend_from_slice(&trace.raw[change.saturating_sub(hour)..]);
    let local = LocalTime::new(0, [(trace.at(change), -3600)]);
    (Trace::new(trace.name.clone(), trace.step, trace.first, raw, local), change)
}

fn scored(trace: &Trace) -> Scored {
    Scored { warm_up_days: trace.usual_warm_up_days(), until: trace.raw.len() }
}

fn pinball(run: &ForecastRun, baseline: Baseline, window: usize) -> f64 {
    let found = run.baselines.iter().find(|(which, _)| *which == baseline);
    found.map_or(f64::NAN, |(_, scores)| scores.by_window()[window].pinball)
}

/// A geometric mean that leaves out what is not known, and says of how many it is.
fn mean(values: &[f64]) -> (f64, usize) {
    let known: Vec<f64> = values.iter().copied().filter(|value| value.is_finite() && *value > 0.0).collect();
    let sum: f64 = known.iter().map(|value| value.ln()).sum();
    ((sum / known.len() as f64).exp(), known.len())
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().filter(|value| value.is_finite()).fold(f64::NAN, f64::max)
}

/// Prints every bar; `say` hears it line by line.
///
/// # Errors
/// [`TraceError`]: a listed series that is there cannot be read.
pub fn run(list: &str, folder: &Path, say: &mut impl FnMut(&str)) -> Result<(), TraceError> {
    let series = series(list, folder);
    let mut traces = Vec::new();
    for series in &series {
        traces.push((Trace::read(&series.source)?, series.main));
    }
    forecasts(&traces, say)?;
    say(&format!(
        "F8 one run of 50 pools with 28 days of 5 min: {:.3} s elapsed (bar 0.25 of CPU)",
        cost_of_50_pools()
    ));
    plans(&traces, say)?;
    markets(folder, say)
}

fn forecasts(traces: &[(Trace, bool)], say: &mut impl FnMut(&str)) -> Result<(), TraceError> {
    let (mut f1, mut f2, mut f3, mut f4) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut f5 = [Vec::new(), Vec::new(), Vec::new()];
    let mut f6 = Vec::new();
    say("series                                     F1     F2     F3  F4 held   F5 6h  spike    36h     F6");
    for (trace, main) in traces.iter().filter(|(trace, _)| trace.days() >= 12) {
        let clean = forecasting::run(trace, scored(trace), |_| {})?;
        let ours = clean.ours.by_window();
        let best = Baseline::ALL.map(|baseline| pinball(&clean, baseline, 0)).into_iter().fold(f64::INFINITY, f64::min);
        f1.push(ours[0].pinball / pinball(&clean, Baseline::NaiveDay, 0));
        f2.push(ours[0].pinball / best);
        f3.push(ours[1].pinball / pinball(&clean, Baseline::NaiveDay, 1));
        if *main {
            f4.push(ours[0].coverage90);
        }
        let week = Scored { warm_up_days: trace.days().saturating_sub(7), until: trace.raw.len() };
        let undisturbed = forecasting::run(trace, week, |_| {})?.ours.by_window()[0].pinball;
        for (ratios, harm) in f5.iter_mut().zip([Harm::Outage(6), Harm::Spike, Harm::Outage(36)]) {
            let hurt = forecasting::run(&harmed(trace, harm), week, |_| {})?.ours.by_window()[0].pinball;
            ratios.push(hurt / undisturbed);
        }
        let (moved, change) = clocks_set_back(trace);
        let after = Scored { warm_up_days: change / trace.per_day(), until: change + 7 * trace.per_day() };
        let run = forecasting::run(&moved, after, |_| {})?;
        f6.push(run.ours.by_window()[0].pinball / pinball(&run, Baseline::NaiveWeek, 0));
        let mut line = format!("{:<40}", trace.name);
        for list in [&f1, &f2, &f3] {
            let _ = write!(line, " {:>6.3}", list.last().copied().unwrap_or(f64::NAN));
        }
        let _ = write!(line, "   {:>6.3}", ours[0].coverage90);
        for list in f5.iter().chain([&f6]) {
            let _ = write!(line, " {:>6.3}", list.last().copied().unwrap_or(f64::NAN));
        }
        say(&line);
    }
    let told = |name: &str, list: &[f64], bar: &str| {
        format!("{name}: mean {:.3}, worst {:.3} ({bar})", mean(list).0, most(list))
    };
    say(&told("F1 pinball 1-2 h by naive day", &f1, "bars 0.55 and 0.90"));
    say(&told("F2 by the best of five plain methods in hindsight", &f2, "bars 0.90 and 1.35"));
    say(&told("F3 pinball 0-24 h by naive day", &f3, "bar 0.65"));
    let least = f4.iter().copied().fold(f64::INFINITY, f64::min);
    say(&format!("F4 q90 held 1-2 h on main series: {least:.3} to {:.3} (bar 0.85 to 0.95)", most(&f4)));
    for ((name, bar), list) in [("6 h outage", 1.10), ("10x spike", 1.05), ("36 h outage", 1.25)].into_iter().zip(&f5) {
        say(&told(&format!("F5 after a {name}, by the clean run"), list, &format!("bar {bar:.2}")));
    }
    say(&told("F6 week after the clocks change by naive week, local keys", &f6, "bar 0.75"));
    let mut first = Vec::new();
    for (trace, _) in traces {
        let run = forecasting::run(trace, Scored { warm_up_days: 0, until: trace.per_day() }, |_| {})?;
        first.push(run.ours.by_window()[0].coverage90);
    }
    let least = first.iter().copied().fold(f64::INFINITY, f64::min);
    let mean = first.iter().sum::<f64>() / first.len() as f64;
    say(&format!("F7 first day, 90 % bound held 1-2 h: mean {mean:.3}, worst {least:.3} (bar 0.80)"));
    Ok(())
}

/// Seconds to load, observe, forecast and store 50 pools of four weeks, when an hour is full and everything is learned.
#[must_use]
pub fn cost_of_50_pools() -> f64 {
    let (step, local) = (Step::FIVE_MINUTES, LocalTime::utc());
    let mut forecaster = Forecaster::new(step);
    let steps = 28 * 288;
    let at = |index: i64| Timestamp::from_millis(index * 300_000);
    for index in 0..steps - 1 {
        let load = 1000.0 + 500.0 * (index as f64 / 288.0 * std::f64::consts::TAU).sin() + (index * 7919 % 101) as f64;
        let _ = forecaster.observe(at(index), Load::Offered(load), &local);
    }
    let stored = forecaster.encode();
    let begun = Instant::now();
    let mut bytes = 0;
    for _ in 0..50 {
        let Ok(mut loaded) = Forecaster::decode(&stored) else { continue };
        let _ = loaded.observe(at(steps - 1), Load::Offered(1234.0), &local);
        bytes += loaded.forecast(&local).steps() + loaded.encode().len();
    }
    std::hint::black_box(bytes);
    begun.elapsed().as_secs_f64()
}

fn plans(traces: &[(Trace, bool)], say: &mut impl FnMut(&str)) -> Result<(), TraceError> {
    say(
        "series                                   at 1 %: ours reactive aws-like   0.3 %   cost online: ours reactive aws-like",
    );
    let mut rows: Vec<[f64; 7]> = Vec::new();
    for (trace, main) in traces.iter().filter(|(trace, _)| trace.days() >= 12) {
        let run = planning::run(trace, trace.usual_warm_up_days(), trace.raw.len(), |_| {})?;
        let share = |family, share| run.at_share(family, share).unwrap_or(f64::NAN);
        let cost = |family: usize| run.cost(&run.families[family].online);
        let row = [share(0, 0.01), share(2, 0.01), share(3, 0.01), share(0, 0.003), cost(0), cost(2), cost(3)];
        say(&format!(
            "{:<40}      {:>6.3}   {:>6.3}   {:>6.3}  {:>6.3}             {:>6.3}   {:>6.3}   {:>6.3}",
            trace.name, row[0], row[1], row[2], row[3], row[4], row[5], row[6]
        ));
        if *main {
            rows.push(row);
        }
    }
    let column = |of: &dyn Fn(&[f64; 7]) -> f64| mean(&rows.iter().map(of).collect::<Vec<_>>());
    let told = |(mean, count): (f64, usize)| format!("{mean:.3} ({count} series)");
    say("means over the main series; a method that never gets that low is left out of its ratio");
    say(&format!("P1 at 1 % above capacity by the oracle: {} (bar 1.20)", told(column(&|row| row[0]))));
    say(&format!("P1 by reactive: {} (bar 0.83)", told(column(&|row| row[0] / row[1]))));
    say(&format!("P1 by AWS-like: {} (bar 0.93)", told(column(&|row| row[0] / row[2]))));
    say(&format!("P2 at 0.3 % by the oracle: {} (bar 1.28)", told(column(&|row| row[3]))));
    say(&format!("P3 cost by reactive: {} (bar 0.85)", told(column(&|row| row[4] / row[5]))));
    say(&format!("P3 cost by AWS-like: {} (bar 0.93)", told(column(&|row| row[4] / row[6]))));
    Ok(())
}

fn markets(folder: &Path, say: &mut impl FnMut(&str)) -> Result<(), TraceError> {
    let read = std::fs::read_dir(folder).map_err(|error| TraceError::Read(folder.to_owned(), error))?;
    let mut files: Vec<PathBuf> = read.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.sort();
    say("S1 four workers on recorded spot markets, five minutes to start (bar: available 0.98 at 0.50 of on demand)");
    for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "csv")) {
        let text = std::fs::read_to_string(file).map_err(|error| TraceError::Read(file.clone(), error))?;
        if !text.starts_with("pool,t_s,available") {
            continue;
        }
        let found = Markets::parse(&text)?;
        for policy in Policy::ALL {
            let outcome = spot::run(&found, policy, 4, 300);
            let name = file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            say(&format!(
                "{name:<32} {:<18} available {:.4} at {:.3} of on demand",
                policy.name(),
                outcome.availability,
                outcome.cost
            ));
        }
    }
    Ok(())
}
