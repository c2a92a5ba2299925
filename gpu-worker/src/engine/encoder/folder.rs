//! An encoder's folder, checked when it is loaded.
//!
//! It is what the hub and its exporter make: `config.json`, `tokenizer.json`, the graph in `model.onnx` or
//! `onnx/model.onnx` with its weights inside or beside it, and the files of sentence-transformers where the model comes
//! from there. Everything that can be wrong with a folder is found before the first request, and says which file and
//! field is wrong.
//!
//! Edge cases: models of RoBERTa's family count positions from behind the padding's id, so that two of them are never
//! used; a tokenizer that cuts texts is told not to, since half a text's vector would be taken for the whole text's.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::budget::Shape;
use super::pooling::{Length, Pooling};
use super::settings::{Settings, optional};
use crate::engine::digest::{self, Digest};
use crate::engine::folder::{self, FolderError};
use crate::engine::tokenizer::TextTokenizer;

/// Where the graph may be, the first first.
pub const GRAPHS: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// Why a folder cannot be served as an encoder.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// Its files cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Texts go through something that is not offered.
    #[error("{} lists the module {kind}: Transformer, Pooling and Normalize are offered", path.display())]
    Module {
        /// The file.
        path: PathBuf,
        /// The module.
        kind: String,
    },
}

/// What a folder must have.
pub(super) const NEEDS: &str =
    "an encoder's folder needs config.json, tokenizer.json, and model.onnx or onnx/model.onnx";

/// Whether vectors may be shortened. A model that was not trained for it gives vectors whose first numbers alone mean
/// little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortening {
    /// They may not.
    Never,
    /// To any size.
    Any,
    /// To one of these sizes.
    To(Vec<u32>),
}

/// A folder whose files are there and agree with one another. The graph has not been looked into.
pub struct EncoderFolder {
    /// The graph's file.
    pub graph: PathBuf,
    /// Texts to ids.
    pub tokenizer: TextTokenizer,
    /// The most tokens of a text, those that the tokenizer adds included.
    pub context_length: u32,
    /// Ids are below this.
    pub vocab_size: usize,
    /// Numbers a vector, before shortening.
    pub hidden_size: usize,
    /// What a call's memory depends on.
    pub shape: Shape,
    /// The id that fills rows up.
    pub padding_id: u32,
    /// How a text's vector is made of its tokens'.
    pub pooling: Pooling,
    /// How long vectors are.
    pub length: Length,
    /// Whether they may be shortened.
    pub shortening: Shortening,
    /// Texts are made lower-case first.
    pub lower_case: bool,
    /// Put before every text.
    pub prompt: String,
    /// Names weights, tokenizer and settings.
    pub digest: Digest,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    model_type: String,
    vocab_size: usize,
    #[serde(alias = "dim", alias = "n_embd", alias = "d_model")]
    hidden_size: usize,
    #[serde(alias = "hidden_dim", alias = "n_inner")]
    intermediate_size: Option<usize>,
    #[serde(alias = "n_heads", alias = "n_head")]
    num_attention_heads: Option<usize>,
    #[serde(alias = "n_positions")]
    max_position_embeddings: usize,
    pad_token_id: Option<u32>,
    #[serde(default)]
    is_matryoshka: bool,
    #[serde(default)]
    matryoshka_dimensions: Vec<u32>,
}

impl RawConfig {
    fn check(&self, path: &Path) -> Result<(), FolderError> {
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("intermediate_size", self.intermediate_size.unwrap_or(1)),
            ("num_attention_heads", self.num_attention_heads.unwrap_or(1)),
        ] {
            folder::size(path, field, value, 1)?;
        }
        Ok(())
    }

    /// The most tokens that have a position.
    fn positions(&self) -> usize {
        const COUNTED_FROM_BEHIND_THE_PADDING: [&str; 5] = ["roberta", "xlm-roberta", "camembert", "mpnet", "xmod"];
        let behind = self.pad_token_id.and_then(|id| usize::try_from(id).ok()).unwrap_or(1) + 1;
        if COUNTED_FROM_BEHIND_THE_PADDING.contains(&self.model_type.as_str()) {
            self.max_position_embeddings.saturating_sub(behind).max(1)
        } else {
            self.max_position_embeddings
        }
    }
}

impl EncoderFolder {
    /// Whether a folder looks like an encoder's: it has a configuration of the hub's form and a graph, and none of
    /// onnxruntime-genai's.
    #[must_use]
    pub fn is_one(dir: &Path) -> bool {
        !dir.join("genai_config.json").exists()
            && dir.join("config.json").exists()
            && GRAPHS.iter().any(|graph| dir.join(graph).exists())
    }

    /// Reads and checks a folder. Reads all of the weights once, for the digest.
    ///
    /// # Errors
    /// [`EncoderError`], naming the file and the field.
    pub fn open(dir: &Path) -> Result<Self, EncoderError> {
        let config_path = dir.join("config.json");
        let config: RawConfig = optional(&config_path)?.ok_or_else(|| missing(&config_path))?;
        config.check(&config_path)?;
        let settings = Settings::of_folder(dir)?;
        let graph = GRAPHS.iter().map(|graph| dir.join(graph)).find(|graph| graph.exists());
        let graph = graph.ok_or_else(|| missing(&dir.join(GRAPHS[0])))?;
        let tokenizer_path = dir.join("tokenizer.json");
        let tokenizer = folder::tokenizer(&tokenizer_path, config.vocab_size, NEEDS)?;
        // Whatever changes a vector belongs to the name.
        let made_of = format!("{settings:?}");
        let digest = digest::of_folder(&graph, &tokenizer_path, &made_of)
            .map_err(|(path, source)| FolderError::Unreadable { path, source, needs: NEEDS })?;
        let positions = u32::try_from(config.positions()).unwrap_or(u32::MAX);
        Ok(Self {
            graph,
            tokenizer,
            context_length: settings.longest.map_or(positions, |longest| longest.min(positions)),
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            shape: Shape {
                hidden: config.hidden_size,
                intermediate: config.intermediate_size.unwrap_or(4 * config.hidden_size),
                heads: config.num_attention_heads.unwrap_or_else(|| config.hidden_size.div_ceil(64)),
            },
            padding_id: config.pad_token_id.filter(|id| (*id as usize) < config.vocab_size).unwrap_or(0),
            pooling: settings.pooling,
            length: settings.length,
            shortening: match (config.matryoshka_dimensions, config.is_matryoshka) {
                (sizes, _) if !sizes.is_empty() => Shortening::To(sizes),
                (_, true) => Shortening::Any,
                (_, false) => Shortening::Never,
            },
            lower_case: settings.lower_case,
            prompt: settings.prompt,
            digest,
        })
    }
}

fn missing(path: &Path) -> FolderError {
    FolderError::Unreadable { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into(), needs: NEEDS }
}
