//! The form an answer must have, as a grammar.
//!
//! One grammar covers the whole answer, thoughts included, so that its state is a function of the answer's tokens alone.
//! It is written in llguidance's dialect of Lark:
//!
//! - `response_format` demands JSON of a schema, or any JSON object;
//! - `tool_choice` *required* or a named tool demands calls in the model's own manner, their arguments by the tools'
//!   schemas;
//! - tools that are *strict* bind the arguments of whatever the model decides to call; everything else it may say.
//!
//! A model that thinks may think first. White space within JSON is bounded, since some models would otherwise never
//! come to the point.

use penstock_service::ports::Generation;
use penstock_wire::chat::{Format, Tool, ToolChoice};
use serde_json::{Value, json};

use super::dialect::{ARGS, Beginning, LIST, Manner, TAG, TAG_END, THINK, THOUGHT};

/// A grammar and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// In llguidance's dialect of Lark.
    pub grammar: String,
    /// The schemas in it, each with the request's field it came from.
    pub schemas: Vec<(String, Value)>,
}

/// White space between the tokens of JSON: enough for any usual indentation, and no more.
const SPACE: &str = r"\n? {0,16}";

/// How a marker is written in a grammar: as text, or as the special token it is in some models.
pub type SpecialId<'v> = &'v dyn Fn(&str) -> Option<u32>;

/// The form that a request demands; `None` if its answer may be any text.
#[must_use]
pub fn of(
    generation: &Generation,
    beginning: Beginning,
    manner: Option<Manner>,
    special: SpecialId<'_>,
) -> Option<Form> {
    let tools = generation.callable_tools();
    let strict = tools.iter().any(Tool::is_strict);
    let mut writer = Writer { rules: Vec::new(), schemas: Vec::new(), special };
    let says = writer.says(&generation.format);
    let body = match (&generation.tool_choice, manner) {
        (ToolChoice::Required, Some(manner)) => {
            writer.calls(&all(tools), manner, Arguments::ByName, generation.parallel_tool_calls)
        }
        (ToolChoice::Named(name), Some(manner)) => {
            let named: Vec<_> = all(tools).into_iter().filter(|(_, tool)| tool.name() == name).collect();
            writer.calls(&named, manner, Arguments::ByName, Several::NO)
        }
        (ToolChoice::Auto, Some(manner)) if !tools.is_empty() && (strict || says.is_some()) => {
            let calls = writer.calls(&all(tools), manner, Arguments::IfStrict, generation.parallel_tool_calls);
            match says {
                Some(says) => format!("{says} | {calls}"),
                None => writer.prose_or(&calls, manner),
            }
        }
        (ToolChoice::None | ToolChoice::Auto | ToolChoice::Required | ToolChoice::Named(_), _) => says?,
    };
    let start = writer.after_thoughts(beginning);
    writer.rules.insert(0, format!("start: {start}body\nbody: {body}"));
    Some(Form { grammar: writer.rules.join("\n"), schemas: writer.schemas })
}

/// Tools with their places in the request.
fn all(tools: &[Tool]) -> Vec<(usize, &Tool)> {
    tools.iter().enumerate().collect()
}

/// Whose schemas bind the arguments of calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arguments {
    /// Every tool's.
    ByName,
    /// That of tools that say so.
    IfStrict,
}

struct Several;

impl Several {
    /// A named tool is called once.
    const NO: bool = false;
}

struct Writer<'v> {
    rules: Vec<String>,
    schemas: Vec<(String, Value)>,
    special: SpecialId<'v>,
}

