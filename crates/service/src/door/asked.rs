//! What a request's headers ask for beside its body.

use http::{HeaderMap, header};
use penstock_policy::cache::Wish;
use penstock_policy::trace::TraceContext;

use crate::error::ApiError;

/// The header that names the trace.
pub(crate) const TRACE_PARENT: &str = "traceparent";

/// What the headers ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// A name the client gave the request: whatever bears it is the same request.
    pub(crate) idempotency_key: Option<String>,
    /// How often the client has tried this request before, as the stock clients say of themselves.
    pub(crate) earlier_tries: u32,
    /// What it wishes of kept answers (`Cache-Control`).
    pub(crate) wish: Wish,
    /// Nothing is to be done but to say what would be: `x-penstock-dry-run: 1`.
    pub(crate) dry_run: bool,
    /// The span of this request (`traceparent`).
    pub(crate) trace: Option<TraceContext>,
}

impl Asked {
    /// Reads the headers.
    ///
    /// # Errors
    /// 400 about an `Idempotency-Key` that is none. A malformed count of tries is taken for a first try: no client's
    /// correctness may hang on it.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let tries = headers.get("x-stainless-retry-count").and_then(|value| value.to_str().ok());
        Ok(Self {
            idempotency_key: idempotency_key(headers)?.map(str::to_owned),
            earlier_tries: tries.and_then(|text| text.parse().ok()).unwrap_or(0),
            wish: wish(headers),
            dry_run: dry_run(headers)?,
            trace: trace(headers),
        })
    }
}

/// The trace that a request says it belongs to.
pub(crate) fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    headers.get(TRACE_PARENT)?.to_str().ok()?.parse().ok()
}

/// Several headers are one, as RFC 9110 has it.
fn wish(headers: &HeaderMap) -> Wish {
    let lines: Vec<&str> =
        headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()).collect();
    Wish::read(&lines.join(","))
}

/// A dry run that is not understood must not become work.
fn dry_run(headers: &HeaderMap) -> Result<bool, ApiError> {
    let Some(value) = headers.get("x-penstock-dry-run") else { return Ok(false) };
    match value.as_bytes() {
        b"1" | b"true" => Ok(true),
        b"0" | b"false" => Ok(false),
        _ => Err(ApiError::invalid("x-penstock-dry-run", "invalid_value", "'x-penstock-dry-run' must be 0 or 1")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=256).contains(&key.len()) => Ok(Some(key)),
        Ok(_) | Err(_) => {
            let message = "'Idempotency-Key' must be 1 to 256 characters of printable ASCII";
            Err(ApiError::invalid("Idempotency-Key", "invalid_value", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &str) -> Result<Asked, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Asked::read(&headers)
    }

    #[test]
    fn a_key_is_taken_as_it_is_and_an_empty_or_endless_one_refused() {
        assert_eq!(read("idempotency-key", "k 1").unwrap().idempotency_key.as_deref(), Some("k 1"));
        assert!(read("idempotency-key", "").is_err());
        assert!(read("idempotency-key", &"k".repeat(257)).is_err());
    }

    #[test]
    fn a_dry_run_that_is_not_understood_is_refused() {
        assert!(read("x-penstock-dry-run", "1").unwrap().dry_run);
        assert!(!read("x-penstock-dry-run", "0").unwrap().dry_run);
        assert!(read("x-penstock-dry-run", "yes please").is_err());
    }

    #[test]
    fn whoever_does_not_count_its_tries_comes_for_the_first_time() {
        assert_eq!(read("x-stainless-retry-count", "2").unwrap().earlier_tries, 2);
        for malformed in ["-1", "many", ""] {
            assert_eq!(read("x-stainless-retry-count", malformed).unwrap().earlier_tries, 0, "{malformed}");
        }
    }
}
