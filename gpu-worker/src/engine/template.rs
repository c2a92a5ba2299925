//! Writes a conversation the way the model was trained to read it.
//!
//! Model folders carry a Jinja template made for Python: it calls string methods (`split`, `startswith`), raises
//! exceptions for conversations it does not know, and may print the date. The same environment is offered here, with
//! the date taken from the job and never from the clock, so that a worker that takes over renders the same prompt.
//!
//! Edge cases: a folder without a template is refused when it is loaded, since guessing a format gives answers that are
//! wrong in ways nobody sees; a list of named templates means the one named `default`, and `tool_use` for conversations
//! with tools.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use penstock_service::ports::Generation;
use penstock_wire::chat::Tool;
use serde::Serialize;

use super::dialect::Dialect;
use super::python_json;
use super::turns::Turn;

const NAME: &str = "chat_template";
const NAME_WITH_TOOLS: &str = "chat_template_with_tools";

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// Another template for conversations with tools, where a model has one.
    with_tools: Option<String>,
    dialect: Dialect,
    special: SpecialTokens,
}

/// The special tokens templates may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `bos_token`.
    pub bos: String,
    /// `eos_token`.
    pub eos: String,
}

/// Why a folder has no usable template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Neither place holds one.
    #[error(
        "{} has no chat template: add chat_template.jinja, or a chat_template in tokenizer_config.json \
         (the model's publisher has it)", dir.display()
    )]
    Missing {
        /// The model folder.
        dir: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `tokenizer_config.json` is no JSON.
    #[error("{} is not valid JSON: {source}", path.display())]
    NotJson {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The template has an error.
    #[error("the chat template does not parse: {0}")]
    Syntax(#[source] minijinja::Error),
}

/// The template cannot write this conversation; it would fail again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The template itself refuses it, in its words.
    #[error("the model's chat template refuses this conversation: {0}")]
    Raised(String),
    /// The template stumbles over it.
    #[error("the model's chat template cannot render this conversation: {0}")]
    Failed(String),
}

#[derive(Serialize)]
struct Context<'m> {
    messages: Vec<Turn<'m>>,
    /// `none` if there are none to call.
    tools: Option<Vec<&'m serde_json::Value>>,
    documents: Option<()>,
    #[serde(flatten)]
    more: &'m serde_json::Map<String, serde_json::Value>,
    add_generation_prompt: bool,
    bos_token: &'m str,
    eos_token: &'m str,
    /// The job's date, for `strftime_now`.
    penstock_date: &'m str,
}

impl ChatTemplate {
    /// Reads the template of a model folder: `chat_template.jinja`, else the `chat_template` of
    /// `tokenizer_config.json`. Special tokens come from the latter, if it exists.
    ///
    /// # Errors
    /// [`TemplateError`], naming the file.
    pub fn from_folder(dir: &Path) -> Result<Self, TemplateError> {
        let config = match read(&dir.join("tokenizer_config.json"))? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|source| TemplateError::NotJson { path: dir.join("tokenizer_config.json"), source })?,
            None => serde_json::Value::Null,
        };
        let source = match read(&dir.join("chat_template.jinja"))? {
            Some(source) => source,
            None => inline(&config["chat_template"]).ok_or_else(|| TemplateError::Missing { dir: dir.to_owned() })?,
        };
        let with_tools = named(&config["chat_template"], "tool_use");
        let special = SpecialTokens { bos: token(&config["bos_token"]), eos: token(&config["eos_token"]) };
        Self::with_tools(source, with_tools, special)
    }

    /// A template from its source.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`].
    pub fn new(source: String, special: SpecialTokens) -> Result<Self, TemplateError> {
        Self::with_tools(source, None, special)
    }

    fn with_tools(source: String, with_tools: Option<String>, special: SpecialTokens) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up; the prompts of published models depend on it.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(TemplateError::Syntax)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", python_json::tojson);
        environment.add_template_owned(NAME, source.clone()).map_err(TemplateError::Syntax)?;
        let plain = Dialect::of_template(&source);
        let mut dialect = plain;
        if let Some(with_tools) = &with_tools {
            environment.add_template_owned(NAME_WITH_TOOLS, with_tools.clone()).map_err(TemplateError::Syntax)?;
            dialect = Dialect::of_template(with_tools);
            dialect.thinks |= plain.thinks;
        }
        Ok(Self { environment, source, with_tools, dialect, special })
    }

    /// The template's text, for the model's digest.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How the model marks its thoughts and calls.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The prompt of a conversation, up to where the assistant's answer begins.
    ///
    /// # Errors
    /// [`Refusal`] if the template cannot write it.
    pub fn render(&self, generation: &Generation) -> Result<String, Refusal> {
        let tools = generation.callable_tools();
        let context = Context {
            messages: generation.messages.iter().map(|message| Turn::of(message, self.dialect.calls)).collect(),
            tools: (!tools.is_empty()).then(|| tools.iter().map(Tool::as_json).collect()),
            documents: None,
            more: &generation.template_kwargs,
            add_generation_prompt: true,
            bos_token: &self.special.bos,
            eos_token: &self.special.eos,
            penstock_date: &generation.date,
        };
        let name = if tools.is_empty() || self.with_tools.is_none() { NAME } else { NAME_WITH_TOOLS };
        let template = self.environment.get_template(name);
        template.and_then(|template| template.render(Value::from(Serde(&context)))).map_err(|error| refusal(&error))
    }
}

