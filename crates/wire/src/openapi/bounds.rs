//! What the types that read requests do not say of themselves: which fields cannot be left out, and the bounds of the
//! others, as the checks beside those types enforce them.

use serde_json::{Map, Value, json};

/// Lays the bounds over the schemas of requests.
pub(super) fn lay_over(schemas: &mut Map<String, Value>) {
    let sampling = json!({
        "temperature": { "minimum": 0, "maximum": 2 },
        "top_p": { "exclusiveMinimum": 0, "maximum": 1 },
    });
    let more_sampling = json!({
        "n": { "minimum": 1, "maximum": 8 },
        "presence_penalty": { "minimum": -2, "maximum": 2 },
        "frequency_penalty": { "minimum": -2, "maximum": 2 },
        "min_p": { "minimum": 0, "maximum": 1 },
        "repetition_penalty": { "exclusiveMinimum": 0, "maximum": 2 },
        "top_k": { "minimum": -1 },
        "max_tokens": { "type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX },
    });
    let names = |required: &[&str]| json!({ "required": required, "properties": { "model": { "type": "string", "minLength": 1 } } });
    for (schema, overlays) in [
        (
            "ChatRequest",
            vec![
                names(&["model", "messages"]),
                json!({ "properties": sampling }),
                json!({ "properties": more_sampling }),
                json!({ "properties": {
                    "messages": { "type": "array", "minItems": 1 },
                    "max_completion_tokens": { "type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX },
                    "top_logprobs": { "minimum": 0, "maximum": 20 },
                    "tools": { "maxItems": 128, "items": { "type": "object" } },
                    "tool_choice": { "type": ["string", "object", "null"] },
                    "response_format": { "type": ["object", "null"] },
                } }),
            ],
        ),
        (
            "CompletionRequest",
            vec![
                names(&["model", "prompt"]),
                json!({ "properties": sampling }),
                json!({ "properties": more_sampling }),
                json!({ "properties": { "logprobs": { "minimum": 0, "maximum": 20 } } }),
            ],
        ),
        (
            "EmbeddingsRequest",
            vec![
                names(&["model", "input"]),
                json!({ "properties": {
                    "encoding_format": { "enum": ["float", "base64", null] },
                    "dimensions": { "minimum": 1 },
                } }),
            ],
        ),
        (
            "ResponseRequest",
            vec![
                names(&["model", "input"]),
                json!({ "properties": sampling }),
                json!({ "properties": {
                    "max_output_tokens": { "type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX },
                    "top_logprobs": { "minimum": 0, "maximum": 20 },
                    "truncation": { "enum": ["disabled", null] },
                    "metadata": { "maxProperties": 16 },
                    "tools": { "maxItems": 128, "items": { "type": "object" } },
                    "tool_choice": { "type": ["string", "object", "null"] },
                } }),
            ],
        ),
    ] {
        if let Some(held) = schemas.get_mut(schema) {
            overlays.into_iter().for_each(|overlay| merge(held, overlay));
        }
    }
}

/// Lays one value over another: objects field by field, anything else in place of what was there.
fn merge(held: &mut Value, overlay: Value) {
    match (held, overlay) {
        (Value::Object(held), Value::Object(overlay)) => {
            for (field, value) in overlay {
                match held.get_mut(&field) {
                    // A schema that allows anything says `true`.
                    Some(Value::Bool(true)) | None => {
                        held.insert(field, value);
                    }
                    Some(inner) => merge(inner, value),
                }
            }
        }
        (held, overlay) => *held = overlay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_laid_over_a_field_that_exists() {
        let mut schemas = super::super::schemas();
        let before = schemas.clone();
        lay_over(&mut schemas);
        for schema in ["ChatRequest", "CompletionRequest", "ResponseRequest"] {
            let fields = |schemas: &Map<String, Value>| -> Vec<String> {
                let properties = schemas[schema]["properties"].as_object().unwrap();
                properties.keys().cloned().collect()
            };
            assert_eq!(fields(&schemas), fields(&before), "{schema}");
            assert_ne!(schemas[schema], before[schema]);
        }
    }
}
