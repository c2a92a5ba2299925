use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::engine::tokenizer::tests::bytes;

const VOCABULARY: usize = 257;
const END: u32 = 256;

fn form(schema: Value) -> Form {
    Form { grammar: format!("start: {}", embedded(&schema)), schemas: vec![("response_format".to_owned(), schema)] }
}

fn guides() -> Guides {
    Guides::new(bytes(), VOCABULARY)
}

/// Says whatever `pick` chooses of what is allowed, up to `most` tokens, of a form that can be kept to.
fn say(guide: &mut Guide, most: usize, pick: impl FnMut(&[u32]) -> u32) -> (String, Way) {
    try_to_say(guide, most, pick).unwrap()
}

/// The same, of a form that may turn out to be too large on the way.
fn try_to_say(guide: &mut Guide, most: usize, mut pick: impl FnMut(&[u32]) -> u32) -> Result<(String, Way), FormError> {
    let mut said = Vec::new();
    for _ in 0..most {
        let mut logits = vec![0.0; VOCABULARY];
        guide.bind(&mut logits, &[END]);
        let allowed: Vec<u32> = (0..).zip(&logits).filter(|&(_, &logit)| logit == 0.0).map(|(id, _)| id).collect();
        let id = pick(&allowed);
        if id == END {
            return Ok((String::from_utf8(said).unwrap(), Way::Over));
        }
        guide.accept(id)?;
        said.push(u8::try_from(id).unwrap());
        if guide.look()? == Way::Over {
            return Ok((String::from_utf8(said).unwrap(), Way::Over));
        }
    }
    Ok((String::from_utf8_lossy(&said).into_owned(), Way::Open))
}

/// Every answer to it is short, whoever picks the tokens.
fn bounded() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["kind", "count", "tags"], "properties": {
        "kind": {"enum": ["dam", "weir", "penstöck"]},
        "count": {"type": "integer", "minimum": -5, "maximum": 120},
        "tags": {"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 3}},
        "open": {"type": "boolean"},
    }})
}

fn follows(value: &Value) -> bool {
    let tags = value["tags"].as_array();
    ["dam", "weir", "penstöck"].iter().any(|kind| value["kind"] == *kind)
        && value["count"].as_f64().is_some_and(|count| (-5.0..=120.0).contains(&count) && count.fract() == 0.0)
        && tags.is_some_and(|tags| {
            tags.len() <= 2 && tags.iter().all(|tag| tag.as_str().is_some_and(|tag| tag.chars().count() <= 3))
        })
        && value
            .as_object()
            .is_some_and(|fields| fields.keys().all(|key| ["kind", "count", "tags", "open"].contains(&key.as_str())))
}

#[test]
fn an_answer_ends_where_its_form_is_complete_and_not_before() {
    let mut guide = guides().guide(&form(json!({"enum": ["ab", "abc"]}))).unwrap();
    let may_end = |guide: &Guide| {
        let mut logits = vec![0.0; VOCABULARY];
        guide.bind(&mut logits, &[END]);
        logits[END as usize] == 0.0
    };
    for byte in b"\"ab" {
        assert!(!may_end(&guide));
        guide.accept(u32::from(*byte)).unwrap();
        assert_eq!(guide.look(), Ok(Way::Open));
    }
    guide.accept(u32::from(b'"')).unwrap();
    assert_eq!(guide.look(), Ok(Way::Over), "nothing can follow");
    let mut guide = guides().guide(&form(json!({"type": "integer"}))).unwrap();
    guide.accept(u32::from(b'7')).unwrap();
    assert_eq!(guide.look(), Ok(Way::Open));
    assert!(may_end(&guide), "and it may go on");
}

#[test]
fn a_token_that_cannot_stand_there_is_an_error() {
    let mut guide = guides().guide(&form(json!({"type": "integer"}))).unwrap();
    assert!(guide.accept(u32::from(b'x')).is_err());
}

#[test]
fn a_schema_that_cannot_be_honoured_is_refused_with_its_feature() {
    for (schema, word) in [
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"$ref": "https://example.com/schema.json"}), ""),
        (json!({"type": "string", "pattern": "(unclosed"}), ""),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), ""),
        (json!({"type": "nonsense"}), ""),
    ] {
        let error = guides().guide(&form(schema.clone())).err();
        let error = error.unwrap_or_else(|| unreachable!("{schema} was taken"));
        assert_eq!(error.param, "response_format");
        assert!(error.message.contains(word) && error.message.len() < 400, "{error}");
    }
}

