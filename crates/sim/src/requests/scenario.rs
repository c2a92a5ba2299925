//! What is simulated, read from a JSON file: the load, who asks and how, the workers, the market. Every part has a default,
//! so that a load alone is a scenario.

use core::fmt;
use std::path::{Path, PathBuf};

use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use serde::Deserialize;

use super::shape::{Shape, seconds};
use super::worker::Profile;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it shows, for people.
    pub about: String,
    /// Where all chance comes from.
    pub seed: u64,
    /// Who comes when.
    pub load: Load,
    /// Shares of the classes P0 to P3, where the load does not say; they sum up to 1.
    pub classes: [f64; 4],
    /// How long prompts and answers are, where the load does not say.
    pub tokens: Tokens,
    /// Questions that are asked again.
    pub repeats: Repeats,
    /// Who asks, by share; where the load does not say.
    pub tenants: Vec<TenantSpec>,
    /// How clients behave.
    pub clients: Clients,
    /// A worker, as measured by the benchmark.
    pub worker: WorkerSpec,
    /// What capacity can be had.
    pub market: MarketSpec,
    /// Who answers in the pool's place, if anybody.
    pub fallback: Option<Fallback>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            seed: 1,
            load: Load::default(),
            classes: [0.1, 0.6, 0.1, 0.2],
            tokens: Tokens::default(),
            repeats: Repeats::default(),
            tenants: vec![TenantSpec::default()],
            clients: Clients::default(),
            worker: WorkerSpec::default(),
            market: MarketSpec::default(),
            fallback: None,
        }
    }
}

/// Who comes when: exactly one of the three.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// By shape, such as `surge 50 3000 5m`.
    pub shape: Option<String>,
    /// A CSV file: one request a line (`t_s` or `t_ms`, and `input_tokens`, `output_tokens`, `class`, `tenant` as far as
    /// known), or one step a line if there is a column `requests`.
    pub trace: Option<PathBuf>,
    /// An access log in the common or combined form; equal paths are equal questions.
    pub log: Option<PathBuf>,
    /// The part of a recorded load that is simulated, 1 for all of it.
    pub scale: Option<f64>,
}

/// Lengths in tokens, log-normal: the median and the deviation of the logarithm.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// Of prompts.
    pub prompt: (f64, f64),
    /// Of answers.
    pub output: (f64, f64),
    /// Clients reserve up to so many times what the answer has.
    pub reserved: f64,
    /// No longer than this together.
    pub context: u32,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { prompt: (200.0, 0.8), output: (120.0, 0.6), reserved: 1.6, context: 4096 }
    }
}

/// Questions that are asked again, by Zipf's law; their answers are kept.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repeats {
    /// The share of requests that ask one of them.
    pub share: f64,
    /// How many there are.
    pub questions: u32,
    /// Zipf's exponent.
    pub exponent: f64,
    /// How long an answer is kept, in seconds.
    pub kept_secs: f64,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { share: 0.0, questions: 500, exponent: 1.1, kept_secs: 300.0 }
    }
}

/// A tenant.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSpec {
    /// Its name.
    pub name: String,
    /// Its part of the load, relative to the others'.
    pub share: f64,
    /// Its limits; none if nothing is said.
    pub requests_per_minute: Option<u64>,
    /// Of estimated tokens.
    pub tokens_per_minute: Option<u64>,
}

impl Default for TenantSpec {
    fn default() -> Self {
        Self { name: "all".to_owned(), share: 1.0, requests_per_minute: None, tokens_per_minute: None }
    }
}

/// How clients behave. The three shares sum up to 1.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// Come back when they are told to.
    pub obey: f64,
    /// Come back after a second, two, four, whatever they are told.
    pub blind: f64,
    /// Go when they are refused.
    pub give_up: f64,
    /// How often they try in all.
    pub tries: u32,
    /// How long those of P0 to P3 wait for an answer before they hang up, in seconds.
    pub patience_secs: [f64; 4],
}

