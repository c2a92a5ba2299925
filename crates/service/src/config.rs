//! The configuration: one typed struct, built once. Nobody else reads the environment.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::degradation::upstreams::UpstreamConfig;
use crate::door::tokens::issuer::IssuerConfig;

/// How long things take and wait. The defaults suit production; drills shorten them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a claim holds without being renewed.
    pub lease: Duration,
    /// How long a received message stays hidden without being renewed; longer than the lease, so that a redelivery
    /// finds the lease lapsed or about to.
    pub visibility: Duration,
    /// How often a streamed answer is written down.
    pub stream_flush: Duration,
    /// How often an answer nobody watches grow is written down.
    pub checkpoint: Duration,
    /// How long a status is held back for the worker's verdict on the prompt.
    pub status_hold: Duration,
    /// How often a waiting stream says it is alive.
    pub keep_alive: Duration,
    /// How long a whole answer is waited for in silence.
    pub silent_wait: Duration,
    /// How often a whole answer that is late says it is alive.
    pub blank_line: Duration,
    /// How long an answer nobody listens to any more goes on being computed.
    pub orphan_grace: Duration,
    /// How long records that hardly change (keys, tenants, pools) are kept in memory.
    pub record_cache: Duration,
    /// How long the list of live workers is kept in memory.
    pub capacity_cache: Duration,
    /// How often a worker reports itself.
    pub worker_report: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(45),
            visibility: Duration::from_secs(60),
            stream_flush: Duration::from_millis(250),
            checkpoint: Duration::from_millis(1500),
            status_hold: Duration::from_secs(10),
            keep_alive: Duration::from_secs(10),
            silent_wait: Duration::from_secs(240),
            blank_line: Duration::from_secs(15),
            orphan_grace: Duration::from_secs(60),
            record_cache: Duration::from_secs(60),
            capacity_cache: Duration::from_secs(2),
            worker_report: Duration::from_secs(10),
        }
    }
}

/// The share of traces beginning here that are kept, if nothing else is said.
pub const TRACE_SHARE: f64 = 0.01;

/// Where traces go.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The collector, such as `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// The share of traces beginning here that are kept, 0 to 1.
    pub share: f64,
}

/// What a deployment on AWS is told by its environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The stage, the first part of the queues' names.
    pub stage: String,
    /// The table of buckets.
    pub adm_table: String,
    /// The table of jobs and chunks.
    pub job_table: String,
    /// The table of markers and cached answers.
    pub cache_table: String,
    /// The table of tenants, keys, pools and workers.
    pub ctl_table: String,
    /// The bucket of large payloads.
    pub payload_bucket: String,
    /// The secret that blinds marker keys; only the front door needs it.
    pub marker_secret: Option<String>,
    /// The upstreams to fall back to.
    pub upstreams: Vec<UpstreamConfig>,
    /// The issuers whose signed tokens are taken in the place of API keys.
    pub issuers: Vec<IssuerConfig>,
    /// Where AWS is, if not where the SDK would look: an emulator.
    pub endpoint: Option<String>,
    /// Where traces go, if anywhere.
    pub traces: Option<Traces>,
    /// How long things take.
    pub timing: Timing,
}

/// A variable that this program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Whether the program cannot start without it.
    pub required: bool,
    /// What it says.
    pub help: &'static str,
}

/// Every variable that [`Config::from_lookup`] reads.
pub const VARIABLES: [Variable; 17] = [
    Variable { name: "PENSTOCK_STAGE", required: true, help: "the stage; first part of the queues' names" },
    Variable { name: "PENSTOCK_ADM_TABLE", required: true, help: "the table of token buckets" },
    Variable { name: "PENSTOCK_JOB_TABLE", required: true, help: "the table of jobs and chunks" },
    Variable { name: "PENSTOCK_CACHE_TABLE", required: true, help: "the table of markers and cached answers" },
    Variable { name: "PENSTOCK_CTL_TABLE", required: true, help: "the table of tenants, keys, pools and workers" },
    Variable { name: "PENSTOCK_PAYLOAD_BUCKET", required: true, help: "the bucket of payloads over 240 KiB" },
    Variable {
        name: "PENSTOCK_MARKER_SECRET",
        required: false,
        help: "any text; blinds the keys of known requests; the functions cannot do without it",
    },
    Variable {
        name: "PENSTOCK_UPSTREAMS",
        required: false,
        help: "JSON list of upstreams to fall back to; see the README",
    },
    Variable {
        name: "PENSTOCK_ISSUERS",
        required: false,
        help: "JSON list of issuers whose signed tokens are taken; see the README",
    },
    Variable {
        name: "PENSTOCK_OTLP_ENDPOINT",
        required: false,
        help: "URL of a collector that takes traces by OTLP over HTTP",
    },
    Variable { name: "PENSTOCK_TRACE_SHARE", required: false, help: "the share of requests to trace, 0 to 1 (0.01)" },
    Variable { name: "PENSTOCK_AWS_ENDPOINT", required: false, help: "URL of an AWS emulator" },
    Variable { name: "PENSTOCK_LEASE_MS", required: false, help: "how long a claim holds (45000)" },
    Variable { name: "PENSTOCK_VISIBILITY_MS", required: false, help: "how long a message stays hidden (60000)" },
    Variable { name: "PENSTOCK_STREAM_FLUSH_MS", required: false, help: "how often a stream is written down (250)" },
    Variable { name: "PENSTOCK_CHECKPOINT_MS", required: false, help: "how often other answers are (1500)" },
    Variable {
        name: "PENSTOCK_RECORD_CACHE_MS",
        required: false,
        help: "how long keys and tenants are cached (60000)",
    },
];