/// An error raised by the template itself, told apart from its stumbling.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn refusal(error: &minijinja::Error) -> Refusal {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(Raised(message)) = this.downcast_ref::<Raised>() {
            return Refusal::Raised(message.clone());
        }
        cause = this.source();
    }
    Refusal::Failed(error.to_string())
}

/// The date of the job, in the format of C's `strftime`; times are midnight.
fn strftime_now(state: &minijinja::State, format: &str) -> Result<String, minijinja::Error> {
    let date = state.lookup("penstock_date").unwrap_or_default();
    let date = date.as_str().and_then(Date::parse).ok_or_else(|| {
        minijinja::Error::new(ErrorKind::InvalidOperation, "the job carries no date of the form YYYY-MM-DD")
    })?;
    Ok(date.format(format))
}

/// A day of the Gregorian calendar.
struct Date {
    year: u32,
    month: u32,
    day: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Date {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-').map(|part| part.parse::<u32>().ok());
        let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
        let valid = (1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        valid.then_some(Self { year, month, day })
    }

    fn month_name(&self) -> &'static str {
        MONTHS[(self.month as usize - 1) % 12]
    }

    /// Sakamoto's method (comp.lang.c, 1992).
    fn weekday(&self) -> &'static str {
        const SHIFT: [u32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = if self.month < 3 { self.year - 1 } else { self.year };
        let days = year + year / 4 + year / 400 + SHIFT[(self.month as usize - 1) % 12] + self.day - year / 100;
        DAYS[(days % 7) as usize]
    }

    fn format(&self, format: &str) -> String {
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            match characters.next() {
                Some('Y') => text += &format!("{:04}", self.year),
                Some('y') => text += &format!("{:02}", self.year % 100),
                Some('m') => text += &format!("{:02}", self.month),
                Some('d') => text += &format!("{:02}", self.day),
                Some('e') => text += &format!("{:2}", self.day),
                Some('B') => text += self.month_name(),
                Some('b') => text += &self.month_name()[..3],
                Some('A') => text += self.weekday(),
                Some('a') => text += &self.weekday()[..3],
                Some('F') => text += &format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
                Some('H' | 'M' | 'S') => text += "00",
                Some('%') => text.push('%'),
                // As C leaves it: what is not known is printed as it stands.
                Some(other) => text.extend(['%', other]),
                None => text.push('%'),
            }
        }
        text
    }
}

fn read(path: &Path) -> Result<Option<String>, TemplateError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TemplateError::Unreadable { path: path.to_owned(), source }),
    }
}

/// The template in `tokenizer_config.json`: a text, or the `default` of a list of named ones.
fn inline(value: &serde_json::Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    named(value, "default")
}

/// A template of a list of named ones.
fn named(value: &serde_json::Value, name: &str) -> Option<String> {
    let named = value.as_array()?.iter().find(|entry| entry["name"] == name)?;
    named["template"].as_str().map(str::to_owned)
}