impl Default for Clients {
    fn default() -> Self {
        // The stock clients wait for ten minutes; flexible and batch work is asked for in the background.
        Self { obey: 1.0, blind: 0.0, give_up: 0.0, tries: 6, patience_secs: [600.0, 600.0, 14_400.0, 86_400.0] }
    }
}

/// A worker.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSpec {
    /// Sequences at once.
    pub slots: usize,
    /// Milliseconds a step takes by itself.
    pub step_ms: f64,
    /// And for each sequence in it.
    pub step_ms_per_sequence: f64,
    /// Tokens of a prompt that are read in a step.
    pub prompt_tokens_per_step: f64,
    /// What it counts as, in estimated tokens a second with all slots busy; by default what the profile does of this load.
    pub tokens_per_second: Option<f64>,
    /// From acceptance to the claim by a free worker, in milliseconds.
    pub hand_off_ms: f64,
    /// From launch to ready, in seconds: the median, and the deviation of the logarithm.
    pub boot_secs: (f64, f64),
}

impl Default for WorkerSpec {
    fn default() -> Self {
        // An L4 with a model of 8 billion parameters in int4, by the order of magnitude.
        Self {
            slots: 32,
            step_ms: 25.0,
            step_ms_per_sequence: 0.5,
            prompt_tokens_per_step: 64.0,
            tokens_per_second: None,
            hand_off_ms: 20.0,
            boot_secs: (150.0, 0.15),
        }
    }
}

impl WorkerSpec {
    /// What it can do.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        Profile {
            slots: self.slots,
            step_ms: self.step_ms,
            step_ms_per_sequence: self.step_ms_per_sequence,
            prompt_tokens_per_step: self.prompt_tokens_per_step,
        }
    }
}

/// What capacity can be had.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MarketSpec {
    /// Zones that have spot; ignored if there is a record.
    pub zones: u32,
    /// A record of spot markets: `pool,t_s,available`. It begins with the simulation.
    pub record: Option<PathBuf>,
    /// Micro-dollars an hour.
    pub spot_usd_per_hour: f64,
    /// See above.
    pub on_demand_usd_per_hour: f64,
    /// What the market takes back, besides what the record says.
    pub losses: Vec<LossSpec>,
    /// Workers at the beginning: as many as the first minutes need at this utilisation.
    pub begin_utilisation: f64,
    /// Workers that stay whatever comes.
    pub least_workers: u32,
    /// Workers at most.
    pub most_workers: u32,
    /// Of them on demand at most.
    pub most_on_demand: u32,
}

impl Default for MarketSpec {
    fn default() -> Self {
        Self {
            zones: 4,
            record: None,
            // A g6.xlarge.
            spot_usd_per_hour: 0.30,
            on_demand_usd_per_hour: 0.805,
            losses: Vec::new(),
            begin_utilisation: 0.7,
            least_workers: 0,
            most_workers: 1000,
            most_on_demand: 200,
        }
    }
}

/// A loss of spot workers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossSpec {
    /// When, such as `11m`.
    pub at: String,
    /// The part of the spot workers that is taken back: those of the zone with the most first.
    pub share: f64,
    /// With the two minutes' notice, or without any.
    pub notice: bool,
}

/// Who answers in the pool's place: another pool or an upstream.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// At most so many requests a second.
    pub requests_per_second: u64,
    /// How long an answer takes, in seconds.
    pub answer_secs: f64,
    /// What a million tokens cost there, in dollars.
    pub usd_per_million_tokens: f64,
}

