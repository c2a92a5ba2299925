//! What is measured of the use cases: one list of names, told to a [`Meter`].
//!
//! Two meters exist: [`prometheus`] keeps sums for whoever scrapes them (`penstock up`, a worker), [`emf`] writes one line a
//! record, which CloudWatch makes metrics of without a call (Lambda). Dashboards and alarms name what stands in this list;
//! a test holds them together.
//!
//! No label ever holds a tenant, an id or a word of a prompt: their values come from lists of a known length.

pub mod emf;
#[cfg(feature = "upstream")]
pub mod otlp;
#[cfg(feature = "prometheus")]
pub mod prometheus;
pub mod spans;

use std::sync::Arc;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Answers to requests, whatever they were.
    Requests,
    /// Those that say that we failed: 500, 502, 504.
    ServerErrors,
    /// Those that say to come back later: 429 and 503.
    Refusals,
    /// From a request's arrival to the first byte of its answer.
    FirstByte,
    /// Jobs that have ended.
    Jobs,
    /// From a job's acceptance to its start on a worker.
    Dwell,
    /// From a job's acceptance to its end.
    Turnaround,
    /// Prompt tokens of jobs that were answered.
    PromptTokens,
    /// Tokens of answers.
    AnswerTokens,
    /// What answered jobs cost their tenants, in micro-dollars.
    Cost,
    /// Promises that have come due.
    PromisesDue,
    /// Those kept at the 95 % moment.
    PromisesKept,
    /// The 95 % wait that was stated as a multiple of the wait there was.
    PromiseSharpness,
    /// Ticks of the control loop.
    ControlTicks,
    /// Jobs that wait or run.
    Backlog,
    /// The same in estimated tokens.
    BacklogTokens,
    /// Workers that report and take work.
    Workers,
    /// Sequences that they can run at once.
    Slots,
    /// What they can do together, in tokens per second.
    Capacity,
    /// How long until there is a worker; zero if there is one.
    ReadyIn,
    /// The tier of degradation that a pool stands in.
    Tier,
    /// Jobs of P0 and P1 started in the last ten seconds that are settled.
    Starts,
    /// Those of them that were started later than twice their target.
    LateStarts,
    /// Jobs and attempts that failed by our fault in the last ten seconds that are settled.
    Failures,
}

/// How values of a metric add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They are added.
    Counter,
    /// The last one counts.
    Gauge,
    /// Their distribution counts; in seconds if the unit is [`Unit::Seconds`].
    Histogram,
}

/// What a value is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Of things.
    Count,
    /// Of seconds.
    Seconds,
    /// Of tokens per second.
    PerSecond,
    /// Of nothing: a share, a multiple, a level.
    Plain,
}

/// What distinguishes the series of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// The route as the router knows it, such as `/v1/jobs/{id}`.
    Route,
    /// `2xx`, `4xx` or `5xx`.
    Status,
    /// How an answer was made: `fresh`, `l1`, `l2`, `stale`, `fallback`, `default`, or `none` of a refusal.
    ServedBy,
    /// The pool.
    Pool,
    /// The class, `p0` to `p3`.
    Class,
    /// `succeeded`, `failed`, `cancelled` or `expired`.
    Outcome,
}

