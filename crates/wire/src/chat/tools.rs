//! Tools, and whether the model may, must or must not call them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::BadRequest;

/// The most tools of a request.
const MAX_TOOLS: usize = 128;

/// The most bytes of a tool's or a schema's name.
const MAX_NAME_BYTES: usize = 64;

/// A function the model may call, as the client wrote it: chat templates print it with its fields in their order.
/// Made by [`ChatRequest::parse`](super::ChatRequest::parse) only, so it is a `function` with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tool(Value);

impl Tool {
    /// Its name: 1 to 64 letters, digits, `_`, `-` or `.`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0["function"]["name"].as_str().unwrap_or_default()
    }

    /// The JSON schema of its arguments.
    #[must_use]
    pub fn parameters(&self) -> Option<&Value> {
        Some(&self.0["function"]["parameters"]).filter(|schema| !schema.is_null())
    }

    /// Whether its arguments must follow the schema.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.0["function"]["strict"] == true
    }

    /// The whole of it.
    #[must_use]
    pub fn as_json(&self) -> &Value {
        &self.0
    }
}

/// Whether the model may, must or must not call tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// It must not.
    None,
    /// It decides.
    #[default]
    Auto,
    /// It must call one or more.
    Required,
    /// It must call this one.
    Named(String),
}

pub(crate) fn tools(list: Option<Vec<Value>>) -> Result<Vec<Tool>, BadRequest> {
    let list = list.unwrap_or_default();
    if list.len() > MAX_TOOLS {
        let message = format!("'tools' may hold at most {MAX_TOOLS} tools");
        return Err(BadRequest::field("tools", "invalid_value", message));
    }
    let tools: Vec<Tool> =
        list.into_iter().enumerate().map(|(index, tool)| check(tool, index)).collect::<Result<_, _>>()?;
    for (index, tool) in tools.iter().enumerate() {
        if tools[..index].iter().any(|other| other.name() == tool.name()) {
            let message = format!("two tools are called '{}'", tool.name());
            return Err(BadRequest::field(format!("tools[{index}].function.name"), "invalid_value", message));
        }
    }
    Ok(tools)
}

fn check(tool: Value, index: usize) -> Result<Tool, BadRequest> {
    let refuse = |field: &str, expected: &str| {
        let path = format!("tools[{index}]{field}");
        let message = format!("'{path}' must be {expected}");
        Err(BadRequest::field(path, "invalid_value", message))
    };
    if tool["type"] != "function" {
        return refuse(".type", "'function': no other tools are offered");
    }
    let function = &tool["function"];
    if !function.is_object() {
        return refuse(".function", "an object");
    }
    if !function["name"].as_str().is_some_and(is_name) {
        return refuse(".function.name", "1 to 64 letters, digits, '_', '-' or '.'");
    }
    if !(function["parameters"].is_null() || function["parameters"].is_object()) {
        return refuse(".function.parameters", "a JSON schema: an object");
    }
    if !(function["strict"].is_null() || function["strict"].is_boolean()) {
        return refuse(".function.strict", "true or false");
    }
    Ok(Tool(tool))
}

/// Whether a text can name a tool or a schema.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

pub(crate) fn tool_choice(choice: Option<Value>, tools: &[Tool]) -> Result<ToolChoice, BadRequest> {
    let refuse = |message: String| Err(BadRequest::field("tool_choice", "invalid_value", message));
    let choice = match choice {
        None | Some(Value::Null) => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(ToolChoice::None),
            "auto" => return Ok(ToolChoice::Auto),
            "required" => ToolChoice::Required,
            other => return refuse(format!("'tool_choice' is '{other}': must be none, auto, required or a function")),
        },
        Some(Value::Object(object)) if object.get("type").is_some_and(|kind| kind == "function") => {
            let name = object.get("function").and_then(|function| function["name"].as_str());
            ToolChoice::Named(name.unwrap_or_default().to_owned())
        }
        Some(_) => {
            return refuse("'tool_choice' must be none, auto, required, or {\"type\": \"function\", ..}".to_owned());
        }
    };
    match &choice {
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool.name() == name) => {
            refuse(format!("'tool_choice' names '{name}', which is not in 'tools'"))
        }
        ToolChoice::Required if tools.is_empty() => refuse("'tool_choice' is 'required' without 'tools'".to_owned()),
        ToolChoice::None | ToolChoice::Auto | ToolChoice::Required | ToolChoice::Named(_) => Ok(choice),
    }
}

