//! Hands logits on in single precision, whatever the graph's.

use std::ops::Range;

use half::f16;
use ort::value::{DynValue, TensorElementType};

use crate::engine::decoder::OnLogits;

/// Gives to `logits` each place with the numbers of its range of `output`. `widened` is memory for half precision.
///
/// # Errors
/// ONNX Runtime's, if `output` holds neither single nor half precision.
pub(super) fn tell(
    places: impl Iterator<Item = (usize, Range<usize>)>,
    output: &DynValue,
    widened: &mut Vec<f32>,
    logits: OnLogits<'_>,
) -> ort::Result<()> {
    if *output.data_type() == TensorElementType::Float16 {
        let (_, all) = output.try_extract_tensor::<f16>()?;
        for (place, range) in places {
            widened.clear();
            widened.extend(all[range].iter().map(|number| number.to_f32()));
            logits(place, widened);
        }
    } else {
        let (_, all) = output.try_extract_tensor::<f32>()?;
        places.for_each(|(place, range)| logits(place, &all[range]));
    }
    Ok(())
}
