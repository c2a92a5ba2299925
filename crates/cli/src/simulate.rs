//! `penstock simulate`: forecasts, fleets and spot markets on recorded load, by the code that runs.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use penstock_service::stored::flight;
use penstock_sim::forecasting::{self, Scored};
use penstock_sim::requests::policy::Policy as Compared;
use penstock_sim::requests::report::{html, json, parameters, table};
use penstock_sim::requests::scenario::Scenario;
use penstock_sim::requests::simulation::{self, Prepared};
use penstock_sim::spot::{Markets, Policy};
use penstock_sim::trace::{Source, Trace, TraceError};
use penstock_sim::{bars, planning, report, spot};
use penstock_wire::fleet::FleetTick;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::simulate_command::{Bars, Part, Replay, Simulate, SimulateRequests, SimulateSpot, Simulated};

/// Runs a simulation and prints what came out.
///
/// # Errors
/// [`CliError`]: a trace cannot be read or is not what it should be, or the output cannot be written.
pub(crate) fn run(what: &Simulate) -> Result<(), CliError> {
    match &what.part {
        None => requests(&what.requests),
        Some(Part::Forecast(args)) => {
            let (trace, warm_up_days) = trace(args)?;
            let scored = Scored { warm_up_days, until: trace.raw.len() };
            let run = forecasting::run(&trace, scored, progress())?;
            print(args.json, &report::forecast_json(&run), &report::forecast_table(&run))
        }
        Some(Part::Plan(args)) => {
            let (trace, warm_up_days) = trace(args)?;
            let run = planning::run(&trace, warm_up_days, trace.raw.len(), progress())?;
            print(args.json, &report::plan_json(&run), &report::plan_table(&run))
        }
        Some(Part::Spot(args)) => spot(args),
        Some(Part::Replay(args)) => replay(args),
        Some(Part::Bars(args)) => measured(args),
    }
}

fn requests(args: &SimulateRequests) -> Result<(), CliError> {
    let policies = match args.policy.as_slice() {
        [] => Compared::ALL.to_vec(),
        names => {
            let named = |name: &String| Compared::named(name).ok_or_else(|| CliError::NoPolicy(name.clone()));
            names.iter().map(named).collect::<Result<Vec<_>, _>>()?
        }
    };
    let prepared = Prepared::new(scenario(args)?)?;
    let (mut progress, whole) = (progress(), policies.len() as f64);
    let mut outcomes = Vec::with_capacity(policies.len());
    for (done, policy) in policies.into_iter().enumerate() {
        outcomes.push(simulation::run(&prepared, policy, |share| progress((done as f64 + share) / whole))?);
    }
    if let Some(path) = &args.html {
        write_file(path, "writing the report", &html::page(&prepared, &outcomes))?;
    }
    if let (Some(path), Some(first)) = (&args.parameters, outcomes.first()) {
        write_file(path, "writing the parameters", &parameters::parameters(&prepared, first, &args.stage))?;
    }
    print(args.json, &json::json(&prepared, &outcomes, args.timeline), &table::table(&prepared, &outcomes))
}

/// The scenario of the file, or the default one, with what was said beside it.
fn scenario(args: &SimulateRequests) -> Result<Scenario, CliError> {
    let mut scenario = match &args.scenario {
        Some(path) => Scenario::read(path)?,
        None => Scenario::default(),
    };
    if args.shape.is_some() || args.trace.is_some() || args.log.is_some() {
        scenario.load.shape.clone_from(&args.shape);
        scenario.load.trace.clone_from(&args.trace);
        scenario.load.log.clone_from(&args.log);
    }
    scenario.load.scale = args.scale.or(scenario.load.scale);
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    if args.spot.is_some() {
        scenario.market.record.clone_from(&args.spot);
    }
    Ok(scenario)
}

fn write_file(path: &Path, what: &'static str, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|source| CliError::File { what, path: path.to_owned(), source })
}

fn trace(args: &Simulated) -> Result<(Trace, usize), CliError> {
    let trace = Trace::read(&Source {
        file: args.trace.clone(),
        column: args.column.clone(),
        step_secs: args.step,
        start: args.start.clone(),
        zone: args.tz.clone(),
    })?;
    let warm_up_days = args.warm_up.unwrap_or_else(|| trace.usual_warm_up_days());
    Ok((trace, warm_up_days))
}

fn spot(args: &SimulateSpot) -> Result<(), CliError> {
    let text = std::fs::read_to_string(&args.trace).map_err(|error| TraceError::Read(args.trace.clone(), error))?;
    let markets = Markets::parse(&text)?;
    let mut progress = progress();
    let outcomes: Vec<_> = Policy::ALL
        .into_iter()
        .enumerate()
        .map(|(done, policy)| {
            progress(done as f64 / Policy::ALL.len() as f64);
            (policy.name(), spot::run(&markets, policy, args.workers, i64::from(args.boot)))
        })
        .collect();
    progress(1.0);
    let name = args.trace.display().to_string();
    print(args.json, &report::spot_json(&name, &outcomes), &report::spot_table(&name, &outcomes))
}

fn replay(args: &Replay) -> Result<(), CliError> {
    let text = std::fs::read_to_string(&args.file).map_err(CliError::file("reading the ticks", &args.file))?;
    let (mut ticks, mut differ, mut table) = (0, Vec::new(), String::new());
    for (line, text) in (1..).zip(text.lines()) {
        let unreadable = |cause: String| CliError::Tick { line, cause };
        let tick: FleetTick = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        let replayed = flight::replay(&tick).map_err(|error| unreadable(error.to_string()))?;
        ticks += 1;
        if !replayed.is_same {
            let now: Vec<String> = replayed.plan.steps.iter().map(ToString::to_string).collect();
            table += &format!("line {line} differs\n  then: {:?}\n  now:  {now:?}\n", tick.steps);
            differ.push(line);
        }
    }
    table += &format!("{ticks} ticks, {} planned the same bit for bit\n", ticks - differ.len());
    print(args.json, &json!({"ticks": ticks, "differ": differ}), &table)?;
    if differ.is_empty() { Ok(()) } else { Err(CliError::Differ(differ.len())) }
}

fn measured(args: &Bars) -> Result<(), CliError> {
    let list = match &args.series {
        Some(path) => std::fs::read_to_string(path).map_err(|error| TraceError::Read(path.clone(), error))?,
        None => bars::KNOWN_SERIES.to_owned(),
    };
    let mut lost = Ok(());
    bars::run(&list, &args.traces, &mut |line| {
        if lost.is_ok() {
            lost = writeln!(std::io::stdout(), "{line}");
        }
    })?;
    lost.map_err(CliError::Print)
}

fn print(as_json: bool, json: &Value, table: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    if as_json { writeln!(out, "{json:#}") } else { write!(out, "{table}") }.map_err(CliError::Print)
}

/// A bar on the terminal's standard error; nothing where nobody watches.
fn progress() -> impl FnMut(f64) {
    const WIDTH: usize = 40;
    let (watched, mut shown) = (std::io::stderr().is_terminal(), usize::MAX);
    move |share| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a few columns")]
        let done = ((share * WIDTH as f64) as usize).min(WIDTH);
        if watched && done != shown {
            shown = done;
            let end = if done == WIDTH { "\r\x1b[K" } else { "" };
            eprint!("\r[{}{}]{end}", "#".repeat(done), " ".repeat(WIDTH - done));
        }
    }
}
