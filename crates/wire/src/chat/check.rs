//! Single values within their ranges.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::BadRequest;

/// The most stop strings, and the most bytes of one.
const MAX_STOPS: usize = 4;
const MAX_STOP_BYTES: usize = 256;

/// The most tokens that may be biased: each costs the worker a look for every token of the answer.
const MAX_BIASES: usize = 1024;

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "Stop"))]
#[serde(untagged)]
pub(crate) enum RawStop {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "StreamOptions"))]
pub(crate) struct RawStreamOptions {
    include_usage: Option<bool>,
}

/// Whether a stream ends with its usage.
pub(crate) fn include_usage(options: Option<RawStreamOptions>) -> bool {
    options.and_then(|options| options.include_usage).unwrap_or(false)
}

pub(crate) fn model(model: Option<String>) -> Result<String, BadRequest> {
    match model {
        None => Err(missing("model")),
        Some(name) if name.is_empty() => Err(BadRequest::field("model", "invalid_value", "'model' must not be empty")),
        Some(name) => Ok(name),
    }
}

pub(crate) fn missing(param: &str) -> BadRequest {
    BadRequest::field(param, "missing_required_parameter", format!("'{param}' is required"))
}

pub(crate) fn within(param: &str, value: Option<f32>, default: f32, low: f32, high: f32) -> Result<f32, BadRequest> {
    let value = value.unwrap_or(default);
    if value.is_finite() && (low..=high).contains(&value) {
        return Ok(value);
    }
    let low = if low == f32::MIN_POSITIVE { "above 0".to_owned() } else { format!("{low}") };
    let message = format!("'{param}' is {value}: must be between {low} and {high}");
    Err(BadRequest::field(param, "invalid_value", message))
}

pub(crate) fn max_tokens(param: &str, value: Option<Value>) -> Result<Option<u32>, BadRequest> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    if !value.is_number() {
        return Err(BadRequest::field(param, "invalid_type", format!("'{param}' must be a whole number")));
    }
    match value.as_u64().map(u32::try_from) {
        Some(Ok(tokens @ 1..)) => Ok(Some(tokens)),
        _ => {
            let message = format!("'{param}' is {value}: must be a whole number between 1 and {}", u32::MAX);
            Err(BadRequest::field(param, "invalid_value", message))
        }
    }
}

pub(crate) fn stops(stop: Option<RawStop>) -> Result<Vec<String>, BadRequest> {
    let list = match stop {
        None => Vec::new(),
        Some(RawStop::One(text)) => vec![text],
        Some(RawStop::Many(list)) => list,
    };
    if list.len() > MAX_STOPS {
        return Err(BadRequest::field("stop", "invalid_value", format!("'stop' may hold at most {MAX_STOPS} strings")));
    }
    if list.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_BYTES) {
        let message = format!("each string in 'stop' must have 1 to {MAX_STOP_BYTES} bytes");
        return Err(BadRequest::field("stop", "invalid_value", message));
    }
    Ok(list)
}

/// -1 and 0 mean all tokens, as in vLLM.
pub(crate) fn top_k(value: Option<i64>) -> Result<Option<u32>, BadRequest> {
    match value {
        None | Some(-1 | 0) => Ok(None),
        Some(k) => u32::try_from(k).map(Some).map_err(|_| {
            let message = format!("'top_k' is {k}: must be a whole number from 1 on, or -1 for all tokens");
            BadRequest::field("top_k", "invalid_value", message)
        }),
    }
}

pub(crate) fn logit_bias(map: Option<Map<String, Value>>) -> Result<BTreeMap<u32, f32>, BadRequest> {
    let refuse = |message: String| BadRequest::field("logit_bias", "invalid_value", message);
    let map = map.unwrap_or_default();
    if map.len() > MAX_BIASES {
        return Err(refuse(format!("'logit_bias' may hold at most {MAX_BIASES} tokens")));
    }
    let entry = |(token, bias): (String, Value)| {
        let id = token.parse::<u32>().map_err(|_| refuse(format!("'logit_bias': '{token}' is not a token id")))?;
        #[expect(clippy::cast_possible_truncation, reason = "within -100..=100, and a bias needs no more precision")]
        match bias.as_f64() {
            Some(bias) if (-100.0..=100.0).contains(&bias) => Ok((id, bias as f32)),
            Some(_) | None => Err(refuse(format!("'logit_bias': the bias of token {id} must be between -100 and 100"))),
        }
    };
    map.into_iter().map(entry).collect()
}

/// The most answers to one request: they take slots of one worker together.
const MAX_CHOICES: u32 = 8;

pub(crate) fn choices(n: Option<i64>) -> Result<u32, BadRequest> {
    let n = n.unwrap_or(1);
    match u32::try_from(n) {
        Ok(n @ 1..=MAX_CHOICES) => Ok(n),
        Ok(_) | Err(_) => {
            let message = format!("'n' is {n}: must be between 1 and {MAX_CHOICES}; for more, send more requests");
            Err(BadRequest::field("n", "invalid_value", message))
        }
    }
}

/// The most of the likeliest tokens that are told.
const MAX_TOP_LOGPROBS: u32 = 20;

pub(crate) fn logprobs(wanted: Option<bool>, top: Option<i64>) -> Result<Option<u32>, BadRequest> {
    let refuse = |message: String| Err(BadRequest::field("top_logprobs", "invalid_value", message));
    match (wanted.unwrap_or(false), top.map(u32::try_from)) {
        (true, None) => Ok(Some(0)),
        (true, Some(Ok(top @ 0..=MAX_TOP_LOGPROBS))) => Ok(Some(top)),
        (true, Some(_)) => refuse(format!("'top_logprobs' must be between 0 and {MAX_TOP_LOGPROBS}")),
        (false, None | Some(Ok(0))) => Ok(None),
        (false, Some(_)) => refuse("'top_logprobs' needs 'logprobs' to be true".to_owned()),
    }
}
