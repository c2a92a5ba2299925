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

/// A client's request with a shorter answer than it asked for.
pub(crate) enum Shorter {
    /// An answer to a conversation.
    Chat(Box<ChatRequest>),
}

impl Shorter {
    /// It, as a request.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        match self {
            Self::Chat(request) => Wanted::Chat(request),
        }
    }
}

impl<'r> Wanted<'r> {
    /// The same with an answer of at most `most` tokens; `None` if it asks for no more.
    pub(crate) fn capped(&self, most: u32) -> Option<Shorter> {
        let most = most.max(1);
        match self {
            Self::Chat(request) if request.max_tokens.is_some_and(|max| max <= most) => None,
            Self::Chat(request) => {
                let max_tokens = Some(most);
                Some(Shorter::Chat(Box::new(ChatRequest { max_tokens, ..ChatRequest::clone(request) })))
            }
        }
    }

    /// The conversation, if it is one.
    pub(crate) fn chat(&self) -> Option<&'r ChatRequest> {
        match self {
            Self::Chat(request) => Some(request),
        }
    }

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
        self.fits(pool).map(|()| pool)
    }

    /// Whether a pool's model can do what is asked.
    ///
    /// # Errors
    /// 400, naming the field, if it can never do it.
    pub(crate) fn fits(&self, pool: &Pool) -> Result<(), ApiError> {
        match self {
            Self::Chat(request) => match request.max_tokens.filter(|max| *max > pool.context_length) {
                None => Ok(()),
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
