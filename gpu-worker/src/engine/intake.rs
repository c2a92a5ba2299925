//! From a sequence as the service hands it over to tokens in a row: template, tokenizer, limits, inherited ids.
//!
//! What is refused here would be refused everywhere and for ever, so it is the client's to mend and never tried again:
//! a conversation the template cannot write, a prompt that fills the context, a prompt without a known token. Ids that
//! the model cannot have sampled are a fault of ours, not the client's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use penstock_service::ports::{EngineFault, Generation, Part, Sampling, Sequence, TokenEvent};
use penstock_wire::completions::Prompt;
use tokio::sync::mpsc;

use super::answer::{Answer, Outcome, ParallelCalls};
use super::channels::Channels;
use super::decoder::ChosenTokens;
use super::dialect;
use super::form;
use super::guide::{FormError, Guides};
use super::model::ModelFolder;
use super::task::Task;
use super::template::ChatTemplate;
use super::tokenizer::{TextTokenizer, TokenizerError};

/// Turns sequences into tasks.
pub struct Intake {
    template: ChatTemplate,
    tokenizer: TextTokenizer,
    /// The intake has one thread; the lock is never waited for.
    guides: Mutex<Guides>,
    eos: Arc<[u32]>,
    vocab_size: usize,
    context_length: u32,
    chosen: ChosenTokens,
}

impl Intake {
    /// The intake of a model whose prompts and answers have at most `context_length` tokens together.
    #[must_use]
    pub fn new(folder: ModelFolder, context_length: u32, chosen: ChosenTokens) -> Self {
        Self {
            guides: Mutex::new(Guides::new(folder.tokenizer.clone(), folder.config.vocab_size)),
            template: folder.template,
            tokenizer: folder.tokenizer,
            eos: folder.config.eos.into(),
            vocab_size: folder.config.vocab_size,
            context_length,
            chosen,
        }
    }

    /// Checks a sequence and tells `events` how it begins. Gives the task if there is something left to run.
    pub fn admit(&self, sequence: Sequence, arrived: Instant, events: mpsc::Sender<TokenEvent>) -> Option<Task> {
        match self.open(&sequence) {
            Err(fault) => {
                let _ = events.try_send(TokenEvent::Failed(fault));
                None
            }
            Ok(opened) => self.begin(sequence, arrived, opened, events),
        }
    }

    fn begin(
        &self,
        sequence: Sequence,
        arrived: Instant,
        opened: Opened,
        events: mpsc::Sender<TokenEvent>,
    ) -> Option<Task> {
        let Opened { mut prompt, prompt_tokens, mut answer, echo } = opened;
        let _ = events.try_send(TokenEvent::Started { prompt_tokens });
        let seen = echo.len().min(sequence.resume_bytes);
        // In pieces, so that no chunk that holds them grows too large for its store.
        for piece in pieces(&echo[echo.floor_char_boundary(seen)..]) {
            let parts = vec![Part::Content(piece.to_owned())];
            let _ = events.try_send(TokenEvent::Tokens { ids: Vec::new(), parts, logprobs: Vec::new() });
        }
        let grown = match answer.inherit(&sequence.resume_ids, sequence.resume_bytes - seen) {
            Ok(grown) => grown,
            Err(error) => {
                let _ = events.try_send(TokenEvent::Failed(error.fault()));
                return None;
            }
        };
        if !grown.parts.is_empty() {
            let inherited = TokenEvent::Tokens { ids: Vec::new(), parts: grown.parts, logprobs: Vec::new() };
            let _ = events.try_send(inherited);
        }
        if let Outcome::Ended(reason) = grown.outcome {
            let completion_tokens = answer.tokens();
            let reasoning_tokens = answer.reasoning_tokens();
            let _ =
                events.try_send(TokenEvent::Finished { reason, completion_tokens, cached_tokens: 0, reasoning_tokens });
            return None;
        }
        let replay = match self.chosen {
            ChosenTokens::Apart => sequence.resume_ids,
            ChosenTokens::LikeRead => {
                prompt.extend_from_slice(&sequence.resume_ids);
                Vec::new()
            }
        };
        Some(Task {
            job: sequence.job,
            tenant: sequence.tenant,
            class: sequence.class,
            prompt,
            replay,
            answer,
            events,
            cached: 0,
            arrived,
        })
    }

