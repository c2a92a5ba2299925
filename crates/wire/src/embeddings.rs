//! `POST /v1/embeddings`: texts in, vectors out.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::BadRequest;

/// The most inputs of one request, as OpenAI has it.
pub const MAX_INPUTS: usize = 2048;

/// A checked request for vectors. Made by [`EmbeddingsRequest::parse`] only, so its values are within their ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingsRequest {
    /// The model asked for; not empty.
    pub model: String,
    /// What to turn into vectors.
    pub inputs: Inputs,
    /// How the vectors are written.
    pub encoding: Encoding,
    /// So many numbers a vector, at least 1; `None`: as many as the model gives.
    pub dimensions: Option<u32>,
    /// `auto`, `default`, `flex`, `priority` and the like.
    pub service_tier: Option<String>,
}

/// What to turn into vectors: 1 to [`MAX_INPUTS`] inputs, none of them empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inputs {
    /// Texts.
    Texts(Vec<String>),
    /// Token ids of the model's own tokenizer, special ones included: they go into the model as they are.
    Tokens(Vec<Vec<u32>>),
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As a list of numbers.
    Float,
    /// As the base64 text of their little-endian single-precision bytes. What the stock clients ask for.
    Base64,
}

impl Inputs {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(lists) => lists.len(),
        }
    }

    /// Whether there are none, which a checked request never has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "EmbeddingsRequest"))]
pub(crate) struct RawEmbeddings<'b> {
    #[cfg_attr(feature = "openapi", schemars(with = "Option<String>"))]
    model: Option<Value>,
    #[serde(borrow)]
    #[cfg_attr(feature = "openapi", schemars(with = "Option<RawInput>"))]
    input: Option<&'b RawValue>,
    #[cfg_attr(feature = "openapi", schemars(with = "Option<String>"))]
    encoding_format: Option<Value>,
    #[cfg_attr(feature = "openapi", schemars(with = "Option<u32>"))]
    dimensions: Option<Value>,
    #[cfg_attr(feature = "openapi", schemars(with = "Option<String>"))]
    service_tier: Option<Value>,
}

/// The four shapes of `input`. An empty list is one of texts.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "openapi", schemars(rename = "EmbeddingsInput"))]
#[serde(untagged)]
enum RawInput {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

impl EmbeddingsRequest {
    /// Reads and checks a request body. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`BadRequest`] naming the first field at fault.
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let raw: RawEmbeddings<'_> = serde_json::from_slice(body).map_err(|error| unreadable(body, &error))?;
        Ok(Self {
            model: model(raw.model)?,
            inputs: inputs(raw.input)?,
            encoding: encoding(raw.encoding_format)?,
            dimensions: dimensions(raw.dimensions)?,
            service_tier: match raw.service_tier {
                None | Some(Value::Null) => None,
                Some(Value::String(tier)) => Some(tier),
                Some(_) => return Err(wrong_type("service_tier", "a string")),
            },
        })
    }
}

fn wrong_type(param: &str, expected: &str) -> BadRequest {
    BadRequest::field(param, "invalid_type", format!("'{param}' must be {expected}"))
}

fn missing(param: &str) -> BadRequest {
    BadRequest::field(param, "missing_required_parameter", format!("'{param}' is required"))
}

fn unreadable(body: &[u8], error: &serde_json::Error) -> BadRequest {
    let (code, message) = match serde_json::from_slice::<&RawValue>(body) {
        Ok(_) => ("invalid_type", "the body must be a JSON object".to_owned()),
        Err(_) => ("invalid_json", format!("the body is not readable JSON: {error}")),
    };
    BadRequest { param: None, code, message }
}

fn model(value: Option<Value>) -> Result<String, BadRequest> {
    match value {
        None | Some(Value::Null) => Err(missing("model")),
        Some(Value::String(name)) if name.is_empty() => {
            Err(BadRequest::field("model", "invalid_value", "'model' must not be empty"))
        }
        Some(Value::String(name)) => Ok(name),
        Some(_) => Err(wrong_type("model", "a string")),
    }
}

