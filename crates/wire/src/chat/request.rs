//! The request: read tolerantly, checked completely.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::check::{
    RawStop, RawStreamOptions, choices, include_usage, logit_bias, logprobs, max_tokens, missing, model, stops, top_k,
    within,
};
use super::format::{Format, format};
use super::message::{Message, RawMessage};
use super::tools::{Tool, ToolChoice, template_kwargs, tool_choice, tools};
use crate::completions::Prompt;
use crate::error::BadRequest;
use crate::reading;

/// The most bytes a chat request's body may have.
pub const MAX_BODY_BYTES: usize = 4_500_000;

/// A checked request for text. Made only by the `parse` of a route's own request, so its values are within their ranges:
/// whatever route it came by, it asks for the same things.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The model asked for; not empty.
    pub model: String,
    /// The conversation; empty if there are `prompts`.
    pub messages: Vec<Message>,
    /// Prompts that go to the model as they are, without a chat template; empty if there are `messages`.
    pub prompts: Vec<Prompt>,
    /// Each answer begins with its prompt.
    pub echo: bool,
    /// Stream the answer.
    pub stream: bool,
    /// End the stream with a chunk that holds the usage.
    pub include_usage: bool,
    /// 0 to 2; 0 takes the likeliest token always. Default 1.
    pub temperature: f32,
    /// Above 0, up to 1. Default 1.
    pub top_p: f32,
    /// At least 1. From `max_completion_tokens` or `max_tokens`.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer and are not part of it; at most 4.
    pub stop: Vec<String>,
    /// Makes sampling repeatable.
    pub seed: Option<i64>,
    /// -2 to 2.
    pub presence_penalty: f32,
    /// -2 to 2.
    pub frequency_penalty: f32,
    /// Only so many of the likeliest tokens may be chosen, at least 1; `None`: all. vLLM's name.
    pub top_k: Option<u32>,
    /// Only tokens at least this likely, as a part of the likeliest one's probability; 0 to 1, 0 takes all. vLLM's name.
    pub min_p: f32,
    /// Above 0, up to 2; more than 1 makes tokens of the prompt and the answer less likely. Default 1. vLLM's name.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens, -100 to 100 each; at most 1024 of them.
    pub logit_bias: BTreeMap<u32, f32>,
    /// How many answers are asked for, to each prompt if there are several; 1 to 8.
    pub n: u32,
    /// Tell how likely each token was, and so many of the likeliest ones, 0 to 20; `None`: do not.
    pub logprobs: Option<u32>,
    /// The tools the model may call.
    pub tools: Vec<Tool>,
    /// Whether it may, must or must not.
    pub tool_choice: ToolChoice,
    /// Whether it may call several at once. Default true.
    pub parallel_tool_calls: bool,
    /// The form the answer must have.
    pub format: Format,
    /// Variables for the model's chat template, such as `enable_thinking`. vLLM's name.
    pub template_kwargs: serde_json::Map<String, Value>,
    /// `auto`, `default`, `flex`, `priority` and the like.
    pub service_tier: Option<String>,
    /// Whether the answer may be kept to be given again: `false` forbids it, anything else leaves it to the tenant's
    /// terms.
    pub store: Option<bool>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "ChatRequest"))]
pub(crate) struct RawRequest {
    model: Option<String>,
    messages: Option<Vec<RawMessage>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<RawStreamOptions>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    max_tokens: Option<Value>,
    max_completion_tokens: Option<Value>,
    stop: Option<RawStop>,
    seed: Option<i64>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    service_tier: Option<String>,
    store: Option<bool>,
    n: Option<i64>,
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
    logit_bias: Option<serde_json::Map<String, Value>>,
    tools: Option<Vec<Value>>,
    functions: Option<Vec<Value>>,
    function_call: Option<Value>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<Value>,
    chat_template_kwargs: Option<serde_json::Map<String, Value>>,
    modalities: Option<Vec<String>>,
    audio: Option<Value>,
}