    fn open(&self, sequence: &Sequence) -> Result<Opened, EngineFault> {
        let generation = &sequence.generation;
        let sampling = &generation.sampling;
        if let Some(id) = sequence.resume_ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let what = format!("the inherited token {id} is not in this model's vocabulary");
            return Err(EngineFault::Fault(what));
        }
        if let Some(id) = sampling.logit_bias.keys().find(|&&id| id as usize >= self.vocab_size) {
            let message =
                format!("'logit_bias' names token {id}, but this model's tokens end at {}", self.vocab_size - 1);
            return Err(refused("logit_bias", "invalid_value", message));
        }
        if !generation.callable_tools().is_empty() && self.template.dialect().calls.is_none() {
            let message = "This model's chat template has no place for tools, or one that is not known here; leave \
                           'tools' out or ask another model.";
            return Err(refused("tools", "unsupported_parameter", message.into()));
        }
        let (text, prompt) = self.prompt_of(generation, sequence.choice)?;
        if self.tokenizer.says_nothing(&prompt) {
            let message = "The model's vocabulary has none of the characters of this prompt.";
            return Err(refused("messages", "untokenizable_prompt", message.into()));
        }
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let left = self.context_length.saturating_sub(prompt_tokens);
        if left == 0 {
            let message = format!(
                "This model's context holds {} tokens, prompt and answer together, but the prompt alone has \
                 {prompt_tokens}. Shorten the messages.",
                self.context_length
            );
            return Err(refused("messages", "context_length_exceeded", message));
        }
        let limit = sampling.max_tokens.unwrap_or(left).min(left);
        let sampling = Sampling { seed: sampling.seed_of(sequence.choice), ..sampling.clone() };
        let answer = Answer::to(&prompt, &sampling, &self.tokenizer, Arc::clone(&self.eos), limit)
            .with_logprobs(generation.logprobs);
        let (answer, echo) = match (generation.prompts.is_empty(), generation.echo) {
            (true, _) => (self.in_channels(answer, generation, &text)?, String::new()),
            (false, echo) => (answer, if echo { text } else { String::new() }),
        };
        Ok(Opened { prompt, prompt_tokens, answer, echo })
    }

    /// Whether the template has a place for tools.
    pub(super) fn knows_tools(&self) -> bool {
        self.template.dialect().calls.is_some()
    }

    /// The text and the tokens of the prompt of one choice.
    pub(super) fn prompt_of(&self, generation: &Generation, choice: u32) -> Result<(String, Vec<u32>), EngineFault> {
        match generation.prompt_of(choice) {
            None => {
                let text = self.template.render(generation);
                let text = text.map_err(|refusal| refused("messages", "invalid_prompt", refusal.to_string()))?;
                let prompt = self.tokenizer.encode(&text).map_err(|error| fault(&error))?;
                Ok((text, prompt))
            }
            Some(raw) => self.raw(raw),
        }
    }

    /// The text and the tokens of a raw prompt.
    fn raw(&self, prompt: &Prompt) -> Result<(String, Vec<u32>), EngineFault> {
        match prompt {
            Prompt::Text(text) => {
                let ids = self.tokenizer.encode_raw(text).map_err(|error| fault(&error))?;
                Ok((text.clone(), ids))
            }
            Prompt::Tokens(ids) => {
                if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
                    let last = self.vocab_size - 1;
                    let message = format!("'messages' holds token {id}, but this model's tokens end at {last}");
                    return Err(refused("messages", "invalid_value", message));
                }
                let text = self.tokenizer.decode(ids).map_err(|error| fault(&error))?;
                Ok((text, ids.clone()))
            }
        }
    }
}

/// The most bytes of an echoed prompt that are told at once.
const PIECE: usize = 16 << 10;

/// More bytes than the text of any token has.
const LONGEST_TOKEN: usize = 512;

/// How many pieces an echoed prompt has at most; 0 if none is asked for.
pub(super) fn most_pieces(generation: &Generation) -> usize {
    let bytes = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(ids) => ids.len().saturating_mul(LONGEST_TOKEN),
    };
    // A piece that ends with a whole character may be three bytes shorter than it could be.
    let longest = generation.prompts.iter().filter(|_| generation.echo).map(bytes).max().unwrap_or(0);
    longest.div_ceil(PIECE - 3)
}

/// A text in pieces of whole characters.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    core::iter::from_fn(move || {
        let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE));
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

impl Intake {
    /// An answer to `prompt`, told by channel if the model has channels, and kept to the form that is demanded.
    fn in_channels(&self, answer: Answer, generation: &Generation, prompt: &str) -> Result<Answer, EngineFault> {
        let dialect = self.template.dialect();
        let tools: Vec<String> = generation.callable_tools().iter().map(|tool| tool.name().to_owned()).collect();
        let manner = dialect.calls.filter(|_| !tools.is_empty());
        let beginning = dialect::begins(dialect, prompt);
        let special = |marker: &str| self.tokenizer.vocabulary().special(marker);
        let answer = match form::of(generation, beginning, manner, &special) {
            None => answer,
            Some(form) => {
                let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
                answer.in_form(guides.guide(&form).map_err(FormError::fault)?)
            }
        };
        if manner.is_none() && !dialect.thinks {
            return Ok(answer);
        }
        let parallel = if generation.parallel_tool_calls { ParallelCalls::Allowed } else { ParallelCalls::Refused };
        Ok(answer.in_channels(Channels::new(beginning, manner, tools.into()), parallel))
    }
}

/// A sequence that was found good.
struct Opened {
    prompt: Vec<u32>,
    prompt_tokens: u32,
    answer: Answer,
    /// What the answer begins with and the model has not said: its prompt, if that is asked for.
    echo: String,
}

fn refused(param: &str, code: &str, message: String) -> EngineFault {
    EngineFault::BadRequest { code: code.into(), param: Some(param.into()), message }
}

fn fault(error: &TokenizerError) -> EngineFault {
    EngineFault::Fault(format!("the tokenizer failed: {error}"))
}
