//! What a request asks for, whichever route it came by: all that the way to a job needs to know of it.

use penstock_wire::chat::ChatRequest;
use penstock_wire::embeddings::EmbeddingsRequest;

use crate::door::route::Route;
use crate::error::ApiError;
use crate::kept::canonical::{canonical, canonical_embeddings};
use crate::ports::{Pool, PoolKind};

/// A checked request.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'r> {
    /// An answer to a conversation, or to raw prompts.
    Chat(&'r ChatRequest),
    /// The same, by `/v1/responses`.
    Response(&'r ChatRequest),
    /// Vectors of texts.
    Embeddings(&'r EmbeddingsRequest),
}

/// A client's request with a shorter answer than it asked for.
pub(crate) enum Shorter {
    /// An answer to a conversation, or to raw prompts.
    Chat(Box<ChatRequest>),
    /// The same, by `/v1/responses`.
    Response(Box<ChatRequest>),
}

impl Shorter {
    /// It, as a request.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        match self {
            Self::Chat(request) => Wanted::Chat(request),
            Self::Response(request) => Wanted::Response(request),
        }
    }
}

impl<'r> Wanted<'r> {
    /// The same with an answer of at most `most` tokens; `None` if it asks for no more.
    pub(crate) fn capped(&self, most: u32) -> Option<Shorter> {
        let most = most.max(1);
        let shorter = |request: &ChatRequest| {
            let is_longer = request.max_tokens.is_none_or(|max| max > most);
            is_longer.then(|| Box::new(ChatRequest { max_tokens: Some(most), ..request.clone() }))
        };
        match self {
            Self::Chat(request) => shorter(request).map(Shorter::Chat),
            Self::Response(request) => shorter(request).map(Shorter::Response),
            // There is no answer to make shorter.
            Self::Embeddings(_) => None,
        }
    }

    /// The conversation, if it is one.
    pub(crate) fn chat(&self) -> Option<&'r ChatRequest> {
        match self {
            Self::Chat(request) | Self::Response(request) => request.prompts.is_empty().then_some(*request),
            Self::Embeddings(_) => None,
        }
    }

    /// Whether words answer it: those of another model, or of no model, are better than none.
    pub(crate) fn makes_text(&self) -> bool {
        self.kind() == PoolKind::Generation
    }

    /// How many answers it asks for.
    pub(crate) fn answers(&self) -> u32 {
        match self {
            Self::Chat(request) | Self::Response(request) => request.answers(),
            Self::Embeddings(_) => 1,
        }
    }

    /// The model's name.
    pub(crate) fn model(&self) -> &str {
        match self {
            Self::Chat(request) | Self::Response(request) => &request.model,
            Self::Embeddings(request) => &request.model,
        }
    }

    /// The route it came by.
    pub(crate) fn route(&self) -> Route {
        match self {
            // Only `/v1/completions` takes raw prompts.
            Self::Chat(request) if request.prompts.is_empty() => Route::Chat,
            Self::Chat(_) => Route::Completions,
            Self::Response(_) => Route::Responses,
            Self::Embeddings(_) => Route::Embeddings,
        }
    }

    /// The service tier asked for.
    pub(crate) fn service_tier(&self) -> Option<&str> {
        match self {
            Self::Chat(request) | Self::Response(request) => request.service_tier.as_deref(),
            Self::Embeddings(request) => request.service_tier.as_deref(),
        }
    }

    /// Whether the request leaves it to its tenant whether the answer is kept.
    pub(crate) fn may_be_stored(&self) -> bool {
        match self {
            Self::Chat(request) | Self::Response(request) => request.store != Some(false),
            // There is no such field.
            Self::Embeddings(_) => true,
        }
    }

    /// Whether the answer is to be streamed.
    pub(crate) fn is_streamed(&self) -> bool {
        match self {
            Self::Chat(request) | Self::Response(request) => request.stream,
            Self::Embeddings(_) => false,
        }
    }

    /// Whether two runs give the same answer, so that one may serve both.
    pub(crate) fn is_deterministic(&self) -> bool {
        match self {
            Self::Chat(request) | Self::Response(request) => request.is_deterministic(),
            Self::Embeddings(_) => true,
        }
    }

    /// The bytes in which two requests to a pool are equal exactly if they ask for the same.
    pub(crate) fn canonical(&self, pool: &str) -> Vec<u8> {
        match self {
            Self::Chat(request) | Self::Response(request) => canonical(request, pool),
            Self::Embeddings(request) => canonical_embeddings(request, pool),
        }
    }

    /// What kind of model can do it.
    fn kind(&self) -> PoolKind {
        match self {
            Self::Chat(_) | Self::Response(_) => PoolKind::Generation,
            Self::Embeddings(_) => PoolKind::Embedding,
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
        if pool.kind != self.kind() {
            return Err(self.wrong_kind(pools));
        }
        self.fits(pool).map(|()| pool)
    }

    /// Whether a pool's model can do what is asked.
    ///
    /// # Errors
    /// 400, naming the field, if it can never do it.
    pub(crate) fn fits(&self, pool: &Pool) -> Result<(), ApiError> {
        match self {
            Self::Chat(request) | Self::Response(request) => {
                match request.max_tokens.filter(|max| *max > pool.context_length) {
                    None => Ok(()),
                    Some(max_tokens) => {
                        let message = format!(
                            "'max_tokens' is {max_tokens}: this model has a context of {} tokens, prompt and answer together",
                            pool.context_length
                        );
                        Err(ApiError::invalid("max_tokens", "invalid_value", message))
                    }
                }
            }
            Self::Embeddings(_) => Ok(()),
        }
    }

    fn wrong_kind(&self, pools: &[Pool]) -> ApiError {
        let fitting: Vec<&str> =
            pools.iter().filter(|pool| pool.kind == self.kind()).map(|pool| pool.model.as_str()).collect();
        let fitting = if fitting.is_empty() { "none is offered".to_owned() } else { fitting.join(", ") };
        let message = match self.kind() {
            PoolKind::Generation => format!(
                "the model '{}' turns texts into vectors (/v1/embeddings); models that answer: {fitting}",
                self.model()
            ),
            PoolKind::Embedding => format!(
                "the model '{}' answers conversations (/v1/chat/completions); models that make vectors: {fitting}",
                self.model()
            ),
        };
        ApiError::invalid("model", "wrong_model_kind", message)
    }
}
