//! What tokens cost, in whole micro-dollars.
//!
//! A price is stated per million tokens, so one token may cost a fraction of a micro-dollar. Rounded once a job, on the
//! sum of input and output, and up: an answer at a price is never free, a job's cost is the same whoever computes it,
//! and what a tenant's days add up to is exactly the sum of what its answers said they cost. The error is below one
//! micro-dollar a job. Rounding up is monotone, so a hold for an estimate covers every use within the estimate.
//!
//! All arithmetic saturates: a cost too large to count is the largest one, never a small one.

use core::fmt;
use core::str::FromStr;

/// Tokens that a price is stated for.
const PER: u128 = 1_000_000;

/// Micro-dollars of a dollar.
const DOLLAR: u64 = 1_000_000;

/// An amount of money: millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsdMicros(pub u64);

impl UsdMicros {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Both together, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left after `other` was taken; nothing if it is more.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Dollars with all six decimals, such as `0.000226`: exact, and what `x-penstock-cost-usd` says.
impl fmt::Display for UsdMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / DOLLAR, self.0 % DOLLAR)
    }
}

/// Why a text is no amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAmount;

impl fmt::Display for InvalidAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an amount of dollars: expected digits with at most six decimals, such as 12 or 0.15")
    }
}

impl core::error::Error for InvalidAmount {}

/// Reads dollars, such as `12`, `0.15` or `0.000226`.
impl FromStr for UsdMicros {
    type Err = InvalidAmount;

    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 6 {
            return Err(InvalidAmount);
        }
        let dollars: u64 = whole.parse().map_err(|_| InvalidAmount)?;
        let micros: u64 = format!("{decimals:0<6}").parse().map_err(|_| InvalidAmount)?;
        dollars.checked_mul(DOLLAR).and_then(|all| all.checked_add(micros)).map(Self).ok_or(InvalidAmount)
    }
}

/// What a pool's tokens cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Price {
    /// A million tokens of a prompt, in micro-dollars.
    pub input_usd_micros_per_million_tokens: u64,
    /// A million tokens of an answer, in micro-dollars.
    pub output_usd_micros_per_million_tokens: u64,
}

impl Price {
    /// What a job with that many tokens costs; see the head of this module for how it is rounded.
    #[must_use]
    pub fn of(&self, input_tokens: u64, output_tokens: u64) -> UsdMicros {
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        // Each product is at most (2^64 - 1)^2, so their sum may not fit 128 bits.
        let sum = part(input_tokens, self.input_usd_micros_per_million_tokens)
            .saturating_add(part(output_tokens, self.output_usd_micros_per_million_tokens));
        UsdMicros(u64::try_from(sum.div_ceil(PER)).unwrap_or(u64::MAX))
    }

    /// Whether tokens cost nothing.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.input_usd_micros_per_million_tokens == 0 && self.output_usd_micros_per_million_tokens == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRICE: Price =
        Price { input_usd_micros_per_million_tokens: 150_000, output_usd_micros_per_million_tokens: 600_000 };

    #[test]
    fn a_million_tokens_cost_their_price_and_one_token_is_rounded_up() {
        assert_eq!(PRICE.of(1_000_000, 1_000_000), UsdMicros(750_000));
        // 0.15 and 0.6 micro-dollars.
        assert_eq!((PRICE.of(1, 0), PRICE.of(0, 1), PRICE.of(1, 1)), (UsdMicros(1), UsdMicros(1), UsdMicros(1)));
        assert_eq!(PRICE.of(0, 0), UsdMicros::ZERO);
        assert_eq!(Price::default().of(u64::MAX, u64::MAX), UsdMicros::ZERO);
    }

    #[test]
    fn a_cost_too_large_to_count_is_the_largest() {
        let dear =
            Price { input_usd_micros_per_million_tokens: u64::MAX, output_usd_micros_per_million_tokens: u64::MAX };
        assert_eq!(dear.of(u64::MAX, u64::MAX), UsdMicros(u64::MAX));
    }

    #[test]
    fn texts_that_are_no_amounts_are_refused() {
        for bad in ["", ".", "1.", ".5", "-1", "1e3", "1.0000001", "1,5", " 1", "18446744073710"] {
            assert_eq!(bad.parse::<UsdMicros>(), Err(InvalidAmount), "{bad}");
        }
        assert_eq!("12".parse(), Ok(UsdMicros(12_000_000)));
        assert_eq!("0.15".parse(), Ok(UsdMicros(150_000)));
    }

    proptest! {
        #[test]
        fn an_amount_reads_back_from_its_text(micros: u64) {
            prop_assert_eq!(UsdMicros(micros).to_string().parse(), Ok(UsdMicros(micros)));
        }

        #[test]
        fn a_hold_for_an_estimate_covers_every_use_within_it(
            (input, output) in (0u64..1 << 40, 0u64..1 << 40), less_in in 0u64..1 << 40, less_out in 0u64..1 << 40,
            price_in: u32, price_out: u32,
        ) {
            let price = Price {
                input_usd_micros_per_million_tokens: u64::from(price_in),
                output_usd_micros_per_million_tokens: u64::from(price_out),
            };
            let used = price.of(input.saturating_sub(less_in), output.saturating_sub(less_out));
            prop_assert!(used <= price.of(input, output));
            // Rounded once: within one micro-dollar of the exact cost.
            let exact = f64::from(price_in) * input as f64 / 1e6 + f64::from(price_out) * output as f64 / 1e6;
            prop_assert!((price.of(input, output).0 as f64 - exact).abs() <= 1.0 + exact * 1e-12);
        }
    }
}
