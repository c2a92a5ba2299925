//! How likely a token was, by the model's own distribution.
//!
//! The distribution is the softmax of the logits as the model gave them: no temperature, no penalties, no grammar, so
//! that the numbers of two requests can be compared. Of equally likely tokens the lower id comes first.

use penstock_service::ports::{Likelihood, TokenLogprob};

use super::vocabulary::Vocabulary;

/// The log probability of `id`, and the `top` likeliest tokens.
pub(super) fn of(logits: &[f32], id: u32, top: u32, vocabulary: &Vocabulary) -> TokenLogprob {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    let token = |(id, logit): (u32, f32)| {
        #[expect(clippy::cast_possible_truncation, reason = "told in single precision")]
        let logprob = (f64::from(logit - most) - total.ln()) as f32;
        Likelihood { bytes: vocabulary.bytes(id).to_vec(), logprob }
    };
    let chosen = token((id, logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY)));
    TokenLogprob { chosen, top: likeliest(logits, top as usize).into_iter().map(token).collect() }
}

fn likeliest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    // Few are wanted of many: each either falls behind the last of the few at once, or takes a place among them.
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count.saturating_add(1));
    for (id, &logit) in (0u32..).zip(logits) {
        if best.len() == count && best.last().is_none_or(|&(_, last)| logit <= last) {
            continue;
        }
        let place = best.partition_point(|&(_, other)| other >= logit);
        best.insert(place, (id, logit));
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::tokenizer::tests::bytes;

    #[test]
    fn a_distribution_is_told_as_its_logarithms() {
        let mut logits = vec![f32::NEG_INFINITY; 256];
        for (byte, share) in [(b'a', 0.5f32), (b'b', 0.25), (b'c', 0.25)] {
            // Any constant may be added to logits.
            logits[usize::from(byte)] = share.ln() + 3.0;
        }
        let told = of(&logits, u32::from(b'b'), 2, bytes().vocabulary());
        assert_eq!(told.chosen.bytes, b"b");
        assert!((told.chosen.logprob - 0.25f32.ln()).abs() < 1e-6);
        let top: Vec<&[u8]> = told.top.iter().map(|token| token.bytes.as_slice()).collect();
        assert_eq!(top, [b"a", b"b"]);
        assert!((told.top[0].logprob - 0.5f32.ln()).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn the_likeliest_are_what_sorting_would_give(
            logits in proptest::collection::vec((-4i8..4).prop_map(f32::from), 0..60), count in 0usize..21,
        ) {
            let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            sorted.truncate(count);
            prop_assert_eq!(likeliest(&logits, count), sorted);
        }
    }
}