impl Writer<'_> {
    /// What the answer itself must be.
    fn says(&mut self, format: &Format) -> Option<String> {
        match format {
            Format::Text => None,
            Format::JsonObject => Some(self.json("response_format", json!({"type": "object"}))),
            Format::JsonSchema(schema) => Some(self.json("response_format.json_schema.schema", schema.clone())),
        }
    }

    /// A rule for JSON of a schema; its name.
    fn json(&mut self, field: &str, schema: Value) -> String {
        let name = format!("json_{}", self.schemas.len());
        self.rules.push(format!("{name}: {}", embedded(&schema)));
        self.schemas.push((field.to_owned(), schema));
        name
    }

    /// A marker as the model spells it.
    fn marker(&self, marker: &str) -> String {
        (self.special)(marker).map_or_else(|| quoted(marker), |id| format!("<[{id}]>"))
    }

    /// A rule for one or several calls; its text.
    fn calls(&mut self, tools: &[(usize, &Tool)], manner: Manner, arguments: Arguments, several: bool) -> String {
        let alternatives: Vec<String> = tools
            .iter()
            .map(|&(place, tool)| {
                let bound = arguments == Arguments::ByName || tool.is_strict();
                let schema = match (bound, tool.parameters()) {
                    (true, Some(schema)) => schema.clone(),
                    (true, None) => json!({"type": "object", "additionalProperties": false}),
                    (false, _) => json!({"type": "object"}),
                };
                let arguments = self.json(&format!("tools[{place}].function.parameters"), schema);
                let name = quoted(&format!("\"{}\"", tool.name()));
                let field = if manner == Manner::Bare { "parameters" } else { "arguments" };
                match manner {
                    Manner::Spoken => format!("{} {} {arguments}", quoted(tool.name()), self.marker(ARGS)),
                    Manner::Tagged | Manner::Bare | Manner::Listed => {
                        let (open, middle) = (quoted("{\"name\": "), quoted(&format!(", \"{field}\": ")));
                        format!("{open} {name} {middle} {arguments} {}", quoted("}"))
                    }
                }
            })
            .collect();
        self.rules.push(format!("call: {}", alternatives.join("\n  | ")));
        let one = match manner {
            Manner::Tagged => {
                format!("{} {} call {} {}", self.marker(TAG), quoted("\n"), quoted("\n"), self.marker(TAG_END))
            }
            Manner::Bare | Manner::Listed => "call".to_owned(),
            Manner::Spoken => format!("{} call", self.marker(LIST)),
        };
        self.rules.push(format!("one_call: {one}"));
        let more = match (several, manner) {
            // Models of this kind are told to make one call.
            (false, _) | (true, Manner::Bare) => String::new(),
            (true, Manner::Tagged) => format!(" ({} one_call)*", quoted("\n")),
            (true, Manner::Listed) => format!(" ({} one_call)*", quoted(", ")),
            (true, Manner::Spoken) => " one_call*".to_owned(),
        };
        let calls = match manner {
            Manner::Listed => format!("{} {} one_call{more} {}", self.marker(LIST), quoted("["), quoted("]")),
            Manner::Tagged | Manner::Bare | Manner::Spoken => format!("one_call{more}"),
        };
        self.rules.push(format!("calls: {calls}"));
        "calls".to_owned()
    }

    /// Any text, with calls of this form and no other.
    fn prose_or(&mut self, calls: &str, manner: Manner) -> String {
        let opener = match manner {
            Manner::Tagged => TAG,
            Manner::Listed | Manner::Spoken => LIST,
            Manner::Bare => {
                self.rules.push(r"PROSE: /(?s:\s*[^\s{].*)/".to_owned());
                return format!("PROSE | {calls} | {}", quoted(""));
            }
        };
        let opener = opener.replace('[', r"\[").replace(']', r"\]");
        self.rules.push(format!("PROSE: /(?s:.*)/ & ~/(?s:.*){opener}(?s:.*)/"));
        format!("PROSE | PROSE {calls} | {calls} | {}", quoted(""))
    }

    /// What may or must come before the answer itself.
    fn after_thoughts(&mut self, beginning: Beginning) -> String {
        if beginning == Beginning::Answer {
            return String::new();
        }
        self.rules.push(format!("SPACE: /{SPACE}/"));
        match (self.special)(THOUGHT) {
            Some(id) => {
                self.rules.push("THOUGHT: /(?s:.*)/".to_owned());
                self.rules.push(format!("thoughts: THOUGHT <[{id}]> SPACE"));
            }
            None => {
                self.rules.push(format!("thought[suffix={}]: /(?s:.*)/", quoted(THOUGHT)));
                self.rules.push("thoughts: thought SPACE".to_owned());
            }
        }
        match beginning {
            Beginning::Answer => String::new(),
            Beginning::Thought => "thoughts ".to_owned(),
            Beginning::Either => format!("({} thoughts)? ", self.marker(THINK)),
        }
    }
}

/// A schema as part of a grammar; what it may say to llguidance beside the standard is ours to say.
pub(super) fn embedded(schema: &Value) -> String {
    let options = json!({"whitespace_flexible": true, "whitespace_pattern": SPACE});
    // Whoever checked the request let only objects through.
    let mut schema = schema.as_object().cloned().unwrap_or_default();
    schema.insert("x-guidance".to_owned(), options);
    format!("%json {}", Value::Object(schema))
}

/// A text in a grammar.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
