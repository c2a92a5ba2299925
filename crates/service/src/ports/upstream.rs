//! An OpenAI-compatible server outside this deployment, which answers when no pool can.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

/// A chat request on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamCall {
    /// The JSON body, in the upstream's words.
    pub body: String,
    /// The same for every try of the same request.
    pub idempotency_key: String,
}

/// The beginning of an upstream's answer.
pub struct UpstreamReply {
    /// The HTTP status.
    pub status: u16,
    /// When it wants to be asked again, if it says so.
    pub retry_after: Option<Duration>,
    /// The body as it comes. Dropping it hangs up.
    pub body: BoxStream<'static, Result<Bytes, UpstreamError>>,
}

/// Why an upstream gives no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// No connection came about, or it broke before an answer began: another try may succeed.
    #[error("upstream '{upstream}' cannot be reached: {cause}")]
    Unreachable {
        /// Which.
        upstream: String,
        /// What was seen. Never holds the key.
        cause: String,
    },
    /// The answer broke off: what was said before cannot be unsaid.
    #[error("upstream '{upstream}' broke off: {cause}")]
    Broken {
        /// Which.
        upstream: String,
        /// What was seen.
        cause: String,
    },
}

/// Asks one upstream.
#[async_trait]
pub trait Upstream: Send + Sync {
    /// Posts a chat request; returns with the status. Connects within 2 s or not at all, follows no redirect, and
    /// connects to no address that its configuration does not allow. How long an answer may take is the caller's
    /// business.
    async fn chat(&self, call: &UpstreamCall) -> Result<UpstreamReply, UpstreamError>;
}
