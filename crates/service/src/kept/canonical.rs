//! When two requests are the same request.
//!
//! The canonical form holds everything that can change the answer and nothing else: model, messages, sampling,
//! maximum, stops, seed. How the answer is delivered (streamed or whole), the service tier, and fields this server
//! ignores are left out, and so is a field that came later and has its default: the keys that were stored before still
//! meet. Its fields have a fixed order and numbers one spelling, so equal requests have equal bytes.
//! The key is an HMAC of it with the tenant and a deployment's secret, so a stored key tells nothing of a prompt and
//! never meets another tenant's.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use penstock_policy::id::TenantId;
use penstock_wire::chat::{ChatRequest, Format, Message, Tool, ToolChoice};
use penstock_wire::completions::Prompt;
use penstock_wire::embeddings::{EmbeddingsRequest, Inputs};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::ports::MarkerKey;

#[derive(Serialize)]
struct Canonical<'r> {
    v: u32,
    pool: &'r str,
    messages: &'r [Message],
    temperature: f32,
    top_p: f32,
    max_tokens: Option<u32>,
    stop: &'r [String],
    seed: Option<i64>,
    presence_penalty: f32,
    frequency_penalty: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    logit_bias: &'r BTreeMap<u32, f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<u32>,
    #[serde(skip_serializing_if = "<[Tool]>::is_empty")]
    tools: &'r [Tool],
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<&'r ToolChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'r Format>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    template_kwargs: &'r Map<String, Value>,
    #[serde(skip_serializing_if = "<[Prompt]>::is_empty")]
    prompts: &'r [Prompt],
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<bool>,
}

/// The bytes in which two requests to a pool are equal exactly if they ask for the same.
pub(crate) fn canonical(request: &ChatRequest, pool: &str) -> Vec<u8> {
    let form = Canonical {
        v: 1,
        pool,
        messages: &request.messages,
        temperature: request.temperature,
        top_p: request.top_p,
        max_tokens: request.max_tokens,
        stop: &request.stop,
        seed: request.seed,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        top_k: request.top_k,
        min_p: unusual(request.min_p, 0.0),
        repetition_penalty: unusual(request.repetition_penalty, 1.0),
        logit_bias: &request.logit_bias,
        n: (request.n != 1).then_some(request.n),
        logprobs: request.logprobs,
        tools: &request.tools,
        tool_choice: Some(&request.tool_choice).filter(|choice| **choice != ToolChoice::Auto),
        parallel_tool_calls: Some(request.parallel_tool_calls).filter(|parallel| !parallel),
        format: Some(&request.format).filter(|format| **format != Format::Text),
        template_kwargs: &request.template_kwargs,
        prompts: &request.prompts,
        echo: Some(request.echo).filter(|echo| *echo),
    };
    serde_json::to_vec(&form).unwrap_or_default()
}

#[derive(Serialize)]
struct CanonicalEmbeddings<'r> {
    v: u32,
    pool: &'r str,
    embed: &'r Inputs,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<u32>,
}

/// The same of a request for vectors; how they are written is left out.
pub(crate) fn canonical_embeddings(request: &EmbeddingsRequest, pool: &str) -> Vec<u8> {
    let EmbeddingsRequest { model: _, inputs, encoding: _, dimensions, service_tier: _ } = request;
    let form = CanonicalEmbeddings { v: 1, pool, embed: inputs, dimensions: *dimensions };
    serde_json::to_vec(&form).unwrap_or_default()
}

fn unusual(value: f32, usual: f32) -> Option<f32> {
    (value != usual).then_some(value)
}

/// A digest of the canonical form, to notice that an idempotency key is used with another request.
pub(crate) fn fingerprint(canonical: &[u8]) -> u64 {
    let digest = Sha256::digest(canonical);
    digest.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
}

