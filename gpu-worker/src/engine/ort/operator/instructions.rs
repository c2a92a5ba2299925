//! The processor's instructions that attention is compiled for, found when it runs.

use crate::engine::attention::{self, Scratch, Shape};

/// Whether this processor has the instructions that make it worth while.
pub(in crate::engine::ort) fn is_supported() -> bool {
    Instructions::found() != Instructions::Slow
}

/// The instructions to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Those of every processor of this kind, fused products among them.
    #[cfg(target_arch = "aarch64")]
    Base,
    /// Products cannot be fused: that would be computed digit by digit.
    Slow,
}

impl Instructions {
    #[cfg(target_arch = "x86_64")]
    pub(super) fn found() -> Self {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self::Avx2
        } else {
            Self::Slow
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub(super) fn found() -> Self {
        Self::Base
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) fn found() -> Self {
        Self::Slow
    }

    /// Computes a piece with these instructions.
    pub(super) fn compute(self, piece: &Piece<'_>, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
        match self {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "a function for certain instructions may run only where they are")]
            // SAFETY: `found` has seen them.
            Self::Avx512 => unsafe { compute_avx512(piece, queries, out, scratch) },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "a function for certain instructions may run only where they are")]
            // SAFETY: `found` has seen them.
            Self::Avx2 => unsafe { compute_avx2(piece, queries, out, scratch) },
            #[cfg(target_arch = "aarch64")]
            Self::Base => compute(piece, queries, out, scratch),
            Self::Slow => compute(piece, queries, out, scratch),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn compute_avx512(piece: &Piece<'_>, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    compute(piece, queries, out, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn compute_avx2(piece: &Piece<'_>, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    compute(piece, queries, out, scratch);
}

/// What the queries of one token and group of heads look at.
pub(super) struct Piece<'c> {
    pub(super) shape: Shape,
    pub(super) tokens: usize,
    pub(super) keys: &'c [f32],
    pub(super) values: &'c [f32],
}

#[inline(always)]
fn compute(piece: &Piece<'_>, queries: &[f32], out: &mut [f32], scratch: &mut Scratch) {
    attention::attend(&piece.shape, piece.tokens, queries, piece.keys, piece.values, out, scratch);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instructions_give_the_same_bits() {
        let (head, group, tokens) = (48, 5, 37);
        let shape = Shape { group, kv_heads: 1, head, scale: 0.2 };
        let number = |place: usize| f32::from(u16::try_from(place * 7_919 % 1_000).unwrap()) / 500.0 - 1.0;
        let keys: Vec<f32> = (0..48 * head).map(number).collect();
        let values: Vec<f32> = (7..7 + tokens * head).map(number).collect();
        let queries: Vec<f32> = (3..3 + group * head).map(number).collect();
        let piece = Piece { shape, tokens, keys: &keys, values: &values };
        let with = |instructions: Instructions| {
            let mut out = vec![0.0; group * head];
            instructions.compute(&piece, &queries, &mut out, &mut Scratch::default());
            out.iter().map(|number| number.to_bits()).collect::<Vec<_>>()
        };
        let plain = with(Instructions::Slow);
        assert_eq!(with(Instructions::found()), plain);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            assert_eq!(with(Instructions::Avx2), plain);
        }
    }
}
