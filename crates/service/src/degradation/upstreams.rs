//! The upstreams a deployment may fall back to, as configured: who they are, what they cost, how far money goes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use penstock_policy::address::Reach;
use penstock_policy::cost::{Price, UsdMicros};
use penstock_policy::id::UpstreamId;
use serde::Deserialize;

use crate::outward;
use crate::ports::Upstream;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being printed.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one header that it is for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One upstream, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The name that pools' fallbacks call it by.
    pub name: UpstreamId,
    /// Its base URL up to `/v1`, without a slash at the end.
    pub url: String,
    /// Its key.
    pub key: Option<Secret>,
    /// Its names for our models; a model that is not in the map goes by its own name if the map is empty, and is not
    /// offered otherwise.
    pub models: BTreeMap<String, String>,
    /// What it charges.
    pub price: Price,
    /// The most that may be spent on a day (UTC), all tenants together.
    pub per_day: UsdMicros,
    /// The most that may be spent within a minute, so that a flood does not spend the day at once.
    pub per_minute: UsdMicros,
    /// How far its addresses may reach.
    pub reach: Reach,
}

/// Why a configuration of upstreams cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUpstream {
    /// The text is no list of upstreams.
    #[error("the upstreams are not a JSON list as the README describes it: {0}")]
    Malformed(String),
    /// One of them is wrong.
    #[error("upstream '{name}': {problem}")]
    Wrong {
        /// Which.
        name: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    url: String,
    key: Option<String>,
    key_variable: Option<String>,
    #[serde(default)]
    models: BTreeMap<String, String>,
    input_usd_per_million_tokens: String,
    output_usd_per_million_tokens: String,
    usd_per_day: String,
    usd_per_minute: Option<String>,
    reach: Option<String>,
}

