//! The items a conversation is made of, as they are stored and shown, and as the messages they mean.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::check::missing;
use crate::chat::{CalledTool, Message, TokenLogprob};
use crate::error::BadRequest;

/// One item of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// Something said.
    Message {
        /// Its id.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: String,
        /// `user`, `assistant`, `system` or `developer`.
        role: String,
        /// What was said.
        content: Vec<Content>,
    },
    /// What the model said to itself.
    Reasoning {
        /// Its id.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: String,
        /// Always empty: thoughts are told, not summed up.
        summary: Vec<Value>,
        /// The thoughts.
        #[serde(default)]
        content: Vec<Content>,
    },
    /// A tool the model wants called.
    FunctionCall {
        /// Its id.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: String,
        /// Names the call in the item that answers it.
        call_id: String,
        /// The tool.
        name: String,
        /// JSON text.
        arguments: String,
    },
    /// What a tool answered.
    FunctionCallOutput {
        /// Its id.
        id: String,
        /// Always `completed`.
        status: String,
        /// Which call it answers.
        call_id: String,
        /// The answer.
        output: String,
    },
}

/// A piece of an item's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// Text for the model.
    InputText {
        /// The text.
        text: String,
    },
    /// Text of the model.
    OutputText {
        /// The text.
        text: String,
        /// Always empty.
        #[serde(default)]
        annotations: Vec<Value>,
        /// How likely its tokens were, if asked for.
        #[serde(default)]
        logprobs: Vec<TokenLogprob>,
    },
    /// A thought of the model.
    ReasoningText {
        /// The text.
        text: String,
    },
}

impl Content {
    fn text(&self) -> &str {
        match self {
            Self::InputText { text } | Self::OutputText { text, .. } | Self::ReasoningText { text } => text,
        }
    }
}

impl Item {
    /// A user's words.
    pub(super) fn of_user(text: String) -> Self {
        let content = vec![Content::InputText { text }];
        Self::Message { id: String::new(), status: COMPLETED.to_owned(), role: "user".to_owned(), content }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Message { id, .. }
            | Self::Reasoning { id, .. }
            | Self::FunctionCall { id, .. }
            | Self::FunctionCallOutput { id, .. } => id,
        }
    }

    /// The same, with an id made of `owner` and its place if it came without one.
    #[must_use]
    pub fn named(mut self, owner: &str, place: usize) -> Self {
        let (kind, id) = match &mut self {
            Self::Message { id, .. } => ("msg", id),
            Self::Reasoning { id, .. } => ("rs", id),
            Self::FunctionCall { id, .. } => ("fc", id),
            Self::FunctionCallOutput { id, .. } => ("fco", id),
        };
        if id.is_empty() {
            *id = format!("{kind}_{owner}_in{place}");
        }
        self
    }

    /// Reads the input item at `place`.
    pub(super) fn read(raw: RawItem, place: usize) -> Result<Self, BadRequest> {
        let path = |field: &str| format!("input[{place}].{field}");
        let need = |value: Option<String>, field: &str| value.ok_or_else(|| missing(&path(field)));
        let id = raw.id.unwrap_or_default();
        let status = COMPLETED.to_owned();
        match raw.kind.as_deref() {
            None | Some("message") => {
                let role = need(raw.role, "role")?;
                if !["user", "assistant", "system", "developer"].contains(&role.as_str()) {
                    let message = format!("'{}' must be one of user, assistant, system, developer", path("role"));
                    return Err(BadRequest::field(path("role"), "invalid_value", message));
                }
                let content = raw.content.ok_or_else(|| missing(&path("content")))?.read(&path("content"))?;
                Ok(Self::Message { id, status, role, content })
            }
            Some("function_call") => Ok(Self::FunctionCall {
                id,
                status,
                call_id: need(raw.call_id, "call_id")?,
                name: need(raw.name, "name")?,
                arguments: need(raw.arguments, "arguments")?,
            }),
            Some("function_call_output") => {
                let output = raw.output.ok_or_else(|| missing(&path("output")))?.read(&path("output"))?;
                let output = output.iter().map(Content::text).collect();
                Ok(Self::FunctionCallOutput { id, status, call_id: need(raw.call_id, "call_id")?, output })
            }
            Some("reasoning") => {
                let content = raw.content.map_or(Ok(Vec::new()), |content| content.read(&path("content")))?;
                Ok(Self::Reasoning { id, status, summary: Vec::new(), content })
            }
            Some(other) => {
                let message = format!(
                    "'{}' is '{other}': offered are message, function_call, function_call_output and reasoning",
                    path("type")
                );
                Err(BadRequest::field(path("type"), "invalid_value", message))
            }
        }
    }
}

/// The status of what has been said.
pub(super) const COMPLETED: &str = "completed";

/// An item as it comes.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "InputItem"))]
pub(super) struct RawItem {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    role: Option<String>,
    content: Option<RawContent>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    output: Option<RawContent>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "InputContent"))]
