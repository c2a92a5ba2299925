//! What a request asks for, whichever route it came by: all that the way to a job needs to know of it.

use penstock_wire::chat::ChatRequest;

use crate::canonical::canonical;
use crate::error::ApiError;
use crate::ports::Pool;

/// A checked request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'r> {
    /// An answer to a conversation.
    Chat(&'r ChatRequest),
}

impl Wanted<'_> {
    /// The model's name.
    pub(crate) fn model(&self) -> &str {
        match self {
            Self::Chat(request) => &request.model,
        }
    }

    /// The service tier asked for.
    pub(crate) fn service_tier(&self) -> Option<&str> {
        match self {
            Self::Chat(request) => request.service_tier.as_deref(),
        }
    }

    /// Whether the request leaves it to its tenant whether the answer is kept.
    pub(crate) fn may_be_stored(&self) -> bool {
        match self {
            Self::Chat(request) => request.store != Some(false),
        }
    }

    /// Whether the answer is to be streamed.
    pub(crate) fn is_streamed(&self) -> bool {
        match self {
            Self::Chat(request) => request.stream,
        }
    }

    /// Whether two runs give the same answer, so that one may serve both.
    pub(crate) fn is_deterministic(&self) -> bool {
        match self {
            Self::Chat(request) => request.is_deterministic(),
        }
    }

    /// The bytes in which two requests to a pool are equal exactly if they ask for the same.
    pub(crate) fn canonical(&self, pool: &str) -> Vec<u8> {
        match self {
            Self::Chat(request) => canonical(request, pool),
        }
    }

    /// The pool of the model asked for, if its model can do what is asked.
    ///
    /// # Errors
    /// 404 if there is no such model; 400, naming the field, if it can never do it.
    pub(crate) fn pool<'p>(&self, pools: &'p [Pool]) -> Result<&'p Pool, ApiError> {
        let pool = pools.iter().find(|pool| pool.model == self.model()).ok_or_else(|| {
            let known: Vec<&str> = pools.iter().map(|pool| pool.model.as_str()).collect();
            ApiError::no_such_model(self.model(), &known)
        })?;
        match self {
            Self::Chat(request) => match request.max_tokens.filter(|max| *max > pool.context_length) {
                None => Ok(pool),
                Some(max_tokens) => {
                    let message = format!(
                        "'max_tokens' is {max_tokens}: this model has a context of {} tokens, prompt and answer together",
                        pool.context_length
                    );
                    Err(ApiError::invalid("max_tokens", "invalid_value", message))
                }
            },
        }
    }
}
