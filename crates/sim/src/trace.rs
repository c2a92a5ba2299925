//! Recorded load: a column of a CSV file, in equal steps from a known moment.

use std::fmt;
use std::path::PathBuf;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use penstock_policy::forecast::{InvalidStep, LocalTime, Step};
use penstock_policy::time::Timestamp;

/// What a series is read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The CSV file; its first line names the columns.
    pub file: PathBuf,
    /// The column that holds the load.
    pub column: String,
    /// Seconds between lines.
    pub step_secs: u32,
    /// When the first line's step begins: `2014-11-02T00:00Z`, or without an offset in the zone's local time. A Monday's
    /// midnight if nothing is said.
    pub start: Option<String>,
    /// The users' zone, such as `America/New_York`; UTC if nothing is said.
    pub zone: Option<String>,
}

/// A recorded series.
#[derive(Clone, Debug)]
pub struct Trace {
    /// File and column.
    pub name: String,
    /// The length of its steps.
    pub step: Step,
    /// The number of its first step, from the epoch.
    pub first: i64,
    /// What was offered; NaN where the file is empty.
    pub raw: Vec<f64>,
    /// The same with gaps filled by the last value, for methods that know no gaps.
    pub filled: Vec<f64>,
    /// The users' local time.
    pub local: LocalTime,
}

/// Why a file is no trace.
#[derive(Debug)]
pub enum TraceError {
    /// It cannot be read.
    Read(PathBuf, std::io::Error),
    /// It has no such column; these it has.
    NoColumn {
        /// What was asked for.
        asked: String,
        /// What there is.
        found: Vec<String>,
    },
    /// A line holds something that is no number.
    NoNumber {
        /// The line, from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// The step is none.
    Step(InvalidStep),
    /// No zone of that name.
    Zone(String, jiff::Error),
    /// The start cannot be understood.
    Start(String, jiff::Error),
    /// Too short: at least this many lines are needed.
    Short {
        /// Lines that are needed.
        needed: usize,
        /// Lines there are.
        found: usize,
    },
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, _) => write!(f, "{} cannot be read", path.display()),
            Self::NoColumn { asked, found } => write!(f, "no column '{asked}': there are {}", found.join(", ")),
            Self::NoNumber { line, text } => write!(f, "line {line}: '{text}' is no number"),
            Self::Step(step) => step.fmt(f),
            Self::Zone(name, _) => write!(f, "no zone is called '{name}': use a name such as Europe/Berlin"),
            Self::Start(text, _) => write!(f, "'{text}' is no moment: write 2026-11-25T00:00Z or 2026-11-25T00:00"),
            Self::Short { needed, found } => write!(f, "the trace has {found} lines: {needed} are needed"),
        }
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, source) => Some(source),
            Self::Zone(_, source) | Self::Start(_, source) => Some(source),
            Self::Step(source) => Some(source),
            Self::NoColumn { .. } | Self::NoNumber { .. } | Self::Short { .. } => None,
        }
    }
}

impl Trace {
    /// Reads a column of a file.
    ///
    /// # Errors
    /// [`TraceError`]: the file, the column, the step, the start or the zone is not what it should be.
    pub fn read(source: &Source) -> Result<Self, TraceError> {
        let text =
            std::fs::read_to_string(&source.file).map_err(|error| TraceError::Read(source.file.clone(), error))?;
        let step = Step::new(source.step_secs).map_err(TraceError::Step)?;
        let raw = column(&text, &source.column)?;
        let zone = zone(source.zone.as_deref())?;
        let start = start(source.start.as_deref(), &zone)?;
        let first = step.index(start);
        let file = source.file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let end = step.begin(first + i64::try_from(raw.len()).unwrap_or(0) + step.per_day());
        Ok(Self::new(format!("{file}/{}", source.column), step, first, raw, local_time(&zone, start, end)))
    }

    /// A series from its values.
    #[must_use]
    pub fn new(name: String, step: Step, first: i64, raw: Vec<f64>, local: LocalTime) -> Self {
        let mut last = raw.iter().copied().find(|value| !value.is_nan()).unwrap_or(0.0);
        let filled = raw
            .iter()
            .map(|value| {
                if !value.is_nan() {
                    last = *value;
                }
                last
            })
            .collect();
        Self { name, step, first, raw, filled, local }
    }

    /// Steps in an hour.
    #[must_use]
    pub fn per_hour(&self) -> usize {
        usize::try_from(self.step.per_hour()).unwrap_or(1)
    }

    /// Steps in a day.
    #[must_use]
    pub fn per_day(&self) -> usize {
        usize::try_from(self.step.per_day()).unwrap_or(1)
    }

    /// Whole days it lasts.
    #[must_use]
    pub fn days(&self) -> usize {
        self.raw.len() / self.per_day()
    }

    /// When a step of it begins.
    #[must_use]
    pub fn at(&self, index: usize) -> Timestamp {
        self.step.begin(self.first + i64::try_from(index).unwrap_or(0))
    }

    /// Days that are not scored, because everything has to learn first: 30 % of the trace, 14 at most.
    #[must_use]
    pub fn usual_warm_up_days(&self) -> usize {
        (self.days() * 3 / 10).clamp(1, 14)
    }
}

/// Reads one column of a CSV text without quotes; empty fields are NaN.
///
/// # Errors
/// [`TraceError`]: no such column, or a field that is no number.
pub fn column(text: &str, name: &str) -> Result<Vec<f64>, TraceError> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or("").split(',').map(str::trim).collect();
    let Some(place) = names.iter().position(|found| *found == name) else {
        let found = names.into_iter().map(str::to_owned).collect();
        return Err(TraceError::NoColumn { asked: name.to_owned(), found });
    };
    lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(at, line)| match line.split(',').nth(place).map(str::trim) {
            None | Some("") => Ok(f64::NAN),
            Some(text) => text
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite())
                .ok_or_else(|| TraceError::NoNumber { line: at + 2, text: text.to_owned() }),
        })
        .collect()
}

/// The zone of that name; UTC without one.
///
/// # Errors
/// [`TraceError::Zone`]: there is none.
pub fn zone(name: Option<&str>) -> Result<TimeZone, TraceError> {
    name.map_or(Ok(TimeZone::UTC), |name| TimeZone::get(name).map_err(|error| TraceError::Zone(name.to_owned(), error)))
}

fn start(text: Option<&str>, zone: &TimeZone) -> Result<Timestamp, TraceError> {
    // 2024-01-01 was a Monday.
    let text = text.unwrap_or("2024-01-01T00:00");
    let failed = |error| TraceError::Start(text.to_owned(), error);
    let moment = match text.parse::<jiff::Timestamp>() {
        Ok(moment) => moment,
        Err(_) => {
            let civil: DateTime = text.parse().map_err(failed)?;
            zone.to_timestamp(civil).map_err(failed)?
        }
    };
    Ok(Timestamp::from_millis(moment.as_millisecond()))
}

/// The offsets of a zone between two moments.
#[must_use]
pub fn local_time(zone: &TimeZone, from: Timestamp, to: Timestamp) -> LocalTime {
    let moment =
        |at: Timestamp| jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let (from, to) = (moment(from), moment(to));
    let changes = zone
        .following(from)
        .take_while(|change| change.timestamp() <= to)
        .map(|change| (Timestamp::from_millis(change.timestamp().as_millisecond()), change.offset().seconds()));
    LocalTime::new(zone.to_offset(from).seconds(), changes)
}
