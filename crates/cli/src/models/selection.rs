//! Which of a place's files make a model: a decision over names alone, the same for a hub and for a folder.
//!
//! Repositories hold a model several times (for other runtimes, in other precisions) and much besides. Taken is what the
//! engine reads: of onnxruntime-genai's folders the files beside `genai_config.json`, of an encoder the graph, the
//! tokenizer and the files of sentence-transformers. A place with several models asks which.
//!
//! Edge cases: weights may lie in files beside the graph, named after it; a path that would leave the folder is refused,
//! since it comes from somebody else's server.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use penstock_gpu_worker::engine::encoder::folder::GRAPHS;

/// The file that makes a folder one of onnxruntime-genai's.
const GENAI: &str = "genai_config.json";

/// What belongs to an encoder besides its graph.
const OF_ENCODER: [&str; 7] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// How a file is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256 of its bytes, in lower-case hexadecimal digits.
    Sha256(String),
    /// The name git has for it: SHA-1 over a head with its length, and its bytes.
    GitBlob(String),
}

/// A file of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its path there, with slashes.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// `None` where it is copied from this machine.
    pub(crate) checksum: Option<Checksum>,
}

/// A file that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) file: Listed,
    /// Its path in the model's folder.
    pub(crate) target: String,
}

/// Why no model can be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoModel {
    #[error(
        "{place} holds no model that can be served: it needs {GENAI} with its graph, or config.json, tokenizer.json and \
         model.onnx for an encoder{}", hint(*.has_weights, place)
    )]
    Absent { place: String, has_weights: bool },
    #[error("{place} holds several models: say which with --folder {}", .folders.join(" or --folder "))]
    Several { place: String, folders: Vec<String> },
    #[error("{place} has no model in the folder '{folder}'{}", others(folders))]
    NotThere { place: String, folder: String, folders: Vec<String> },
    #[error("{place} lists the path '{path}', which leads out of the model's folder: nothing of it is taken")]
    Path { place: String, path: String },
}

fn hint(has_weights: bool, place: &str) -> String {
    if has_weights {
        format!("; its weights are of another form, which `penstock model quantize {place}` says how to convert")
    } else {
        String::new()
    }
}

fn others(folders: &[String]) -> String {
    if folders.is_empty() { String::new() } else { format!("; there are: {}", folders.join(", ")) }
}

/// Chooses the files of the one model of a place, or of the one in its `folder`. `place` is for the errors.
///
/// # Errors
/// [`NoModel`], with the folders to choose from where there are several.
pub(crate) fn select(files: &[Listed], folder: Option<&str>, place: &str) -> Result<Vec<Chosen>, NoModel> {
    if let Some(file) = files.iter().find(|file| !stays_inside(&file.path)) {
        return Err(NoModel::Path { place: place.to_owned(), path: file.path.clone() });
    }
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let folders: Vec<String> = models(&paths);
    let base = match folder.map(|folder| folder.trim_matches('/')) {
        Some(named) if folders.iter().any(|known| known == named) => named.to_owned(),
        Some(named) => {
            return Err(NoModel::NotThere { place: place.to_owned(), folder: named.to_owned(), folders });
        }
        None => match folders.as_slice() {
            [] => {
                let has_weights = paths.iter().any(|path| path.ends_with(".safetensors") || path.ends_with(".gguf"));
                return Err(NoModel::Absent { place: place.to_owned(), has_weights });
            }
            [only] => only.clone(),
            // What lies on top is what the repository is about.
            [top, ..] if top.is_empty() => String::new(),
            several => return Err(NoModel::Several { place: place.to_owned(), folders: several.to_vec() }),
        },
    };
    let within = |path: &str| match base.as_str() {
        "" => Some(path.to_owned()),
        base => path.strip_prefix(base)?.strip_prefix('/').map(str::to_owned),
    };
    let generates = paths.contains(join(&base, GENAI).as_str());
    let graph = GRAPHS.into_iter().find(|graph| paths.contains(join(&base, graph).as_str()));
    let belongs = |inner: &str| match (generates, graph) {
        (true, _) => of_generator(inner),
        (false, graph) => of_encoder(inner, graph),
    };
    let chosen = files.iter().filter_map(|file| Some(Chosen { target: within(&file.path)?, file: file.clone() }));
    Ok(chosen.filter(|chosen| belongs(&chosen.target)).collect())
}