fn inputs(raw: Option<&RawValue>) -> Result<Inputs, BadRequest> {
    let raw = raw.filter(|raw| raw.get() != "null").ok_or_else(|| missing("input"))?;
    let read: RawInput = serde_json::from_str(raw.get()).map_err(|_| {
        wrong_type("input", "a string, a list of strings, a list of token ids, or a list of lists of token ids")
    })?;
    let inputs = match read {
        RawInput::Text(text) => Inputs::Texts(vec![text]),
        RawInput::Texts(texts) => Inputs::Texts(texts),
        RawInput::Tokens(ids) => Inputs::Tokens(vec![ids]),
        RawInput::TokenLists(lists) => Inputs::Tokens(lists),
    };
    let refuse = |param: String, message: String| Err(BadRequest::field(param, "invalid_value", message));
    if inputs.is_empty() {
        return refuse("input".to_owned(), "'input' must hold at least one input".to_owned());
    }
    if inputs.len() > MAX_INPUTS {
        let message = format!("'input' holds {} inputs: at most {MAX_INPUTS} are taken at once", inputs.len());
        return refuse("input".to_owned(), message);
    }
    let empty = match &inputs {
        Inputs::Texts(texts) => texts.iter().position(String::is_empty),
        Inputs::Tokens(lists) => lists.iter().position(Vec::is_empty),
    };
    match empty {
        Some(place) => {
            refuse(format!("input[{place}]"), format!("'input[{place}]' is empty: there is nothing to say of it"))
        }
        None => Ok(inputs),
    }
}

fn encoding(value: Option<Value>) -> Result<Encoding, BadRequest> {
    match value {
        None | Some(Value::Null) => Ok(Encoding::Float),
        Some(Value::String(name)) => match name.as_str() {
            "float" => Ok(Encoding::Float),
            "base64" => Ok(Encoding::Base64),
            _ => {
                let message = "'encoding_format' must be 'float' or 'base64'";
                Err(BadRequest::field("encoding_format", "invalid_value", message))
            }
        },
        Some(_) => Err(wrong_type("encoding_format", "'float' or 'base64'")),
    }
}

fn dimensions(value: Option<Value>) -> Result<Option<u32>, BadRequest> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => match number.as_u64().map(u32::try_from) {
            Some(Ok(dimensions @ 1..)) => Ok(Some(dimensions)),
            Some(_) | None => {
                let message = format!("'dimensions' is {number}: must be a whole number from 1 on");
                Err(BadRequest::field("dimensions", "invalid_value", message))
            }
        },
        Some(_) => Err(wrong_type("dimensions", "a whole number")),
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct EmbeddingList {
    /// Always `list`.
    pub object: String,
    /// The vectors, in the order of the inputs.
    pub data: Vec<Embedding>,
    /// The model that was asked.
    pub model: String,
    /// What it cost.
    pub usage: EmbeddingUsage,
}

/// One vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct Embedding {
    /// Always `embedding`.
    pub object: String,
    /// Which input it is of, from 0.
    pub index: usize,
    /// Its numbers.
    pub embedding: Vector,
}

/// A vector as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Vector {
    /// As numbers.
    Float(Vec<f32>),
    /// As the base64 text of little-endian single-precision bytes.
    Base64(String),
}

/// Tokens used; there is no answer in tokens, so both figures are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
pub struct EmbeddingUsage {
    /// Tokens of all inputs, those that the tokenizer adds included.
    pub prompt_tokens: u32,
    /// The same.
    pub total_tokens: u32,
}