/// Why a configuration cannot be used: everything wrong with it at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment is not complete: {}", problems.join("; "))]
pub struct ConfigError {
    /// One line a problem.
    pub problems: Vec<String>,
}

impl Config {
    /// Builds the configuration from a lookup, usually of the environment.
    ///
    /// # Errors
    /// [`ConfigError`] with every missing or malformed variable.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut found = BTreeMap::new();
        for variable in VARIABLES {
            match lookup(variable.name).filter(|value| !value.is_empty()) {
                Some(value) => {
                    found.insert(variable.name, value);
                }
                None if variable.required => problems.push(format!("set {} ({})", variable.name, variable.help)),
                None => {}
            }
        }
        let mut millis = |name: &str, default: Duration| match found.get(name).map(|value| value.parse::<u64>()) {
            None => default,
            Some(Ok(ms @ 1..)) => Duration::from_millis(ms),
            Some(_) => {
                problems.push(format!("{name} must be a whole number of milliseconds above 0"));
                default
            }
        };
        let standard = Timing::default();
        let timing = Timing {
            lease: millis("PENSTOCK_LEASE_MS", standard.lease),
            visibility: millis("PENSTOCK_VISIBILITY_MS", standard.visibility),
            stream_flush: millis("PENSTOCK_STREAM_FLUSH_MS", standard.stream_flush),
            checkpoint: millis("PENSTOCK_CHECKPOINT_MS", standard.checkpoint),
            record_cache: millis("PENSTOCK_RECORD_CACHE_MS", standard.record_cache),
            ..standard
        };
        let upstreams = found.get("PENSTOCK_UPSTREAMS").map(|text| UpstreamConfig::list(text, &lookup)).transpose();
        let upstreams = upstreams.unwrap_or_else(|error| {
            problems.push(format!("PENSTOCK_UPSTREAMS: {error}"));
            None
        });
        let issuers = found.get("PENSTOCK_ISSUERS").map(|text| IssuerConfig::list(text)).transpose();
        let issuers = issuers.unwrap_or_else(|error| {
            problems.push(format!("PENSTOCK_ISSUERS: {error}"));
            None
        });
        let trace_share = match found.get("PENSTOCK_TRACE_SHARE").map(|value| value.parse::<f64>()) {
            None => TRACE_SHARE,
            Some(Ok(share)) if (0.0..=1.0).contains(&share) => share,
            Some(_) => {
                problems.push("PENSTOCK_TRACE_SHARE must be a number from 0 to 1".to_owned());
                TRACE_SHARE
            }
        };
        if timing.visibility <= timing.lease {
            problems.push("PENSTOCK_VISIBILITY_MS must be longer than PENSTOCK_LEASE_MS".to_owned());
        }
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let mut text = |name: &str| found.remove(name).unwrap_or_default();
        Ok(Self {
            stage: text("PENSTOCK_STAGE"),
            adm_table: text("PENSTOCK_ADM_TABLE"),
            job_table: text("PENSTOCK_JOB_TABLE"),
            cache_table: text("PENSTOCK_CACHE_TABLE"),
            ctl_table: text("PENSTOCK_CTL_TABLE"),
            payload_bucket: text("PENSTOCK_PAYLOAD_BUCKET"),
            marker_secret: found.remove("PENSTOCK_MARKER_SECRET"),
            upstreams: upstreams.unwrap_or_default(),
            issuers: issuers.unwrap_or_default(),
            endpoint: found.remove("PENSTOCK_AWS_ENDPOINT"),
            traces: found.remove("PENSTOCK_OTLP_ENDPOINT").map(|endpoint| Traces { endpoint, share: trace_share }),
            timing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(name: &str) -> Option<String> {
        VARIABLES.iter().any(|v| v.required && v.name == name).then(|| format!("value of {name}"))
    }

    #[test]
    fn a_complete_environment_is_read_with_the_standard_timing() {
        let config = Config::from_lookup(complete).unwrap();
        assert_eq!(config.timing, Timing::default());
        assert_eq!(config.job_table, "value of PENSTOCK_JOB_TABLE");
    }

    #[test]
    fn everything_missing_or_malformed_is_said_at_once() {
        let error = Config::from_lookup(|name| (name == "PENSTOCK_LEASE_MS").then(|| "soon".to_owned())).unwrap_err();
        assert_eq!(error.problems.len(), VARIABLES.iter().filter(|v| v.required).count() + 1);
    }

    #[test]
    fn upstreams_are_read_with_keys_from_their_variables() {
        let text = r#"[{"name": "u", "url": "https://a.example/v1", "key_variable": "U_KEY", "usd_per_day": "1",
            "input_usd_per_million_tokens": "0", "output_usd_per_million_tokens": "0"}]"#;
        let lookup = |upstreams: &str, name: &str| match name {
            "PENSTOCK_UPSTREAMS" => Some(upstreams.to_owned()),
            "U_KEY" => Some("k".to_owned()),
            _ => complete(name),
        };
        let config = Config::from_lookup(|name| lookup(text, name)).unwrap();
        assert_eq!(config.upstreams[0].key.as_ref().map(|key| key.expose()), Some("k"));
        let error = Config::from_lookup(|name| lookup("[{}]", name)).unwrap_err();
        assert!(error.problems[0].starts_with("PENSTOCK_UPSTREAMS"), "{error}");
    }

    #[test]
    fn a_message_must_stay_hidden_longer_than_its_lease() {
        let lookup = |name: &str| match name {
            "PENSTOCK_VISIBILITY_MS" => Some("1000".to_owned()),
            _ => complete(name),
        };
        assert!(Config::from_lookup(lookup).unwrap_err().problems[0].contains("longer"));
    }
}
