//! How likely the tokens of an answer were.

use serde::{Deserialize, Serialize};

/// The log probabilities of an answer's tokens, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Logprobs {
    /// One entry a token; end tokens are left out.
    pub content: Vec<TokenLogprob>,
    /// Always null.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct TokenLogprob {
    /// The token.
    #[serde(flatten)]
    pub chosen: Likelihood,
    /// The likeliest tokens in its place, likeliest first.
    pub top_logprobs: Vec<Likelihood>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Likelihood {
    /// Its text; what is no whole character is replaced.
    pub token: String,
    /// The natural logarithm of its probability by the model alone, before temperature and the like.
    pub logprob: f32,
    /// Its bytes, exactly.
    pub bytes: Vec<u8>,
}

impl Likelihood {
    /// A token of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>, logprob: f32) -> Self {
        // JSON has no infinity; OpenAI writes this for what is as good as impossible.
        const IMPOSSIBLE: f32 = -9999.0;
        let token = String::from_utf8_lossy(&bytes).into_owned();
        Self { token, logprob: if logprob.is_finite() { logprob } else { IMPOSSIBLE }, bytes }
    }
}
