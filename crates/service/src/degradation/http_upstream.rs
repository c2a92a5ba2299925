//! The upstream port over HTTP and TLS. The one file of this crate that opens connections; behind the feature
//! `upstream`, so that a build without it has no TLS.
//!
//! Safe against being led elsewhere: a name is resolved here, every address it resolves to is checked, and only the
//! checked ones are given to the connector, so nothing resolves the name a second time. Redirects are answers like any
//! other, and no proxy is taken from the environment.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use http::header;
use penstock_policy::address::Reach;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;

use crate::degradation::upstreams::{Outside, UpstreamConfig};
use crate::ports::{Upstream, UpstreamCall, UpstreamError, UpstreamReply};

/// How long a connection may take to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(2);

/// How long an idle connection is kept: less than servers usually do.
const IDLE: Duration = Duration::from_secs(30);

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
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .https_only(config.url.starts_with("https:"))
            .dns_resolver(Arc::new(CheckedResolver { reach: config.reach }))
            .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
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

/// The error with everything behind it, without the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut words = Vec::new();
    let mut behind: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = behind {
        words.push(error.to_string());
        behind = error.source();
    }
    if words.is_empty() {
        words.push(if error.is_timeout() { "it took too long".to_owned() } else { "no reason given".to_owned() });
    }
    words.join(": ")
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let ms = number("retry-after-ms").or_else(|| number("retry-after").map(|seconds| seconds * 1000.0))?;
    Duration::try_from_secs_f64(ms / 1000.0).ok()
}

/// Resolves a name to those of its addresses that may be connected to.
struct CheckedResolver {
    reach: Reach,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = within_reach(reach, name.as_str(), found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// A name leads where it may not.
#[derive(Debug, thiserror::Error)]
#[error("'{name}' resolves to {address}, which is out of reach")]
struct OutOfReach {
    name: String,
    address: IpAddr,
}

/// All addresses, if every one of them may be connected to: a name that leads to one forbidden place is not trusted with
/// its other places.
fn within_reach(reach: Reach, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, OutOfReach> {
    match found.iter().find(|address| !reach.allows(address.ip())) {
        Some(address) => Err(OutOfReach { name: name.to_owned(), address: address.ip() }),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_to_a_forbidden_place_too_is_not_followed_at_all() {
        let addresses =
            |list: &[&str]| list.iter().map(|text| format!("{text}:0").parse().unwrap()).collect::<Vec<_>>();
        assert!(within_reach(Reach::Public, "n", addresses(&["1.1.1.1", "[2606:4700::1]"])).is_ok());
        assert!(within_reach(Reach::Public, "n", addresses(&["1.1.1.1", "169.254.169.254"])).is_err());
        assert!(within_reach(Reach::Loopback, "n", addresses(&["127.0.0.1"])).is_ok());
        assert!(within_reach(Reach::Public, "n", addresses(&["[::1]"])).is_err());
    }

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
