//! The headers of an answer that say what admission knows.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use penstock_policy::gcra::{self, Limit};
use penstock_policy::time::Timestamp;

use crate::admit::{Admission, How};
use crate::ports::{Levels, Tenant, TenantLimits};

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
    if let Some(wait) = admission.wait {
        tell("x-penstock-eta-ms", wait.as_millis().to_string());
    }
    if let Some(levels) = &admission.levels {
        let TenantLimits { requests, tokens, .. } = tenant.limits;
        for (name, limit, part) in [
            (
                ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
                requests,
                0,
            ),
            (["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"], tokens, 1),
        ] {
            let [most, left, reset] = limit_state(levels, part, &limit, now);
            tell(name[0], most);
            tell(name[1], left);
            tell(name[2], reset);
        }
    }
    headers
}

fn limit_state(levels: &Levels, part: usize, limit: &Limit, now: Timestamp) -> [String; 3] {
    let bucket = levels.part(part);
    let full_in = gcra::backlog(bucket, now);
    [limit.burst().to_string(), gcra::available(bucket, limit, now).to_string(), go_duration(full_in)]
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
