//! Tools, their choice and the form of the answer as this route writes them: flatter than chat does.

use serde_json::{Map, Value, json};

use crate::chat::Format;
use crate::chat::check::missing;
use crate::chat::{Tool, ToolChoice};
use crate::error::BadRequest;

/// A function as chat writes it.
pub(super) fn tools(list: &[Value]) -> Result<Vec<Tool>, BadRequest> {
    let nested = |(place, tool): (usize, &Value)| {
        if tool["type"] != "function" {
            let path = format!("tools[{place}].type");
            let message = format!("'{path}' must be 'function': no other tools are offered");
            return Err(BadRequest::field(path, "invalid_value", message));
        }
        let fields = ["name", "description", "parameters", "strict"];
        let function: Map<String, Value> = fields
            .into_iter()
            .filter_map(|field| tool.get(field).map(|value| (field.to_owned(), value.clone())))
            .filter(|(_, value)| !value.is_null())
            .collect();
        Ok(json!({"type": "function", "function": function}))
    };
    let nested: Vec<Value> = list.iter().enumerate().map(nested).collect::<Result<_, _>>()?;
    crate::chat::tools::tools(Some(nested)).map_err(|refusal| renamed(refusal, ".function", ""))
}

pub(super) fn tool_choice(choice: Option<&Value>, tools: &[Tool]) -> Result<ToolChoice, BadRequest> {
    let nested = choice.map(|choice| match (choice["type"].as_str(), choice["name"].as_str()) {
        (Some("function"), Some(name)) => json!({"type": "function", "function": {"name": name}}),
        (_, _) => choice.clone(),
    });
    crate::chat::tools::tool_choice(nested, tools)
}

/// The form of the answer, from `text.format`.
pub(super) fn format(format: Option<&Value>) -> Result<Format, BadRequest> {
    let nested = match format {
        None | Some(Value::Null) => return Ok(Format::Text),
        Some(format) if format["type"] == "json_schema" => {
            if !format["schema"].is_object() {
                return Err(missing("text.format.schema"));
            }
            json!({"type": "json_schema", "json_schema": {"name": format["name"], "schema": format["schema"]}})
        }
        Some(format) => format.clone(),
    };
    crate::chat::format::format(Some(nested))
        .map_err(|refusal| renamed(refusal, ".json_schema", ""))
        .map_err(|refusal| renamed(refusal, "response_format", "text.format"))
}

/// The same refusal about the field as this route calls it.
fn renamed(refusal: BadRequest, of_chat: &str, here: &str) -> BadRequest {
    BadRequest {
        param: refusal.param.map(|param| param.replacen(of_chat, here, 1)),
        message: refusal.message.replacen(of_chat, here, 1),
        ..refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_function_is_the_nested_one() {
        let flat = json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": null});
        let list = tools(&[flat]).unwrap();
        assert_eq!(
            list[0].as_json(),
            &json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})
        );
        let named = json!({"type": "function", "name": "f"});
        assert_eq!(tool_choice(Some(&named), &list), Ok(ToolChoice::Named("f".to_owned())));
        assert_eq!(tool_choice(None, &list), Ok(ToolChoice::Auto));
    }

    #[test]
    fn refusals_speak_of_the_fields_there_are_here() {
        assert_eq!(tools(&[json!({"type": "web_search"})]).unwrap_err().param.as_deref(), Some("tools[0].type"));
        let nameless = tools(&[json!({"type": "function"})]).unwrap_err();
        assert_eq!(nameless.param.as_deref(), Some("tools[0].name"));
        assert!(nameless.message.contains("'tools[0].name'"), "{}", nameless.message);
        for (given, place) in [
            (json!({"type": "xml"}), "text.format.type"),
            (json!({"type": "json_schema", "name": "n"}), "text.format.schema"),
            (json!({"type": "json_schema", "name": "a b", "schema": {}}), "text.format.name"),
        ] {
            assert_eq!(format(Some(&given)).unwrap_err().param.as_deref(), Some(place));
        }
        let described = json!({"type": "json_schema", "name": "n", "schema": {"type": "integer"}, "strict": true});
        assert_eq!(format(Some(&described)), Ok(Format::JsonSchema(json!({"type": "integer"}))));
    }
}
