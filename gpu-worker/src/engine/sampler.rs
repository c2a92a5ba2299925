//! Chooses the next token from logits.
//!
//! In this order, which is that of transformers' logits processors and of vLLM:
//!
//! 1. `logit_bias` is added;
//! 2. the repetition penalty (Keskar et al. 2019) divides positive and multiplies negative logits of tokens that occur
//!    in the prompt or in the answer;
//! 3. the presence and frequency penalties of the OpenAI API take `presence + frequency * count` from tokens that
//!    occur in the answer;
//! 4. temperature 0 takes the largest logit (of equals the lowest id); any other draws, see [`super::draw`].
//!
//! Edge cases: logits that are not numbers, or none above minus infinity, are refused; a single token of overwhelming
//! probability is always chosen; a bias for a token beyond the logits does nothing.

use std::collections::{BTreeMap, BTreeSet};

use penstock_service::ports::Sampling;

use super::draw::{Shape, unit};

/// Chooses tokens for one answer.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// `None` takes the likeliest token.
    shape: Option<Shape>,
    seed: u64,
    bias: Vec<(u32, f32)>,
    presence: f32,
    frequency: f32,
    repetition: f32,
    /// The tokens of the prompt; kept only when repetition is penalised.
    prompt: BTreeSet<u32>,
    /// How often each token occurred in the answer so far; kept only when there are penalties.
    counts: BTreeMap<u32, u32>,
    /// How many tokens the answer has.
    position: u64,
}

/// The model answered with something that is no distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLogits {
    /// A logit is not a number.
    #[error("the model's logits are not numbers (NaN or infinite)")]
    NotFinite,
    /// There are no logits.
    #[error("the model gave no logits")]
    Empty,
}

impl Sampler {
    /// A sampler at the start of an answer to `prompt`.
    #[must_use]
    pub fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let repeats = sampling.repetition_penalty != 1.0;
        Self {
            shape: Shape::of(sampling),
            seed: sampling.seed,
            bias: sampling.logit_bias.iter().map(|(&id, &bias)| (id, bias)).collect(),
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            repetition: sampling.repetition_penalty,
            prompt: prompt.iter().copied().filter(|_| repeats).collect(),
            counts: BTreeMap::new(),
            position: 0,
        }
    }

    /// Records that the answer's next token is `id`, whoever sampled it.
    pub fn record(&mut self, id: u32) {
        self.position += 1;
        if self.has_penalties() {
            *self.counts.entry(id).or_insert(0) += 1;
        }
    }

    /// Chooses the token of the current position. Asking twice gives the same token; [`Self::record`] moves on.
    ///
    /// # Errors
    /// [`BadLogits`] if they are no distribution.
    pub fn choose(&self, logits: &[f32]) -> Result<u32, BadLogits> {
        if self.bias.is_empty() && !self.has_penalties() {
            return self.draw(logits);
        }
        let mut adjusted = logits.to_vec();
        self.adjust(&mut adjusted);
        self.draw(&adjusted)
    }

    fn adjust(&self, logits: &mut [f32]) {
        for &(id, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if self.repetition != 1.0 {
            let in_answer = self.counts.keys().filter(|id| !self.prompt.contains(id));
            for &id in self.prompt.iter().chain(in_answer) {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = if *logit < 0.0 { *logit * self.repetition } else { *logit / self.repetition };
                }
            }
        }
        for (&id, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= self.presence + self.frequency * small(count);
            }
        }
    }

    fn has_penalties(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0 || self.repetition != 1.0
    }

    fn draw(&self, logits: &[f32]) -> Result<u32, BadLogits> {
        let (best, top) = largest(logits)?;
        let drawn = self.shape.and_then(|shape| shape.draw(logits, top, unit(self.seed, self.position)));
        Ok(drawn.unwrap_or(best))
    }
}