impl EmbeddingList {
    /// The answer of `model` with these vectors, which took `tokens` tokens.
    #[must_use]
    pub fn new(model: &str, vectors: Vec<Vector>, tokens: u32) -> Self {
        let data = vectors.into_iter().enumerate();
        Self {
            object: "list".to_owned(),
            data: data
                .map(|(index, embedding)| Embedding { object: "embedding".to_owned(), index, embedding })
                .collect(),
            model: model.to_owned(),
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<EmbeddingsRequest, BadRequest> {
        EmbeddingsRequest::parse(value.to_string().as_bytes())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = json!({"model": "m", "input": "hi"});
        body[field] = value;
        body
    }

    #[test]
    fn the_four_shapes_of_input_are_read() {
        for (input, expected) in [
            (json!("a"), Inputs::Texts(vec!["a".to_owned()])),
            (json!(["a", "b"]), Inputs::Texts(vec!["a".to_owned(), "b".to_owned()])),
            (json!([5, 6]), Inputs::Tokens(vec![vec![5, 6]])),
            (json!([[5], [6, 7]]), Inputs::Tokens(vec![vec![5], vec![6, 7]])),
        ] {
            assert_eq!(parse(&with("input", input)).unwrap().inputs, expected);
        }
    }

    #[test]
    fn a_plain_request_gets_the_documented_defaults_and_unknown_fields_are_ignored() {
        let request = parse(&with("user", json!("somebody"))).unwrap();
        assert_eq!((request.encoding, request.dimensions, request.service_tier), (Encoding::Float, None, None));
        assert_eq!(parse(&with("encoding_format", json!("base64"))).unwrap().encoding, Encoding::Base64);
        assert_eq!(parse(&with("dimensions", json!(64))).unwrap().dimensions, Some(64));
        assert_eq!(parse(&with("dimensions", Value::Null)).unwrap().dimensions, None);
    }

    #[test]
    fn a_refusal_names_the_field() {
        for (field, value, param, code) in [
            ("model", json!(""), "model", "invalid_value"),
            ("model", json!(5), "model", "invalid_type"),
            ("input", Value::Null, "input", "missing_required_parameter"),
            ("input", json!([]), "input", "invalid_value"),
            ("input", json!(""), "input[0]", "invalid_value"),
            ("input", json!(["a", ""]), "input[1]", "invalid_value"),
            ("input", json!([[5], []]), "input[1]", "invalid_value"),
            ("input", json!(5), "input", "invalid_type"),
            ("input", json!(["a", 5]), "input", "invalid_type"),
            ("input", json!([-1]), "input", "invalid_type"),
            ("input", json!([1.5]), "input", "invalid_type"),
            ("input", json!({"text": "a"}), "input", "invalid_type"),
            ("input", json!(vec!["a"; MAX_INPUTS + 1]), "input", "invalid_value"),
            ("encoding_format", json!("hex"), "encoding_format", "invalid_value"),
            ("encoding_format", json!(1), "encoding_format", "invalid_type"),
            ("dimensions", json!(0), "dimensions", "invalid_value"),
            ("dimensions", json!(1.5), "dimensions", "invalid_value"),
            ("dimensions", json!("8"), "dimensions", "invalid_type"),
            ("service_tier", json!(1), "service_tier", "invalid_type"),
        ] {
            let refusal = parse(&with(field, value.clone())).unwrap_err();
            assert_eq!((refusal.param.as_deref(), refusal.code), (Some(param), code), "{field}");
        }
        assert_eq!(parse(&with("input", json!(vec!["a"; MAX_INPUTS]))).unwrap().inputs.len(), MAX_INPUTS);
        assert_eq!(parse(&json!({"input": "a"})).unwrap_err().param.as_deref(), Some("model"));
    }

    #[test]
    fn bodies_that_are_no_json_objects_are_refused_as_such() {
        for body in [&b""[..], b"{", b"\xff\xfe", b"[1]", b"null", "[".repeat(100_000).as_bytes()] {
            assert_eq!(EmbeddingsRequest::parse(body).unwrap_err().param, None);
        }
    }

    #[test]
    fn an_answer_is_written_as_the_stock_clients_read_it() {
        let list = EmbeddingList::new("m", vec![Vector::Float(vec![0.5]), Vector::Base64("AAAA".to_owned())], 7);
        let written = json!({"object": "list", "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5]},
            {"object": "embedding", "index": 1, "embedding": "AAAA"},
        ]});
        assert_eq!(serde_json::to_value(list).unwrap(), written);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = EmbeddingsRequest::parse(&body);
        }

        #[test]
        fn no_input_makes_the_parser_panic_and_an_accepted_one_is_not_empty(input in "[\\[\\]\",0-9a-c.-]{0,40}") {
            if let Ok(request) = EmbeddingsRequest::parse(format!("{{\"model\":\"m\",\"input\":{input}}}").as_bytes()) {
                prop_assert!(!request.inputs.is_empty());
            }
        }
    }
}
