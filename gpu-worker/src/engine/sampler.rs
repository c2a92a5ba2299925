//! Chooses the next token from logits.
//!
//! The draw for position `i` of an answer depends on `(seed, i)` alone, never on how many draws came before: a worker
//! that takes an answer over in the middle draws what the first worker would have drawn. That rules out a generator
//! with state. The draw is the finaliser of SplitMix64 (Steele, Lea, Flood: *Fast splittable pseudorandom number
//! generators*, OOPSLA 2014) over seed and position; it is written out here because its values are part of what a
//! resumed answer depends on, so that no dependency's update may change them.
//!
//! Temperature 0 takes the largest logit (of equals the lowest id). Otherwise: softmax of `logits / temperature`, the
//! nucleus (the fewest likeliest tokens whose probability reaches `top_p`; Holtzman et al. 2020), one draw. Presence and
//! frequency penalties are those of the OpenAI API, over the tokens of the answer: `logit -= presence + frequency *
//! count` for tokens that occurred. Sums are in `f64` and in a fixed order, so equal logits give equal choices.
//!
//! Edge cases: logits that are not numbers, or none above minus infinity, are refused; a single token of overwhelming
//! probability is always chosen; a `top_p` of 1 or more keeps every token.

use std::collections::BTreeMap;

use penstock_service::ports::Sampling;

/// Chooses tokens for one answer.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f32,
    top_p: f64,
    seed: u64,
    presence: f32,
    frequency: f32,
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
    /// A sampler at the start of an answer.
    #[must_use]
    pub fn new(sampling: &Sampling) -> Self {
        Self {
            temperature: sampling.temperature,
            top_p: f64::from(sampling.top_p),
            seed: sampling.seed,
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
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
        if !self.has_penalties() {
            return self.draw(logits);
        }
        let mut adjusted = logits.to_vec();
        for (&id, &count) in &self.counts {
            if let Some(logit) = adjusted.get_mut(id as usize) {
                *logit -= self.presence + self.frequency * small(count);
            }
        }
        self.draw(&adjusted)
    }

    fn has_penalties(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0
    }

    fn draw(&self, logits: &[f32]) -> Result<u32, BadLogits> {
        let (best, top) = largest(logits)?;
        // The port promises neither a negative temperature nor one that is no number; the likeliest token is safe.
        if self.temperature <= 0.0 || self.temperature.is_nan() {
            return Ok(best);
        }
        let weight = |logit: f32| (f64::from(logit - top) / f64::from(self.temperature)).exp();
        let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
        let point = unit(self.seed, self.position);
        if self.top_p >= 1.0 {
            let all = (0..).zip(logits.iter().map(|&logit| weight(logit)));
            return Ok(at(all, point * total).unwrap_or(best));
        }
        // Tokens below this weight have less than 1 - top_p together, so the nucleus holds none of them; what is left
        // to sort is small.
        let count = u32::try_from(logits.len()).unwrap_or(u32::MAX);
        let least = (1.0 - self.top_p) * total / f64::from(count);
        let mut nucleus: Vec<(u32, f64)> =
            (0..).zip(logits.iter().map(|&logit| weight(logit))).filter(|&(_, weight)| weight >= least).collect();
        nucleus.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut mass = 0.0;
        let wanted = self.top_p * total;
        let size = nucleus
            .iter()
            .position(|&(_, weight)| {
                mass += weight;
                mass >= wanted
            })
            .map_or(nucleus.len(), |last| last + 1);
        nucleus.truncate(size);
        Ok(at(nucleus.into_iter(), point * mass).unwrap_or(best))
    }
}

/// The id whose stretch of the line `[0, sum of weights)` holds `point`; the last one if rounding leaves it beyond.
fn at(weights: impl Iterator<Item = (u32, f64)>, point: f64) -> Option<u32> {
    let mut mass = 0.0;
    let mut last = None;
    for (id, weight) in weights {
        if weight > 0.0 {
            mass += weight;
            last = Some(id);
            if point < mass {
                break;
            }
        }
    }
    last
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

/// A number in `[0, 1)` for position `position` under `seed`, from the top 53 bits of a mix of both.
fn unit(seed: u64, position: u64) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    // The seed is mixed first: clients choose neighbouring seeds, whose sequences must not be shifts of one another.
    let draw = mix(mix(seed).wrapping_add(position.wrapping_add(1).wrapping_mul(GOLDEN)));
    let (high, low) = ((draw >> 32) as u32, ((draw >> 11) & 0x1f_ffff) as u32);
    (f64::from(high) * f64::from(1 << 21) + f64::from(low)) / f64::from(1 << 27) / f64::from(1 << 26)
}

