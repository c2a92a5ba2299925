//! `penstock model quantize`: the line that makes a folder for serving of a published checkpoint.
//!
//! onnxruntime-genai's builder does it, in Python; what is known here is which of its many options fit this engine. The
//! line is printed and not run: it installs and downloads much, which its user should see.

use std::path::Path;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::show;
use super::source::Source;
use crate::error::CliError;

/// `penstock model quantize`.
#[derive(Debug, Args)]
pub(crate) struct Quantize {
    /// The checkpoint: a folder with config.json and *.safetensors, or hf:OWNER/NAME.
    #[arg(value_name = "DIR|hf:OWNER/NAME")]
    pub(crate) source: Source,
    /// How weights are written.
    #[arg(long, value_enum, default_value_t = Precision::Int4)]
    pub(crate) precision: Precision,
    /// What the model will run on.
    #[arg(long, value_enum, default_value_t = For::Cpu)]
    pub(crate) device: For,
    /// The folder to make. Default: the checkpoint's name with the precision behind it.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<String>,
    /// Print the line and what it makes as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// In blocks of 4 bits: the smallest, and the fastest on processors.
    Int4,
    /// In blocks of 8 bits.
    Int8,
    /// Half precision: for GPUs.
    Fp16,
    /// Single precision.
    Fp32,
}

/// What a model will run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum For {
    /// A processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

#[derive(Serialize)]
struct Line {
    line: String,
    out: String,
}

/// Prints the line.
pub(crate) fn quantize(command: &Quantize) -> Result<(), CliError> {
    let (precision, device) = (name_of(command.precision), name_of(command.device));
    let checkpoint = match &command.source {
        Source::Hub(repository) => repository.name.clone(),
        Source::Folder(folder) => {
            let whole = folder.canonicalize().map_err(|_| CliError::NoCheckpoint(folder.clone()))?;
            if !whole.join("config.json").is_file() || whole.join("genai_config.json").is_file() {
                return Err(CliError::NoCheckpoint(folder.clone()));
            }
            whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
    };
    let out = command.out.clone().unwrap_or_else(|| format!("{checkpoint}-{precision}"));
    let line = Line { line: builder(&command.source, &precision, &device, &out), out };
    show(command.json, &line, || {
        format!(
            "pip install onnxruntime-genai onnx-ir torch transformers\n{}\npenstock model add {}",
            line.line,
            quoted(&line.out)
        )
    })
}

/// The builder's line.
fn builder(source: &Source, precision: &str, device: &str, out: &str) -> String {
    let from = match source {
        Source::Hub(repository) => format!("-m {}/{}", repository.owner, repository.name),
        // The name is asked for, but not used where there is a folder.
        Source::Folder(folder) => format!("-m local -i {}", quoted(&folder.to_string_lossy())),
    };
    // Of a prompt only the last position's logits are wanted: without them the largest product runs once, not for each
    // token. Attention over blocks is for GPUs.
    let options = match device {
        "cuda" => "use_paged_attention=true",
        _ => "prune_lm_head=true",
    };
    let cache = quoted(&format!("{out}-cache"));
    format!(
        "python -m onnxruntime_genai.models.builder {from} -o {} -p {precision} -e {device} -c {cache} --extra_options {options}",
        quoted(out)
    )
}

fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) && Path::new(text).components().next().is_some() {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_checkpoint_and_what_fits_the_device() {
        let hub: Source = "hf:acme/tiny".parse().unwrap();
        assert_eq!(
            builder(&hub, "int4", "cpu", "tiny-int4"),
            "python -m onnxruntime_genai.models.builder -m acme/tiny -o tiny-int4 -p int4 -e cpu -c tiny-int4-cache \
             --extra_options prune_lm_head=true"
        );
        let folder: Source = "my models/x".parse().unwrap();
        let line = builder(&folder, "fp16", "cuda", "it's");
        assert!(line.contains("-i 'my models/x' -o 'it'\\''s' -p fp16 -e cuda"), "{line}");
        assert!(line.ends_with("use_paged_attention=true"), "{line}");
    }
}
