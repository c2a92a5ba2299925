//! Reads a tool call out of what a model says.

use penstock_service::ports::Part;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Finds the end of a JSON object that arrives in pieces. Reads each byte once.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectEnd {
    read: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ObjectEnd {
    /// The length of the object that `text` begins with, once it is complete. `text` is what it was at the last call, or
    /// longer.
    pub(super) fn find(&mut self, text: &str) -> Option<usize> {
        for (place, byte) in text.bytes().enumerate().skip(self.read) {
            self.read = place + 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.read);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[derive(Deserialize)]
struct Said<'t> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'t RawValue>,
}

/// The call that an object is, if it is one of these tools: its arguments are an object, or a text that holds one.
pub(super) fn call(object: &str, tools: &[String]) -> Option<Part> {
    let said: Said<'_> = serde_json::from_str(object).ok()?;
    named(said.name, said.arguments.map_or("{}", RawValue::get), tools)
}

/// The call of the tool `name` with `arguments`, on the same conditions.
pub(super) fn named(name: String, arguments: &str, tools: &[String]) -> Option<Part> {
    let unwrapped = serde_json::from_str::<String>(arguments).unwrap_or_else(|_| arguments.to_owned());
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&unwrapped).ok()?;
    tools.contains(&name).then_some(Part::Call { name, arguments: unwrapped })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(name: &str, arguments: &str) -> Option<Part> {
        Some(Part::Call { name: name.into(), arguments: arguments.into() })
    }

    #[test]
    fn a_call_names_a_tool_and_brings_an_object() {
        let tools = ["f".to_owned()];
        assert_eq!(call(r#"{"name": "f", "arguments": {"a":  1}}"#, &tools), part("f", r#"{"a":  1}"#));
        assert_eq!(call(r#"{"name": "f", "parameters": {}}"#, &tools), part("f", "{}"));
        assert_eq!(call(r#"{"name": "f", "arguments": "{\"a\": 1}"}"#, &tools), part("f", r#"{"a": 1}"#));
        assert_eq!(call(r#"{"name": "f"}"#, &tools), part("f", "{}"));
        for other in [
            r#"{"name": "g", "arguments": {}}"#,
            r#"{"name": "f", "arguments": [1]}"#,
            r#"{"name": "f", "arguments": "x"}"#,
            r#"{"arguments": {}}"#,
            r#"{"name": "f", "arguments": {a}}"#,
            "{}",
        ] {
            assert_eq!(call(other, &tools), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn the_end_of_an_object_is_found_in_whatever_pieces_it_comes(
            keys in proptest::collection::vec("[a-z{}\\[\\]\"\\\\✓]{0,6}", 0..5), rest in "[ -~]{0,9}", step in 1usize..9,
        ) {
            let inner: serde_json::Value = keys.iter().map(|key| (key.clone(), serde_json::json!([key]))).collect();
            let object = serde_json::json!({"x": inner}).to_string();
            let whole = object.clone() + &rest;
            let mut end = ObjectEnd::default();
            let mut found = None;
            for length in (0..=whole.len()).filter(|&length| whole.is_char_boundary(length) && length % step == 0) {
                found = found.or_else(|| end.find(&whole[..length]));
            }
            prop_assert_eq!(found.or_else(|| end.find(&whole)), Some(object.len()));
        }
    }
}