/// A special token: a text, or an object with its `content`.
fn token(value: &serde_json::Value) -> String {
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use penstock_service::ports::Sampling;
    use penstock_wire::chat::Message;

    use super::*;

    fn conversation(turns: &[(&str, &str)]) -> Generation {
        Generation {
            v: 1,
            messages: turns.iter().map(|(role, content)| Message::new(*role, *content)).collect(),
            sampling: Sampling::default(),
            date: "2026-11-21".into(),
            ..Generation::default()
        }
    }

    fn render(source: &str, turns: &[(&str, &str)]) -> Result<String, Refusal> {
        let special = SpecialTokens { bos: "<s>".into(), eos: "</s>".into() };
        ChatTemplate::new(source.into(), special).unwrap().render(&conversation(turns))
    }

    #[test]
    fn a_template_in_the_style_of_chat_models_renders_as_in_python() {
        let source = "{{ bos_token }}{% for m in messages %}\n    {%- if m.role == 'assistant' %}\n\
            {{ m.content.split('</think>')[-1].strip() + eos_token }}\n    {%- else %}\n\
            {{ '<|' + m['role'] + '|>' + m['content'] | trim }}\n    {%- endif %}\n{% endfor %}\n\
            {% if add_generation_prompt %}<|assistant|>{% endif %}";
        let turns = [("user", " hi "), ("assistant", "<think>x</think> yo "), ("user", "bye")];
        assert_eq!(render(source, &turns).unwrap(), "<s><|user|>hiyo</s><|user|>bye<|assistant|>");
    }

    #[test]
    fn what_a_template_raises_reaches_the_client_in_its_words() {
        let source = "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}";
        assert_eq!(render(source, &[("system", "x")]), Err(Refusal::Raised("roles must alternate".into())));
        assert_eq!(render(source, &[("user", "x")]), Ok(String::new()));
    }

    #[test]
    fn a_template_that_stumbles_is_told_from_one_that_refuses() {
        let source = "{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content }}";
        assert_eq!(render(source, &[("user", "a"), ("user", "b")]).as_deref(), Ok("b"));
        assert!(matches!(render(source, &[("system", "x")]), Err(Refusal::Failed(_))));
    }

    #[test]
    fn the_date_is_the_job_s() {
        let source = "{{ strftime_now('%d %b %Y, %A %a %B %F %H:%M %j %') }}";
        assert_eq!(render(source, &[]).unwrap(), "21 Nov 2026, Saturday Sat November 2026-11-21 00:00 %j %");
        for (date, weekday) in [("2000-02-29", "Tue"), ("1970-01-01", "Thu"), ("2026-01-01", "Thu")] {
            assert_eq!(Date::parse(date).unwrap().format("%a"), weekday, "{date}");
        }
        for bad in ["", "2026", "2026-13-01", "2026-00-10", "x-1-1"] {
            assert!(Date::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_template_that_does_not_parse_is_refused_at_once() {
        assert!(matches!(
            ChatTemplate::new("{% if %}".into(), SpecialTokens::default()),
            Err(TemplateError::Syntax(_))
        ));
    }

    #[test]
    fn both_forms_of_an_inline_template_and_of_a_token_are_understood() {
        let list = serde_json::json!([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]);
        assert_eq!(inline(&list).as_deref(), Some("b"));
        assert_eq!(inline(&serde_json::json!("c")).as_deref(), Some("c"));
        assert_eq!(inline(&serde_json::Value::Null), None);
        assert_eq!(token(&serde_json::json!({"content": "<s>"})), "<s>");
        assert_eq!(token(&serde_json::Value::Null), "");
    }

    /// What transformers renders of the same templates (`fixtures/expected_tools.py`).
    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        template: String,
        messages: Vec<penstock_wire::chat::Message>,
        tools: Vec<penstock_wire::chat::Tool>,
        kwargs: serde_json::Map<String, serde_json::Value>,
        expected: String,
    }

    #[test]
    fn conversations_with_tools_render_as_in_transformers() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../fixtures/expected_tools.json")).unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let special = SpecialTokens { bos: "<s>".into(), eos: "</s>".into() };
            let generation = Generation {
                messages: case.messages,
                tools: case.tools,
                template_kwargs: case.kwargs,
                date: "2026-11-21".into(),
                ..Generation::default()
            };
            let text = ChatTemplate::new(case.template, special).unwrap().render(&generation);
            assert_eq!(text.as_deref(), Ok(case.expected.as_str()), "{}", case.name);
        }
    }

    #[test]
    fn a_template_of_its_own_for_tools_is_used_for_them_alone() {
        let template = ChatTemplate::with_tools(
            "plain".into(),
            Some("{{ tools | length }} <tool_call>".into()),
            SpecialTokens::default(),
        )
        .unwrap();
        assert_eq!(template.render(&conversation(&[])).unwrap(), "plain");
        let tool = serde_json::json!({"type": "function", "function": {"name": "f"}});
        let mut generation = Generation { tools: vec![serde_json::from_value(tool).unwrap()], ..conversation(&[]) };
        assert_eq!(template.render(&generation).unwrap(), "1 <tool_call>");
        generation.tool_choice = penstock_wire::chat::ToolChoice::None;
        assert_eq!(template.render(&generation).unwrap(), "plain", "tools that must not be called are not shown");
        assert!(template.dialect().calls.is_some());
    }
}