impl ChatRequest {
    /// Reads and checks a request body.
    ///
    /// Unknown fields are ignored. Fields that would change the answer in a way this server does not offer are refused
    /// by name, never silently dropped.
    ///
    /// # Errors
    /// [`BadRequest`] naming the first field at fault.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let raw: RawRequest = reading::object(body)?;
        raw.refuse_what_is_not_offered()?;
        raw.check()
    }

    /// A request that asks nothing yet and has all defaults.
    pub(crate) fn bare(model: String) -> Self {
        Self {
            model,
            messages: Vec::new(),
            prompts: Vec::new(),
            echo: false,
            stream: false,
            include_usage: false,
            temperature: 1.0,
            top_p: 1.0,
            max_tokens: None,
            stop: Vec::new(),
            seed: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            top_k: None,
            min_p: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
            n: 1,
            logprobs: None,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
            format: Format::Text,
            template_kwargs: serde_json::Map::new(),
            service_tier: None,
            store: None,
        }
    }

    /// How many answers there will be, to all prompts together.
    #[must_use]
    pub fn answers(&self) -> u32 {
        let prompts = u32::try_from(self.prompts.len()).unwrap_or(u32::MAX).max(1);
        self.n.saturating_mul(prompts)
    }

    /// Whether two runs of this request must give the same answer: the likeliest token always, or a seed.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        self.temperature == 0.0 || self.seed.is_some()
    }
}

impl RawRequest {
    fn refuse_what_is_not_offered(&self) -> Result<(), BadRequest> {
        let refuse = |param: &str, what: &str| {
            Err(BadRequest::field(param, "unsupported_parameter", format!("{what}; leave '{param}' out")))
        };
        match self {
            Self { functions: Some(list), .. } if !list.is_empty() => {
                refuse("functions", "the old form of function calls is not offered, 'tools' is")
            }
            Self { function_call: Some(Value::Object(_)), .. } => {
                refuse("function_call", "the old form of function calls is not offered, 'tool_choice' is")
            }
            Self { modalities: Some(list), .. } if list.iter().any(|m| m != "text") => {
                refuse("modalities", "only text answers are offered")
            }
            Self { audio: Some(audio), .. } if !audio.is_null() => refuse("audio", "only text answers are offered"),
            _ => Ok(()),
        }
    }

