//! The arguments of `penstock simulate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `penstock simulate`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  penstock simulate --shape 'surge 50 3000 5m' --html report.html\n  penstock simulate --log \
                  access.log --policy penstock,reactive\n  penstock simulate --scenario scenario.json --json\n\nA scenario \
                  is a JSON file of load, classes, tokens, repeats, tenants, clients, worker, market and fallback; every \
                  part has a default."
)]
pub(crate) struct Simulate {
    /// A part of it alone.
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
    /// The whole.
    #[command(flatten)]
    pub(crate) requests: SimulateRequests,
}

/// `penstock simulate` without a part: whole requests.
#[derive(Debug, Args)]
pub(crate) struct SimulateRequests {
    /// What is simulated; the options below come before what the file says.
    #[arg(long, value_name = "JSON")]
    pub(crate) scenario: Option<PathBuf>,
    /// The load by its shape: 'surge 50 3000 5m', 'steady 50 10m', 'ramp 50 400 5m', 'day 5 80 24h', in requests a second;
    /// several joined with 'then'.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["trace", "log"])]
    pub(crate) shape: Option<String>,
    /// The load from a CSV file: a request a line (t_s or t_ms, input_tokens, output_tokens, class, tenant), or a step a line
    /// if there is a column 'requests'.
    #[arg(long, value_name = "CSV", conflicts_with = "log")]
    pub(crate) trace: Option<PathBuf>,
    /// The load from an access log in the common or combined form.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// The part of the load that is simulated, above 0 and at most 1.
    #[arg(long, value_name = "SHARE")]
    pub(crate) scale: Option<f64>,
    /// Recorded spot markets: pool,t_s,available.
    #[arg(long, value_name = "CSV")]
    pub(crate) spot: Option<PathBuf>,
    /// Where all chance comes from.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// The policies to compare, joined with commas. Default: all of penstock, no_admission, limiter_only, reactive,
    /// static_peak, aws_like, spothedge_like, oracle.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) policy: Vec<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// With --json: also how each run went, every ten seconds.
    #[arg(long, requires = "json")]
    pub(crate) timeline: bool,
    /// Write a page with tables and charts, self-contained, to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write the parameters of a deployment that bears the load, by the first policy, to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) parameters: Option<PathBuf>,
    /// The stage of those parameters.
    #[arg(long, value_name = "STAGE", default_value = "prod", requires = "parameters")]
    pub(crate) stage: String,
}

/// The parts of a simulation that can be looked at alone.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Forecast a series hour by hour: pinball loss, coverage and WAPE by horizon, beside plain methods.
    Forecast(Simulated),
    /// Plan a fleet for a series: GPU-hours, what stood above capacity and waits, beside static peak, reactive, an
    /// AWS-like predictive scaling, and an oracle.
    Plan(Simulated),
    /// Keep workers on recorded spot markets: availability and cost, beside a single zone and a SpotHedge-like spread.
    Spot(SimulateSpot),
    /// Make the plans of a fleet's recorded ticks again (`penstock fleet POOL --record FILE`), and tell whether they are the
    /// same, bit for bit.
    Replay(Replay),
    /// Measure every bar on the known series of a folder.
    Bars(Bars),
}

/// A series to simulate on.
#[derive(Debug, Args)]
pub(crate) struct Simulated {
    /// The CSV file; its first line names the columns, each further line is one step.
    #[arg(long, value_name = "CSV")]
    pub(crate) trace: PathBuf,
    /// The column that holds the load; empty fields are missing.
    #[arg(long, value_name = "NAME")]
    pub(crate) column: String,
    /// Seconds between lines: a whole part of an hour.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) step: u32,
    /// When the first line begins: 2026-11-25T00:00Z, or without an offset in the zone's local time. Default: a Monday.
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<String>,
    /// The users' zone, such as Europe/Berlin. Default: UTC.
    #[arg(long, value_name = "ZONE")]
    pub(crate) tz: Option<String>,
    /// Days that are not scored; 0 looks at the first day itself. Default: 30 % of the trace, 14 at most.
    #[arg(long, value_name = "DAYS")]
    pub(crate) warm_up: Option<usize>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `penstock simulate spot`.
#[derive(Debug, Args)]
pub(crate) struct SimulateSpot {
    /// The CSV file of changes: pool,t_s,available.
    #[arg(long, value_name = "CSV")]
    pub(crate) trace: PathBuf,
    /// Workers that are needed.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) workers: u32,
    /// Seconds from a launch until it serves.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=7200))]
    pub(crate) boot: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `penstock simulate replay`.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The recorded ticks, one JSON object a line.
    pub(crate) file: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `penstock simulate bars`.
#[derive(Debug, Args)]
pub(crate) struct Bars {
    /// The folder of traces.
    pub(crate) traces: PathBuf,
    /// A list of file,column,step,start,zone,main to use instead of the public series known by name.
    #[arg(long, value_name = "CSV")]
    pub(crate) series: Option<PathBuf>,
}