/// The most variables for a chat template, and what the template is given anyway.
const MAX_KWARGS: usize = 16;
const RESERVED: [&str; 8] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "penstock_date",
];

/// Variables for the chat template: words, numbers and switches.
pub(crate) fn template_kwargs(map: Option<Map<String, Value>>) -> Result<Map<String, Value>, BadRequest> {
    let map = map.unwrap_or_default();
    let refuse = |message: String| Err(BadRequest::field("chat_template_kwargs", "invalid_value", message));
    if map.len() > MAX_KWARGS {
        return refuse(format!("'chat_template_kwargs' may hold at most {MAX_KWARGS} variables"));
    }
    for (name, value) in &map {
        let identifier = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.len() <= MAX_NAME_BYTES
            && !name.bytes().next().is_none_or(|byte| byte.is_ascii_digit());
        if !identifier || RESERVED.contains(&name.as_str()) {
            return refuse(format!("'chat_template_kwargs': '{name}' is not a variable that may be set"));
        }
        if value.is_object() || value.is_array() {
            return refuse(format!("'chat_template_kwargs': '{name}' must be a text, a number, true, false or null"));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}, "strict": true}})
    }

    #[test]
    fn a_tool_is_kept_as_it_was_written() {
        let list = tools(Some(vec![tool("b"), tool("a")])).unwrap();
        assert_eq!((list[0].name(), list[0].is_strict()), ("b", true));
        assert_eq!(list[0].parameters(), Some(&json!({"type": "object"})));
        assert_eq!(list[1].as_json(), &tool("a"));
    }

    #[test]
    fn a_refusal_names_the_place() {
        for (list, place) in [
            (vec![tool("a"), json!({"type": "retrieval"})], "tools[1].type"),
            (vec![json!({"type": "function"})], "tools[0].function"),
            (vec![tool("no spaces")], "tools[0].function.name"),
            (vec![tool("a"), tool("a")], "tools[1].function.name"),
            (
                vec![json!({"type": "function", "function": {"name": "a", "parameters": 3}})],
                "tools[0].function.parameters",
            ),
        ] {
            assert_eq!(tools(Some(list)).unwrap_err().param.as_deref(), Some(place));
        }
    }

    #[test]
    fn a_choice_must_be_possible() {
        let list = tools(Some(vec![tool("a")])).unwrap();
        let named = |name: &str| json!({"type": "function", "function": {"name": name}});
        assert_eq!(tool_choice(None, &list), Ok(ToolChoice::Auto));
        assert_eq!(tool_choice(Some(json!("none")), &[]), Ok(ToolChoice::None));
        assert_eq!(tool_choice(Some(named("a")), &list), Ok(ToolChoice::Named("a".to_owned())));
        for (choice, tools) in
            [(named("b"), &list[..]), (json!("required"), &[]), (json!("any"), &list), (json!({"type": "x"}), &list)]
        {
            assert!(tool_choice(Some(choice), tools).is_err());
        }
    }

    #[test]
    fn a_template_takes_single_values_under_names_that_are_free() {
        let map = |value: Value| value.as_object().cloned();
        assert!(template_kwargs(map(json!({"enable_thinking": false, "effort": "low", "n": 3, "x": null}))).is_ok());
        for wrong in [json!({"messages": 1}), json!({"x": []}), json!({"a b": 1}), json!({"": 1}), json!({"1": 1})] {
            assert!(template_kwargs(map(wrong)).is_err());
        }
    }
}
