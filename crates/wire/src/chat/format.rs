//! The form an answer must have.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::missing;
use super::tools::is_name;
use crate::error::BadRequest;

/// The form an answer must have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Any.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that follows this schema.
    JsonSchema(Value),
}

pub(crate) fn format(format: Option<Value>) -> Result<Format, BadRequest> {
    let refuse = |field: &str, message: String| Err(BadRequest::field(field, "invalid_value", message));
    let format = match format {
        None | Some(Value::Null) => return Ok(Format::Text),
        Some(format) => format,
    };
    match format["type"].as_str() {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::JsonObject),
        Some("json_schema") => {
            let described = &format["json_schema"];
            if !described.is_object() {
                return Err(missing("response_format.json_schema"));
            }
            if !described["name"].is_null() && !described["name"].as_str().is_some_and(is_name) {
                let message = "a schema's name must be 1 to 64 letters, digits, '_', '-' or '.'".to_owned();
                return refuse("response_format.json_schema.name", message);
            }
            match &described["schema"] {
                Value::Null => Ok(Format::JsonObject),
                schema @ Value::Object(_) => Ok(Format::JsonSchema(schema.clone())),
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => refuse(
                    "response_format.json_schema.schema",
                    "'response_format.json_schema.schema' must be a JSON schema: an object".to_owned(),
                ),
            }
        }
        Some(other) => refuse(
            "response_format.type",
            format!("'response_format.type' is '{other}': must be text, json_object or json_schema"),
        ),
        None => Err(missing("response_format.type")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_is_read() {
        let schema = json!({"type": "integer"});
        let described = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
        for (given, expected) in [
            (json!(null), Format::Text),
            (json!({"type": "text"}), Format::Text),
            (json!({"type": "json_object"}), Format::JsonObject),
            (described, Format::JsonSchema(schema)),
            (json!({"type": "json_schema", "json_schema": {"name": "n"}}), Format::JsonObject),
        ] {
            assert_eq!(format(Some(given)), Ok(expected));
        }
    }

    #[test]
    fn a_refusal_names_the_place() {
        for (given, place) in [
            (json!({}), "response_format.type"),
            (json!({"type": "xml"}), "response_format.type"),
            (json!({"type": "json_schema"}), "response_format.json_schema"),
            (json!({"type": "json_schema", "json_schema": {"name": "a b"}}), "response_format.json_schema.name"),
            (json!({"type": "json_schema", "json_schema": {"schema": true}}), "response_format.json_schema.schema"),
        ] {
            assert_eq!(format(Some(given)).unwrap_err().param.as_deref(), Some(place));
        }
    }
}
