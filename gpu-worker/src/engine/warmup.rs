//! Runs the model before the first request: every shape of call once, then with all slots busy against the clock.
//!
//! The first call of a shape plans memory and builds bindings, which would otherwise be somebody's first token. The
//! measured rate is what forecasts and promises are computed from until real traffic corrects it, so it is taken the
//! way traffic runs: all rows decoding, the likeliest token read from each.

use std::time::{Duration, Instant};

use super::decoder::{Decoder, DecoderFault};

/// Long enough to average over the scheduler's quanta of a busy machine, short enough not to matter at start-up.
const MEASURE: Duration = Duration::from_millis(300);

/// Warms the decoder up and gives its tokens a second with all slots busy. Leaves all rows empty.
///
/// # Errors
/// [`DecoderFault`] if a call fails: the model does not run on this machine.
pub fn warm_up(decoder: &mut dyn Decoder) -> Result<f64, DecoderFault> {
    let slots = decoder.slots();
    // One position of a row stays free: padding may write there.
    let room = decoder.capacity().saturating_sub(1).max(1);
    for row in 0..slots {
        for chunk in [[0; 3].as_slice(), &[0]] {
            decoder.prefill(row, &chunk[..chunk.len().min(room)], &mut read)?;
            decoder.cut(row, 0);
        }
    }
    for rows in 1..=slots {
        decoder.decode(&vec![0; rows], &mut read)?;
        reset(decoder);
    }
    let started = Instant::now();
    let mut tokens = 0u32;
    let mut length = 0;
    while started.elapsed() < MEASURE {
        if length == room {
            reset(decoder);
            length = 0;
        }
        decoder.decode(&vec![0; slots], &mut read)?;
        length += 1;
        tokens = tokens.saturating_add(u32::try_from(slots).unwrap_or(u32::MAX));
    }
    reset(decoder);
    Ok(f64::from(tokens) / started.elapsed().as_secs_f64())
}

/// Does with logits what choosing the likeliest token does.
fn read(_row: usize, logits: &[f32]) {
    std::hint::black_box(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
}

fn reset(decoder: &mut dyn Decoder) {
    (0..decoder.slots()).for_each(|row| decoder.cut(row, 0));
}
