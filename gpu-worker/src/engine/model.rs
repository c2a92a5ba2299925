//! A model folder in the layout of onnxruntime-genai, checked when it is loaded.
//!
//! `genai_config.json` says how many layers, heads and tokens the graph has and what its inputs are called. Everything
//! that can be wrong with a folder is found here and in [`super::graph`], before the first request, and says which file
//! and field is wrong and what to do: a folder that half works would give wrong answers instead.
//!
//! Edge cases: `eos_token_id` may be one id or several; names of inputs default to those the exporter uses; weights may
//! lie inside the graph file or beside it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::digest::{self, Digest};
use super::folder::{self, FolderError};
use super::template::{ChatTemplate, TemplateError};
use super::tokenizer::TextTokenizer;

/// What `genai_config.json` says of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// The family of models, as the exporter names it; empty if it does not.
    pub family: String,
    /// Entries of the logits.
    pub vocab_size: usize,
    /// The most tokens prompt and answer have together.
    pub context_length: usize,
    /// Tokens that end an answer; maybe none.
    pub eos: Vec<u32>,
    /// Layers with a cache.
    pub layers: usize,
    /// Key and value heads of a layer.
    pub kv_heads: usize,
    /// Numbers per head and token.
    pub head_size: usize,
    /// The graph's file name.
    pub filename: String,
    /// What the graph calls its inputs and outputs.
    pub names: Names,
}

/// The names of a graph's inputs and outputs; `%d` stands for the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Token ids, `[rows, tokens]`.
    pub input_ids: String,
    /// Ones for the tokens of a row, `[rows, width]`.
    pub attention_mask: String,
    /// Cached keys before the call.
    pub past_key: String,
    /// Cached values before the call.
    pub past_value: String,
    /// `[rows, tokens or 1, vocabulary]`.
    pub logits: String,
    /// Cached keys after the call.
    pub present_key: String,
    /// Cached values after the call.
    pub present_value: String,
    /// Of a cache in blocks: which blocks each sequence has, `[sequences, blocks]`.
    pub block_table: String,
    /// Where each sequence's tokens begin in a call, and where the last end, `[sequences + 1]`.
    pub cumulative_lengths: String,
    /// Tokens that each sequence has in the cache before the call, `[sequences]`.
    pub past_lengths: String,
    /// The most new tokens and the most tokens of a sequence, `[2]`; a third is the least that the latter can be.
    pub length_bounds: String,
    /// The tokens of a call whose logits are wanted, `[logits]`.
    pub logits_places: String,
}

impl Names {
    /// A name of the given layer.
    #[must_use]
    pub fn of_layer(pattern: &str, layer: usize) -> String {
        pattern.replace("%d", &layer.to_string())
    }
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its files cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// What a folder must have.
const NEEDS: &str = "a model folder needs genai_config.json, the graph it names, and tokenizer.json";

/// A folder whose files are there and agree with one another. The graph has not been looked into.
pub struct ModelFolder {
    /// What the configuration says.
    pub config: ModelConfig,
    /// The graph's file.
    pub graph: PathBuf,
    /// Text to ids and back.
    pub tokenizer: TextTokenizer,
    /// Conversation to text.
    pub template: ChatTemplate,
    /// Names weights, tokenizer and template.
    pub digest: Digest,
}

impl ModelFolder {
    /// Reads and checks a folder. Reads all of the weights once, for the digest.
    ///
    /// # Errors
    /// [`ModelError`], naming the file and the field.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let config_path = dir.join("genai_config.json");
        let unreadable = |path: PathBuf, source| FolderError::Unreadable { path, source, needs: NEEDS };
        let text = std::fs::read_to_string(&config_path).map_err(|source| unreadable(config_path.clone(), source))?;
        let config = ModelConfig::parse(&text, &config_path)?;
        let graph = dir.join(&config.filename);
        folder::readable(&graph, NEEDS)?;
        let tokenizer_path = dir.join("tokenizer.json");
        let tokenizer = folder::tokenizer(&tokenizer_path, config.vocab_size, NEEDS)?;
        let template = ChatTemplate::from_folder(dir)?;
        let digest = digest::of_folder(&graph, &tokenizer_path, template.source())
            .map_err(|(path, source)| unreadable(path, source))?;
        Ok(Self { config, graph, tokenizer, template, digest })
    }
}

#[derive(Deserialize)]
struct RawConfig {
    model: RawModel,
}

