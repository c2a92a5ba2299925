//! Runs the model before the first request: every shape of call once, then with all slots busy against the clock.
//!
//! The first call of a shape plans memory and builds bindings, which would otherwise be somebody's first token. The
//! measured rate is what forecasts and promises are computed from until real traffic corrects it, so it is taken the
//! way traffic runs: all rows decoding, the likeliest token read from each. Where the number of slots is left to the
//! engine, the rates at several numbers decide ([`penstock_policy::slots`]).

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use penstock_policy::slots;

use super::decoder::{Decoder, DecoderFault};

/// Long enough to average over the scheduler's quanta of a busy machine, short enough not to matter at start-up.
const MEASURE: Duration = Duration::from_millis(300);

/// The same, for each number of slots that is tried.
const TRY: Duration = Duration::from_millis(60);

/// Sizes of the parts in which prompts are read.
const PARTS: [usize; 5] = [2, 8, 32, 128, 512];

/// Larger parts are not tried once one has taken so long; they differ from it in time only.
const LONG: Duration = Duration::from_secs(1);

/// What the warm-up found out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warm {
    /// How many sequences to run together.
    pub slots: u32,
    /// Tokens a second with so many.
    pub tokens_per_second: f64,
    /// How long the longest call takes.
    pub longest_call: Duration,
}

/// Warms the decoder up and measures it, with `wanted` slots or as many as are best, but no more than it has. Leaves all
/// rows empty.
///
/// # Errors
/// [`DecoderFault`] if a call fails: the model does not run on this machine.
pub fn warm_up(decoder: &mut dyn Decoder, wanted: Option<NonZeroU32>) -> Result<Warm, DecoderFault> {
    // One position of a row stays free: padding may write there.
    let room = decoder.capacity().saturating_sub(1).max(1);
    let rows = u32::try_from(decoder.slots()).unwrap_or(u32::MAX);
    for row in 0..decoder.slots() {
        for part in [[0; 3].as_slice(), &[0]] {
            decoder.prefill(row, &part[..part.len().min(room)], &mut read)?;
            decoder.cut(row, 0);
        }
    }
    let longest_read = read_parts(decoder, room)?;
    let slots = match wanted {
        Some(wanted) => wanted.get().min(rows),
        None => {
            let tried = slots::CANDIDATES.into_iter().filter(|&slots| slots <= rows).chain([rows]);
            let rates = tried.map(|slots| Ok((slots, rate(decoder, slots, room, TRY)?.0)));
            slots::best(&rates.collect::<Result<Vec<_>, DecoderFault>>()?)
        }
    };
    for rows in 1..=slots {
        decoder.decode(&vec![0; rows as usize], &mut read)?;
        reset(decoder);
    }
    let (tokens_per_second, longest_decode) = rate(decoder, slots, room, MEASURE)?;
    Ok(Warm { slots, tokens_per_second, longest_call: longest_read.max(longest_decode) })
}

/// Reads prompts of every size; gives the time of the longest, or what it would have taken.
fn read_parts(decoder: &mut dyn Decoder, room: usize) -> Result<Duration, DecoderFault> {
    let mut longest = Duration::ZERO;
    for part in PARTS {
        let tokens = part.min(room);
        let began = Instant::now();
        decoder.prefill(0, &vec![0; tokens], &mut read)?;
        let took = began.elapsed();
        decoder.cut(0, 0);
        let rest = u32::try_from(PARTS[PARTS.len() - 1] / tokens).unwrap_or(1);
        if took > LONG {
            return Ok(longest.max(took * rest));
        }
        longest = longest.max(took);
    }
    Ok(longest)
}

/// Tokens a second when `slots` sequences decode for about `time`, and the longest step.
pub(super) fn rate(
    decoder: &mut dyn Decoder,
    slots: u32,
    room: usize,
    time: Duration,
) -> Result<(f64, Duration), DecoderFault> {
    reset(decoder);
    let room = decoder.tokens_each(slots as usize).min(room);
    let row = vec![0; slots as usize];
    // The first call builds the binding.
    decoder.decode(&row, &mut read)?;
    let mut length = 1;
    let (mut tokens, mut longest) = (0u32, Duration::ZERO);
    let started = Instant::now();
    while started.elapsed() < time {
        if length == room {
            reset(decoder);
            length = 0;
        }
        let began = Instant::now();
        decoder.decode(&row, &mut read)?;
        longest = longest.max(began.elapsed());
        length += 1;
        tokens = tokens.saturating_add(slots);
    }
    let rate = f64::from(tokens) / started.elapsed().as_secs_f64();
    reset(decoder);
    Ok((rate, longest))
}

/// Does with logits what choosing the likeliest token does.
fn read(_row: usize, logits: &[f32]) {
    std::hint::black_box(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
}

fn reset(decoder: &mut dyn Decoder) {
    (0..decoder.slots()).for_each(|row| decoder.cut(row, 0));
}
