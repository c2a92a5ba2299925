//! How good forecasts were: pinball loss, coverage and relative error, by horizon.

use std::ops::Range;

use penstock_policy::forecast::QUANTILES;

/// Bounds of the stretches that are scored, in hours ahead; the first two are those that bars are set for.
pub const WINDOWS: [(usize, usize); 8] = [(1, 2), (0, 24), (0, 1), (2, 4), (4, 8), (8, 16), (16, 24), (0, 4)];

/// The quantiles whose pinball losses are averaged.
const SCORED: [usize; 3] = [0, 4, 5];

/// What one method said at one origin: a row of quantiles for each step ahead.
pub type Said = Vec<[f64; QUANTILES.len()]>;

/// Sums over all origins for one stretch of horizon.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    pinball: f64,
    absolute: f64,
    held90: f64,
    held95: f64,
    actual: f64,
    count: f64,
}

/// Running scores of one method.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    windows: [Window; WINDOWS.len()],
}

/// Scores of one method at one stretch of horizon.
#[derive(Clone, Copy, Debug)]
pub struct Score {
    /// Mean pinball loss of the 0.5, 0.9 and 0.95 quantiles, relative to the mean load.
    pub pinball: f64,
    /// Absolute error of the median, relative to the mean load.
    pub wape: f64,
    /// Share of steps that stayed within the 0.9 quantile.
    pub coverage90: f64,
    /// The same for 0.95.
    pub coverage95: f64,
}

impl Scores {
    /// Adds one origin: what was said and what came (NaN where nobody knows).
    pub fn add(&mut self, said: &Said, came: &[f64], per_hour: usize) {
        for (window, (from, to)) in self.windows.iter_mut().zip(WINDOWS) {
            let steps: Range<usize> = from * per_hour..(to * per_hour).min(came.len()).min(said.len());
            for at in steps {
                let (quantiles, came) = (&said[at], came[at]);
                if came.is_nan() {
                    continue;
                }
                for which in SCORED {
                    let (q, off) = (QUANTILES[which], came - quantiles[which]);
                    window.pinball += (q * off).max((q - 1.0) * off) / SCORED.len() as f64;
                }
                window.absolute += (came - quantiles[0]).abs();
                window.held90 += f64::from(u8::from(came <= quantiles[4]));
                window.held95 += f64::from(u8::from(came <= quantiles[5]));
                window.actual += came.abs();
                window.count += 1.0;
            }
        }
    }

    /// The scores at each of [`WINDOWS`].
    #[must_use]
    pub fn by_window(&self) -> [Score; WINDOWS.len()] {
        self.windows.map(|window| Score {
            pinball: window.pinball / window.actual,
            wape: window.absolute / window.actual,
            coverage90: window.held90 / window.count,
            coverage95: window.held95 / window.count,
        })
    }
}