/// Why a scenario cannot be simulated.
#[derive(Debug)]
pub enum InvalidScenario {
    /// A file cannot be read.
    Read(PathBuf, std::io::Error),
    /// It is not of the form.
    Form(serde_json::Error),
    /// A field has a value that makes no sense.
    Field {
        /// Which.
        name: &'static str,
        /// What it should be.
        should: String,
    },
    /// A line of a trace or a log is not of the form.
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl fmt::Display for InvalidScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, _) => write!(f, "{} cannot be read", path.display()),
            Self::Form(error) => write!(f, "the scenario cannot be read: {error}"),
            Self::Field { name, should } => write!(f, "'{name}' should be {should}"),
            Self::Line { file, line, what } => write!(f, "{}, line {line}: {what}", file.display()),
        }
    }
}

impl std::error::Error for InvalidScenario {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, source) => Some(source),
            Self::Form(source) => Some(source),
            Self::Field { .. } | Self::Line { .. } => None,
        }
    }
}

fn field(name: &'static str, should: impl Into<String>) -> InvalidScenario {
    InvalidScenario::Field { name, should: should.into() }
}

impl Scenario {
    /// Reads a scenario file. Paths in it are relative to its own folder.
    ///
    /// # Errors
    /// [`InvalidScenario`]: which field is wrong, and what it should be.
    pub fn read(path: &Path) -> Result<Self, InvalidScenario> {
        let text = std::fs::read_to_string(path).map_err(|error| InvalidScenario::Read(path.to_owned(), error))?;
        let mut scenario = Self::parse(&text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = [&mut scenario.load.trace, &mut scenario.load.log, &mut scenario.market.record];
        for file in files.into_iter().flatten() {
            *file = folder.join(&*file);
        }
        Ok(scenario)
    }

    /// Reads a scenario's text.
    ///
    /// # Errors
    /// As [`Scenario::read`].
    pub fn parse(text: &str) -> Result<Self, InvalidScenario> {
        let scenario: Self = serde_json::from_str(text).map_err(InvalidScenario::Form)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Whether every field makes sense.
    ///
    /// # Errors
    /// [`InvalidScenario::Field`]: the first that does not.
    pub fn check(&self) -> Result<(), InvalidScenario> {
        let one = |shares: &[f64]| {
            shares.iter().all(|share| (0.0..=1.0).contains(share)) && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6
        };
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let Clients { obey, blind, give_up, tries, patience_secs } = self.clients;
        let (worker, market) = (&self.worker, &self.market);
        let length = |(median, sigma): (f64, f64)| positive(median) && (0.0..=3.0).contains(&sigma);
        if let Some(shape) = &self.load.shape {
            let _: Shape = shape.parse().map_err(|error| field("load.shape", format!("a shape: {error}")))?;
        }
        let checks = [
            (one(&self.classes), "classes", "four shares that sum up to 1"),
            (one(&[obey, blind, give_up]), "clients", "shares obey, blind and give_up that sum up to 1"),
            ((1..=20).contains(&tries), "clients.tries", "between 1 and 20"),
            (patience_secs.into_iter().all(positive), "clients.patience_secs", "four positive numbers"),
            (length(self.tokens.prompt), "tokens.prompt", "a positive median and a deviation of 0 to 3"),
            (length(self.tokens.output), "tokens.output", "a positive median and a deviation of 0 to 3"),
            (self.tokens.reserved >= 1.0 && self.tokens.reserved <= 100.0, "tokens.reserved", "between 1 and 100"),
            (self.tokens.context >= 2, "tokens.context", "2 at least"),
            ((0.0..=1.0).contains(&self.repeats.share), "repeats.share", "between 0 and 1"),
            ((1..=1_000_000).contains(&self.repeats.questions), "repeats.questions", "between 1 and 1,000,000"),
            ((0.0..=5.0).contains(&self.repeats.exponent), "repeats.exponent", "between 0 and 5"),
            (positive(self.repeats.kept_secs), "repeats.kept_secs", "positive"),
            (!self.tenants.is_empty() && self.tenants.len() <= 1000, "tenants", "between 1 and 1,000 of them"),
            (self.tenants.iter().all(|tenant| positive(tenant.share)), "tenants.share", "positive"),
            (self.tenants.iter().all(|tenant| tenant.limits().is_ok()), "tenants", "limits of at least 1 a minute"),
            ((1..=4096).contains(&worker.slots), "worker.slots", "between 1 and 4,096"),
            (worker.step_ms >= 0.0 && positive(worker.profile().step_secs(1)), "worker.step_ms", "positive"),
            (worker.step_ms_per_sequence >= 0.0, "worker.step_ms_per_sequence", "0 or more"),
            (positive(worker.prompt_tokens_per_step), "worker.prompt_tokens_per_step", "positive"),
            (worker.tokens_per_second.is_none_or(positive), "worker.tokens_per_second", "positive"),
            (worker.hand_off_ms >= 0.0 && worker.hand_off_ms < 1e6, "worker.hand_off_ms", "between 0 and 1,000,000"),
            (length(worker.boot_secs), "worker.boot_secs", "a positive median and a deviation of 0 to 3"),
            ((1..=100).contains(&market.zones), "market.zones", "between 1 and 100"),
            (positive(market.spot_usd_per_hour), "market.spot_usd_per_hour", "positive"),
            (positive(market.on_demand_usd_per_hour), "market.on_demand_usd_per_hour", "positive"),
            (positive(market.begin_utilisation), "market.begin_utilisation", "positive"),
            ((1..=100_000).contains(&market.most_workers), "market.most_workers", "between 1 and 100,000"),
            (market.losses.iter().all(|loss| seconds(&loss.at).is_some()), "market.losses.at", "such as '11m'"),
            (market.losses.iter().all(|loss| (0.0..=1.0).contains(&loss.share)), "market.losses.share", "0 to 1"),
            (
                self.fallback.is_none_or(|there| there.requests_per_second > 0),
                "fallback.requests_per_second",
                "1 or more",
            ),
        ];
        match checks.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, name, should)) => Err(field(name, should)),
            None => Ok(()),
        }
    }
}

