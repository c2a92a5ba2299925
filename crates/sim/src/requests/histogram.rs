//! Durations counted in bins of equal ratio, so that millions of them cost nothing to keep.

/// Neighbouring bins are 2 % apart: what a quantile can be too high by.
const RATIO: f64 = 1.02;

/// From a tenth of a millisecond on, to more than a week.
const LEAST_SECS: f64 = 1e-4;
const BINS: usize = 1200;

/// How many durations were how long.
#[derive(Clone, Debug)]
pub struct Histogram {
    bins: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: vec![0; BINS], count: 0 }
    }
}

impl Histogram {
    /// Counts a duration in seconds.
    pub fn add(&mut self, secs: f64) {
        let bin = (secs / LEAST_SECS).max(1.0).ln() / RATIO.ln();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a logarithm of at least 1")]
        let bin = (bin.ceil() as usize).min(BINS - 1);
        self.bins[bin] += 1;
        self.count += 1;
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.bins.iter_mut().zip(&other.bins).for_each(|(count, more)| *count += more);
        self.count += other.count;
    }

    /// The duration that a share `q` stays within, in seconds; `None` if there are none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q * self.count as f64;
        let mut seen = 0;
        let bin = self.bins.iter().position(|count| {
            seen += count;
            seen > 0 && seen as f64 >= rank
        })?;
        i32::try_from(bin).ok().map(|bin| LEAST_SECS * RATIO.powi(bin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_two_percent() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.add(f64::from(ms) / 1000.0));
        for (q, secs) in [(0.5, 0.5), (0.95, 0.95), (0.99, 0.99), (1.0, 1.0)] {
            let found = histogram.quantile(q).unwrap();
            assert!((secs..secs * 1.021).contains(&found), "{q}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
