//! Signed tokens in the place of API keys, and the keys their issuers publish.
//!
//! What checks signatures and fetches keys needs cryptography and TLS, which a build of the use cases does without.

use std::time::Duration;

use async_trait::async_trait;
use penstock_policy::classes::Class;
use penstock_policy::id::TenantId;
use penstock_policy::time::Timestamp;
use penstock_policy::token::Claims;

/// What a believed token comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// For whom it speaks. Whether there is such a tenant, and whether it has revoked the token, is still to be seen.
    pub tenant: TenantId,
    /// The best class it may have.
    pub ceiling: Class,
    /// Its claims.
    pub claims: Claims,
}

/// Why a token comes to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not believed; the words are for whoever holds it.
    #[error("{0}")]
    Refused(String),
    /// Its issuer's keys are not known and cannot be fetched.
    #[error("the keys of the token's issuer cannot be fetched")]
    KeysUnavailable {
        /// When they are tried again.
        wait: Duration,
    },
}

/// Reads signed tokens of the issuers that a deployment trusts.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// Checks a token's algorithm, signature, issuer, audience and times.
    async fn read(&self, token: &str, now: Timestamp) -> Result<Bearer, TokenError>;
}

/// A set of keys that could not be fetched: what was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the keys at {url} cannot be fetched: {cause}")]
pub struct NoKeys {
    /// Where they should be.
    pub url: String,
    /// What was seen.
    pub cause: String,
}

/// Fetches the keys of one issuer.
#[async_trait]
pub trait KeyFetch: Send + Sync {
    /// The JSON Web Key Set (RFC 7517) as its issuer publishes it. Answers or gives up within 5 s.
    async fn fetch(&self) -> Result<Vec<u8>, NoKeys>;
}
