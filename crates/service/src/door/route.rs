//! The routes that ask a model for something: they differ in how they name what is asked for and how they tell the
//! answer; what a job runs is the same for all.

/// Which route a job came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// `/v1/chat/completions`.
    #[default]
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/responses`.
    Responses,
    /// `/v1/embeddings`.
    Embeddings,
}

impl Route {
    /// Every route.
    pub const ALL: [Self; 4] = [Self::Chat, Self::Completions, Self::Responses, Self::Embeddings];

    /// The word stores keep.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
        }
    }

    /// The route of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|route| route.name() == name)
    }

    /// What the route calls the field that chat calls `field`: verdicts on a request speak of it as of a chat request.
    #[must_use]
    pub fn field(self, field: &str) -> &str {
        match (self, field) {
            (Self::Completions, "messages") => "prompt",
            (Self::Responses, "messages") => "input",
            (Self::Responses, "max_tokens") => "max_output_tokens",
            (Self::Responses, "response_format") => "text",
            (Self::Chat | Self::Completions | Self::Responses | Self::Embeddings, field) => field,
        }
    }
}
