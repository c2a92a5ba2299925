//! `POST /v1/completions`: prompts that go to the model as they are, without a chat template.

mod answer;
pub(crate) mod request;

pub use answer::{TextChoice, TextCompletion, TextLogprobs};
pub use request::{CompletionRequest, Prompt};
