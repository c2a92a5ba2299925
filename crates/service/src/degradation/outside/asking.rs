//! A request in an upstream's words.

use penstock_wire::chat::{ChatRequest, Format, Message, ToolChoice};
use serde_json::{Map, Value, json};

/// The body to send for a request, asking for `model`, always streamed and with its usage at the end.
///
/// `None` if the request says what other servers would overlook or take for something else: token ids of this model's
/// vocabulary, samplers outside OpenAI's form, variables of its chat template. Such a request is not handed on, because
/// what it asked for would be dropped silently.
pub(super) fn body(request: &ChatRequest, model: &str) -> Option<String> {
    let ours_alone = !request.logit_bias.is_empty()
        || request.top_k.is_some()
        || request.min_p != 0.0
        || request.repetition_penalty != 1.0
        || !request.template_kwargs.is_empty();
    if ours_alone {
        return None;
    }
    let mut body = Map::new();
    let mut say = |name: &str, value: Value| body.insert(name.to_owned(), value);
    say("model", json!(model));
    say("messages", request.messages.iter().map(message).collect());
    say("stream", json!(true));
    say("stream_options", json!({"include_usage": true}));
    say("temperature", json!(request.temperature));
    say("top_p", json!(request.top_p));
    // What is left at its default is left out: not every server knows every field.
    for (name, penalty) in
        [("presence_penalty", request.presence_penalty), ("frequency_penalty", request.frequency_penalty)]
    {
        if penalty != 0.0 {
            say(name, json!(penalty));
        }
    }
    if let Some(most) = request.max_tokens {
        say("max_tokens", json!(most));
    }
    if let Some(seed) = request.seed {
        say("seed", json!(seed));
    }
    if !request.stop.is_empty() {
        say("stop", json!(request.stop));
    }
    if request.n != 1 {
        say("n", json!(request.n));
    }
    if let Some(top) = request.logprobs {
        say("logprobs", json!(true));
        say("top_logprobs", json!(top));
    }
    if !request.tools.is_empty() {
        say("tools", json!(request.tools));
        say("tool_choice", tool_choice(&request.tool_choice));
        say("parallel_tool_calls", json!(request.parallel_tool_calls));
    }
    match &request.format {
        Format::Text => {}
        Format::JsonObject => {
            say("response_format", json!({"type": "json_object"}));
        }
        Format::JsonSchema(schema) => {
            let named = json!({"name": "answer", "schema": schema, "strict": true});
            say("response_format", json!({"type": "json_schema", "json_schema": named}));
        }
    }
    serde_json::to_string(&body).ok()
}

fn message(message: &Message) -> Value {
    let mut said = Map::new();
    said.insert("role".to_owned(), json!(message.role));
    let silent = message.content.is_empty() && !message.tool_calls.is_empty();
    said.insert("content".to_owned(), if silent { Value::Null } else { json!(message.content) });
    if let Some(name) = &message.name {
        said.insert("name".to_owned(), json!(name));
    }
    if let Some(call) = &message.tool_call_id {
        said.insert("tool_call_id".to_owned(), json!(call));
    }
    if !message.tool_calls.is_empty() {
        let call = |call: &penstock_wire::chat::CalledTool| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}});
        said.insert("tool_calls".to_owned(), message.tool_calls.iter().map(call).collect());
    }
    Value::Object(said)
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::None => json!("none"),
        ToolChoice::Auto => json!("auto"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(request: &Value) -> ChatRequest {
        ChatRequest::parse(request.to_string().as_bytes()).unwrap()
    }

    /// What we send means to a server that reads as we do what our client has said to us.
    #[test]
    fn a_request_survives_the_way_out() {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
        let original = parsed(&json!({
            "model": "ours", "temperature": 0.5, "top_p": 0.9, "seed": 7, "max_completion_tokens": 9, "stop": ["x"],
            "n": 2, "logprobs": true, "top_logprobs": 3, "presence_penalty": 0.5, "frequency_penalty": -0.5,
            "tools": [tool], "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": false,
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
                {"role": "assistant", "content": null, "reasoning_content": "hm",
                 "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "done"},
            ],
        }));
        let mut expected = ChatRequest { model: "theirs".to_owned(), ..original.clone() };
        (expected.stream, expected.include_usage) = (true, true);
        // What a model said to itself is not said to another.
        expected.messages[2].reasoning_content = None;
        let sent = body(&original, "theirs").unwrap();
        assert_eq!(ChatRequest::parse(sent.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_other_servers_would_overlook_is_not_handed_on() {
        let plain = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        assert!(body(&parsed(&plain), "m").is_some());
        for (field, value) in [
            ("logit_bias", json!({"5": 1})),
            ("top_k", json!(5)),
            ("min_p", json!(0.1)),
            ("repetition_penalty", json!(1.1)),
            ("chat_template_kwargs", json!({"enable_thinking": false})),
        ] {
            let mut more = plain.clone();
            more[field] = value;
            assert_eq!(body(&parsed(&more), "m"), None, "{field}");
        }
    }
}
