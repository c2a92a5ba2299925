//! The courier over HTTP and TLS.

use std::time::Duration;

use async_trait::async_trait;
use http::header;
use penstock_policy::address::Reach;

use crate::outward::check_url;
use crate::outward::client::{cause, client_of};
use crate::ports::{Courier, Letter, Undelivered};

/// How long a receiver has for its answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// Brings messages over HTTP.
pub struct HttpCourier {
    /// One client for each reach: how far a connection may lead is fixed when a client is made, so that no kept
    /// connection of one is used for another.
    clients: [(Reach, reqwest::Client); 3],
}

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("no TLS client for webhooks can be made: {0}")]
pub struct NoCourier(#[from] reqwest::Error);

impl HttpCourier {
    /// Makes a courier; connects to nothing yet.
    ///
    /// # Errors
    /// [`NoCourier`] if this machine has no certificates to trust.
    pub fn new() -> Result<Self, NoCourier> {
        let of = |reach| Ok::<_, NoCourier>((reach, client_of(reach).timeout(ANSWERED_WITHIN).build()?));
        Ok(Self { clients: [of(Reach::Public)?, of(Reach::Loopback)?, of(Reach::Private)?] })
    }
}

#[async_trait]
impl Courier for HttpCourier {
    async fn bring(&self, letter: &Letter) -> Result<u16, Undelivered> {
        // An address in place of a name is resolved by nobody, so it is checked here.
        check_url(&letter.url, letter.reach).map_err(|barred| Undelivered(barred.to_string()))?;
        let client = self.clients.iter().find(|(reach, _)| *reach == letter.reach).map(|(_, client)| client);
        let client = client.ok_or_else(|| Undelivered("there is no client of that reach".to_owned()))?;
        let mut request =
            client.post(&letter.url).header(header::CONTENT_TYPE, "application/json").body(letter.body.clone());
        for (name, value) in &letter.headers {
            request = request.header(*name, value);
        }
        match request.send().await {
            Ok(response) => Ok(response.status().as_u16()),
            Err(error) => Err(Undelivered(cause(&error))),
        }
    }
}
