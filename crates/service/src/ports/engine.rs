//! The inference engine, as the consumer of the queue sees it: sequences in, token events out.

use async_trait::async_trait;
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, TenantId};
use tokio::sync::mpsc;

use super::{Embedded, FinishReason, Generation, Part, PoolKind, Texts, TokenLogprob};

/// What an engine runs and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    /// The model's name.
    pub model: String,
    /// What it makes.
    pub kind: PoolKind,
    /// A digest of the weights and the tokenizer: answers may only be continued by the same digest.
    pub digest: String,
    /// The most tokens prompt and answer may have together.
    pub context_length: u32,
    /// How many sequences run together.
    pub slots: u32,
    /// Tokens a second with all slots busy, measured at warm-up.
    pub tokens_per_second: f64,
    /// Tokens per prompt byte, measured on the model's own tokenizer.
    pub tokens_per_byte: f64,
}

/// One sequence to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The job, for logs.
    pub job: JobId,
    /// The tenant: computed prefixes are never shared between tenants.
    pub tenant: TenantId,
    /// The job's class: better ones go first and may take a slot from [`Class::P3`].
    pub class: Class,
    /// What to generate.
    pub generation: Generation,
    /// Which of the answers asked for this is, from 0: the tokens are drawn by
    /// [`Sampling::seed_of`](super::Sampling::seed_of).
    pub choice: u32,
    /// Token ids of the answer that an earlier worker had sampled already, oldest first.
    pub resume_ids: Vec<u32>,
    /// How many bytes of the answer's parts ([`Part::bytes`]) clients may have seen already; a prefix of what
    /// `resume_ids` say.
    pub resume_bytes: usize,
}

/// What the engine tells of a sequence, in this order: `Started`, any number of `Tokens`, then `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenEvent {
    /// The prompt was accepted.
    Started {
        /// Its length in tokens.
        prompt_tokens: u32,
    },
    /// More of the answer.
    Tokens {
        /// The ids sampled since the last event, held-back ones and the end token included.
        ids: Vec<u32>,
        /// What may now be shown: whole characters, and nothing that could still become a stop string or a marker.
        parts: Vec<Part>,
        /// How likely each of the ids was, if asked for; end tokens, which nobody is shown, are left out.
        logprobs: Vec<TokenLogprob>,
    },
    /// The answer is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Tokens of the whole answer, resumed ones and the end token included.
        completion_tokens: u32,
        /// Tokens of the prompt that were in the cache already, so that nobody computed them again.
        cached_tokens: u32,
        /// Tokens of the whole answer that the model said to itself.
        reasoning_tokens: u32,
    },
    /// There will be no answer.
    Failed(EngineFault),
}

/// Why the engine gives no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineFault {
    /// The request cannot be answered by this model, today or later: the client's to mend.
    #[error("{message}")]
    BadRequest {
        /// A stable word such as `context_length_exceeded`.
        code: String,
        /// The field at fault.
        param: Option<String>,
        /// What is wrong and what to do.
        message: String,
    },
    /// The engine failed on this sequence; another try, here or elsewhere, may succeed.
    #[error("the engine failed: {0}")]
    Fault(String),
    /// The engine is stopping; the job goes back to the queue.
    #[error("the engine is stopping")]
    Stopping,
    /// A better class needed the slot; the job goes back to the queue with what it has said so far.
    #[error("a better class needed the slot")]
    Preempted,
}

impl EngineFault {
    /// The model does something else than it was asked for.
    #[must_use]
    pub fn wrong_kind(model: &str, does: &str) -> Self {
        Self::BadRequest {
            code: "wrong_model_kind".to_owned(),
            param: Some("model".to_owned()),
            message: format!("the model '{model}' {does}"),
        }
    }
}

/// Events of one sequence. Dropping it cancels the sequence: its slot is free at the next step.
pub type TokenStream = mpsc::Receiver<TokenEvent>;

/// Runs sequences together.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What this engine runs.
    fn info(&self) -> &EngineInfo;

    /// Counts the engine's steps. While it grows, the sequences in hand advance, none of them starved, whether or not
    /// they have said anything yet; when it stands still, the engine hangs.
    fn steps(&self) -> u64;

    /// Whether the engine can still run anything; once false, it stays so.
    fn is_alive(&self) -> bool;

    /// Starts a sequence. The caller starts no more than [`EngineInfo::slots`] at a time; a further one waits for a
    /// slot. Errors come as [`TokenEvent::Failed`].
    async fn start(&self, sequence: Sequence) -> TokenStream;

    /// Turns texts into vectors; dropping the future gives them up. A model that generates refuses, as one that makes
    /// vectors refuses to generate.
    ///
    /// # Errors
    /// [`EngineFault`], of the whole request: there are no vectors of some of its inputs.
    async fn embed(&self, _texts: Texts) -> Result<Embedded, EngineFault> {
        Err(EngineFault::wrong_kind(&self.info().model, "answers conversations: ask it at /v1/chat/completions"))
    }
}