    fn check(self) -> Result<ChatRequest, BadRequest> {
        let model = model(self.model)?;
        let messages = self.messages.ok_or_else(|| missing("messages"))?;
        if messages.is_empty() {
            return Err(BadRequest::field("messages", "invalid_value", "'messages' must hold at least one message"));
        }
        let messages = messages.into_iter().enumerate().map(|(i, m)| m.check(i)).collect::<Result<Vec<_>, _>>()?;
        if messages.iter().all(|message| message.content.is_empty()) {
            return Err(BadRequest::field(
                "messages",
                "invalid_value",
                "'messages' must hold some text: all are empty",
            ));
        }
        let tools = tools(self.tools)?;
        Ok(ChatRequest {
            messages,
            stream: self.stream.unwrap_or(false),
            include_usage: include_usage(self.stream_options),
            temperature: within("temperature", self.temperature, 1.0, 0.0, 2.0)?,
            top_p: within("top_p", self.top_p, 1.0, f32::MIN_POSITIVE, 1.0)?,
            max_tokens: match max_tokens("max_completion_tokens", self.max_completion_tokens)? {
                Some(tokens) => Some(tokens),
                None => max_tokens("max_tokens", self.max_tokens)?,
            },
            stop: stops(self.stop)?,
            seed: self.seed,
            presence_penalty: within("presence_penalty", self.presence_penalty, 0.0, -2.0, 2.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, 0.0, -2.0, 2.0)?,
            top_k: top_k(self.top_k)?,
            min_p: within("min_p", self.min_p, 0.0, 0.0, 1.0)?,
            repetition_penalty: within("repetition_penalty", self.repetition_penalty, 1.0, f32::MIN_POSITIVE, 2.0)?,
            logit_bias: logit_bias(self.logit_bias)?,
            n: choices(self.n)?,
            logprobs: logprobs(self.logprobs, self.top_logprobs)?,
            tool_choice: tool_choice(self.tool_choice, &tools)?,
            tools,
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            format: format(self.response_format)?,
            template_kwargs: template_kwargs(self.chat_template_kwargs)?,
            service_tier: self.service_tier,
            store: self.store,
            ..ChatRequest::bare(model)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<ChatRequest, BadRequest> {
        ChatRequest::parse(value.to_string().as_bytes())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body[field] = value;
        body
    }

    #[test]
    fn a_plain_request_gets_the_documented_defaults() {
        let request = parse(&with("unknown_field", json!({"a": [1]}))).unwrap();
        assert_eq!((request.temperature, request.top_p, request.max_tokens), (1.0, 1.0, None));
        assert!(!request.stream && !request.is_deterministic());
    }

    #[test]
    fn content_in_parts_is_joined_and_pictures_are_refused_by_path() {
        let parts =
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
        assert_eq!(parse(&with("messages", parts)).unwrap().messages[0].content, "ab");
        let picture = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
        assert_eq!(
            parse(&with("messages", picture)).unwrap_err().param.as_deref(),
            Some("messages[0].content[0].type")
        );
    }

    #[test]
    fn a_refusal_names_the_field() {
        for (field, value, code) in [
            ("temperature", json!(2.1), "invalid_value"),
            ("temperature", json!("hot"), "invalid_type"),
            ("top_p", json!(0), "invalid_value"),
            ("max_tokens", json!(0), "invalid_value"),
            ("max_tokens", json!(-3), "invalid_value"),
            ("max_tokens", json!(1e30), "invalid_value"),
            ("max_tokens", json!("many"), "invalid_type"),
            ("max_completion_tokens", json!(1.5), "invalid_value"),
            ("messages", json!([]), "invalid_value"),
            ("messages", json!("hi"), "invalid_type"),
            ("messages", json!([{"role": "user", "content": ""}]), "invalid_value"),
            ("model", json!(""), "invalid_value"),
            ("model", json!(7), "invalid_type"),
            ("stop", json!(["a", "b", "c", "d", "e"]), "invalid_value"),
            ("stop", json!([""]), "invalid_value"),
            ("stream", json!("yes"), "invalid_type"),
            ("n", json!(0), "invalid_value"),
            ("n", json!(9), "invalid_value"),
            ("n", json!(1.5), "invalid_type"),
            ("logprobs", json!(3), "invalid_type"),
            ("top_logprobs", json!(3), "invalid_value"),
            ("functions", json!([{"name": "f"}]), "unsupported_parameter"),
            ("function_call", json!({"name": "f"}), "unsupported_parameter"),
            ("tools", json!("f"), "invalid_type"),
            ("tool_choice", json!("required"), "invalid_value"),
            ("parallel_tool_calls", json!(1), "invalid_type"),
            ("chat_template_kwargs", json!({"tools": 1}), "invalid_value"),
            ("presence_penalty", json!(3), "invalid_value"),
            ("top_k", json!(-2), "invalid_value"),
            ("top_k", json!("few"), "invalid_type"),
            ("min_p", json!(1.1), "invalid_value"),
            ("repetition_penalty", json!(0), "invalid_value"),
            ("repetition_penalty", json!(2.5), "invalid_value"),
            ("logit_bias", json!({"x": 1}), "invalid_value"),
            ("logit_bias", json!({"7": 101}), "invalid_value"),
            ("logit_bias", json!({"7": "much"}), "invalid_value"),
            ("logit_bias", json!([1]), "invalid_type"),
        ] {
            let refusal = parse(&with(field, value.clone())).unwrap_err();
            assert_eq!((refusal.param.as_deref(), refusal.code), (Some(field), code), "{field} = {value}");
        }
    }

    #[test]
    fn a_conversation_with_tools_is_read() {
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
        let talk = json!([{"role": "user", "content": "do"}, {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "done"}]);
        let request = parse(&with("messages", talk)).unwrap();
        assert_eq!(request.messages[1].tool_calls[0].arguments, "{\"a\":1}");
        assert_eq!(request.messages[2].tool_call_id.as_deref(), Some("call_1"));
        for (talk, path) in [
            (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
            (json!([{"role": "user", "content": "x", "tool_calls": [call]}]), "messages[0].tool_calls"),
            (json!([{"role": "assistant", "tool_calls": [{"id": "x"}]}]), "messages[0].tool_calls[0].function"),
        ] {
            assert_eq!(parse(&with("messages", talk)).unwrap_err().param.as_deref(), Some(path));
        }
    }

    #[test]
    fn a_missing_field_is_named_with_its_path() {
        assert_eq!(parse(&json!({"messages": []})).unwrap_err().param.as_deref(), Some("model"));
        assert_eq!(parse(&json!({"model": "m"})).unwrap_err().param.as_deref(), Some("messages"));
        let bare = with("messages", json!([{"role": "user", "content": "a"}, {"content": "b"}]));
        assert_eq!(parse(&bare).unwrap_err().param.as_deref(), Some("messages[1].role"));
    }

    #[test]
    fn bodies_that_are_no_json_objects_are_refused_as_such() {
        for body in [&b""[..], b"{", b"\xff\xfe", b"[1]", b"null", "[".repeat(100_000).as_bytes()] {
            assert_eq!(ChatRequest::parse(body).unwrap_err().param, None);
        }
    }

    #[test]
    fn sampling_is_read_in_both_dialects() {
        let mut body = with("top_k", json!(40));
        body["min_p"] = json!(0.05);
        body["repetition_penalty"] = json!(1.1);
        body["logit_bias"] = json!({"50256": -100, "7": 2.5});
        let request = parse(&body).unwrap();
        assert_eq!((request.top_k, request.min_p, request.repetition_penalty), (Some(40), 0.05, 1.1));
        assert_eq!(request.logit_bias, BTreeMap::from([(7, 2.5), (50256, -100.0)]));
        for all in [-1, 0] {
            assert_eq!(parse(&with("top_k", json!(all))).unwrap().top_k, None);
        }
    }

    #[test]
    fn log_probabilities_are_asked_for_before_the_likeliest_ones() {
        assert_eq!(parse(&with("logprobs", json!(false))).unwrap().logprobs, None);
        assert_eq!(parse(&with("logprobs", json!(true))).unwrap().logprobs, Some(0));
        let mut body = with("logprobs", json!(true));
        for (top, expected) in [(0, Ok(Some(0))), (20, Ok(Some(20))), (21, Err(())), (-1, Err(()))] {
            body["top_logprobs"] = json!(top);
            assert_eq!(parse(&body).map(|request| request.logprobs).map_err(|_| ()), expected, "{top}");
        }
        assert_eq!(parse(&with("n", json!(8))).unwrap().n, 8);
    }

    #[test]
    fn null_means_the_default() {
        let body = with("max_tokens", Value::Null);
        assert_eq!(parse(&body).unwrap().max_tokens, None);
        assert_eq!(parse(&with("temperature", Value::Null)).unwrap().temperature, 1.0);
        assert!(parse(&with("n", json!(1))).is_ok());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|x| serde_json::Number::from_f64(x).map_or(Value::Null, Value::Number)),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            let key = prop_oneof!["role|content|type|text|name", ".{0,6}"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key, inner), 0..4).prop_map(|m| m.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ChatRequest::parse(&body);
        }

        #[test]
        fn whatever_a_field_holds_the_refusal_is_ours_and_an_accepted_value_is_in_range(
            field in "model|messages|temperature|top_p|max_tokens|stop|seed|stream|stream_options|n|tools|tool_choice|response_format|chat_template_kwargs|logit_bias",
            value in any_json(),
        ) {
            match parse(&with(&field, value)) {
                Ok(request) => {
                    prop_assert!((0.0..=2.0).contains(&request.temperature));
                    prop_assert!(request.top_p > 0.0 && request.top_p <= 1.0);
                    prop_assert!(request.max_tokens != Some(0) && !request.messages.is_empty());
                }
                Err(refusal) => prop_assert!(!refusal.message.is_empty()),
            }
        }
    }
}
