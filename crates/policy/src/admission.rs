//! What a request asks of a pool, and how long a pool may make it wait.
//!
//! The front never tokenises: it estimates a prompt's tokens from its bytes with the ratio learned for the model. The
//! pool's capacity is what its live workers measured of themselves at their start with all slots busy, never recent
//! throughput, which is low when there is little to do and would then refuse the next burst.

use core::time::Duration;

use crate::classes::Class;
use crate::gcra::{InvalidLimit, Limit};
use crate::time::Timestamp;

/// A worker that has not reported for this long is taken for dead.
pub const WORKER_SILENCE: Duration = Duration::from_secs(30);

/// The longest wait that is put into a `Retry-After`; older clients ignore longer ones and come back at once.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(55);

/// The class a `service_tier` asks for.
#[must_use]
pub fn class_of_tier(service_tier: Option<&str>) -> Class {
    match service_tier {
        Some("priority" | "fast") => Class::P0,
        Some("flex") => Class::P2,
        Some("batch" | "background") => Class::P3,
        // `auto`, `default`, `scale`, nothing, and whatever comes next year.
        Some(_) | None => Class::P1,
    }
}

/// The `service_tier` an answer states.
#[must_use]
pub const fn tier_of_class(class: Class) -> &'static str {
    match class {
        Class::P0 => "priority",
        Class::P1 => "default",
        Class::P2 => "flex",
        Class::P3 => "batch",
    }
}

/// What is known about the model when a request is estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Tokens per byte of prompt.
    pub tokens_per_byte: f64,
    /// Tokens of an answer whose request sets no maximum.
    pub usual_output_tokens: u32,
    /// The most tokens prompt and answer have together.
    pub context_length: u32,
}

/// Estimated tokens of a job: what is taken from the buckets, apart by price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Of the prompt.
    pub prompt: u64,
    /// Of all answers together.
    pub output: u64,
}

impl Estimate {
    /// Prompt and answers together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.prompt.saturating_add(self.output)
    }
}

/// Estimated tokens of prompt and `answers` answers. At least 1, at most the context, of which each answer beyond the first
/// has one of its own but for the prompt.
#[must_use]
pub fn estimate(prompt_bytes: usize, max_tokens: Option<u32>, answers: u32, measure: &Measure) -> Estimate {
    let context = u64::from(measure.context_length);
    let ratio = if measure.tokens_per_byte.is_finite() { measure.tokens_per_byte.clamp(0.0, 16.0) } else { 1.0 };
    // Parts per 1024 keep the product in integers.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the ratio is clamped to 0..=16")]
    let per_1024 = (ratio * 1024.0).ceil() as u64;
    let prompt = (prompt_bytes as u64).saturating_mul(per_1024).div_ceil(1024).min(context);
    let answer = u64::from(max_tokens.unwrap_or(measure.usual_output_tokens));
    let first = prompt.saturating_add(answer).clamp(1, context.max(1));
    let output = u64::from(answers.max(1)).saturating_mul(first.saturating_sub(prompt));
    Estimate { prompt: first.min(prompt.max(u64::from(output == 0))), output }
}

/// How large an input is that becomes a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputSize {
    /// A text of so many bytes.
    Bytes(usize),
    /// So many token ids.
    Tokens(usize),
}

impl InputSize {
    /// Bytes of text in it: none if it came as ids, which say nothing of how a model's tokens and bytes compare.
    #[must_use]
    pub const fn text_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => *bytes,
            Self::Tokens(_) => 0,
        }
    }
}

/// Tokens that a tokenizer adds to a text: one where it begins, one where it ends.
const ADDED_TOKENS: u64 = 2;

/// Estimated tokens of inputs that become vectors: each has the whole context to itself, and there is no answer. At
/// least 1.
#[must_use]
pub fn estimate_inputs(inputs: &[InputSize], measure: &Measure) -> Estimate {
    let context = u64::from(measure.context_length.max(1));
    let of = |input: &InputSize| match input {
        InputSize::Bytes(bytes) => {
            estimate(*bytes, Some(0), 1, measure).total().saturating_add(ADDED_TOKENS).min(context)
        }
        InputSize::Tokens(tokens) => (*tokens as u64).min(context),
    };
    Estimate { prompt: inputs.iter().map(of).fold(0, u64::saturating_add).max(1), output: 0 }
}

/// What a pool can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Tokens a second of all live workers together.
    pub tokens_per_second: f64,
}

impl Capacity {
    /// Adds up what the live workers measured; `assumed` tokens a second if there are none, so that requests are held
    /// for the capacity to come instead of refused.
    #[must_use]
    pub fn of(workers: impl Iterator<Item = f64>, assumed: f64) -> Self {
        let sum: f64 = workers.filter(|rate| rate.is_finite() && *rate > 0.0).sum();
        Self { tokens_per_second: if sum > 0.0 { sum } else { assumed.max(1.0) } }
    }