/// SplitMix64's finaliser, a bijection of 64 bits.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
        Sampling {
            temperature,
            top_p,
            seed,
            max_tokens: None,
            stop: Vec::new(),
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }
    }

    fn answer(sampling: &Sampling, logits: &[f32], length: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
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
        let sampler = Sampler::new(&sampling(0.0, 1.0, 7));
        assert_eq!(sampler.choose(&[0.0, 3.0, 3.0, -1.0]), Ok(1));
        assert_eq!(sampler.choose(&[f32::NEG_INFINITY, -5.0]), Ok(1));
    }

    #[test]
    fn logits_that_are_no_distribution_are_refused() {
        for temperature in [0.0, 1.0] {
            let sampler = Sampler::new(&sampling(temperature, 0.9, 7));
            assert_eq!(sampler.choose(&[0.0, f32::NAN]), Err(BadLogits::NotFinite));
            assert_eq!(sampler.choose(&[f32::INFINITY, 0.0]), Err(BadLogits::NotFinite));
            assert_eq!(sampler.choose(&[f32::NEG_INFINITY; 3]), Err(BadLogits::NotFinite));
            assert_eq!(sampler.choose(&[]), Err(BadLogits::Empty));
        }
    }

    #[test]
    fn the_draws_are_what_they_were_when_answers_were_first_stored() {
        // With seed 0 they are the published generator's: 0xe220a8397b1dcdaf and 0x6e789e6aa1b965f4, as fractions.
        let draws = [(0, 0), (0, 1), (1, 0), (42, 7)].map(|(seed, position)| unit(seed, position));
        for (draw, expected) in draws.into_iter().zip([0.883_310_808, 0.431_527_997, 0.749_748_241, 0.152_893_342]) {
            assert!((draw - expected).abs() < 1e-9, "{draws:?}");
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

    proptest! {
        #[test]
        fn a_worker_that_takes_over_anywhere_draws_what_the_first_would_have(
            logits in proptest::collection::vec(-8.0f32..8.0, 1..40),
            temperature in 0.0f32..2.0, top_p in 0.01f32..=1.0, seed: u64, cut in 0usize..20,
            presence in -2.0f32..2.0, frequency in -2.0f32..2.0,
        ) {
            let mut rules = sampling(temperature, top_p, seed);
            rules.presence_penalty = presence;
            rules.frequency_penalty = frequency;
            let whole = answer(&rules, &logits, 20);
            let mut second = Sampler::new(&rules);
            whole[..cut].iter().for_each(|&id| second.record(id));
            for &expected in &whole[cut..] {
                let id = second.choose(&logits).unwrap();
                second.record(id);
                prop_assert_eq!(id, expected);
            }
        }

        #[test]
        fn the_nucleus_filter_changes_no_choice(
            logits in proptest::collection::vec(-12.0f32..12.0, 1..60), top_p in 0.01f32..0.999, seed: u64,
        ) {
            let rules = sampling(1.0, top_p, seed);
            let id = Sampler::new(&rules).choose(&logits).unwrap();
            // The plain definition: sort everything, take the shortest prefix that reaches top_p.
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut all: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&l| f64::from(l - top).exp())).collect();
            let total: f64 = all.iter().map(|w| w.1).sum();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let mut mass = 0.0;
            let nucleus: Vec<u32> = all
                .iter()
                .take_while(|w| { let before = mass; mass += w.1; before < f64::from(top_p) * total })
                .map(|w| w.0)
                .collect();
            prop_assert!(nucleus.contains(&id));
        }

        #[test]
        fn draws_lie_in_the_unit_interval(seed: u64, position: u64) {
            prop_assert!((0.0..1.0).contains(&unit(seed, position)));
        }
    }
}