/// The folders that hold a model, sorted; the top is empty.
fn models(paths: &BTreeSet<&str>) -> Vec<String> {
    let folders: BTreeSet<&str> = paths
        .iter()
        .filter_map(|path| match path.rsplit_once('/') {
            Some((folder, GENAI | "config.json")) => Some(folder),
            None if [GENAI, "config.json"].contains(path) => Some(""),
            Some(_) | None => None,
        })
        .collect();
    let has = |folder: &str, file: &str| paths.contains(join(folder, file).as_str());
    let is_model = |folder: &&str| {
        has(folder, GENAI) || (has(folder, "tokenizer.json") && GRAPHS.iter().any(|graph| has(folder, graph)))
    };
    folders.into_iter().filter(is_model).map(str::to_owned).collect()
}

fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// Whether a path names a file below the folder that it is joined to.
fn stays_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn of_generator(inner: &str) -> bool {
    let is_text = [".json", ".jinja"].iter().any(|end| inner.ends_with(end));
    !inner.contains('/') && (is_text || inner.contains(".onnx"))
}

fn of_encoder(inner: &str, graph: Option<&str>) -> bool {
    let of_module = inner.split_once('/').is_some_and(|(module, file)| {
        file == "config.json"
            && module.split_once('_').is_some_and(|(place, _)| place.bytes().all(|b| b.is_ascii_digit()))
    });
    OF_ENCODER.contains(&inner) || graph.is_some_and(|graph| inner.starts_with(graph)) || of_module
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(paths: &[&str], folder: Option<&str>) -> Result<Vec<String>, NoModel> {
        let files: Vec<Listed> =
            paths.iter().map(|path| Listed { path: (*path).into(), bytes: 1, checksum: None }).collect();
        Ok(select(&files, folder, "hf:a/b")?.into_iter().map(|chosen| chosen.target).collect())
    }

    #[test]
    fn of_a_generator_what_lies_beside_its_configuration_is_taken() {
        let files = [
            "README.md",
            "genai_config.json",
            "model.onnx",
            "model.onnx.data",
            "tokenizer.json",
            "chat_template.jinja",
            "model.safetensors",
            "images/x.json",
        ];
        let taken = taken(&files, None).unwrap();
        assert_eq!(
            taken,
            ["genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja"]
        );
    }

    #[test]
    fn of_an_encoder_one_graph_and_the_files_of_sentence_transformers_are_taken() {
        let files = [
            "config.json",
            "tokenizer.json",
            "modules.json",
            "1_Pooling/config.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "onnx/model_O4.onnx",
            "openvino/config.json",
            "model.safetensors",
            "vocab.txt",
        ];
        let taken = taken(&files, None).unwrap();
        let expected = [
            "config.json",
            "tokenizer.json",
            "modules.json",
            "1_Pooling/config.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
        ];
        assert_eq!(taken, expected);
    }

    #[test]
    fn of_several_models_one_must_be_named() {
        let files = ["config.json", "cpu/int4/genai_config.json", "cpu/int4/model.onnx", "gpu/genai_config.json"];
        let error = taken(&files, None).unwrap_err().to_string();
        assert!(error.contains("--folder cpu/int4 or --folder gpu"), "{error}");
        assert_eq!(taken(&files, Some("cpu/int4/")).unwrap(), ["genai_config.json", "model.onnx"]);
        let error = taken(&files, Some("tpu")).unwrap_err().to_string();
        assert!(error.contains("cpu/int4, gpu"), "{error}");
    }

    #[test]
    fn a_place_without_a_model_says_what_is_missing_and_how_weights_become_one() {
        let error = taken(&["config.json", "model.safetensors"], None).unwrap_err().to_string();
        assert!(error.contains("penstock model quantize hf:a/b"), "{error}");
        let error = taken(&["README.md"], None).unwrap_err().to_string();
        assert!(error.contains("genai_config.json") && !error.contains("quantize"), "{error}");
    }

    #[test]
    fn a_path_that_leads_elsewhere_spoils_the_whole_place() {
        for path in ["../x.json", "/etc/passwd", "a/../../x", "a\\b", ""] {
            let taken = taken(&["genai_config.json", path], None);
            assert!(matches!(taken, Err(NoModel::Path { .. })), "{path}");
        }
    }
}
