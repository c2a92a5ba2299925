//! Answers of a demanded form, from a model with random weights that would say anything else: JSON by a schema, tool
//! calls, thoughts; drawn with many seeds, taken over in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use std::num::NonZeroU32;

use penstock_gpu_worker::engine::{EngineConfig, OnnxEngine};
use penstock_service::ports::{EngineFault, FinishReason, Part, Sequence};
use penstock_wire::chat::{Format, Tool, ToolChoice};
use serde_json::{Value, json};
use support::{Reply, library, read, sequence, start};

/// A folder that lives as long as its engine.
struct Bytes {
    engine: OnnxEngine,
    folder: std::path::PathBuf,
}

impl Bytes {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("penstock-forms-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        support::bytes::write(&folder);
        let config = EngineConfig { slots: NonZeroU32::new(4), ..EngineConfig::new(&folder, library()) };
        Self { engine: OnnxEngine::load(&config).unwrap(), folder }
    }

    fn say(&self, sequence: Sequence) -> Reply {
        read(start(&self.engine, sequence))
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn drawn(seed: u64) -> Sequence {
    let mut asked = sequence("say");
    let sampling = &mut asked.generation.sampling;
    (sampling.temperature, sampling.seed, sampling.max_tokens) = (1.5, seed, Some(300));
    asked.generation.template_kwargs.insert("think".into(), json!(false));
    asked
}

fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["kind", "level"], "properties": {
        "kind": {"enum": ["dam", "weir", "penstöck"]}, "level": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 4}}}})
}

fn tool(name: &str) -> Tool {
    let function = json!({"name": name, "parameters": schema()});
    serde_json::from_value(json!({"type": "function", "function": function})).unwrap()
}

fn follows(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let tags = value.get("tags").is_none_or(|tags| {
        tags.as_array().is_some_and(|tags| {
            tags.len() <= 2 && tags.iter().all(|tag| tag.as_str().is_some_and(|tag| tag.chars().count() <= 4))
        })
    });
    tags && ["dam", "weir", "penstöck"].iter().any(|kind| value["kind"] == *kind)
        && value["level"].as_f64().is_some_and(|level| (0.0..=99.0).contains(&level) && level.fract() == 0.0)
        && value.as_object().is_some_and(|fields| fields.len() <= 3)
}

#[test]
fn a_random_model_kept_to_a_schema_says_json_that_follows_it_also_when_it_is_taken_over() {
    let bytes = Bytes::new("schema");
    let of = |seed: u64| {
        let mut asked = drawn(seed);
        asked.generation.format = Format::JsonSchema(schema());
        asked.generation.logprobs = Some(0);
        asked
    };
    let mut distinct = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let whole = bytes.say(of(seed));
        assert!(follows(&whole.text), "{}", whole.text);
        assert!(matches!(whole.end, Some(Ok((FinishReason::Stop, _)))), "{whole:?}");
        for cut in [1, whole.ids.len() / 2, whole.ids.len() - 1] {
            let mut resumed = of(seed);
            resumed.resume_ids = whole.ids[..cut].to_vec();
            resumed.resume_bytes = whole.shown_after[cut - 1];
            let rest = bytes.say(resumed);
            assert_eq!(whole.text[..whole.shown_after[cut - 1]].to_owned() + &rest.text, whole.text, "cut after {cut}");
            assert_eq!((&rest.ids[..], &rest.end), (&whole.ids[cut..], &whole.end));
            assert_eq!(rest.logprobs[..], whole.logprobs[cut..]);
        }
        distinct.insert(whole.text);
    }
    assert!(distinct.len() > 10, "{distinct:?}");
    let mut object = drawn(1);
    object.generation.format = Format::JsonObject;
    assert!(bytes.say(object).text.starts_with('{'));
}

#[test]
fn a_demanded_tool_is_called_with_arguments_that_follow_its_schema() {
    let bytes = Bytes::new("tools");
    let mut named = 0;
    for seed in 0..12 {
        let mut asked = drawn(seed);
        asked.generation.tools = vec![tool("level"), tool("gauge")];
        asked.generation.parallel_tool_calls = false;
        let by_name = seed % 2 == 0;
        asked.generation.tool_choice = if by_name { ToolChoice::Named("gauge".into()) } else { ToolChoice::Required };
        let reply = bytes.say(asked);
        let [Part::Call { name, arguments }] = &reply.parts[..] else { panic!("{reply:?}") };
        assert!(name == "gauge" || !by_name);
        assert!(follows(arguments), "{arguments}");
        assert!(matches!(reply.end, Some(Ok((FinishReason::ToolCalls, _)))), "{reply:?}");
        named += u32::from(name == "gauge");
    }
    assert!(named >= 6);
}

#[test]
fn a_model_that_is_thinking_thinks_first_and_its_thoughts_are_counted() {
    let bytes = Bytes::new("thoughts");
    let mut asked = drawn(3);
    asked.generation.template_kwargs.insert("think".into(), json!(true));
    asked.generation.sampling.max_tokens = Some(30);
    let reply = bytes.say(asked.clone());
    assert!(matches!(&reply.parts[..], [Part::Reasoning(_)]), "it never comes to an end: {reply:?}");
    assert_eq!(reply.reasoning_tokens, 30);
    asked.generation.template_kwargs.insert("think".into(), json!(false));
    let plain = bytes.say(asked);
    assert!(matches!(&plain.parts[..], [Part::Content(_)]), "{plain:?}");
    assert_eq!(plain.reasoning_tokens, 0);
}

#[test]
fn a_schema_that_cannot_be_honoured_is_the_client_s_to_mend() {
    let bytes = Bytes::new("refused");
    let mut asked = drawn(1);
    asked.generation.format = Format::JsonSchema(json!({"type": "array", "uniqueItems": true}));
    let reply = bytes.say(asked);
    let EngineFault::BadRequest { code, param, message } = reply.fault() else { panic!("{reply:?}") };
    assert_eq!((code.as_str(), param.as_deref()), ("invalid_value", Some("response_format.json_schema.schema")));
    assert!(message.contains("uniqueItems"), "{message}");
}

#[test]
fn tools_are_refused_by_a_model_that_has_no_place_for_them() {
    let mut asked = sequence("R:1=");
    asked.generation.tools = vec![tool("level")];
    let reply = read(start(&support::engine(1), asked));
    let EngineFault::BadRequest { code, param, .. } = reply.fault() else { panic!("{reply:?}") };
    assert_eq!((code.as_str(), param.as_deref()), ("unsupported_parameter", Some("tools")));
}

#[test]
fn a_trained_model_is_kept_to_a_form_too() {
    let engine = support::engine(1);
    let mut asked = sequence("R:38291=");
    asked.generation.format = Format::JsonSchema(json!({"type": "integer", "minimum": 1000, "maximum": 1999}));
    let reply = read(start(&engine, asked));
    assert_eq!((reply.text.as_str(), &reply.end), ("1928", &Some(Ok((FinishReason::Stop, 4)))));
}
