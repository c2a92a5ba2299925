//! How many sequences an engine should run together, from what it measured of itself.
//!
//! A step with more rows gives more tokens a second, until the processor's arithmetic is the limit; beyond that every
//! further row only makes everybody's tokens come later. Kernels multiply rows in tiles, so that the rate rises in
//! jumps: the best number is the first one behind the last jump that matters.

/// Numbers of sequences worth measuring: multiples of the tiles of common kernels (4, 6, 8 and 12 rows).
pub const CANDIDATES: [u32; 7] = [4, 6, 8, 12, 16, 18, 24];

/// A rate below this share of the best is worth more sequences.
const ENOUGH: f64 = 0.95;

/// The smallest number of sequences whose rate (`(sequences, tokens a second)`) is within a twentieth of the best; 1 if
/// nothing was measured.
#[must_use]
pub fn best(rates: &[(u32, f64)]) -> u32 {
    let top = rates.iter().map(|&(_, rate)| rate).fold(0.0, f64::max);
    rates.iter().filter(|&&(_, rate)| rate >= ENOUGH * top).map(|&(sequences, _)| sequences).min().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_behind_the_last_jump_is_taken() {
        // In single precision, by tiles of six rows; with 4-bit weights, where arithmetic soon is the limit.
        assert_eq!(best(&[(6, 241.0), (8, 300.0), (12, 468.0), (16, 475.0), (24, 480.0)]), 12);
        assert_eq!(best(&[(4, 439.0), (6, 441.0), (8, 481.0), (12, 533.0), (24, 560.0)]), 12);
        assert_eq!(best(&[(6, 100.0), (12, 200.0), (24, 400.0)]), 24);
    }

    #[test]
    fn without_figures_sequences_run_one_by_one() {
        assert_eq!(best(&[]), 1);
        assert_eq!(best(&[(3, f64::NAN), (4, 1.0)]), 4);
    }
}
