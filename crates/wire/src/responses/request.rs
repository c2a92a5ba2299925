//! The request: read tolerantly, checked completely.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Reasoning, ResponseEcho, TextSettings};
use super::item::{Item, RawItem, messages};
use super::tools::{format, tool_choice, tools};
use crate::chat::check::{max_tokens, missing, model, within};
use crate::chat::{ChatRequest, MAX_BODY_BYTES, Message};
use crate::error::BadRequest;
use crate::reading;

/// What metadata may hold.
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;

/// The most of the likeliest tokens that are told.
const MAX_TOP_LOGPROBS: i64 = 20;

/// The field of `include` that asks how likely the tokens were.
const LOGPROBS: &str = "message.output_text.logprobs";

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseRequest {
    /// What is asked for, but for the conversation: see [`ResponseRequest::asking`].
    ask: ChatRequest,
    /// What the client adds to the conversation.
    pub input: Vec<Item>,
    /// What the answer says of the request.
    pub echo: ResponseEcho,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "ResponseInput"))]
#[serde(untagged, expecting = "must be a text or a list of items")]
enum RawInput {
    Text(String),
    Items(Vec<RawItem>),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "ResponseTextInput"))]
struct RawText {
    format: Option<Value>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "ReasoningInput"))]
struct RawReasoning {
    effort: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "ResponseRequest"))]
pub(crate) struct RawResponse {
    model: Option<String>,
    input: Option<RawInput>,
    instructions: Option<String>,
    max_output_tokens: Option<Value>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<i64>,
    text: Option<RawText>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    metadata: Option<BTreeMap<String, String>>,
    store: Option<bool>,
    background: Option<bool>,
    stream: Option<bool>,
    previous_response_id: Option<String>,
    conversation: Option<Value>,
    prompt: Option<Value>,
    truncation: Option<String>,
    include: Option<Vec<String>>,
    top_logprobs: Option<i64>,
    reasoning: Option<RawReasoning>,
    service_tier: Option<String>,
    user: Option<String>,
}

impl ResponseRequest {
    /// Reads and checks a request body, as [`ChatRequest::parse`] does.
    ///
    /// # Errors
    /// [`BadRequest`] naming the first field at fault.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let raw: RawResponse = reading::object(body)?;
        raw.refuse_what_is_not_offered()?;
        raw.check()
    }

    /// What is asked for, after what was said before: `history` and the input, under the instructions.
    ///
    /// # Errors
    /// [`BadRequest`] if nobody has said anything, or more than a request may hold.
    pub fn asking(&self, history: &[Item]) -> Result<ChatRequest, BadRequest> {
        let instructions = self.echo.instructions.iter().map(|text| Message::new("system", text.clone()));
        let messages: Vec<Message> = instructions.chain(messages(history.iter().chain(&self.input))).collect();
        if messages.iter().all(|message| message.content.is_empty()) {
            return Err(BadRequest::field("input", "invalid_value", "'input' must hold some text: all is empty"));
        }
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        if bytes > MAX_BODY_BYTES {
            let message = format!("the conversation holds {bytes} bytes, more than {MAX_BODY_BYTES}: begin a new one");
            return Err(BadRequest::field("previous_response_id", "context_length_exceeded", message));
        }
        Ok(ChatRequest { messages, ..self.ask.clone() })
    }

    /// Whether the answer is to be streamed.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.ask.stream
    }
}

impl RawResponse {
    fn refuse_what_is_not_offered(&self) -> Result<(), BadRequest> {
        let refuse = |param: &str, what: &str| {
            Err(BadRequest::field(param, "unsupported_parameter", format!("{what}; leave '{param}' out")))
        };
        let is_set = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        if is_set(&self.conversation) {
            return refuse("conversation", "conversations are continued by 'previous_response_id'");
        }
        if is_set(&self.prompt) {
            return refuse("prompt", "prompts are not kept here");
        }
        if self.truncation.as_deref().is_some_and(|how| how != "disabled") {
            return refuse("truncation", "nothing is dropped from a conversation silently");
        }
        if self.background == Some(true) && self.store == Some(false) {
            let message = "a response in the background is collected later, so it must be kept; leave 'store' out";
            return Err(BadRequest::field("store", "invalid_value", message));
        }
        Ok(())
    }

