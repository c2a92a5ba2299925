//! The upstream port over HTTP and TLS; behind the feature `upstream`, so that a build without it has no TLS.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use http::header;

use crate::degradation::upstreams::{Outside, UpstreamConfig};
use crate::outward::client::{cause, client_of};
use crate::ports::{Upstream, UpstreamCall, UpstreamError, UpstreamReply};

/// Asks one upstream over HTTP.
pub struct HttpUpstream {
    config: Arc<UpstreamConfig>,
    client: reqwest::Client,
}

/// An upstream whose client cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("upstream '{name}': no TLS client can be made: {source}")]
pub struct NoClient {
    name: String,
    source: reqwest::Error,
}

impl HttpUpstream {
    /// Makes an upstream ready to be asked; connects to nothing yet.
    ///
    /// # Errors
    /// [`NoClient`] if this machine has no certificates to trust.
    pub fn outside(config: UpstreamConfig) -> Result<Outside, NoClient> {
        let client = client_of(config.reach)
            .https_only(config.url.starts_with("https:"))
            .build()
            .map_err(|source| NoClient { name: config.name.to_string(), source })?;
        let config = Arc::new(config);
        Ok(Outside { config: Arc::clone(&config), port: Arc::new(Self { config, client }) })
    }
}

#[async_trait]
impl Upstream for HttpUpstream {
    async fn chat(&self, call: &UpstreamCall) -> Result<UpstreamReply, UpstreamError> {
        let mut request = self
            .client
            .post(format!("{}/chat/completions", self.config.url))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "text/event-stream")
            .header("idempotency-key", &call.idempotency_key)
            .body(call.body.clone());
        if let Some(key) = &self.config.key {
            request = request.bearer_auth(key.expose());
        }
        let upstream = self.config.name.to_string();
        let response = request
            .send()
            .await
            .map_err(|error| UpstreamError::Unreachable { upstream: upstream.clone(), cause: cause(&error) })?;
        let broken =
            move |error: reqwest::Error| UpstreamError::Broken { upstream: upstream.clone(), cause: cause(&error) };
        Ok(UpstreamReply {
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers()),
            body: response.bytes_stream().map(move |piece| piece.map_err(&broken)).boxed(),
        })
    }
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let ms = number("retry-after-ms").or_else(|| number("retry-after").map(|seconds| seconds * 1000.0))?;
    Duration::try_from_secs_f64(ms / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_retry_after_are_read_and_the_exact_one_wins() {
        let headers = |pairs: &[(&'static str, &str)]| {
            pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
        };
        assert_eq!(retry_after(&headers(&[("retry-after", "3")])), Some(Duration::from_secs(3)));
        let both = headers(&[("retry-after", "3"), ("retry-after-ms", "2500")]);
        assert_eq!(retry_after(&both), Some(Duration::from_millis(2500)));
        assert_eq!(retry_after(&headers(&[("retry-after", "-1")])), None);
        assert_eq!(retry_after(&headers(&[])), None);
    }
}
