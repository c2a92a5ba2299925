//! How a model marks its thoughts and its tool calls.
//!
//! Nothing in a model folder says so directly; the chat template shows it, because it writes earlier thoughts and calls
//! back the way the model was trained to say them.
//!
//! | manner | a call | of |
//! |---|---|---|
//! | [`Manner::Tagged`] | `<tool_call>{"name": "f", "arguments": {}}</tool_call>` | Hermes, Qwen |
//! | [`Manner::Bare`] | `{"name": "f", "parameters": {}}`, maybe after `<\|python_tag\|>` | Llama 3.x |
//! | [`Manner::Listed`] | `[TOOL_CALLS][{"name": "f", "arguments": {}}]` | Mistral |
//! | [`Manner::Spoken`] | `[TOOL_CALLS]f[ARGS]{}` | Mistral, later |

/// What opens a model's thoughts.
pub(super) const THINK: &str = "<think>";
/// What closes them.
pub(super) const THOUGHT: &str = "</think>";
/// What opens a call in the manner of Hermes and Qwen.
pub(super) const TAG: &str = "<tool_call>";
/// What closes it.
pub(super) const TAG_END: &str = "</tool_call>";
/// What may stand before a call in the manner of Llama.
pub(super) const PYTHON: &str = "<|python_tag|>";
/// What opens calls in the manner of Mistral.
pub(super) const LIST: &str = "[TOOL_CALLS]";
/// What stands between a name and its arguments there, in newer models.
pub(super) const ARGS: &str = "[ARGS]";

/// All markers: where a model has one as a special token, that token has text after all.
pub(super) const MARKERS: [&str; 7] = [THINK, THOUGHT, TAG, TAG_END, PYTHON, LIST, ARGS];

/// How a model calls tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Between tags.
    Tagged,
    /// The whole answer is the call.
    Bare,
    /// A list behind a marker.
    Listed,
    /// A name and its arguments behind a marker; such models are understood when they make lists, too.
    Spoken,
}

/// How a model marks what is no answer yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// It thinks aloud.
    pub thinks: bool,
    /// It calls tools; `None` if its template has no place for them, or in a manner that is not known here.
    pub calls: Option<Manner>,
}

impl Dialect {
    /// The dialect that a chat template shows.
    #[must_use]
    pub fn of_template(source: &str) -> Self {
        let calls = match () {
            () if !source.contains("tools") => None,
            // Qwen's coders write XML between the same tags.
            () if source.contains("<function=") => None,
            () if source.contains(TAG) => Some(Manner::Tagged),
            () if source.contains(LIST) && source.contains(ARGS) => Some(Manner::Spoken),
            () if source.contains(LIST) => Some(Manner::Listed),
            () if source.contains(PYTHON) || source.contains("\"parameters\":") => Some(Manner::Bare),
            () => None,
        };
        Self { thinks: source.contains(THOUGHT), calls }
    }
}

/// Where an answer to `prompt` begins.
#[must_use]
pub fn begins(dialect: Dialect, prompt: &str) -> Beginning {
    match dialect.thinks {
        false => Beginning::Answer,
        true if prompt.trim_end().ends_with(THINK) => Beginning::Thought,
        // The template has closed the thoughts: the model is not to think.
        true if prompt.trim_end().ends_with(THOUGHT) => Beginning::Answer,
        true => Beginning::Either,
    }
}

/// Where an answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With what is meant for the client.
    Answer,
    /// In the midst of thoughts: the prompt has opened them.
    Thought,
    /// The model may open its thoughts itself.
    Either,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_show_how_their_models_speak() {
        for (source, thinks, calls) in [
            ("{{ messages }}", false, None),
            ("{% if tools %}...<tool_call></tool_call>{% endif %}</think>", true, Some(Manner::Tagged)),
            ("{% if tools %}<tool_call><function=x>", false, None),
            ("{% if tools %}[AVAILABLE_TOOLS]...[TOOL_CALLS]", false, Some(Manner::Listed)),
            ("{% if tools %}[TOOL_CALLS]{{ name }}[ARGS]", false, Some(Manner::Spoken)),
            ("{% if tools %}{{ '{\"name\": f, \"parameters\": x}' }}", false, Some(Manner::Bare)),
            ("{{ m.content.split('</think>') }}", true, None),
        ] {
            assert_eq!(Dialect::of_template(source), Dialect { thinks, calls }, "{source}");
        }
    }

    #[test]
    fn a_prompt_shows_whether_the_model_is_thinking_already() {
        let thinks = Dialect { thinks: true, calls: None };
        assert_eq!(begins(thinks, "<|Assistant|><think>\n"), Beginning::Thought);
        assert_eq!(begins(thinks, "<|im_start|>assistant\n<think>\n\n</think>\n\n"), Beginning::Answer);
        assert_eq!(begins(thinks, "<|im_start|>assistant\n"), Beginning::Either);
        assert_eq!(begins(Dialect::default(), "what does <think>"), Beginning::Answer);
    }
}