/// What a marker key is made of.
pub(crate) enum KeyOf<'r> {
    /// The request itself.
    Request(&'r [u8]),
    /// A key the client chose.
    Idempotency(&'r str),
    /// The tries of a request that need not come out the same.
    Tries(&'r [u8]),
}

/// The marker key.
pub(crate) fn marker_key(secret: &[u8], tenant: &TenantId, of: &KeyOf<'_>) -> MarkerKey {
    let (kind, bytes) = match of {
        KeyOf::Request(canonical) => (b'r', *canonical),
        KeyOf::Idempotency(key) => (b'i', key.as_bytes()),
        KeyOf::Tries(canonical) => (b't', *canonical),
    };
    let digest = match Hmac::<Sha256>::new_from_slice(secret) {
        Ok(mut mac) => {
            mac.update(&[kind]);
            mac.update(tenant.as_str().as_bytes());
            mac.update(&[0]);
            mac.update(bytes);
            mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
        }
        // HMAC takes keys of any length.
        Err(_) => String::new(),
    };
    MarkerKey { tenant: tenant.clone(), digest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> ChatRequest {
        ChatRequest::parse(body.as_bytes()).unwrap()
    }

    const PLAIN: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0}"#;

    #[test]
    fn delivery_and_ignored_fields_do_not_make_another_request() {
        let other = r#"{"temperature":0.0,"stream":true,"user":"x","service_tier":"flex","model":"m",
                        "messages":[{"content":[{"type":"text","text":"hi"}],"role":"user"}]}"#;
        assert_eq!(canonical(&request(PLAIN), "p"), canonical(&request(other), "p"));
    }

    #[test]
    fn whatever_changes_the_answer_makes_another_request() {
        let plain = canonical(&request(PLAIN), "p");
        for (from, to) in [("\"hi\"", "\"ho\""), ("user", "system")] {
            assert_ne!(plain, canonical(&request(&PLAIN.replacen(from, to, 1)), "p"));
        }
        for field in [
            r#""stop":"x""#,
            r#""seed":1"#,
            r#""top_p":0.5"#,
            r#""max_tokens":3"#,
            r#""presence_penalty":1"#,
            r#""frequency_penalty":1"#,
            r#""top_k":5"#,
            r#""min_p":0.1"#,
            r#""repetition_penalty":1.5"#,
            r#""logit_bias":{"3":1}"#,
            r#""n":2"#,
            r#""logprobs":true"#,
            r#""logprobs":true,"top_logprobs":2"#,
            r#""tools":[{"type":"function","function":{"name":"f"}}]"#,
            r#""tool_choice":"none""#,
            r#""parallel_tool_calls":false"#,
            r#""response_format":{"type":"json_object"}"#,
            r#""response_format":{"type":"json_schema","json_schema":{"schema":{"type":"integer"}}}"#,
            r#""chat_template_kwargs":{"enable_thinking":false}"#,
        ] {
            let other = PLAIN.replacen(":0}", &format!(":0,{field}}}"), 1);
            assert_ne!(plain, canonical(&request(&other), "p"), "{field}");
        }
        assert_ne!(plain, canonical(&request(PLAIN), "q"));
    }

    proptest::proptest! {
        /// Whatever is hashed, whoever asks: a key that two share is the same tenant's, of the same kind and bytes.
        #[test]
        fn no_two_tenants_share_a_key(
            one in "[a-z]{1,6}", other in "[a-z]{1,6}", bytes in "[ -~]{0,40}", kinds in (0u8..3, 0u8..3),
        ) {
            let key = |tenant: &str, kind: u8| {
                let of = match kind {
                    0 => KeyOf::Request(bytes.as_bytes()),
                    1 => KeyOf::Idempotency(&bytes),
                    _ => KeyOf::Tries(bytes.as_bytes()),
                };
                marker_key(b"secret", &TenantId::new(tenant).unwrap(), &of).digest
            };
            let same = one == other && kinds.0 == kinds.1;
            proptest::prop_assert_eq!(key(&one, kinds.0) == key(&other, kinds.1), same);
        }
    }

    #[test]
    fn keys_of_two_tenants_or_two_kinds_never_meet() {
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let key = |tenant, of: KeyOf<'_>| marker_key(b"secret", tenant, &of).digest;
        let base = key(&a, KeyOf::Request(b"x"));
        assert_eq!(base.len(), 64);
        assert_ne!(base, key(&b, KeyOf::Request(b"x")));
        assert_ne!(base, key(&a, KeyOf::Idempotency("x")));
        assert_ne!(base, key(&a, KeyOf::Tries(b"x")));
    }

    #[test]
    fn requests_for_vectors_meet_whatever_form_they_ask_for() {
        let read = |body: &str| EmbeddingsRequest::parse(body.as_bytes()).unwrap();
        let plain = canonical_embeddings(&read(r#"{"model":"m","input":"a"}"#), "p");
        let same = read(r#"{"input":["a"],"model":"m","encoding_format":"base64","service_tier":"flex","user":"u"}"#);
        assert_eq!(plain, canonical_embeddings(&same, "p"));
        for other in [
            r#"{"model":"m","input":"b"}"#,
            r#"{"model":"m","input":["a","a"]}"#,
            r#"{"model":"m","input":[97]}"#,
            r#"{"model":"m","input":"a","dimensions":8}"#,
        ] {
            assert_ne!(plain, canonical_embeddings(&read(other), "p"), "{other}");
        }
        assert_ne!(plain, canonical_embeddings(&same, "q"));
    }
}
