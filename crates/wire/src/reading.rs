//! Reading a body: fast when it is good, and with the field at fault when it is not.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::BadRequest;

/// Reads a JSON object.
///
/// # Errors
/// [`BadRequest`] naming the field at fault, if one is.
pub(crate) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadRequest> {
    serde_json::from_slice(body).map_err(|error| unreadable::<T>(body, &error))
}

/// Finds the field at fault by reading once more, slowly: only refused requests pay for the path.
fn unreadable<T: DeserializeOwned>(body: &[u8], error: &serde_json::Error) -> BadRequest {
    if core::str::from_utf8(body).is_err() {
        let message = "the body is not UTF-8 text".to_owned();
        return BadRequest { param: None, code: "invalid_json", message };
    }
    match serde_json::from_slice::<Value>(body) {
        Err(error) => {
            BadRequest { param: None, code: "invalid_json", message: format!("the body is not readable JSON: {error}") }
        }
        Ok(Value::Object(map)) => {
            let culprit = map.into_iter().find(|(key, value)| {
                let alone = Value::Object(core::iter::once((key.clone(), value.clone())).collect());
                serde_json::from_value::<T>(alone).is_err()
            });
            let param = culprit.map(|(key, _)| key);
            let message = match &param {
                Some(param) => format!("'{param}' has the wrong type: {error}"),
                None => format!("the body cannot be read: {error}"),
            };
            BadRequest { param, code: "invalid_type", message }
        }
        Ok(_) => {
            let message = "the body must be a JSON object".to_owned();
            BadRequest { param: None, code: "invalid_type", message }
        }
    }
}
