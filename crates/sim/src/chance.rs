//! Chance from a seed: the same seed, the same story.

use core::f64::consts::TAU;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of chance: splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ GOLDEN)
    }

    /// The stream of a seed for one purpose, so that one more draw here does not shift another there.
    #[must_use]
    pub fn of(seed: u64, purpose: &str) -> Self {
        // FNV-1a.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let mut stream = Self::new(seed ^ purpose.bytes().fold(0xcbf2_9ce4_8422_2325, hash));
        stream.draw();
        stream
    }

    /// The next 64 bits.
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A fraction in `[0, 1)`.
    pub fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The time to the next of events that come independently, `rate` a second on average, in seconds.
    pub fn gap(&mut self, rate: f64) -> f64 {
        -(1.0 - self.fraction()).ln() / rate
    }

    /// A log-normal value of that median, `sigma` being the deviation of its logarithm.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box and Muller.
        let (radius, angle) = ((-2.0 * (1.0 - self.fraction()).ln()).sqrt(), TAU * self.fraction());
        median * (sigma * radius * angle.cos()).exp()
    }

    /// Which of some shares that sum up to one is drawn; the last if they sum up to less.
    pub fn which(&mut self, shares: &[f64]) -> usize {
        let (mut draw, mut last) = (self.fraction(), 0);
        for (at, share) in shares.iter().enumerate() {
            last = at;
            if draw < *share {
                break;
            }
            draw -= share;
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_have_streams_of_their_own_and_means_are_what_they_should_be() {
        assert_ne!(Chance::of(1, "boots").draw(), Chance::of(1, "clients").draw());
        let mut chance = Chance::of(7, "test");
        let mean = |draw: &mut dyn FnMut() -> f64| (0..100_000).map(|_| draw()).sum::<f64>() / 100_000.0;
        assert!((mean(&mut || chance.gap(4.0)) - 0.25).abs() < 0.005);
        assert!((mean(&mut || chance.log_normal(10.0, 0.5)) - 10.0 * (0.125f64).exp()).abs() < 0.1);
        assert!((mean(&mut || chance.which(&[0.2, 0.8]) as f64) - 0.8).abs() < 0.01);
    }
}
