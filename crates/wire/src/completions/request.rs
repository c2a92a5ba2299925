//! The request: read tolerantly, checked completely.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::ChatRequest;
use crate::chat::check::{
    RawStop, RawStreamOptions, choices, include_usage, logit_bias, max_tokens, missing, model, stops, top_k, within,
};
use crate::error::BadRequest;
use crate::reading;

/// What OpenAI's route gives if no maximum is asked for.
const USUAL_MAX_TOKENS: u32 = 16;

/// The most answers to all prompts together: they take slots of one worker together.
const MAX_ANSWERS: usize = 32;

/// The most of the likeliest tokens that are told.
const MAX_LOGPROBS: i64 = 20;

/// A prompt that no chat template touches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Prompt {
    /// Its text; not empty.
    Text(String),
    /// Its tokens, by the ids of the model's own tokenizer; not empty.
    Tokens(Vec<u32>),
}

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// What is asked for.
    pub ask: ChatRequest,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "PromptInput"))]
#[serde(untagged, expecting = "must be a text, a list of texts, a list of token ids, or a list of such lists")]
enum RawPrompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "CompletionRequest"))]
pub(crate) struct RawCompletion {
    model: Option<String>,
    prompt: Option<RawPrompt>,
    suffix: Option<String>,
    max_tokens: Option<Value>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    n: Option<i64>,
    best_of: Option<i64>,
    stream: Option<bool>,
    stream_options: Option<RawStreamOptions>,
    logprobs: Option<i64>,
    echo: Option<bool>,
    stop: Option<RawStop>,
    seed: Option<i64>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<serde_json::Map<String, Value>>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    service_tier: Option<String>,
}

impl CompletionRequest {
    /// Reads and checks a request body, as [`ChatRequest::parse`] does.
    ///
    /// # Errors
    /// [`BadRequest`] naming the first field at fault.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let raw: RawCompletion = reading::object(body)?;
        raw.refuse_what_is_not_offered()?;
        raw.check()
    }
}

impl RawCompletion {
    fn refuse_what_is_not_offered(&self) -> Result<(), BadRequest> {
        let refuse = |param: &str, message: String| Err(BadRequest::field(param, "unsupported_parameter", message));
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return refuse("suffix", "text is not filled in between two others; leave 'suffix' out".to_owned());
        }
        let n = self.n.unwrap_or(1);
        if let Some(best_of) = self.best_of.filter(|best_of| *best_of != n) {
            let message = format!("'best_of' is {best_of} and 'n' is {n}: all answers are given; ask for 'n' of them");
            return refuse("best_of", message);
        }
        if self.echo == Some(true) && self.logprobs.is_some() {
            let message =
                "'echo' with 'logprobs': how likely the prompt's tokens were is not told; leave one of them out";
            return refuse("echo", message.to_owned());
        }
        Ok(())
    }

    fn check(self) -> Result<CompletionRequest, BadRequest> {
        let model = model(self.model)?;
        let prompts = prompts(self.prompt.ok_or_else(|| missing("prompt"))?)?;
        let n = choices(self.n)?;
        if prompts.len().saturating_mul(n as usize) > MAX_ANSWERS {
            let message = format!(
                "{} prompts with {n} answers each: at most {MAX_ANSWERS} answers are given to one request; send several",
                prompts.len()
            );
            return Err(BadRequest::field("prompt", "invalid_value", message));
        }
        let ask = ChatRequest {
            prompts,
            echo: self.echo.unwrap_or(false),
            stream: self.stream.unwrap_or(false),
            include_usage: include_usage(self.stream_options),
            temperature: within("temperature", self.temperature, 1.0, 0.0, 2.0)?,
            top_p: within("top_p", self.top_p, 1.0, f32::MIN_POSITIVE, 1.0)?,
            max_tokens: Some(max_tokens("max_tokens", self.max_tokens)?.unwrap_or(USUAL_MAX_TOKENS)),
            stop: stops(self.stop)?,
            seed: self.seed,
            presence_penalty: within("presence_penalty", self.presence_penalty, 0.0, -2.0, 2.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, 0.0, -2.0, 2.0)?,
            top_k: top_k(self.top_k)?,
            min_p: within("min_p", self.min_p, 0.0, 0.0, 1.0)?,
            repetition_penalty: within("repetition_penalty", self.repetition_penalty, 1.0, f32::MIN_POSITIVE, 2.0)?,
            logit_bias: logit_bias(self.logit_bias)?,
            n,
            logprobs: logprobs(self.logprobs)?,
            service_tier: self.service_tier,
            ..ChatRequest::bare(model)
        };
        Ok(CompletionRequest { ask })
    }
}

