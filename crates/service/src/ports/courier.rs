//! Whoever brings a message to a receiver outside this deployment.

use async_trait::async_trait;
use penstock_policy::address::Reach;

/// A message on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Where to.
    pub url: String,
    /// How far that may lead.
    pub reach: Reach,
    /// The headers, beside those of any JSON body.
    pub headers: Vec<(&'static str, String)>,
    /// The JSON body.
    pub body: String,
}

/// Why nobody has answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undelivered(
    /// What was seen. Never holds a secret.
    pub String,
);

/// Brings messages.
#[async_trait]
pub trait Courier: Send + Sync {
    /// Posts a letter and returns the status of the answer, whatever it is. Connects within 2 s or not at all, gives up
    /// after 15 s, follows no redirect, and connects to no address out of the letter's reach.
    async fn bring(&self, letter: &Letter) -> Result<u16, Undelivered>;
}
