//! Runs an encoder's graph: rows of ids in, a vector for each token or each row out.

use std::path::Path;
use std::sync::Arc;

use half::f16;
use ort::environment::Environment;
use ort::session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Tensor, TensorElementType};

use super::session::{Source, describe, open};
use crate::engine::decoder::Cancel;
use crate::engine::device::Device;
use crate::engine::encoder::graph::{Input, Output, Wiring, wire};
use crate::engine::encoder::load::EncoderGraphError;

/// Receives what came out for a row: its place in the call, and its numbers.
type OnRow<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// An encoder's session.
pub struct OrtEncoder {
    session: Session,
    wiring: Wiring,
    run: Arc<RunOptions<NoSelectedOutputs>>,
    /// Half precision numbers are widened here.
    widened: Vec<f32>,
}

impl OrtEncoder {
    /// Opens a graph and checks that it is an encoder's.
    ///
    /// # Errors
    /// [`EncoderGraphError`]: it cannot be read or run, or is a graph for something else.
    pub fn open(
        environment: &Environment,
        graph: &Path,
        device: &Device,
        threads: usize,
    ) -> Result<Self, EncoderGraphError> {
        let session = open(environment, Source::File(graph), device, threads)?;
        let wiring = wire(&describe(&session))?;
        Ok(Self { session, wiring, run: Arc::new(RunOptions::new()?), widened: Vec::new() })
    }

    /// What comes out.
    #[must_use]
    pub fn kind(&self) -> Output {
        self.wiring.kind
    }

    /// Numbers a vector, where the graph says so.
    #[must_use]
    pub fn size(&self) -> Option<usize> {
        self.wiring.size
    }

    /// Runs texts together, each filled up to `width` tokens with `padding`, and tells what came out for each: the numbers
    /// of its vector, or `width` vectors of `size` numbers.
    ///
    /// # Errors
    /// What failed, in words; nothing that was told counts then.
    pub fn run(
        &mut self,
        texts: &[&[u32]],
        width: usize,
        padding: u32,
        size: usize,
        on_row: OnRow<'_>,
    ) -> Result<(), String> {
        let described = |error: ort::Error| format!("ONNX Runtime: {error}");
        let mut inputs: Vec<(String, SessionInputValue<'_>)> = Vec::with_capacity(self.wiring.inputs.len());
        for (name, input) in &self.wiring.inputs {
            let numbers = numbers(*input, texts, width, padding);
            let tensor = Tensor::from_array(([texts.len(), width], numbers)).map_err(described)?;
            inputs.push((name.clone(), tensor.into()));
        }
        let run = Arc::clone(&self.run);
        let outputs = self.session.run_with_options(inputs, &*run).map_err(described)?;
        let output = &outputs[self.wiring.output.as_str()];
        let row = match self.wiring.kind {
            Output::Texts => size,
            Output::Tokens => width * size,
        };
        tell(output, texts.len(), row, &mut self.widened, on_row)
    }

    /// A way to end a call that takes too long.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        let run = Arc::clone(&self.run);
        Arc::new(move || {
            if let Err(error) = run.terminate() {
                tracing::error!(%error, "a call of the encoder cannot be ended");
            }
        })
    }

    /// Lets calls run again after one was ended.
    pub fn resume(&mut self) {
        if let Err(error) = self.run.unterminate() {
            tracing::error!(%error, "calls of the encoder stay ended");
        }
    }
}

/// An input of a call, row by row.
fn numbers(input: Input, texts: &[&[u32]], width: usize, padding: u32) -> Vec<i64> {
    let position = |place: usize| i64::try_from(place).unwrap_or(i64::MAX);
    let of_row = |text: &[u32]| -> Vec<i64> {
        (0..width)
            .map(|place| match (input, text.get(place)) {
                (Input::Ids, id) => i64::from(*id.unwrap_or(&padding)),
                (Input::Mask, id) => i64::from(id.is_some()),
                (Input::Types, _) => 0,
                (Input::Positions, _) => position(place),
            })
            .collect()
    };
    texts.iter().flat_map(|text| of_row(text)).collect()
}

fn tell(output: &DynValue, rows: usize, row: usize, widened: &mut Vec<f32>, on_row: OnRow<'_>) -> Result<(), String> {
    let described = |error: ort::Error| format!("ONNX Runtime: {error}");
    let all: &[f32] = if *output.data_type() == TensorElementType::Float16 {
        let (_, half) = output.try_extract_tensor::<f16>().map_err(described)?;
        widened.clear();
        widened.extend(half.iter().map(|number| number.to_f32()));
        widened
    } else {
        output.try_extract_tensor::<f32>().map_err(described)?.1
    };
    if all.len() != rows * row || row == 0 {
        return Err(format!("the graph gives {} numbers for {rows} texts of {row}", all.len()));
    }
    all.chunks_exact(row).enumerate().for_each(|(place, numbers)| on_row(place, numbers));
    Ok(())
}