#[serde(untagged, expecting = "must be a text or a list of parts")]
enum RawContent {
    Text(String),
    Parts(Vec<RawPart>),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "InputContentPart"))]
struct RawPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
}

impl RawContent {
    fn read(self, path: &str) -> Result<Vec<Content>, BadRequest> {
        let parts = match self {
            Self::Text(text) => return Ok(vec![Content::InputText { text }]),
            Self::Parts(parts) => parts,
        };
        let read = |(place, part): (usize, RawPart)| {
            let text = part.text.ok_or_else(|| missing(&format!("{path}[{place}].text")));
            match part.kind.as_deref() {
                Some("input_text" | "text") | None => Ok(Content::InputText { text: text? }),
                Some("output_text") => {
                    Ok(Content::OutputText { text: text?, annotations: Vec::new(), logprobs: Vec::new() })
                }
                Some("refusal") => {
                    let text = part.refusal.unwrap_or_default();
                    Ok(Content::OutputText { text, annotations: Vec::new(), logprobs: Vec::new() })
                }
                Some("reasoning_text") => Ok(Content::ReasoningText { text: text? }),
                Some(other) => {
                    let path = format!("{path}[{place}].type");
                    let message = format!("'{path}' is '{other}': only text is offered");
                    Err(BadRequest::field(path, "invalid_value", message))
                }
            }
        };
        parts.into_iter().enumerate().map(read).collect()
    }
}

/// The messages that items mean: what an assistant thought, said and called in one turn is one message.
#[must_use]
pub fn messages<'i>(items: impl IntoIterator<Item = &'i Item>) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    let mut thought: Option<String> = None;
    let text = |content: &[Content]| content.iter().map(Content::text).collect::<String>();
    for item in items {
        match item {
            Item::Message { role, content, .. } => {
                let reasoning_content = thought.take().filter(|_| role == "assistant");
                messages.push(Message { reasoning_content, ..Message::new(role.clone(), text(content)) });
            }
            Item::Reasoning { content, .. } => {
                thought = Some(text(content)).filter(|thought| !thought.is_empty());
            }
            Item::FunctionCall { call_id, name, arguments, .. } => {
                let call = CalledTool { id: call_id.clone(), name: name.clone(), arguments: arguments.clone() };
                match messages.last_mut() {
                    Some(message) if message.role == "assistant" && thought.is_none() => message.tool_calls.push(call),
                    Some(_) | None => messages.push(Message {
                        tool_calls: vec![call],
                        reasoning_content: thought.take(),
                        ..Message::new("assistant", "")
                    }),
                }
            }
            Item::FunctionCallOutput { call_id, output, .. } => {
                messages.push(Message { tool_call_id: Some(call_id.clone()), ..Message::new("tool", output.clone()) });
            }
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(items: Value) -> Result<Vec<Item>, BadRequest> {
        let raw: Vec<RawItem> = serde_json::from_value(items).unwrap();
        raw.into_iter().enumerate().map(|(place, raw)| Item::read(raw, place)).collect()
    }

    #[test]
    fn a_turn_of_thoughts_words_and_calls_is_one_message() {
        let items = read(json!([
            {"role": "user", "content": "hi"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        ]))
        .unwrap();
        let talk = messages(&items);
        let roles: Vec<&str> = talk.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "tool"]);
        assert_eq!(talk[1].reasoning_content.as_deref(), Some("hm"));
        assert_eq!(talk[1].tool_calls.len(), 2);
        assert_eq!((talk[3].content.as_str(), talk[3].tool_call_id.as_deref()), ("2", Some("c2")));
    }

    #[test]
    fn items_read_back_as_they_were_written_and_get_a_name_if_they_had_none() {
        let items =
            read(json!([{"role": "user", "content": "hi"}, {"id": "m7", "role": "user", "content": "ho"}])).unwrap();
        let named: Vec<Item> = items.into_iter().enumerate().map(|(place, item)| item.named("x", place)).collect();
        assert_eq!((named[0].id(), named[1].id()), ("msg_x_in0", "m7"));
        let text = serde_json::to_string(&named).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Item>>(&text).unwrap(), named);
    }

    #[test]
    fn a_refusal_names_the_place() {
        for (items, place) in [
            (json!([{"content": "x"}]), "input[0].role"),
            (json!([{"role": "user"}]), "input[0].content"),
            (json!([{"role": "tool", "content": "x"}]), "input[0].role"),
            (json!([{"type": "item_reference", "id": "x"}]), "input[0].type"),
            (json!([{"type": "function_call", "name": "f"}]), "input[0].call_id"),
            (json!([{"role": "user", "content": [{"type": "input_image"}]}]), "input[0].content[0].type"),
        ] {
            assert_eq!(read(items).unwrap_err().param.as_deref(), Some(place));
        }
    }
}