#[test]
fn the_schema_at_fault_is_named_among_several() {
    let (good, bad) = (json!({"type": "integer"}), json!({"type": "array", "uniqueItems": true}));
    let grammar = format!("start: a | b\na: {}\nb: {}", embedded(&good), embedded(&bad));
    let form = Form { grammar, schemas: vec![("first".to_owned(), good), ("second".to_owned(), bad)] };
    assert_eq!(guides().guide(&form).err().map(|error| error.param).as_deref(), Some("second"));
}

/// Schemas made to be expensive: refused, or compiled, and neither takes long.
#[test]
fn hostile_schemas_cost_little() {
    let mut nested = json!({"type": "integer"});
    for _ in 0..60 {
        nested = json!({"anyOf": [nested, {"type": "object", "properties": {"a": nested}}]});
        if nested.to_string().len() > 100_000 {
            break;
        }
    }
    let wide: Value = (0..3000).map(|n| (format!("field{n}"), json!({"type": "string"}))).collect();
    let widest: Value = (0..20_000).map(|n| (format!("f{n}"), json!({}))).collect();
    let options: Vec<Value> =
        (0..2000).map(|n| json!({"type": "object", "properties": {format!("k{n}"): {}}})).collect();
    for schema in [
        nested,
        json!({"type": "object", "properties": wide}),
        json!({"type": "object", "properties": widest}),
        json!({"enum": (0..20_000).map(|n| format!("v{n}")).collect::<Vec<_>>()}),
        json!({"oneOf": options.clone()}),
        json!({"allOf": options.clone()}),
        json!({"anyOf": options}),
        json!({"type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"}),
        json!({"type": "string", "pattern": "^(.*a){30}.{500}$"}),
        json!({"type": "string", "minLength": 1_000_000, "maxLength": 2_000_000}),
        json!({"type": "array", "minItems": 1_000_000, "items": {"type": "integer"}}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}),
    ] {
        let begun = std::time::Instant::now();
        let mut guides = guides();
        let outcome = guides.guide(&form(schema.clone()));
        if let Ok(mut guide) = outcome {
            // A form that compiles in time may still be refused at its first token: by name, and no later.
            let _ = try_to_say(&mut guide, 40, |allowed| allowed[allowed.len() / 2]);
        }
        let text: String = schema.to_string().chars().take(60).collect();
        assert!(begun.elapsed() < PATIENCE * 2, "{text}: {:?}", begun.elapsed());
    }
}

#[test]
fn compiled_forms_are_kept_and_their_answers_do_not_mix() {
    let mut guides = guides();
    let form = form(bounded());
    let mut first = guides.guide(&form).unwrap();
    first.accept(u32::from(b'{')).unwrap();
    let mut second = guides.guide(&form).unwrap();
    assert!(second.accept(u32::from(b'{')).is_ok());
    assert_eq!(guides.kept.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever picks the tokens, a complete answer parses and follows the schema; one that is taken over in the middle
    /// goes on as it would have.
    #[test]
    fn whatever_is_picked_the_answer_follows_the_schema(picks in proptest::collection::vec(any::<u32>(), 300), cut in 0usize..60) {
        let mut guides = guides();
        let form = form(bounded());
        let mut whole = guides.guide(&form).unwrap();
        let mut at = 0;
        let (said, way) = say(&mut whole, 300, |allowed| {
            at += 1;
            allowed[picks[at - 1] as usize % allowed.len()]
        });
        prop_assert_eq!(way, Way::Over, "{}", said);
        let value: Value = serde_json::from_str(&said).unwrap();
        prop_assert!(follows(&value), "{}", said);
        let cut = cut.min(said.len().saturating_sub(1));
        let mut second = guides.guide(&form).unwrap();
        for byte in &said.as_bytes()[..cut] {
            second.accept(u32::from(*byte)).unwrap();
        }
        second.look().unwrap();
        let mut at = cut;
        let (rest, _) = {
            let mut said = Vec::new();
            let mut way = Way::Open;
            while way == Way::Open && at < picks.len() {
                let mut logits = vec![0.0; VOCABULARY];
                second.bind(&mut logits, &[END]);
                let allowed: Vec<u32> =
                    (0..).zip(&logits).filter(|&(_, &logit)| logit == 0.0).map(|(id, _)| id).collect();
                let id = allowed[picks[at] as usize % allowed.len()];
                at += 1;
                if id == END {
                    break;
                }
                second.accept(id).unwrap();
                said.push(u8::try_from(id).unwrap());
                way = second.look().unwrap();
            }
            (said, way)
        };
        prop_assert_eq!(&said.as_bytes()[cut..], &rest[..]);
    }
}
