//! One draw from a distribution over tokens.
//!
//! The draw for position `i` of an answer depends on `(seed, i)` alone, never on how many draws came before: a worker
//! that takes an answer over in the middle draws what the first worker would have drawn. That rules out a generator
//! with state. The draw is the finaliser of SplitMix64 (Steele, Lea, Flood: *Fast splittable pseudorandom number
//! generators*, OOPSLA 2014) over seed and position; it is written out here because its values are part of what a
//! resumed answer depends on, so that no dependency's update may change them.
//!
//! The distribution is the softmax of `logits / temperature`, narrowed in the order of transformers: the `top_k`
//! likeliest tokens; of these the nucleus, the fewest likeliest whose probability reaches `top_p` (Holtzman et al.
//! 2020); of these the ones that are at least `min_p` times as likely as the likeliest (Nguyen et al. 2024). Of equally
//! likely tokens the lower id counts as likelier. Sums are in `f64` and in a fixed order, so equal logits give equal
//! choices.

use penstock_service::ports::Sampling;

/// How a distribution is narrowed before the draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    temperature: f64,
    top_k: Option<usize>,
    top_p: f64,
    min_p: f64,
}

impl Shape {
    /// The shape a request asks for; `None` if the likeliest token is always taken. The port promises neither a
    /// negative temperature nor one that is no number; the likeliest token is safe.
    pub(super) fn of(sampling: &Sampling) -> Option<Self> {
        (sampling.temperature > 0.0).then(|| Self {
            temperature: f64::from(sampling.temperature),
            top_k: sampling.top_k.map(|k| (k as usize).max(1)),
            top_p: f64::from(sampling.top_p),
            min_p: f64::from(sampling.min_p),
        })
    }

    /// Draws a token at `point`, a number in `[0, 1)`. `top` is the largest logit, and finite.
    pub(super) fn draw(&self, logits: &[f32], top: f32, point: f64) -> Option<u32> {
        if self.top_p >= 1.0 && self.top_k.is_none() && self.min_p <= 0.0 {
            let total: f64 = self.weights(logits, top).map(|(_, weight)| weight).sum();
            return at(self.weights(logits, top), point * total);
        }
        let narrowed = self.narrowed(logits, top);
        let mass: f64 = narrowed.iter().map(|&(_, weight)| weight).sum();
        at(narrowed.into_iter(), point * mass)
    }

    /// The tokens that may be drawn, likeliest first, with weights that are proportional to their probabilities.
    pub(super) fn narrowed(&self, logits: &[f32], top: f32) -> Vec<(u32, f64)> {
        let everything: f64 = self.weights(logits, top).map(|(_, weight)| weight).sum();
        let mut kept: Vec<(u32, f64)> = match self.top_k {
            Some(_) => self.weights(logits, top).filter(|&(_, weight)| weight > 0.0).collect(),
            // Tokens below this weight have less than 1 - top_p together, so the nucleus holds none of them; what is
            // left to sort is small.
            None => {
                let count = u32::try_from(logits.len()).unwrap_or(u32::MAX);
                let least = ((1.0 - self.top_p) * everything / f64::from(count)).max(self.min_p);
                self.weights(logits, top).filter(|&(_, weight)| weight > 0.0 && weight >= least).collect()
            }
        };
        let likelier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let mut total = everything;
        if let Some(k) = self.top_k {
            if k < kept.len() {
                kept.select_nth_unstable_by(k, likelier);
                kept.truncate(k);
            }
            kept.sort_by(likelier);
            total = kept.iter().map(|&(_, weight)| weight).sum();
        } else {
            kept.sort_by(likelier);
        }
        if self.top_p < 1.0 {
            let (wanted, mut mass) = (self.top_p * total, 0.0);
            let reached = kept.iter().position(|&(_, weight)| {
                mass += weight;
                mass >= wanted
            });
            kept.truncate(reached.map_or(kept.len(), |last| last + 1));
        }
        // The likeliest token's weight is 1.
        kept.truncate(kept.iter().position(|&(_, weight)| weight < self.min_p).unwrap_or(kept.len()));
        kept
    }

    fn weights(&self, logits: &[f32], top: f32) -> impl Iterator<Item = (u32, f64)> {
        (0..).zip(logits.iter().map(move |&logit| (f64::from(logit - top) / self.temperature).exp()))
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

/// A number in `[0, 1)` for position `position` under `seed`, from the top 53 bits of a mix of both.
pub(super) fn unit(seed: u64, position: u64) -> f64 {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_draws_are_what_they_were_when_answers_were_first_stored() {
        // With seed 0 they are the published generator's: 0xe220a8397b1dcdaf and 0x6e789e6aa1b965f4, as fractions.
        let draws = [(0, 0), (0, 1), (1, 0), (42, 7)].map(|(seed, position)| unit(seed, position));
        for (draw, expected) in draws.into_iter().zip([0.883_310_808, 0.431_527_997, 0.749_748_241, 0.152_893_342]) {
            assert!((draw - expected).abs() < 1e-9, "{draws:?}");
        }
    }

    fn shape(top_k: Option<u32>, top_p: f32, min_p: f32) -> Shape {
        Shape::of(&Sampling { temperature: 1.0, top_k, top_p, min_p, ..Sampling::default() }).unwrap()
    }

    /// The plain definition: sort everything, then each filter in turn.
    fn plainly(logits: &[f32], top_k: Option<u32>, top_p: f32, min_p: f32) -> Vec<u32> {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut all: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&l| f64::from(l - top).exp())).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(top_k.map_or(all.len(), |k| k as usize));
        let total: f64 = all.iter().map(|w| w.1).sum();
        let mut before = 0.0;
        let nucleus = all.iter().take_while(|w| {
            let inside = before < f64::from(top_p) * total;
            before += w.1;
            inside
        });
        nucleus.filter(|w| w.1 >= f64::from(min_p)).map(|w| w.0).collect()
    }

    proptest! {
        #[test]
        fn the_filters_keep_what_the_plain_definition_keeps(
            logits in proptest::collection::vec(-12.0f32..12.0, 1..60), point in 0.0f64..1.0,
            top_k in proptest::option::of(1u32..20), top_p in 0.01f32..=1.0, min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        ) {
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let kept: Vec<u32> =
                shape(top_k, top_p, min_p).narrowed(&logits, top).into_iter().map(|(id, _)| id).collect();
            let expected = plainly(&logits, top_k, top_p, min_p);
            // Sums in another order may differ in the last bit, and with them the border of the nucleus by one token.
            prop_assert!(kept.len().abs_diff(expected.len()) <= 1, "{:?} {:?}", kept, expected);
            let common = kept.len().min(expected.len());
            prop_assert_eq!(&kept[..common], &expected[..common]);
            let drawn = shape(top_k, top_p, min_p).draw(&logits, top, point).unwrap();
            prop_assert!(kept.contains(&drawn));
        }

        #[test]
        fn draws_lie_in_the_unit_interval(seed: u64, position: u64) {
            prop_assert!((0.0..1.0).contains(&unit(seed, position)));
        }
    }
}
