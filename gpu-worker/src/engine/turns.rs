//! The messages of a conversation as chat templates read them: the names and shapes that transformers passes on.

use penstock_wire::chat::{CalledTool, Message};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::dialect::Manner;

/// A message.
#[derive(Serialize)]
pub(super) struct Turn<'m> {
    role: &'m str,
    /// `none` where an assistant only called tools.
    content: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'m str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'m str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'m>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
}

#[derive(Serialize)]
struct Call<'m> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'m>,
}

#[derive(Serialize)]
struct Function<'m> {
    name: &'m str,
    /// The object that the client sends as text; templates write it themselves.
    arguments: Value,
}

impl<'m> Turn<'m> {
    pub(super) fn of(message: &'m Message, manner: Option<Manner>) -> Self {
        let only_calls = message.content.is_empty() && !message.tool_calls.is_empty();
        Self {
            role: &message.role,
            content: (!only_calls).then_some(message.content.as_str()),
            name: message.name.as_deref(),
            reasoning_content: message.reasoning_content.as_deref(),
            tool_calls: message.tool_calls.iter().map(|call| Call::of(call, manner)).collect(),
            tool_call_id: message.tool_call_id.as_deref().map(|id| call_id(id, manner)),
        }
    }
}

impl<'m> Call<'m> {
    fn of(call: &'m CalledTool, manner: Option<Manner>) -> Self {
        // What is no JSON is passed on as the text it is.
        let arguments = serde_json::from_str(&call.arguments).unwrap_or_else(|_| Value::from(call.arguments.as_str()));
        Self { id: call_id(&call.id, manner), kind: "function", function: Function { name: &call.name, arguments } }
    }
}

/// The id of a call as the model knows it. Mistral's models know ids of nine letters and digits, and their templates
/// refuse any other; equal ids stay equal.
fn call_id(id: &str, manner: Option<Manner>) -> String {
    const LENGTH: usize = 9;
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let fits = id.len() == LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !matches!(manner, Some(Manner::Listed | Manner::Spoken)) || fits {
        return id.to_owned();
    }
    let digest = Sha256::digest(id.as_bytes());
    digest.iter().take(LENGTH).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_to_fit_and_stay_equal() {
        let long = "call_01J_0_0";
        assert_eq!(call_id(long, Some(Manner::Tagged)), long);
        let short = call_id(long, Some(Manner::Listed));
        assert!(short.len() == 9 && short.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{short}");
        assert_eq!(call_id(long, Some(Manner::Listed)), short);
        assert_ne!(call_id("call_01J_0_1", Some(Manner::Listed)), short);
        assert_eq!(call_id("abcdef123", Some(Manner::Listed)), "abcdef123");
    }
}
