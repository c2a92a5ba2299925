//! From the vectors of a text's tokens to the vector of the text.

/// Which of its tokens a text's vector is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    Mean,
    /// The first, which BERT's family was trained to read.
    First,
    /// The last, which has seen all others in a decoder.
    Last,
    /// Of all, number by number, the largest.
    Max,
}

/// How long vectors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// One.
    One,
    /// As they come out of the model.
    AsComputed,
}

/// The vector of a text, given those of its tokens one after another, `size` numbers each. Padding is not among them.
/// All zeros for a text without tokens, which no text is.
#[must_use]
pub fn pool(tokens: &[f32], size: usize, pooling: Pooling) -> Vec<f32> {
    let mut vectors = tokens.chunks_exact(size.max(1));
    let zeros = || vec![0.0; size];
    match pooling {
        Pooling::First => vectors.next().map_or_else(zeros, <[f32]>::to_vec),
        Pooling::Last => vectors.next_back().map_or_else(zeros, <[f32]>::to_vec),
        Pooling::Max => {
            let first = vectors.next().map_or_else(zeros, <[f32]>::to_vec);
            vectors.fold(first, |mut most, vector| {
                most.iter_mut().zip(vector).for_each(|(most, number)| *most = most.max(*number));
                most
            })
        }
        Pooling::Mean => {
            let count = vectors.len().max(1);
            let mut sum = zeros();
            for vector in vectors {
                sum.iter_mut().zip(vector).for_each(|(sum, number)| *sum += number);
            }
            #[expect(clippy::cast_precision_loss, reason = "no text has 16 million tokens")]
            let count = count as f32;
            sum.iter_mut().for_each(|number| *number /= count);
            sum
        }
    }
}

/// Keeps the first `dimensions` numbers, and gives the vector its length: a shortened one always has length 1, as its
/// length of before means nothing any more. A vector of zeros stays one.
pub fn finish(vector: &mut Vec<f32>, dimensions: usize, length: Length) {
    let shortened = dimensions < vector.len();
    vector.truncate(dimensions);
    if length == Length::One || shortened {
        let square: f64 = vector.iter().map(|number| f64::from(*number).powi(2)).sum();
        if square > 0.0 {
            #[expect(clippy::cast_possible_truncation, reason = "a length's last bits do not matter")]
            let scale = square.sqrt().recip() as f32;
            vector.iter_mut().for_each(|number| *number *= scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [f32; 6] = [1.0, 2.0, 3.0, -4.0, 5.0, 8.0];

    #[test]
    fn each_way_of_pooling_gives_its_vector() {
        for (pooling, vector) in [
            (Pooling::Mean, [3.0, 2.0]),
            (Pooling::First, [1.0, 2.0]),
            (Pooling::Last, [5.0, 8.0]),
            (Pooling::Max, [5.0, 8.0]),
        ] {
            assert_eq!(pool(&TOKENS, 2, pooling), vector, "{pooling:?}");
            assert_eq!(pool(&[], 2, pooling), [0.0, 0.0], "{pooling:?}");
        }
    }

    #[test]
    fn vectors_of_length_one_and_shortened_ones_are_scaled() {
        let of = |dimensions, length| {
            let mut vector = vec![3.0, 4.0, 12.0];
            finish(&mut vector, dimensions, length);
            vector
        };
        assert_eq!(of(3, Length::AsComputed), [3.0, 4.0, 12.0]);
        assert_eq!(of(2, Length::AsComputed), [0.6, 0.8]);
        let whole: f32 = of(3, Length::One).iter().map(|number| number * number).sum();
        assert!((whole - 1.0).abs() < 1e-6);
        let mut zeros = vec![0.0; 3];
        finish(&mut zeros, 2, Length::One);
        assert_eq!(zeros, [0.0, 0.0]);
    }
}