#[derive(Deserialize)]
struct RawModel {
    #[serde(default, rename = "type")]
    family: String,
    vocab_size: usize,
    context_length: usize,
    eos_token_id: OneOrMany,
    decoder: RawDecoder,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct RawDecoder {
    #[serde(default)]
    filename: Option<String>,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    head_size: usize,
    #[serde(default)]
    inputs: RawInputs,
    #[serde(default)]
    outputs: RawOutputs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawInputs {
    input_ids: Option<String>,
    attention_mask: Option<String>,
    past_key_names: Option<String>,
    past_value_names: Option<String>,
    block_table: Option<String>,
    cumulative_sequence_lengths: Option<String>,
    past_sequence_lengths: Option<String>,
    attention_metadata: Option<String>,
    logits_indices: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawOutputs {
    logits: Option<String>,
    present_key_names: Option<String>,
    present_value_names: Option<String>,
}

impl ModelConfig {
    /// Reads the text of a `genai_config.json`; `path` is for the errors.
    ///
    /// # Errors
    /// [`FolderError::Malformed`] and [`FolderError::Field`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, FolderError> {
        let raw: RawConfig = serde_json::from_str(text).map_err(|source| FolderError::Malformed {
            path: path.to_owned(),
            source,
            advice: "export the model again with onnxruntime-genai's builder",
        })?;
        let RawModel { family, vocab_size, context_length, eos_token_id, decoder } = raw.model;
        let name = |given: Option<String>, usual: &str| given.unwrap_or_else(|| usual.to_owned());
        let config = Self {
            family,
            vocab_size,
            context_length,
            eos: match eos_token_id {
                OneOrMany::One(id) => vec![id],
                OneOrMany::Many(ids) => ids,
            },
            layers: decoder.num_hidden_layers,
            kv_heads: decoder.num_key_value_heads,
            head_size: decoder.head_size,
            filename: name(decoder.filename, "model.onnx"),
            names: Names {
                input_ids: name(decoder.inputs.input_ids, "input_ids"),
                attention_mask: name(decoder.inputs.attention_mask, "attention_mask"),
                past_key: name(decoder.inputs.past_key_names, "past_key_values.%d.key"),
                past_value: name(decoder.inputs.past_value_names, "past_key_values.%d.value"),
                logits: name(decoder.outputs.logits, "logits"),
                present_key: name(decoder.outputs.present_key_names, "present.%d.key"),
                present_value: name(decoder.outputs.present_value_names, "present.%d.value"),
                block_table: name(decoder.inputs.block_table, "block_table"),
                cumulative_lengths: name(decoder.inputs.cumulative_sequence_lengths, "cumulative_sequence_lengths"),
                past_lengths: name(decoder.inputs.past_sequence_lengths, "past_sequence_lengths"),
                length_bounds: name(decoder.inputs.attention_metadata, "attention_metadata"),
                logits_places: name(decoder.inputs.logits_indices, "logits_indices"),
            },
        };
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), FolderError> {
        let field = |field, value: String, expected: String| FolderError::Field {
            path: path.to_owned(),
            field,
            value,
            expected,
        };
        let sizes = [
            ("model.vocab_size", self.vocab_size, 1),
            // A prompt needs a token and so does its answer.
            ("model.context_length", self.context_length, 2),
            ("model.decoder.num_hidden_layers", self.layers, 1),
            ("model.decoder.num_key_value_heads", self.kv_heads, 1),
            ("model.decoder.head_size", self.head_size, 1),
        ];
        for (name, value, least) in sizes {
            folder::size(path, name, value, least)?;
        }
        if let Some(id) = self.eos.iter().find(|&&id| id as usize >= self.vocab_size) {
            let expected = format!("below vocab_size ({})", self.vocab_size);
            return Err(field("model.eos_token_id", id.to_string(), expected));
        }
        if Path::new(&self.filename).components().count() != 1 || self.filename == ".." {
            return Err(field(
                "model.decoder.filename",
                self.filename.clone(),
                "the name of a file in the folder".into(),
            ));
        }
        for (name, pattern) in [
            ("model.decoder.inputs.past_key_names", &self.names.past_key),
            ("model.decoder.inputs.past_value_names", &self.names.past_value),
            ("model.decoder.outputs.present_key_names", &self.names.present_key),
            ("model.decoder.outputs.present_value_names", &self.names.present_value),
        ] {
            if pattern.matches("%d").count() != 1 {
                return Err(field(name, pattern.clone(), "a name with one %d for the layer".into()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn sample(change: impl FnOnce(&mut serde_json::Value)) -> Result<ModelConfig, FolderError> {
        let mut document = serde_json::json!({"model": {
            "vocab_size": 256, "eos_token_id": 1, "context_length": 512,
            "decoder": {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_size": 32}
        }});
        change(&mut document);
        ModelConfig::parse(&document.to_string(), Path::new("genai_config.json"))
    }

    #[test]
    fn names_default_to_the_exporter_s() {
        let config = sample(|_| {}).unwrap();
        assert_eq!(config.filename, "model.onnx");
        assert_eq!(Names::of_layer(&config.names.past_key, 11), "past_key_values.11.key");
        assert_eq!(config.eos, [1]);
    }

    #[test]
    fn an_answer_may_end_with_one_of_several_tokens() {
        let config = sample(|document| document["model"]["eos_token_id"] = serde_json::json!([7, 9])).unwrap();
        assert_eq!(config.eos, [7, 9]);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (pointer, value, part) in [
            ("/model/decoder/num_hidden_layers", serde_json::json!(0), "num_hidden_layers` is 0"),
            ("/model/eos_token_id", serde_json::json!(256), "eos_token_id` is 256"),
            ("/model/context_length", serde_json::json!("x"), "invalid type: string"),
        ] {
            let error = sample(|document| *document.pointer_mut(pointer).unwrap() = value).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.to_string().contains("genai_config.json"), "{error}");
        }
        let error = sample(|document| document["model"]["decoder"]["filename"] = "../x".into()).unwrap_err();
        assert!(matches!(error, FolderError::Field { field: "model.decoder.filename", .. }), "{error}");
        let inputs = serde_json::json!({"past_key_names": "past"});
        let error = sample(|document| document["model"]["decoder"]["inputs"] = inputs).unwrap_err();
        assert!(error.to_string().contains("one %d"), "{error}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = sample(|document| drop(document["model"].as_object_mut().unwrap().remove("vocab_size")));
        assert!(error.unwrap_err().to_string().contains("vocab_size"));
    }
}
