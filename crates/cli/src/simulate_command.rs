//! The arguments of `penstock simulate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `penstock simulate`.
#[derive(Debug, Subcommand)]
pub(crate) enum Simulate {
    /// Forecast a series hour by hour: pinball loss, coverage and WAPE by horizon, beside plain methods.
    Forecast(Simulated),
    /// Plan a fleet for a series: GPU-hours, what stood above capacity and waits, beside static peak, reactive, an
    /// AWS-like predictive scaling, and an oracle.
    Plan(Simulated),
    /// Keep workers on recorded spot markets: availability and cost, beside a single zone and a SpotHedge-like spread.
    Spot(SimulateSpot),
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

/// `penstock simulate bars`.
#[derive(Debug, Args)]
pub(crate) struct Bars {
    /// The folder of traces.
    pub(crate) traces: PathBuf,
    /// A list of file,column,step,start,zone,main to use instead of the public series known by name.
    #[arg(long, value_name = "CSV")]
    pub(crate) series: Option<PathBuf>,
}
