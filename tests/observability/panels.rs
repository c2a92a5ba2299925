//! What the dashboards show, once for all of them: a board is a list of panels, a panel a list of series, and a series
//! names a metric of the list in `penstock_service::telemetry`, so that one which is renamed or gone does not compile.

use penstock_service::telemetry::{Label, Metric};

/// A dashboard.
pub(crate) struct Board {
    /// Part of file and resource names.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) panels: Vec<Panel>,
}

/// A chart over time.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    /// What to make of it.
    pub(crate) about: &'static str,
    pub(crate) unit: Unit,
    pub(crate) series: Vec<Series>,
}

/// What the values of a panel are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Count,
    PerSecond,
    Seconds,
    /// 0 to 1.
    Share,
    /// A multiple.
    Times,
    Usd,
}

/// A line, or one for each value of a label.
pub(crate) enum Series {
    /// Of a counter: how much it grows in a second.
    Rate(Metric, &'static [Label]),
    /// Of a counter of micro-dollars: dollars in an hour.
    UsdPerHour(Metric, &'static [Label]),
    /// Of a gauge.
    Level(Metric, &'static [Label]),
    /// Of a histogram.
    Quantile(Metric, Quantile, &'static [Label]),
    /// One counter's growth as a share of another's.
    Part { part: Metric, of: Metric, by: &'static [Label] },
    /// Of the engines themselves, which only Prometheus knows: an expression and what to call it.
    Engine(&'static str, &'static str),
}

/// Which value so many stay below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantile {
    Half,
    NinetyNine,
}

use Series::{Engine, Level, Part, Quantile as Of, Rate, UsdPerHour};

/// The dashboards.
pub(crate) fn boards() -> [Board; 3] {
    [requests(), fleet(), cost()]
}

fn requests() -> Board {
    let panels = vec![
        Panel {
            title: "Requests",
            about: "Answers a second, by how they were made; 'none' are refusals and errors.",
            unit: Unit::PerSecond,
            series: vec![Rate(Metric::Requests, &[Label::ServedBy])],
        },
        Panel {
            title: "Refused and failed",
            about: "Refusals name the moment to come back; failures are ours.",
            unit: Unit::Share,
            series: vec![
                Part { part: Metric::Refusals, of: Metric::Requests, by: &[] },
                Part { part: Metric::ServerErrors, of: Metric::Requests, by: &[] },
            ],
        },
        Panel {
            title: "Time to first byte",
            about: "Waiting in the queue included.",
            unit: Unit::Seconds,
            series: vec![Of(Metric::FirstByte, Quantile::Half, &[]), Of(Metric::FirstByte, Quantile::NinetyNine, &[])],
        },
        Panel {
            title: "Wait for a worker",
            about: "From acceptance to start, 99 of 100 wait less.",
            unit: Unit::Seconds,
            series: vec![Of(Metric::Dwell, Quantile::NinetyNine, &[Label::Class])],
        },
        Panel {
            title: "Jobs ended",
            about: "By outcome.",
            unit: Unit::PerSecond,
            series: vec![Rate(Metric::Jobs, &[Label::Outcome])],
        },
        Panel {
            title: "Promises kept",
            about: "Share of jobs that ended by the stated 95 % moment; 0.95 is the promise.",
            unit: Unit::Share,
            series: vec![Part { part: Metric::PromisesKept, of: Metric::PromisesDue, by: &[Label::Class] }],
        },
        Panel {
            title: "Sharpness of promises",
            about: "The stated 95 % wait as a multiple of the wait there was: 1 is as sharp as can be.",
            unit: Unit::Times,
            series: vec![Of(Metric::PromiseSharpness, Quantile::Half, &[Label::Class])],
        },
        Panel {
            title: "From acceptance to end",
            about: "The whole way of a job.",
            unit: Unit::Seconds,
            series: vec![
                Of(Metric::Turnaround, Quantile::Half, &[Label::Class]),
                Of(Metric::Turnaround, Quantile::NinetyNine, &[Label::Class]),
            ],
        },
    ];
    Board { name: "requests", title: "Penstock: requests", panels }
}

fn fleet() -> Board {
    let panels = vec![
        Panel {
            title: "Backlog",
            about: "Jobs that wait or run.",
            unit: Unit::Count,
            series: vec![Level(Metric::Backlog, &[Label::Pool, Label::Class])],
        },
        Panel {
            title: "Backlog in tokens",
            about: "Estimated, as the virtual queues count.",
            unit: Unit::Count,
            series: vec![Level(Metric::BacklogTokens, &[Label::Pool, Label::Class])],
        },
        Panel {
            title: "Workers",
            about: "Those that report and take work.",
            unit: Unit::Count,
            series: vec![Level(Metric::Workers, &[Label::Pool])],
        },
        Panel {
            title: "Slots",
            about: "Sequences that can run at once.",
            unit: Unit::Count,
            series: vec![Level(Metric::Slots, &[Label::Pool]), Engine("sum(penstock_engine_slots_busy)", "busy")],
        },
        Panel {
            title: "Capacity and tokens",
            about: "What the workers measured of themselves, and what is decoded.",
            unit: Unit::PerSecond,
            series: vec![Level(Metric::Capacity, &[Label::Pool]), Rate(Metric::AnswerTokens, &[Label::Pool])],
        },
        Panel {
            title: "Time until there is a worker",
            about: "Zero while there is one.",
            unit: Unit::Seconds,
            series: vec![Level(Metric::ReadyIn, &[Label::Pool])],
        },
        Panel {
            title: "Tier of degradation",
            about: "0 normal, 1 switch, 2 cached, 3 open, 4 by order.",
            unit: Unit::Count,
            series: vec![Level(Metric::Tier, &[Label::Pool])],
        },
        Panel {
            title: "Failures and late starts",
            about: "In ten seconds.",
            unit: Unit::Count,
            series: vec![
                Level(Metric::Failures, &[Label::Pool]),
                Level(Metric::Starts, &[Label::Pool]),
                Level(Metric::LateStarts, &[Label::Pool]),
            ],
        },
        Panel {
            title: "Ticks of the control loop",
            about: "None for three minutes: nobody publishes rates or plans the fleet.",
            unit: Unit::PerSecond,
            series: vec![Rate(Metric::ControlTicks, &[])],
        },
        Panel {
            title: "Time of an engine's step",
            about: "99 of 100 steps take less.",
            unit: Unit::Seconds,
            series: vec![Engine(
                "histogram_quantile(0.99, sum by (le, kind) (rate(penstock_engine_step_seconds_bucket[5m])))",
                "{{kind}}",
            )],
        },
        Panel {
            title: "Prompt tokens",
            about: "Computed, and found in the cache.",
            unit: Unit::PerSecond,
            series: vec![
                Engine("sum(rate(penstock_engine_prompt_tokens_computed_total[5m]))", "computed"),
                Engine("sum(rate(penstock_engine_prompt_tokens_reused_total[5m]))", "reused"),
            ],
        },
        Panel {
            title: "Cache of the engines",
            about: "Tokens held, those kept for reuse included, as a share of what fits.",
            unit: Unit::Share,
            series: vec![Engine(
                "sum by (worker) (penstock_engine_cache_tokens) / sum by (worker) (penstock_engine_cache_capacity_tokens)",
                "{{worker}}",
            )],
        },
        Panel {
            title: "Memory of the engines",
            about: "In use where they run, as a share of what there is: a GPU's, a control group's, or the machine's.",
            unit: Unit::Share,
            series: vec![Engine(
                "max by (worker) (penstock_engine_memory_used_bytes / penstock_engine_memory_limit_bytes)",
                "{{worker}}",
            )],
        },
    ];
    Board { name: "fleet", title: "Penstock: fleet", panels }
}

fn cost() -> Board {
    let panels = vec![
        Panel {
            title: "Charged",
            about: "What answered jobs cost their tenants by the pools' prices, per hour.",
            unit: Unit::Usd,
            series: vec![UsdPerHour(Metric::Cost, &[Label::Pool])],
        },
        Panel {
            title: "Tokens",
            about: "Of answered jobs.",
            unit: Unit::PerSecond,
            series: vec![Rate(Metric::PromptTokens, &[Label::Pool]), Rate(Metric::AnswerTokens, &[Label::Pool])],
        },
        Panel {
            title: "Answers that cost no run",
            about: "Requests a second served from memory or the store.",
            unit: Unit::PerSecond,
            series: vec![Rate(Metric::Requests, &[Label::ServedBy])],
        },
        Panel {
            title: "Workers",
            about: "What is paid for by the hour.",
            unit: Unit::Count,
            series: vec![Level(Metric::Workers, &[Label::Pool])],
        },
    ];
    Board { name: "cost", title: "Penstock: cost", panels }
}
