//! `GET /v1/models` and `GET /v1/models/{id}`.

use serde::{Deserialize, Serialize};

/// The list of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// The models a tenant may ask for.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Model {
    /// The name to put into a request's `model`.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// Seconds since the epoch at which the model was added.
    pub created: i64,
    /// Who serves it.
    pub owned_by: String,
    /// What it makes: `generation` (text) or `embedding`.
    pub kind: String,
    /// The most tokens prompt and answer may have together.
    pub context_length: u32,
}

impl Model {
    /// Makes a model's entry.
    #[must_use]
    pub fn new(id: &str, created: i64, kind: &str, context_length: u32) -> Self {
        Self {
            id: id.to_owned(),
            object: "model".to_owned(),
            created,
            owned_by: "penstock".to_owned(),
            kind: kind.to_owned(),
            context_length,
        }
    }
}

impl ModelList {
    /// Makes the list.
    #[must_use]
    pub fn new(data: Vec<Model>) -> Self {
        Self { object: "list".to_owned(), data }
    }
}