impl UpstreamConfig {
    /// Reads a JSON list of upstreams. `lookup` finds the variables that keys are in, usually in the environment.
    ///
    /// # Errors
    /// [`InvalidUpstream`] about the first that is wrong.
    pub fn list(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<Self>, InvalidUpstream> {
        let raw: Vec<Raw> =
            serde_json::from_str(text).map_err(|error| InvalidUpstream::Malformed(error.to_string()))?;
        let list: Vec<Self> = raw.into_iter().map(|raw| Self::checked(raw, &lookup)).collect::<Result<_, _>>()?;
        for (place, upstream) in list.iter().enumerate() {
            if list[..place].iter().any(|other| other.name == upstream.name) {
                return Err(wrong(upstream.name.as_str(), "two upstreams have this name"));
            }
        }
        Ok(list)
    }

    fn checked(raw: Raw, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidUpstream> {
        let name = UpstreamId::new(&raw.name)
            .map_err(|_| wrong(&raw.name, "'name' must be 1 to 64 letters, digits, '-' or '_'"))?;
        let money = |field: &str, text: Option<&str>| match text {
            None => Ok(None),
            Some(text) => {
                text.parse::<UsdMicros>().map(Some).map_err(|error| wrong(&raw.name, format!("'{field}' is {error}")))
            }
        };
        let price = Price {
            input_usd_micros_per_million_tokens: money(
                "input_usd_per_million_tokens",
                Some(&raw.input_usd_per_million_tokens),
            )?
            .unwrap_or_default()
            .0,
            output_usd_micros_per_million_tokens: money(
                "output_usd_per_million_tokens",
                Some(&raw.output_usd_per_million_tokens),
            )?
            .unwrap_or_default()
            .0,
        };
        let per_day = money("usd_per_day", Some(&raw.usd_per_day))?.unwrap_or_default();
        if per_day == UsdMicros::ZERO {
            return Err(wrong(&raw.name, "'usd_per_day' must be above 0; leave the upstream out to spend nothing"));
        }
        // By default a flood takes an hour to spend what is meant for a day.
        let per_minute = money("usd_per_minute", raw.usd_per_minute.as_deref())?;
        let per_minute = per_minute.unwrap_or(UsdMicros(per_day.0.div_ceil(60))).max(UsdMicros(1));
        let reach = raw.reach.as_deref().map_or(Some(Reach::Public), Reach::from_name);
        let reach = reach.ok_or_else(|| wrong(&raw.name, "'reach' must be public, loopback or private"))?;
        let key = match (raw.key, raw.key_variable) {
            (Some(_), Some(_)) => return Err(wrong(&raw.name, "give 'key' or 'key_variable', not both")),
            (Some(key), None) => Some(Secret(key)),
            (None, Some(variable)) => {
                let key = lookup(&variable).filter(|key| !key.is_empty());
                Some(Secret(key.ok_or_else(|| wrong(&raw.name, format!("the variable {variable} is not set")))?))
            }
            (None, None) => None,
        };
        let url = raw.url.trim_end_matches('/').to_owned();
        outward::check_url(&url, reach).map_err(|barred| wrong(&raw.name, barred.to_string()))?;
        if url.contains('?') {
            return Err(wrong(&raw.name, "'url' must be a base URL such as https://host/v1, without a query"));
        }
        Ok(Self { name, url, key, models: raw.models, price, per_day, per_minute, reach })
    }

    /// The upstream's name for one of our models; `None` if it does not offer it.
    #[must_use]
    pub fn model<'c>(&'c self, ours: &'c str) -> Option<&'c str> {
        match self.models.get(ours) {
            Some(theirs) => Some(theirs),
            None => self.models.is_empty().then_some(ours),
        }
    }
}

/// An upstream that can be asked.
#[derive(Clone)]
pub struct Outside {
    /// What is known of it.
    pub config: Arc<UpstreamConfig>,
    /// Asks it.
    pub port: Arc<dyn Upstream>,
}

fn wrong(name: &str, problem: impl Into<String>) -> InvalidUpstream {
    InvalidUpstream::Wrong { name: name.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(more: Value) -> Result<UpstreamConfig, InvalidUpstream> {
        let mut one = json!({"name": "other", "url": "https://api.example.com/v1/", "usd_per_day": "12",
            "input_usd_per_million_tokens": "0", "output_usd_per_million_tokens": "0.6"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let lookup = |name: &str| (name == "KEY").then(|| "sk-secret".to_owned());
        UpstreamConfig::list(&json!([one]).to_string(), lookup).map(|mut list| list.remove(0))
    }

    #[test]
    fn an_upstream_is_read_and_its_key_is_never_printed() {
        let upstream = read(json!({"key_variable": "KEY", "input_usd_per_million_tokens": "0.15"})).unwrap();
        assert_eq!((upstream.url.as_str(), upstream.per_day), ("https://api.example.com/v1", UsdMicros(12_000_000)));
        assert_eq!(upstream.price.input_usd_micros_per_million_tokens, 150_000);
        assert_eq!(upstream.per_minute, UsdMicros(200_000));
        assert_eq!(upstream.key.as_ref().unwrap().expose(), "sk-secret");
        assert!(!format!("{upstream:?}").contains("sk-secret"));
    }

    #[test]
    fn models_go_by_their_own_names_unless_there_is_a_map() {
        assert_eq!(read(json!({})).unwrap().model("small"), Some("small"));
        let mapped = read(json!({"models": {"small": "gpt-mini"}})).unwrap();
        assert_eq!((mapped.model("small"), mapped.model("large")), (Some("gpt-mini"), None));
    }

    #[test]
    fn urls_that_could_lead_elsewhere_are_refused() {
        for (url, reach, fine) in [
            ("https://api.example.com/v1", "public", true),
            ("http://api.example.com/v1", "private", false),
            ("http://127.0.0.1:8700/v1", "public", false),
            ("http://127.0.0.1:8700/v1", "loopback", true),
            ("http://localhost:8700/v1", "loopback", true),
            ("http://[::1]:8700/v1", "loopback", true),
            ("https://10.0.0.1/v1", "public", false),
            ("https://10.0.0.1/v1", "private", true),
            ("https://169.254.169.254/latest", "private", false),
            ("https://user@api.example.com/v1", "public", false),
            ("https://api.example.com/v1?x=1", "public", false),
            ("ftp://api.example.com", "public", false),
            ("/v1", "public", false),
        ] {
            assert_eq!(read(json!({"url": url, "reach": reach})).is_ok(), fine, "{url} with reach {reach}");
        }
    }

    #[test]
    fn everything_else_that_is_wrong_is_said() {
        for (more, word) in [
            (json!({"name": "a b"}), "'name'"),
            (json!({"usd_per_day": "0"}), "'usd_per_day'"),
            (json!({"usd_per_minute": "-1"}), "'usd_per_minute'"),
            (json!({"reach": "everywhere"}), "'reach'"),
            (json!({"key_variable": "ABSENT"}), "ABSENT"),
            (json!({"key": "a", "key_variable": "KEY"}), "not both"),
            (json!({"prize": "1"}), "prize"),
        ] {
            let problem = read(more).unwrap_err().to_string();
            assert!(problem.contains(word), "{problem}");
        }
    }
}