/// The first largest logit and its id.
fn largest(logits: &[f32]) -> Result<(u32, f32), BadLogits> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0u32..).zip(logits) {
        if logit.is_nan() {
            return Err(BadLogits::NotFinite);
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    match best.1 {
        _ if logits.is_empty() => Err(BadLogits::Empty),
        top if top.is_finite() => Ok(best),
        _ => Err(BadLogits::NotFinite),
    }
}

/// A count as a number to multiply with; exact up to 65,535, and no penalty needs more.
fn small(count: u32) -> f32 {
    f32::from(u16::try_from(count).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampling(temperature: f32, top_p: f32, seed: u64) -> Sampling {
        Sampling { temperature, top_p, seed, ..Sampling::default() }
    }

    fn answer(sampling: &Sampling, logits: &[f32], length: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, &[]);
        (0..length)
            .map(|_| {
                let id = sampler.choose(logits).unwrap();
                sampler.record(id);
                id
            })
            .collect()
    }

    #[test]
    fn temperature_zero_takes_the_likeliest_and_of_equals_the_lowest_id() {
        let sampler = Sampler::new(&sampling(0.0, 1.0, 7), &[]);
        assert_eq!(sampler.choose(&[0.0, 3.0, 3.0, -1.0]), Ok(1));
        assert_eq!(sampler.choose(&[f32::NEG_INFINITY, -5.0]), Ok(1));
    }

    #[test]
    fn logits_that_are_no_distribution_are_refused() {
        for temperature in [0.0, 1.0] {
            let sampler = Sampler::new(&sampling(temperature, 0.9, 7), &[]);
            assert_eq!(sampler.choose(&[0.0, f32::NAN]), Err(BadLogits::NotFinite));
            assert_eq!(sampler.choose(&[f32::INFINITY, 0.0]), Err(BadLogits::NotFinite));
            assert_eq!(sampler.choose(&[f32::NEG_INFINITY; 3]), Err(BadLogits::NotFinite));
            assert_eq!(sampler.choose(&[]), Err(BadLogits::Empty));
        }
    }

    #[test]
    fn a_nucleus_keeps_the_fewest_likeliest_tokens() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let narrow = answer(&sampling(1.0, 0.6, 3), &logits, 2000);
        assert!(narrow.iter().all(|&id| id < 2), "0.5 + 0.3 reaches 0.6");
        let zeros = narrow.iter().filter(|&&id| id == 0).count();
        assert!((1180..1320).contains(&zeros), "5/8 of 2000, saw {zeros}");
        let single = answer(&sampling(1.0, 0.4, 3), &logits, 200);
        assert!(single.iter().all(|&id| id == 0));
    }

    #[test]
    fn without_a_nucleus_the_shares_are_the_probabilities() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let ids = answer(&sampling(1.0, 1.0, 11), &logits, 10_000);
        for (id, share) in [(0, 5000), (1, 3000), (2, 2000)] {
            let seen = ids.iter().filter(|&&other| other == id).count();
            assert!(seen.abs_diff(share) < 200, "{id}: {seen}");
        }
    }

    #[test]
    fn penalties_turn_a_constant_answer_away_from_itself() {
        let mut penalised = sampling(0.0, 1.0, 0);
        penalised.frequency_penalty = 1.0;
        assert_eq!(answer(&penalised, &[1.5, 0.8, 0.0], 5), [0, 1, 0, 2, 1]);
        penalised.frequency_penalty = 0.0;
        penalised.presence_penalty = 1.0;
        assert_eq!(answer(&penalised, &[1.5, 0.8, 0.0], 4), [0, 1, 0, 0]);
    }

    #[test]
    fn a_bias_makes_a_token_certain_or_impossible() {
        let mut biased = sampling(0.0, 1.0, 0);
        biased.logit_bias = [(0, -100.0), (2, 1.0), (999, 100.0)].into();
        assert_eq!(answer(&biased, &[9.0, 3.0, 2.5], 3), [2, 2, 2]);
        biased.temperature = 1.0;
        assert!(answer(&biased, &[9.0, 3.0, 2.5], 500).iter().all(|&id| id != 0));
    }

    /// What transformers' logits processors make of the same logits (`fixtures/expected_sampling.py`).
    #[derive(serde::Deserialize)]
    struct Case {
        logits: Vec<f32>,
        prompt: Vec<u32>,
        answer: Vec<u32>,
        sampling: Sampling,
        /// Probabilities by token.
        expected: Vec<f64>,
    }

    #[test]
    fn the_distribution_is_that_of_transformers() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../fixtures/expected_sampling.json")).unwrap();
        assert!(cases.len() >= 40);
        for (number, case) in cases.iter().enumerate() {
            let mut sampler = Sampler::new(&case.sampling, &case.prompt);
            case.answer.iter().for_each(|&id| sampler.record(id));
            let mut logits = case.logits.clone();
            sampler.adjust(&mut logits);
            let narrowed = sampler.shape.unwrap().narrowed(&logits, largest(&logits).unwrap().1);
            let total: f64 = narrowed.iter().map(|&(_, weight)| weight).sum();
            let mut seen = vec![0.0; logits.len()];
            narrowed.iter().for_each(|&(id, weight)| seen[id as usize] = weight / total);
            for (id, (seen, expected)) in seen.iter().zip(&case.expected).enumerate() {
                assert!((seen - expected).abs() < 1e-5, "case {number}, token {id}: {seen}, transformers {expected}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_worker_that_takes_over_anywhere_draws_what_the_first_would_have(
            logits in proptest::collection::vec(-8.0f32..8.0, 1..40),
            temperature in 0.0f32..2.0, top_p in 0.01f32..=1.0, seed: u64, cut in 0usize..20,
            presence in -2.0f32..2.0, frequency in -2.0f32..2.0, repetition in 0.5f32..2.0,
            top_k in proptest::option::of(1u32..30), min_p in 0.0f32..1.0,
        ) {
            let mut rules = sampling(temperature, top_p, seed);
            rules.presence_penalty = presence;
            rules.frequency_penalty = frequency;
            rules.repetition_penalty = repetition;
            (rules.top_k, rules.min_p) = (top_k, min_p);
            let whole = answer(&rules, &logits, 20);
            let mut second = Sampler::new(&rules, &[]);
            whole[..cut].iter().for_each(|&id| second.record(id));
            for &expected in &whole[cut..] {
                let id = second.choose(&logits).unwrap();
                second.record(id);
                prop_assert_eq!(id, expected);
            }
        }
    }
}