impl TenantSpec {
    /// Whether it has no limits.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.requests_per_minute.is_none() && self.tokens_per_minute.is_none()
    }

    /// Its limits of requests and of estimated tokens; without one, more than can come.
    ///
    /// # Errors
    /// A limit of nothing.
    pub fn limits(&self) -> Result<[Limit; 2], InvalidScenario> {
        const PLENTY: u64 = 1_000_000_000_000;
        let limit = |units: Option<u64>| {
            Limit::per_minute(units.unwrap_or(PLENTY)).map_err(|_| field("tenants", "limits of at least 1 a minute"))
        };
        Ok([limit(self.requests_per_minute)?, limit(self.tokens_per_minute)?])
    }
}

/// The class of a name in a trace: `p0` to `p3`, or a service tier.
#[must_use]
pub fn class_named(name: &str) -> Class {
    let name = name.trim().to_ascii_lowercase();
    Class::from_name(&name).unwrap_or_else(|| penstock_policy::admission::class_of_tier(Some(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_alone_is_a_scenario() {
        let scenario = Scenario::parse(r#"{"load": {"shape": "steady 50 10m"}}"#).unwrap();
        assert_eq!(scenario.worker.profile().slots, 32);
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_it_should_be() {
        for (text, name) in [
            (r#"{"classes": [1, 1, 0, 0]}"#, "classes"),
            (r#"{"load": {"shape": "surge 5"}}"#, "load.shape"),
            (r#"{"clients": {"obey": 0.5}}"#, "clients"),
            (r#"{"worker": {"slots": 0}}"#, "worker.slots"),
            (r#"{"tenants": [{"requests_per_minute": 0}]}"#, "tenants"),
            (r#"{"market": {"losses": [{"at": "soon", "share": 0.5, "notice": true}]}}"#, "market.losses.at"),
            (r#"{"speed": 5}"#, "speed"),
        ] {
            let error = Scenario::parse(text).unwrap_err().to_string();
            assert!(error.contains(name), "{text}: {error}");
        }
    }
}