fn prompts(raw: RawPrompt) -> Result<Vec<Prompt>, BadRequest> {
    let prompts: Vec<Prompt> = match raw {
        RawPrompt::Text(text) => vec![Prompt::Text(text)],
        RawPrompt::Tokens(ids) => vec![Prompt::Tokens(ids)],
        RawPrompt::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        RawPrompt::ManyTokens(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
    };
    let empty = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.is_empty(),
        Prompt::Tokens(ids) => ids.is_empty(),
    };
    if prompts.is_empty() || prompts.iter().any(empty) {
        return Err(BadRequest::field("prompt", "invalid_value", "'prompt' must not be empty"));
    }
    Ok(prompts)
}

fn logprobs(value: Option<i64>) -> Result<Option<u32>, BadRequest> {
    match value {
        None => Ok(None),
        Some(count @ 0..=MAX_LOGPROBS) => Ok(u32::try_from(count).ok()),
        Some(count) => {
            let message = format!("'logprobs' is {count}: must be between 0 and {MAX_LOGPROBS}");
            Err(BadRequest::field("logprobs", "invalid_value", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<ChatRequest, BadRequest> {
        CompletionRequest::parse(body.to_string().as_bytes()).map(|request| request.ask)
    }

    #[test]
    fn a_prompt_is_read_in_all_four_forms() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        for (prompt, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![Prompt::Tokens(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]),
        ] {
            let request = parse(&json!({"model": "m", "prompt": prompt, "n": 2})).unwrap();
            assert_eq!(request.answers() as usize, expected.len() * 2);
            assert_eq!(request.prompts, expected);
            assert!(request.messages.is_empty());
        }
    }

    #[test]
    fn what_openai_leaves_out_is_what_openai_does() {
        let request = parse(&json!({"model": "m", "prompt": "a", "suffix": null, "best_of": 1, "max_tokens": null}));
        let request = request.unwrap();
        assert_eq!((request.max_tokens, request.n, request.logprobs, request.echo), (Some(16), 1, None, false));
    }

    #[test]
    fn a_refusal_names_the_field() {
        for (field, value) in [
            ("prompt", json!("")),
            ("prompt", json!([])),
            ("prompt", json!(["a", ""])),
            ("prompt", json!([["a"]])),
            ("prompt", json!([-1])),
            ("prompt", json!(vec!["a"; 33])),
            ("suffix", json!("x")),
            ("best_of", json!(3)),
            ("logprobs", json!(21)),
            ("logprobs", json!(true)),
            ("n", json!(0)),
        ] {
            let mut body = json!({"model": "m", "prompt": "a"});
            body[field] = value;
            assert_eq!(parse(&body).unwrap_err().param.as_deref(), Some(field), "{body}");
        }
        assert_eq!(parse(&json!({"model": "m"})).unwrap_err().code, "missing_required_parameter");
        let both = json!({"model": "m", "prompt": "a", "echo": true, "logprobs": 0});
        assert_eq!(parse(&both).unwrap_err().param.as_deref(), Some("echo"));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CompletionRequest::parse(&body);
        }
    }
}