impl Label {
    /// The label's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Status => "status",
            Self::ServedBy => "served_by",
            Self::Pool => "pool",
            Self::Class => "class",
            Self::Outcome => "outcome",
        }
    }
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 24] = [
        Self::Requests,
        Self::ServerErrors,
        Self::Refusals,
        Self::FirstByte,
        Self::Jobs,
        Self::Dwell,
        Self::Turnaround,
        Self::PromptTokens,
        Self::AnswerTokens,
        Self::Cost,
        Self::PromisesDue,
        Self::PromisesKept,
        Self::PromiseSharpness,
        Self::ControlTicks,
        Self::Backlog,
        Self::BacklogTokens,
        Self::Workers,
        Self::Slots,
        Self::Capacity,
        Self::ReadyIn,
        Self::Tier,
        Self::Starts,
        Self::LateStarts,
        Self::Failures,
    ];

    /// The name, without the prefix `penstock_` and what Prometheus adds to names of counters. In CloudWatch it is the
    /// same in the namespace `Penstock`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::ServerErrors => "server_errors",
            Self::Refusals => "refusals",
            Self::FirstByte => "first_byte_seconds",
            Self::Jobs => "jobs",
            Self::Dwell => "dwell_seconds",
            Self::Turnaround => "turnaround_seconds",
            Self::PromptTokens => "prompt_tokens",
            Self::AnswerTokens => "answer_tokens",
            Self::Cost => "cost_usd_micros",
            Self::PromisesDue => "promises_due",
            Self::PromisesKept => "promises_kept",
            Self::PromiseSharpness => "promise_sharpness",
            Self::ControlTicks => "control_ticks",
            Self::Backlog => "backlog_jobs",
            Self::BacklogTokens => "backlog_tokens",
            Self::Workers => "workers",
            Self::Slots => "slots",
            Self::Capacity => "capacity_tokens_per_second",
            Self::ReadyIn => "ready_in_seconds",
            Self::Tier => "tier",
            Self::Starts => "starts",
            Self::LateStarts => "late_starts",
            Self::Failures => "failures",
        }
    }

    /// How its values add up.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Requests
            | Self::ServerErrors
            | Self::Refusals
            | Self::Jobs
            | Self::PromptTokens
            | Self::AnswerTokens
            | Self::Cost
            | Self::PromisesDue
            | Self::PromisesKept
            | Self::ControlTicks => Kind::Counter,
            Self::FirstByte | Self::Dwell | Self::Turnaround | Self::PromiseSharpness => Kind::Histogram,
            Self::Backlog
            | Self::BacklogTokens
            | Self::Workers
            | Self::Slots
            | Self::Capacity
            | Self::ReadyIn
            | Self::Tier
            | Self::Starts
            | Self::LateStarts
            | Self::Failures => Kind::Gauge,
        }
    }

    /// What its values are numbers of.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::FirstByte | Self::Dwell | Self::Turnaround | Self::ReadyIn => Unit::Seconds,
            Self::Capacity => Unit::PerSecond,
            Self::PromiseSharpness | Self::Tier => Unit::Plain,
            Self::Requests
            | Self::ServerErrors
            | Self::Refusals
            | Self::Jobs
            | Self::PromptTokens
            | Self::AnswerTokens
            | Self::Cost
            | Self::PromisesDue
            | Self::PromisesKept
            | Self::ControlTicks
            | Self::Backlog
            | Self::BacklogTokens
            | Self::Workers
            | Self::Slots
            | Self::Starts
            | Self::LateStarts
            | Self::Failures => Unit::Count,
        }
    }

    /// The labels that its values come with.
    #[must_use]
    pub const fn labels(self) -> &'static [Label] {
        match self {
            Self::Requests | Self::ServerErrors | Self::Refusals | Self::FirstByte => {
                &[Label::Route, Label::Status, Label::ServedBy]
            }
            Self::Jobs => &[Label::Pool, Label::Class, Label::Outcome],
            Self::Dwell
            | Self::Turnaround
            | Self::PromptTokens
            | Self::AnswerTokens
            | Self::Cost
            | Self::PromisesDue
            | Self::PromisesKept
            | Self::PromiseSharpness
            | Self::Backlog
            | Self::BacklogTokens => &[Label::Pool, Label::Class],
            Self::Workers
            | Self::Slots
            | Self::Capacity
            | Self::ReadyIn
            | Self::Tier
            | Self::Starts
            | Self::LateStarts
            | Self::Failures => &[Label::Pool],
            Self::ControlTicks => &[],
        }
    }

    /// What it is, in a sentence.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Requests => "Answers to requests",
            Self::ServerErrors => "Answers that say that we failed (500, 502, 504)",
            Self::Refusals => "Answers that say to come back later (429, 503)",
            Self::FirstByte => "Time from a request's arrival to the first byte of its answer",
            Self::Jobs => "Jobs that have ended",
            Self::Dwell => "Time from a job's acceptance to its start on a worker",
            Self::Turnaround => "Time from a job's acceptance to its end",
            Self::PromptTokens => "Prompt tokens of answered jobs",
            Self::AnswerTokens => "Tokens of answers",
            Self::Cost => "What answered jobs cost their tenants, in micro-dollars",
            Self::PromisesDue => "Promises that have come due",
            Self::PromisesKept => "Promises kept at the 95 % moment",
            Self::PromiseSharpness => "The 95 % wait that was stated, as a multiple of the wait there was",
            Self::ControlTicks => "Ticks of the control loop",
            Self::Backlog => "Jobs that wait or run",
            Self::BacklogTokens => "Estimated tokens that wait or run",
            Self::Workers => "Workers that report and take work",
            Self::Slots => "Sequences that the workers can run at once",
            Self::Capacity => "Tokens per second that the workers can do together",
            Self::ReadyIn => "Time until there is a worker, zero if there is one",
            Self::Tier => "Tier of degradation, 0 to 4",
            Self::Starts => "Jobs of P0 and P1 started in the last settled ten seconds",
            Self::LateStarts => "Those started later than twice their target",
            Self::Failures => "Jobs and attempts that failed by our fault in the last settled ten seconds",
        }
    }
}

/// Is told what was measured. Must be quick and must not fail: nobody waits for it.
pub trait Meter: Send + Sync {
    /// Notes values that share their labels.
    fn record(&self, labels: &[(Label, &str)], values: &[(Metric, f64)]);
}

/// Measures nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Meter for Silent {
    fn record(&self, _: &[(Label, &str)], _: &[(Metric, f64)]) {}
}

impl<M: Meter + ?Sized> Meter for Arc<M> {
    fn record(&self, labels: &[(Label, &str)], values: &[(Metric, f64)]) {
        (**self).record(labels, values);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_told_apart_and_say_their_unit() {
        let names: BTreeSet<&str> = Metric::ALL.map(Metric::name).into_iter().collect();
        assert_eq!(names.len(), Metric::ALL.len());
        for metric in Metric::ALL {
            let name = metric.name();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            // Prometheus adds it to names of counters.
            assert!(!name.ends_with("_total"), "{name}");
            assert_eq!(name.ends_with("_seconds"), metric.unit() == Unit::Seconds, "{name}");
            assert_eq!(name.ends_with("_per_second"), metric.unit() == Unit::PerSecond, "{name}");
        }
    }
}