    fn check(self) -> Result<ResponseRequest, BadRequest> {
        let model = model(self.model)?;
        let input = match self.input.ok_or_else(|| missing("input"))? {
            RawInput::Text(text) => vec![Item::of_user(text)],
            RawInput::Items(items) => {
                items.into_iter().enumerate().map(|(place, raw)| Item::read(raw, place)).collect::<Result<_, _>>()?
            }
        };
        let given = self.tools.unwrap_or_default();
        let tools = tools(&given)?;
        let effort = self.reasoning.and_then(|reasoning| reasoning.effort);
        let logprobs = logprobs(self.include.as_deref().unwrap_or_default(), self.top_logprobs)?;
        let form = self.text.and_then(|text| text.format);
        let ask = ChatRequest {
            stream: self.stream.unwrap_or(false),
            temperature: within("temperature", self.temperature, 1.0, 0.0, 2.0)?,
            top_p: within("top_p", self.top_p, 1.0, f32::MIN_POSITIVE, 1.0)?,
            max_tokens: max_tokens("max_output_tokens", self.max_output_tokens)?,
            seed: self.seed,
            logprobs,
            tool_choice: tool_choice(self.tool_choice.as_ref(), &tools)?,
            tools,
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            format: format(form.as_ref())?,
            template_kwargs: effort
                .iter()
                .map(|effort| ("reasoning_effort".to_owned(), effort.as_str().into()))
                .collect(),
            service_tier: self.service_tier,
            store: self.store,
            ..ChatRequest::bare(model.clone())
        };
        let echo = ResponseEcho {
            background: self.background.unwrap_or(false),
            instructions: self.instructions,
            max_output_tokens: ask.max_tokens,
            metadata: metadata(self.metadata)?,
            model,
            parallel_tool_calls: ask.parallel_tool_calls,
            previous_response_id: self.previous_response_id,
            reasoning: Reasoning { effort, summary: None },
            store: self.store.unwrap_or(true),
            temperature: ask.temperature,
            text: TextSettings { format: form.unwrap_or_else(|| serde_json::json!({"type": "text"})) },
            tool_choice: self.tool_choice.unwrap_or_else(|| "auto".into()),
            tools: given,
            top_logprobs: logprobs.unwrap_or(0),
            top_p: ask.top_p,
            truncation: "disabled".to_owned(),
            user: self.user,
        };
        Ok(ResponseRequest { ask, input, echo })
    }
}

/// `top_logprobs` alone asks for them too, as OpenAI's route understands it.
fn logprobs(include: &[String], top: Option<i64>) -> Result<Option<u32>, BadRequest> {
    match top {
        None | Some(0) => Ok(include.iter().any(|field| field == LOGPROBS).then_some(0)),
        Some(count @ 1..=MAX_TOP_LOGPROBS) => Ok(u32::try_from(count).ok()),
        Some(count) => {
            let message = format!("'top_logprobs' is {count}: must be between 0 and {MAX_TOP_LOGPROBS}");
            Err(BadRequest::field("top_logprobs", "invalid_value", message))
        }
    }
}

fn metadata(map: Option<BTreeMap<String, String>>) -> Result<BTreeMap<String, String>, BadRequest> {
    let map = map.unwrap_or_default();
    let fits = |(key, value): (&String, &String)| {
        key.chars().count() <= MAX_METADATA_KEY && value.chars().count() <= MAX_METADATA_VALUE
    };
    if map.len() <= MAX_METADATA && map.iter().all(fits) {
        return Ok(map);
    }
    let message = format!(
        "'metadata' may hold {MAX_METADATA} pairs, with names of {MAX_METADATA_KEY} and values of \
         {MAX_METADATA_VALUE} characters at most"
    );
    Err(BadRequest::field("metadata", "invalid_value", message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<ResponseRequest, BadRequest> {
        ResponseRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn instructions_come_first_then_what_was_said_then_the_input() {
        let before = parse(&json!({"model": "m", "input": "one"})).unwrap().input;
        let request = parse(&json!({"model": "m", "input": "two", "instructions": "be brief"})).unwrap();
        let messages = request.asking(&before).unwrap().messages;
        let said: Vec<_> = messages.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect();
        assert_eq!(said, [("system", "be brief"), ("user", "one"), ("user", "two")]);
    }

    #[test]
    fn what_is_left_out_is_what_openai_does() {
        let request = parse(&json!({"model": "m", "input": "x", "include": [], "truncation": "disabled"})).unwrap();
        assert!(request.echo.store && !request.echo.background && !request.stream());
        assert_eq!((request.echo.temperature, request.echo.text.format.clone()), (1.0, json!({"type": "text"})));
    }

    #[test]
    fn a_refusal_names_the_field() {
        for (field, value) in [
            ("input", json!(7)),
            ("max_output_tokens", json!(0)),
            ("conversation", json!("c")),
            ("prompt", json!({"id": "p"})),
            ("truncation", json!("auto")),
            ("tools", json!([{"type": "web_search"}])),
            ("tool_choice", json!("required")),
            ("top_logprobs", json!(21)),
            ("metadata", json!({"a": "x".repeat(513)})),
            ("text", json!({"format": {"type": "xml"}})),
        ] {
            let mut body = json!({"model": "m", "input": "x"});
            body[field] = value;
            let param = parse(&body).unwrap_err().param.unwrap();
            assert!(param.starts_with(field), "{param} for {field}");
        }
        let kept_not = json!({"model": "m", "input": "x", "background": true, "store": false});
        assert_eq!(parse(&kept_not).unwrap_err().param.as_deref(), Some("store"));
        let silent = parse(&json!({"model": "m", "input": ""})).unwrap().asking(&[]).unwrap_err();
        assert_eq!(silent.param.as_deref(), Some("input"));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ResponseRequest::parse(&body);
        }
    }
}
