//! Server-sent events as the stock clients survive them: `data:` events and comments, never `id:` or `retry:`, which
//! crash them; `event:` only where the clients know the event, in streams of `/v1/responses`.

use serde::Serialize;

use crate::responses::ResponseEvent;

/// The last event of a chat stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// One `data:` event with `value` as JSON on a single line.
#[must_use]
pub fn data(value: &impl Serialize) -> String {
    let mut frame = String::from("data: ");
    frame.push_str(&serde_json::to_string(value).unwrap_or_default());
    frame.push_str("\n\n");
    frame
}

/// One numbered event of a streamed response, its type named beside the data as OpenAI does.
#[must_use]
pub fn event(event: &ResponseEvent) -> String {
    let value = serde_json::to_value(event).unwrap_or_default();
    let kind = value["type"].as_str().unwrap_or_default();
    format!("event: {kind}\n{}", data(&value))
}

/// A comment that keeps the connection alive while the request waits, with what is known of the wait.
#[must_use]
pub fn keep_alive(position: Option<u64>, eta_ms: Option<u64>) -> String {
    let mut frame = String::from(": keep-alive");
    if let Some(position) = position {
        frame.push_str(&format!(" position={position}"));
    }
    if let Some(eta_ms) = eta_ms {
        frame.push_str(&format!(" eta_ms={eta_ms}"));
    }
    frame.push_str("\n\n");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_in_the_text_does_not_break_the_frame() {
        assert_eq!(data(&"a\nb"), "data: \"a\\nb\"\n\n");
    }

    #[test]
    fn a_comment_is_one_line_that_begins_with_a_colon() {
        assert_eq!(keep_alive(Some(3), Some(120)), ": keep-alive position=3 eta_ms=120\n\n");
        assert_eq!(keep_alive(None, None), ": keep-alive\n\n");
    }
}