    /// The virtual queue of a class: the pool's rate, and a burst of as much work as the pool does in the longest wait
    /// that the class accepts.
    ///
    /// # Errors
    /// [`InvalidLimit`] if the rate is below one token in 292 years.
    pub fn virtual_queue(&self, class: Class) -> Result<Limit, InvalidLimit> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and small")]
        let milli_tokens = (self.tokens_per_second * 1000.0).clamp(1.0, 1e15) as u64;
        let longest = longest_wait(class);
        let burst = milli_tokens.saturating_mul(longest.as_secs()) / 1000;
        Limit::new(milli_tokens, Duration::from_secs(1000), burst.max(1))
    }
}

/// The longest backlog a class is admitted behind.
#[must_use]
pub const fn longest_wait(class: Class) -> Duration {
    match class {
        Class::P0 => Duration::from_secs(60),
        Class::P1 => Duration::from_secs(5 * 60),
        Class::P2 => Duration::from_secs(3600),
        Class::P3 => Duration::from_secs(12 * 3600),
    }
}

/// What a refused client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComeBack {
    /// Come back after this long; the stock clients do so by themselves.
    After(Duration),
    /// Not within what the stock clients wait; the true time is for people to read.
    Later(Duration),
    /// No wait helps.
    Never,
}

/// Turns a bucket's verdict into what the client is told; never less than a millisecond.
#[must_use]
pub fn come_back(until: Option<Timestamp>, now: Timestamp) -> ComeBack {
    match until.map(|until| until.since(now).max(Duration::from_millis(1))) {
        None => ComeBack::Never,
        Some(wait) if wait <= LONGEST_RETRY_AFTER => ComeBack::After(wait),
        Some(wait) => ComeBack::Later(wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURE: Measure = Measure { tokens_per_byte: 0.25, usual_output_tokens: 100, context_length: 1000 };

    #[test]
    fn an_estimate_counts_prompt_and_answer_and_never_exceeds_the_context() {
        assert_eq!(estimate(400, Some(50), 1, &MEASURE), Estimate { prompt: 100, output: 50 });
        assert_eq!(estimate(400, None, 1, &MEASURE).total(), 200);
        assert_eq!(estimate(400, Some(50), 3, &MEASURE).total(), 250, "the prompt counts once");
        assert_eq!(estimate(usize::MAX, Some(u32::MAX), 1, &MEASURE).total(), 1000);
        assert_eq!(estimate(0, Some(0), 1, &Measure { tokens_per_byte: f64::NAN, ..MEASURE }).total(), 1);
    }

    #[test]
    fn inputs_are_estimated_one_by_one_and_each_up_to_the_context() {
        let inputs = [InputSize::Bytes(400), InputSize::Tokens(7), InputSize::Bytes(1_000_000)];
        assert_eq!(estimate_inputs(&inputs, &MEASURE), Estimate { prompt: 102 + 7 + 1000, output: 0 });
        assert_eq!(estimate_inputs(&[], &MEASURE).total(), 1);
    }

    #[test]
    fn a_pool_without_workers_is_taken_for_its_assumed_rate() {
        assert_eq!(Capacity::of([].into_iter(), 50.0).tokens_per_second, 50.0);
        assert_eq!(Capacity::of([10.0, f64::NAN, 5.0].into_iter(), 50.0).tokens_per_second, 15.0);
    }

    #[test]
    fn a_virtual_queue_holds_the_work_of_its_longest_wait() {
        let limit = Capacity { tokens_per_second: 100.0 }.virtual_queue(Class::P0).unwrap();
        assert_eq!(limit.burst(), 6000);
        assert_eq!(limit.period_ns(), 10_000_000);
    }

    #[test]
    fn a_wait_longer_than_clients_obey_is_told_and_not_asked_for() {
        let now = Timestamp::from_millis(0);
        assert_eq!(come_back(Some(Timestamp::from_millis(0)), now), ComeBack::After(Duration::from_millis(1)));
        assert_eq!(come_back(Some(Timestamp::from_millis(60_000)), now), ComeBack::Later(Duration::from_secs(60)));
        assert_eq!(come_back(None, now), ComeBack::Never);
    }

    #[test]
    fn every_tier_word_has_a_class() {
        assert_eq!(class_of_tier(Some("priority")), Class::P0);
        assert_eq!(class_of_tier(Some("auto")), Class::P1);
        assert_eq!(class_of_tier(None), Class::P1);
        assert_eq!(class_of_tier(Some("flex")), Class::P2);
    }
}
