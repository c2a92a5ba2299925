//! The headers of an answer that say what admission knows.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use penstock_policy::gcra;
use penstock_policy::promise::Promise;
use penstock_policy::tenant::TenantLimits;
use penstock_policy::time::Timestamp;

use crate::admission::admit::{Admission, How};
use crate::admission::limits::shards;
use crate::ports::{Levels, Tenant};

/// The headers that say what admission knows.
pub(crate) fn told(admission: &Admission, tenant: &Tenant, now: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut tell = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let (served_by, own) = match admission.how {
        How::Fresh => ("fresh", true),
        How::Joined => ("fresh", false),
        How::Served => ("l2", false),
        How::Elsewhere => ("fallback", false),
        How::Kept { found, age } => {
            tell("age", age.as_secs().to_string());
            (found.name(), false)
        }
    };
    tell("x-penstock-served-by", served_by.to_owned());
    if own {
        tell("x-penstock-job-id", admission.job.to_string());
    }
    if let Some(promise) = &admission.promise {
        for (name, value) in promised(promise) {
            tell(name, value);
        }
    }
    if let Some(levels) = &admission.levels {
        for (name, value) in limit_state(levels, &tenant.limits, now) {
            tell(name, value);
        }
    }
    headers
}

/// The headers that state a promise.
pub(crate) fn promised(promise: &Promise) -> [(&'static str, String); 4] {
    [
        ("x-penstock-eta-ms", promise.eta_50.as_millis().to_string()),
        ("x-penstock-eta-95-ms", promise.eta_95.as_millis().to_string()),
        ("x-penstock-position", promise.position.to_string()),
        ("x-penstock-cost-usd", promise.price.to_string()),
    ]
}

/// The headers that state a tenant's rate limits, from the buckets of one of its shards.
pub(crate) fn limit_state(levels: &Levels, limits: &TenantLimits, now: Timestamp) -> Vec<(&'static str, String)> {
    let shards = shards(limits);
    let names = [
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
    ];
    let mut headers = Vec::new();
    for (part, (names, limit)) in names.into_iter().zip([limits.requests, limits.tokens]).enumerate() {
        let bucket = levels.part(part);
        // The other shards are used alike.
        let left = gcra::available(bucket, &limit.part_of(shards), now).saturating_mul(u64::from(shards));
        let values =
            [limit.burst().to_string(), left.min(limit.burst()).to_string(), go_duration(gcra::backlog(bucket, now))];
        headers.extend(names.into_iter().zip(values));
    }
    headers
}

/// A duration as OpenAI writes them in `x-ratelimit-reset-*`: `0s`, `250ms`, `1.5s`, `6m0s`.
fn go_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".to_owned(),
        1..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}s", (ms as f64) / 1000.0),
        _ => format!("{}m{}s", ms / 60_000, (ms % 60_000) / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (ms, text) in [(0, "0s"), (250, "250ms"), (1500, "1.5s"), (2000, "2s"), (360_000, "6m0s")] {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
    }
}
