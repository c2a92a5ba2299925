//! A sequence in the engine's hands: what it reads, what it has said, and whom to tell.

use std::time::Instant;

use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::prefix;
use penstock_service::ports::{EngineFault, TokenEvent};
use tokio::sync::mpsc;

use super::answer::{Answer, AnswerError, Chosen, Outcome};
use super::decoder::ChosenTokens;
use super::sampler::BadLogits;

/// A sequence that was found good and awaits a row.
pub struct Task {
    /// The job, for logs.
    pub job: JobId,
    /// Whose it is: nothing computed for it is reused for others.
    pub tenant: TenantId,
    /// Its class.
    pub class: Class,
    /// The tokens to read; not empty, and together with `replay` shorter than a row.
    pub prompt: Vec<u32>,
    /// Inherited tokens to put through the model one at a time, as the earlier worker did, instead of reading them with
    /// the prompt: the same numbers come out only of the same calls.
    pub replay: Vec<u32>,
    /// The answer, inherited ids included; open.
    pub answer: Answer,
    /// Where events go; has room for all of them.
    pub events: mpsc::Sender<TokenEvent>,
    /// How many tokens of the prompt need not be computed; 0 until it has a row.
    pub cached: u32,
    /// When it came, for the statistics.
    pub arrived: Instant,
}

impl Task {
    /// The task as a prompt in search of a row.
    pub(super) fn as_prompt(&self) -> prefix::Prompt<'_> {
        prefix::Prompt { tenant: &self.tenant, tokens: &self.prompt }
    }

    /// Makes the task one that goes on later in another row: `said` are the tokens behind its prompt, the last one not in
    /// the cache yet; of those it inherited `replayed` were put through the model.
    pub(super) fn set_aside(&mut self, said: Vec<u32>, replayed: usize, chosen: ChosenTokens) {
        match chosen {
            ChosenTokens::LikeRead => {
                self.prompt.extend(said);
                self.replay.drain(..replayed);
            }
            // What it was still to inherit, it inherits from the beginning again.
            ChosenTokens::Apart if replayed < self.replay.len() => {}
            ChosenTokens::Apart => self.replay = said,
        }
    }

    /// Ends the sequence without an answer.
    pub fn fail(&self, fault: EngineFault) {
        // The consumer may have gone; then nobody is left to tell.
        let _ = self.events.try_send(TokenEvent::Failed(fault));
    }

    /// Appends the token that was chosen and tells of it.
    pub(super) fn advance(&mut self, chosen: Result<Chosen, BadLogits>) -> Fate {
        let grown = chosen
            .map_err(AnswerError::from)
            .and_then(|chosen| self.answer.push(chosen.id).map(|growth| (growth, chosen)));
        let (growth, Chosen { id, logprob }) = match grown {
            Ok(grown) => grown,
            Err(error) => {
                let fault = error.fault();
                // What the request brought about says nothing of the engine.
                let fate = if matches!(fault, EngineFault::BadRequest { .. }) { Fate::Ends } else { Fate::Failed };
                tracing::error!(job = %self.job, what = %fault, "a sequence failed");
                self.fail(fault);
                return fate;
            }
        };
        let tokens = TokenEvent::Tokens { ids: vec![id], parts: growth.parts, logprobs: logprob.into_iter().collect() };
        if self.events.try_send(tokens).is_err() {
            return Fate::Ends;
        }
        match growth.outcome {
            Outcome::Open => Fate::GoesOn(id),
            Outcome::Ended(reason) => {
                let _ = self.events.try_send(TokenEvent::Finished {
                    reason,
                    completion_tokens: self.answer.tokens(),
                    cached_tokens: self.cached,
                    reasoning_tokens: self.answer.reasoning_tokens(),
                });
                Fate::Ends
            }
        }
    }
}

/// What becomes of a sequence after a token.
pub(super) enum Fate {
    /// It goes on from this token.
    GoesOn(u32),
    /// It is over; its consumer knows or has gone.
    Ends,
    /// It is over because something went wrong; its consumer knows.
    Failed,
}
