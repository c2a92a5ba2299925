//! Which trace a request belongs to: the context that travels in its headers, its queue message and its record.
//!
//! Form and meaning are those of the W3C's Trace Context, <https://www.w3.org/TR/trace-context/>: a client that traces
//! sends `traceparent`, and everything done for its request hangs under its own span.

use core::fmt;
use core::str::FromStr;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    /// Whether somebody keeps this trace.
    pub sampled: bool,
}

/// A `traceparent` that is none; the specification has it ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTraceContext;

impl fmt::Display for InvalidTraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a 'traceparent' of the W3C's Trace Context")
    }
}

impl core::error::Error for InvalidTraceContext {}

impl TraceContext {
    /// The span of that id in that trace. Zero, which stands for none in the specification, becomes one.
    #[must_use]
    pub fn new(trace: u128, span: u64, sampled: bool) -> Self {
        Self { trace: trace.max(1), span: span.max(1), sampled }
    }

    /// The trace's id, never 0.
    #[must_use]
    pub const fn trace(&self) -> u128 {
        self.trace
    }

    /// The span's id, never 0.
    #[must_use]
    pub const fn span(&self) -> u64 {
        self.span
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn child(&self, span: u64) -> Self {
        Self { span: span.max(1), ..*self }
    }
}

/// Whether a trace that begins here is kept, if `share` of them are: told by its id alone, so that everybody who is asked
/// answers the same. The last seven bytes are the random ones (Trace Context, level 2).
#[must_use]
pub fn is_kept(trace: u128, share: f64) -> bool {
    const RANDOM: u128 = (1 << 56) - 1;
    ((trace & RANDOM) as f64) < share * RANDOM as f64
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceContext;

    fn from_str(text: &str) -> Result<Self, InvalidTraceContext> {
        let lower = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut parts = text.trim().split('-');
        let mut next =
            |length: usize| parts.next().filter(|part| part.len() == length && lower(part)).ok_or(InvalidTraceContext);
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        // A later version may say more behind it, this one may not.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(InvalidTraceContext);
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| InvalidTraceContext)?;
        let span = u64::from_str_radix(span, 16).map_err(|_| InvalidTraceContext)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceContext)?;
        if trace == 0 || span == 0 {
            return Err(InvalidTraceContext);
        }
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_specification_are_read_as_it_says() {
        let known = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: TraceContext = known.parse().unwrap();
        assert_eq!((context.span(), context.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(context.to_string(), known);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like";
        assert_eq!(later.parse(), Ok(context));
        for none in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "",
        ] {
            assert_eq!(none.parse::<TraceContext>(), Err(InvalidTraceContext), "{none}");
        }
    }

    proptest! {
        #[test]
        fn a_context_reads_back_as_it_was_written(trace in 1u128.., span in 1u64.., sampled: bool) {
            let context = TraceContext::new(trace, span, sampled);
            prop_assert_eq!(context.to_string().parse(), Ok(context));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,80}") {
            let _ = text.parse::<TraceContext>();
        }

        #[test]
        fn all_are_kept_at_one_and_none_at_zero(trace: u128) {
            prop_assert!(is_kept(trace, 1.1) && !is_kept(trace, 0.0));
        }
    }

    #[test]
    fn a_share_of_traces_is_kept() {
        let kept = (0..10_000u128)
            .filter(|n| is_kept(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835), 0.25))
            .count();
        assert!((2300..2700).contains(&kept), "{kept}");
    }
}
