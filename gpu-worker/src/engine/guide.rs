//! Keeps an answer to its form: which tokens may come next.
//!
//! llguidance follows the grammar through the bytes of the model's tokens; this bounds what it may cost. Compiling runs on
//! a thread of its own and is given up after a while; the engine's step waits for none of it. What a mask may cost is
//! bounded by llguidance's own limits, which end the answer as the client's fault: its schema asked for too much.
//!
//! The end token is allowed when the form is complete, and an answer that can only end ends by itself. Edge cases: models
//! without an end token end so; tokens without bytes, and special tokens that the form does not name, are never allowed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{self, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId};
use llguidance::{Matcher, ParserFactory, panic_utils};
use penstock_service::ports::EngineFault;

use super::form::{Form, embedded};
use super::tokenizer::TextTokenizer;

/// How long compiling a form may take. Ordinary schemas take milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many compilations that were given up may still be running.
const MOST_GIVEN_UP: usize = 2;

/// The most bytes of a grammar.
const MOST_BYTES: usize = 256 << 10;

/// The stack to compile on: llguidance goes deeper with each property of an object. Only what is used takes memory.
const STACK_BYTES: usize = 256 << 20;

/// Compiled forms that are kept: the answers to one request share theirs, and clients repeat their schemas.
const KEPT: usize = 16;

/// The most bytes of llguidance's words that are passed on.
const MOST_WORDS: usize = 300;

/// A form that cannot be followed: the client's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FormError {
    /// The request's field at fault.
    pub param: String,
    /// What is wrong.
    pub message: String,
}

impl FormError {
    /// What the client is told.
    #[must_use]
    pub fn fault(self) -> EngineFault {
        EngineFault::BadRequest { code: "invalid_value".to_owned(), param: Some(self.param), message: self.message }
    }
}

/// Compiles forms for one model.
pub struct Guides {
    tokenizer: TextTokenizer,
    vocab_size: usize,
    factory: OnceLock<Result<Arc<ParserFactory>, String>>,
    kept: VecDeque<(String, Matcher)>,
    given_up: Arc<AtomicUsize>,
}

/// Where an answer stands in its form.
#[derive(Clone)]
pub struct Guide {
    matcher: Matcher,
    mask: SimpleVob,
    end: TokenId,
    param: String,
}

/// Whether an answer may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It may.
    Open,
    /// It is complete, and nothing can follow.
    Over,
}

impl Guides {
    /// For a model whose logits have `vocab_size` entries.
    #[must_use]
    pub fn new(tokenizer: TextTokenizer, vocab_size: usize) -> Self {
        Self {
            tokenizer,
            vocab_size,
            factory: OnceLock::new(),
            kept: VecDeque::new(),
            given_up: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// The beginning of an answer of this form. Takes milliseconds as a rule, a few seconds at most.
    ///
    /// # Errors
    /// [`FormError`] if the form asks for what cannot be offered, or for too much.
    pub fn guide(&mut self, form: &Form) -> Result<Guide, FormError> {
        let param = form.schemas.first().map_or_else(|| "response_format".to_owned(), |(field, _)| field.clone());
        let refused = |message: String| FormError { param: param.clone(), message };
        let matcher = match self.kept.iter().find(|(grammar, _)| *grammar == form.grammar) {
            Some((_, matcher)) => matcher.deep_clone(),
            None => {
                let matcher = self.compile(&form.grammar).map_err(|message| self.blame(form, refused(message)))?;
                self.kept.truncate(KEPT - 1);
                self.kept.push_front((form.grammar.clone(), matcher.deep_clone()));
                matcher
            }
        };
        let end = TokenId::try_from(self.vocab_size).unwrap_or(TokenId::MAX);
        let mut guide = Guide { matcher, mask: SimpleVob::alloc(self.vocab_size + 1), end, param: param.clone() };
        guide.look()?;
        Ok(guide)
    }

    /// Finds the schema that is at fault, if one is by itself.
    fn blame(&self, form: &Form, error: FormError) -> FormError {
        if form.schemas.len() < 2 {
            return error;
        }
        let alone = form.schemas.iter().find_map(|(field, schema)| {
            let message = self.compile(&format!("start: {}", embedded(schema))).err()?;
            Some(FormError { param: field.clone(), message })
        });
        alone.unwrap_or(error)
    }

    fn compile(&self, grammar: &str) -> Result<Matcher, String> {
        if grammar.len() > MOST_BYTES {
            return Err(format!("the schema has more than {MOST_BYTES} bytes"));
        }
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer, self.vocab_size));
        let factory = Arc::clone(factory.as_ref().map_err(Clone::clone)?);
        if self.given_up.load(Ordering::Acquire) >= MOST_GIVEN_UP {
            return Err("this worker is still busy with schemas that are too large; send simpler ones".to_owned());
        }
        let (done, result) = channel();
        let (text, running) = (grammar.to_owned(), Arc::clone(&self.given_up));
        running.fetch_add(1, Ordering::AcqRel);
        let work = move || {
            let compiled = panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let parser = factory.create_parser(TopLevelGrammar::from_lark(text))?;
                Ok(Matcher::new(Ok(parser)))
            }));
            running.fetch_sub(1, Ordering::AcqRel);
            // Whoever waited may have given up.
            let _ = done.send(compiled.map_err(|error| words(&error.to_string())));
        };
        if let Err(error) =
            std::thread::Builder::new().name("engine-grammar".to_owned()).stack_size(STACK_BYTES).spawn(work)
        {
            self.given_up.fetch_sub(1, Ordering::AcqRel);
            return Err(format!("no thread to compile the schema on: {error}"));
        }
        match result.recv_timeout(PATIENCE) {
            Ok(compiled) => compiled.map_err(|what| format!("the schema cannot be honoured: {what}")),
            Err(RecvTimeoutError::Timeout) => Err("the schema is too large: it takes too long to compile".to_owned()),
            Err(RecvTimeoutError::Disconnected) => Err("the schema cannot be compiled".to_owned()),
        }
    }
}

