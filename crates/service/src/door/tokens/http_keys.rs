//! Fetches an issuer's keys over HTTP and TLS.

use std::time::Duration;

use async_trait::async_trait;
use http::header;

use crate::door::tokens::issuer::IssuerConfig;
use crate::outward::client::{cause, client_of};
use crate::ports::{KeyFetch, NoKeys};

/// The longest a fetch may take: a request waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest set of keys that is read, in bytes.
const MOST_BYTES: usize = 256 << 10;

/// An issuer whose keys cannot be fetched by this machine at all.
#[derive(Debug, thiserror::Error)]
#[error("issuer '{issuer}': no TLS client can be made: {source}")]
pub struct NoClient {
    issuer: String,
    source: reqwest::Error,
}

pub(super) struct HttpKeys {
    url: String,
    client: reqwest::Client,
}

impl HttpKeys {
    /// Ready to fetch; connects to nothing yet.
    ///
    /// # Errors
    /// [`NoClient`] if this machine has no certificates to trust.
    pub(super) fn new(config: &IssuerConfig) -> Result<Self, NoClient> {
        let client = client_of(config.reach)
            .https_only(config.jwks_url.starts_with("https:"))
            .build()
            .map_err(|source| NoClient { issuer: config.issuer.clone(), source })?;
        Ok(Self { url: config.jwks_url.clone(), client })
    }

    fn failed(&self, cause: String) -> NoKeys {
        NoKeys { url: self.url.clone(), cause }
    }
}

#[async_trait]
impl KeyFetch for HttpKeys {
    async fn fetch(&self) -> Result<Vec<u8>, NoKeys> {
        let request = self.client.get(&self.url).header(header::ACCEPT, "application/json").timeout(PATIENCE);
        let mut response = request.send().await.map_err(|error| self.failed(cause(&error)))?;
        if !response.status().is_success() {
            return Err(self.failed(format!("it answered {}", response.status())));
        }
        let mut text = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.failed(cause(&error)))? {
            text.extend_from_slice(&piece);
            if text.len() > MOST_BYTES {
                return Err(self.failed(format!("it is larger than {MOST_BYTES} bytes")));
            }
        }
        Ok(text)
    }
}
