//! What a line asks for: the same requests as the routes', read by the same checks.

use penstock_wire::batches::Endpoint;
use penstock_wire::chat::ChatRequest;
use penstock_wire::completions::CompletionRequest;
use penstock_wire::embeddings::EmbeddingsRequest;
use penstock_wire::error::BadRequest;
use penstock_wire::responses::{ResponseEcho, ResponseRequest};
use serde_json::value::RawValue;

use crate::Service;
use crate::admission::wanted::Wanted;
use crate::door::rendering::completion;
use crate::door::route::Route;
use crate::door::telling::{CompletionsTelling, Heading, ResponseTelling};
use crate::door::vectors::vectors_of;
use crate::error::ApiError;
use crate::ports::{Answer, Chunk, JobSpec};

/// A line's request.
pub(super) enum LineRequest {
    Chat(Box<ChatRequest>),
    Completion(Box<ChatRequest>),
    Embeddings(EmbeddingsRequest),
    Response { echo: Box<ResponseEcho>, ask: Box<ChatRequest> },
}

impl LineRequest {
    /// Reads a line's body.
    ///
    /// # Errors
    /// What the route would refuse, and what only somebody who waits could be given: streams, backgrounds, conversations.
    pub(super) fn parse(body: &[u8], endpoint: Endpoint) -> Result<Self, BadRequest> {
        let request = match endpoint {
            Endpoint::Chat => Self::Chat(Box::new(ChatRequest::parse(body)?)),
            Endpoint::Completions => Self::Completion(Box::new(CompletionRequest::parse(body)?.ask)),
            Endpoint::Embeddings => Self::Embeddings(EmbeddingsRequest::parse(body)?),
            Endpoint::Responses => {
                let request = ResponseRequest::parse(body)?;
                let refuse = |field: &str| {
                    let message = format!("'{field}' is not offered in a batch; leave it out");
                    Err(BadRequest::field(field, "unsupported_parameter", message))
                };
                if request.echo.background {
                    return refuse("background");
                }
                if request.echo.previous_response_id.is_some() {
                    return refuse("previous_response_id");
                }
                let ask = request.asking(&[])?;
                // The answer is in the output file, and nowhere else.
                let echo = ResponseEcho { store: false, ..request.echo };
                Self::Response { echo: Box::new(echo), ask: Box::new(ask) }
            }
        };
        if request.wanted().is_streamed() {
            let message = "'stream' is not offered in a batch: nobody would read it; leave it out";
            return Err(BadRequest::field("stream", "unsupported_parameter", message));
        }
        Ok(request)
    }

    /// It, as any other request.
    pub(super) fn wanted(&self) -> Wanted<'_> {
        match self {
            Self::Chat(ask) | Self::Completion(ask) => Wanted::Chat(ask),
            Self::Embeddings(ask) => Wanted::Embeddings(ask),
            Self::Response { ask, .. } => Wanted::Response(ask),
        }
    }

    /// The body that the route would answer with.
    pub(super) async fn answered(
        &self,
        service: &Service,
        spec: &JobSpec,
        said: &[Chunk],
        answer: &Answer,
    ) -> Result<Box<RawValue>, ApiError> {
        let wanted = self.wanted();
        let model = wanted.model();
        let heading = Heading { shown: spec.id, created: spec.created, model: model.to_owned(), class: spec.class };
        match self {
            Self::Chat(_) => raw(&completion(spec.id, spec.created, model, spec.class, said, answer)),
            Self::Completion(_) => raw(&CompletionsTelling::new(heading, false).completion(said, answer)),
            Self::Embeddings(ask) => {
                let vectors = vectors_of(said).ok_or_else(ApiError::internal)?;
                raw(&service.embedding_list(model, ask.encoding, vectors).await?)
            }
            Self::Response { echo, .. } => {
                raw(&ResponseTelling::new(heading, (**echo).clone(), None).finished(said, answer))
            }
        }
    }
}

/// The route of an endpoint, which names the fields of errors.
pub(super) fn route(endpoint: Endpoint) -> Route {
    match endpoint {
        Endpoint::Chat => Route::Chat,
        Endpoint::Completions => Route::Completions,
        Endpoint::Embeddings => Route::Embeddings,
        Endpoint::Responses => Route::Responses,
    }
}

/// A value as JSON text.
pub(super) fn raw(value: &impl serde::Serialize) -> Result<Box<RawValue>, ApiError> {
    serde_json::value::to_raw_value(value).map_err(|_| ApiError::internal())
}