impl Guide {
    /// Follows the answer's next token, which is no end token. The mask stands still until [`Self::look`].
    ///
    /// # Errors
    /// [`FormError`] if the token cannot stand here, or following it costs too much.
    pub fn accept(&mut self, id: u32) -> Result<(), FormError> {
        self.matcher.consume_token(id).map_err(|error| self.error(&error.to_string()))
    }

    /// Finds out what may come next.
    ///
    /// # Errors
    /// [`FormError`] if that costs too much.
    pub fn look(&mut self) -> Result<Way, FormError> {
        if self.matcher.is_stopped() {
            return match self.matcher.get_error() {
                Some(error) => Err(self.error(&error)),
                None => Ok(Way::Over),
            };
        }
        self.mask = self.matcher.compute_mask().map_err(|error| self.error(&error.to_string()))?;
        let can_end = self.mask.is_allowed(self.end);
        Ok(if can_end && self.mask.num_set() == 1 { Way::Over } else { Way::Open })
    }

    /// Makes impossible what must not come next. The answer may end with any of the tokens `ends` where its form is
    /// complete.
    pub fn bind(&self, logits: &mut [f32], ends: &[u32]) {
        let can_end = self.mask.is_allowed(self.end);
        for (id, logit) in (0u32..).zip(logits.iter_mut()) {
            let allowed = if ends.contains(&id) { can_end } else { self.mask.is_allowed(id) };
            if !allowed {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    fn error(&self, what: &str) -> FormError {
        let message = format!("the answer cannot be kept to its form: {}", words(what));
        FormError { param: self.param.clone(), message }
    }
}

/// The first of llguidance's words.
fn words(what: &str) -> String {
    let line = what.lines().next().unwrap_or_default();
    let end = (0..=line.len().min(MOST_WORDS)).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
    line[..end].to_owned()
}

/// The model's tokens as llguidance knows them. The end of the answer is an id of its own behind all others: models have
/// several end tokens, or none.
struct Tokens(TokTrie);

impl toktrie::TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }
}

fn factory(tokenizer: &TextTokenizer, vocab_size: usize) -> Result<Arc<ParserFactory>, String> {
    let vocabulary = tokenizer.vocabulary();
    if !vocabulary.has_bytes() {
        return Err("this model's tokenizer spells words in a way that no form can be followed in".to_owned());
    }
    let end = TokenId::try_from(vocab_size).map_err(|_| "the vocabulary is too large".to_owned())?;
    let special = |name: &[u8]| [&[TokTrie::SPECIAL_TOKEN_MARKER], name].concat();
    let mut all: Vec<Vec<u8>> = (0..end)
        .map(|id| if vocabulary.is_special(id) { special(vocabulary.bytes(id)) } else { vocabulary.bytes(id).to_vec() })
        .collect();
    all.push(special(b"<|penstock_end|>"));
    let environment: TokEnv = Arc::new(Tokens(TokTrie::from(&TokRxInfo::new(end + 1, end), &all)));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
        .map_err(|error| words(&error.to_string()))?;
    factory.quiet();
    // Errors go to clients: they tell of the schema, not of the parser's inside.
    *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
    Ok(Arc::new(factory))
}

#[cfg(test)]
#[path = "guide_tests.rs"]
mod tests;
