//! The messages of a conversation.

use serde::{Deserialize, Serialize};

use super::check::missing;
use crate::error::BadRequest;

/// One message of the conversation, with its content as one text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text; several text parts are joined.
    pub content: String,
    /// The speaker's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tools an assistant's message called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<CalledTool>,
    /// Which call a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the assistant had said to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

/// A tool that was called earlier in the conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct CalledTool {
    /// Names the call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

impl Message {
    /// A message that has nothing but a role and a text.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "ChatMessage"))]
pub(super) struct RawMessage {
    role: Option<String>,
    content: Option<RawContent>,
    name: Option<String>,
    tool_calls: Option<Vec<RawCall>>,
    tool_call_id: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "CalledTool"))]
struct RawCall {
    id: Option<String>,
    function: Option<RawFunction>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "CalledFunction"))]
struct RawFunction {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "ChatContent"))]
#[serde(untagged)]
enum RawContent {
    Text(String),
    Parts(Vec<RawPart>),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "ChatContentPart"))]
struct RawPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
}

impl RawMessage {
    /// Checks the message that stands at `index`.
    pub(super) fn check(self, index: usize) -> Result<Message, BadRequest> {
        let path = |field: &str| format!("messages[{index}].{field}");
        let role = self.role.ok_or_else(|| missing(&path("role")))?;
        if !["system", "developer", "user", "assistant", "tool"].contains(&role.as_str()) {
            return Err(BadRequest::field(
                path("role"),
                "invalid_value",
                format!("'{}' must be one of system, developer, user, assistant, tool", path("role")),
            ));
        }
        let content = match self.content {
            // An assistant's message may have nothing but tool calls; for the others content is the point.
            None if role == "assistant" => String::new(),
            None => return Err(missing(&path("content"))),
            Some(RawContent::Text(text)) => text,
            Some(RawContent::Parts(parts)) => join_parts(parts, &path("content"))?,
        };
        let calls = self.tool_calls.unwrap_or_default();
        if !calls.is_empty() && role != "assistant" {
            let message = format!("'{}' belongs to messages of the assistant", path("tool_calls"));
            return Err(BadRequest::field(path("tool_calls"), "invalid_value", message));
        }
        let calls =
            calls.into_iter().enumerate().map(|(place, call)| call.check(&path(&format!("tool_calls[{place}]"))));
        if role == "tool" && self.tool_call_id.is_none() {
            return Err(missing(&path("tool_call_id")));
        }
        Ok(Message {
            role,
            content,
            name: self.name,
            tool_calls: calls.collect::<Result<_, _>>()?,
            tool_call_id: self.tool_call_id,
            reasoning_content: self.reasoning_content,
        })
    }
}

impl RawCall {
    fn check(self, path: &str) -> Result<CalledTool, BadRequest> {
        let function = self.function.ok_or_else(|| missing(&format!("{path}.function")))?;
        Ok(CalledTool {
            id: self.id.ok_or_else(|| missing(&format!("{path}.id")))?,
            name: function.name.ok_or_else(|| missing(&format!("{path}.function.name")))?,
            arguments: function.arguments.unwrap_or_else(|| "{}".to_owned()),
        })
    }
}

fn join_parts(parts: Vec<RawPart>, path: &str) -> Result<String, BadRequest> {
    let mut joined = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        match (part.kind.as_deref(), part.text) {
            (Some("text") | None, Some(text)) => joined.push_str(&text),
            (Some("text") | None, None) => return Err(missing(&format!("{path}[{index}].text"))),
            (Some(other), _) => {
                let message = format!("'{path}[{index}].type' is '{other}': only parts of type 'text' are offered");
                return Err(BadRequest::field(format!("{path}[{index}].type"), "invalid_value", message));
            }
        }
    }
    Ok(joined)
}
