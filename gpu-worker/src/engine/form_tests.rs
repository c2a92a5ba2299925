use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use penstock_service::ports::Part;
use proptest::prelude::*;

use super::*;
use crate::engine::channels::Channels;
use crate::engine::dialect::PYTHON;
use crate::engine::guide::{Guides, Way};
use crate::engine::tokenizer::tests::bytes;

const VOCABULARY: usize = 257;
const END: u32 = 256;
const MANNERS: [Manner; 4] = [Manner::Tagged, Manner::Bare, Manner::Listed, Manner::Spoken];

fn tool(name: &str, strict: bool) -> Tool {
    let parameters = json!({"type": "object", "additionalProperties": false, "required": ["place"], "properties": {
        "place": {"enum": ["dam", "weir"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}});
    let function = json!({"name": name, "parameters": parameters, "strict": strict});
    serde_json::from_value(json!({"type": "function", "function": function})).unwrap()
}

fn asked(tool_choice: ToolChoice, strict: bool, format: Format) -> Generation {
    let tools = vec![tool("level", strict), tool("now", strict)];
    Generation { tools, tool_choice, format, ..Generation::default() }
}

fn no_special(_: &str) -> Option<u32> {
    None
}

/// The guide to a form; all tests share one vocabulary.
fn guide_to(form: &Form) -> Result<crate::engine::guide::Guide, crate::engine::guide::FormError> {
    static GUIDES: LazyLock<Mutex<Guides>> = LazyLock::new(|| Mutex::new(Guides::new(bytes(), VOCABULARY)));
    GUIDES.lock().unwrap_or_else(PoisonError::into_inner).guide(form)
}

/// What an adversary says within the form of `generation`: each token is one of those allowed, by `picks`. The parts, and
/// whether the answer ended by itself.
fn say(generation: &Generation, beginning: Beginning, manner: Manner, picks: &[u32]) -> (Vec<Part>, Way) {
    let form = of(generation, beginning, Some(manner), &no_special).unwrap();
    let mut guide = guide_to(&form).unwrap_or_else(|error| panic!("{error}\n{}", form.grammar));
    let names: Arc<[String]> = generation.tools.iter().map(|tool| tool.name().to_owned()).collect();
    let mut channels = Channels::new(beginning, Some(manner), names);
    let mut detokenizer = bytes().detokenizer();
    let mut parts = Vec::new();
    let mut way = Way::Open;
    for &pick in picks {
        let mut logits = vec![0.0; VOCABULARY];
        guide.bind(&mut logits, &[END]);
        let allowed: Vec<u32> = (0..).zip(&logits).filter(|&(_, &logit)| logit == 0.0).map(|(id, _)| id).collect();
        // Ends and closing markers are taken where they may be, or an adversary would never come to the point.
        let id = match pick % 3 {
            0 if allowed.contains(&END) => END,
            _ => allowed[pick as usize % allowed.len()],
        };
        if id == END {
            way = Way::Over;
            break;
        }
        guide.accept(id).unwrap();
        let text = detokenizer.push(id).unwrap();
        channels.push(&text).into_iter().for_each(|part| Part::append(&mut parts, part));
        way = guide.look().unwrap();
        if way == Way::Over {
            break;
        }
    }
    channels.finish().into_iter().for_each(|part| Part::append(&mut parts, part));
    (parts, way)
}

fn follows(arguments: &str) -> bool {
    let value: Value = serde_json::from_str(arguments).unwrap();
    let days = value["days"].is_null() || value["days"].as_i64().is_some_and(|days| (1..=9).contains(&days));
    let fields = value.as_object().is_some_and(|fields| fields.keys().all(|key| key == "place" || key == "days"));
    days && fields && (value["place"] == "dam" || value["place"] == "weir")
}

#[test]
fn a_request_without_demands_has_no_form() {
    for (choice, format) in [(ToolChoice::Auto, Format::Text), (ToolChoice::None, Format::Text)] {
        let generation = asked(choice, false, format);
        assert_eq!(of(&generation, Beginning::Either, Some(Manner::Tagged), &no_special), None);
    }
    assert_eq!(of(&Generation::default(), Beginning::Answer, None, &no_special), None);
}

#[test]
fn markers_that_are_special_tokens_are_named_as_tokens() {
    let special = |marker: &str| (marker == LIST).then_some(7).or((marker == THOUGHT).then_some(8));
    let generation = asked(ToolChoice::Required, false, Format::Text);
    let form = of(&generation, Beginning::Thought, Some(Manner::Listed), &special).unwrap();
    assert!(form.grammar.contains("<[7]> \"[\"") && form.grammar.contains("THOUGHT <[8]>"), "{}", form.grammar);
    assert!(!form.grammar.contains(PYTHON));
}

#[test]
fn every_form_compiles() {
    for manner in MANNERS {
        for beginning in [Beginning::Answer, Beginning::Thought, Beginning::Either] {
            for choice in [ToolChoice::Auto, ToolChoice::Required, ToolChoice::Named("now".to_owned())] {
                for format in [Format::Text, Format::JsonObject] {
                    let generation = asked(choice.clone(), true, format);
                    let form = of(&generation, beginning, Some(manner), &no_special).unwrap();
                    let guide = guide_to(&form);
                    assert!(guide.is_ok(), "{manner:?} {:?}\n{}", guide.err(), form.grammar);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_demanded_call_is_made_and_its_arguments_follow_the_tool_s_schema(
        manner in proptest::sample::select(MANNERS.to_vec()), named: bool,
        picks in proptest::collection::vec(any::<u32>(), 600),
    ) {
        let choice = if named { ToolChoice::Named("now".to_owned()) } else { ToolChoice::Required };
        let generation = Generation { parallel_tool_calls: false, ..asked(choice, false, Format::Text) };
        let (parts, way) = say(&generation, Beginning::Answer, manner, &picks);
        prop_assert_eq!(way, Way::Over);
        prop_assert_eq!(parts.len(), 1, "{:?}", &parts);
        let Part::Call { name, arguments } = &parts[0] else { panic!("{parts:?}") };
        prop_assert!(name == "now" || (!named && name == "level"));
        prop_assert!(follows(arguments), "{}", arguments);
    }

    #[test]
    fn whatever_is_said_besides_a_strict_tool_is_called_by_its_schema_or_not_at_all(
        manner in proptest::sample::select(MANNERS.to_vec()),
        picks in proptest::collection::vec(any::<u32>(), 200),
    ) {
        let generation = asked(ToolChoice::Auto, true, Format::Text);
        let (parts, _) = say(&generation, Beginning::Answer, manner, &picks);
        for part in &parts {
            if let Part::Call { arguments, .. } = part {
                prop_assert!(follows(arguments), "{}", arguments);
            }
        }
    }

    #[test]
    fn an_answer_of_a_form_may_follow_thoughts(
        picks in proptest::collection::vec(any::<u32>(), 60), beginning in proptest::sample::select(vec![Beginning::Thought, Beginning::Either]),
    ) {
        let schema = json!({"enum": ["dam", "weir"]});
        let generation = Generation { format: Format::JsonSchema(schema), ..Generation::default() };
        let form = of(&generation, beginning, None, &no_special).unwrap();
        let mut guide = guide_to(&form).unwrap();
        let open = if beginning == Beginning::Either { "<think>" } else { "" };
        let thought: String = picks.iter().take(20).map(|pick| char::from(b'a' + u8::try_from(pick % 26).unwrap())).collect();
        let answer = format!("{open}\n{thought}\n</think>\n\"weir\"");
        let mut way = Way::Open;
        for byte in answer.bytes() {
            prop_assert_eq!(way, Way::Open);
            guide.accept(u32::from(byte)).map_err(|error| TestCaseError::fail(format!("{error} in {answer}")))?;
            way = guide.look().unwrap();
        }
        prop_assert_eq!(way, Way::Over);
        let mut guide = guide_to(&form).unwrap();
        let direct = guide.accept(u32::from(b'"'));
        prop_assert!(direct.is_ok(), "thoughts are no duty, or may hold anything");
    }
}
