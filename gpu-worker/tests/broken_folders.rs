//! What is wrong with a model folder or the library is said when it is loaded, by a typed error that names the place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use penstock_gpu_worker::engine::folder::FolderError;
use penstock_gpu_worker::engine::graph::GraphError;
use penstock_gpu_worker::engine::model::ModelError;
use penstock_gpu_worker::engine::ort::{DriverError, LibraryError};
use penstock_gpu_worker::engine::template::TemplateError;
use penstock_gpu_worker::engine::{EngineConfig, LoadError, OnnxEngine};
use support::{config, fixture, library};

/// A copy of the task model, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("penstock-broken-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(fixture("task-int4")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        Self(folder)
    }

    fn remove(self, file: &str) -> Self {
        std::fs::remove_file(self.0.join(file)).unwrap();
        self
    }

    fn write(self, file: &str, text: &str) -> Self {
        std::fs::write(self.0.join(file), text).unwrap();
        self
    }

    /// Replaces a text in the configuration.
    fn configure(self, from: &str, to: &str) -> Self {
        let text = std::fs::read_to_string(self.0.join("genai_config.json")).unwrap();
        assert!(text.contains(from));
        self.write("genai_config.json", &text.replace(from, to))
    }

    fn load(&self) -> Result<OnnxEngine, LoadError> {
        OnnxEngine::load(&EngineConfig::new(&self.0, library()))
    }

    fn refusal(&self) -> LoadError {
        self.load().map(drop).expect_err("the folder is broken")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_missing_file_is_named() {
    for file in ["genai_config.json", "model.onnx", "tokenizer.json"] {
        let error = Folder::new(&format!("no-{file}")).remove(file).refusal();
        let LoadError::Model(ModelError::Folder(FolderError::Unreadable { path, .. })) = &error else {
            panic!("{error:?}");
        };
        assert!(path.ends_with(file), "{error}");
    }
    let error = Folder::new("no-folder-at-all");
    std::fs::remove_dir_all(&error.0).unwrap();
    assert!(matches!(error.refusal(), LoadError::Model(ModelError::Folder(FolderError::Unreadable { .. }))));
}

#[test]
fn weights_that_are_missing_or_cut_short_are_refused() {
    let error = Folder::new("no-data").remove("model.onnx.data").refusal();
    assert!(matches!(error, LoadError::Graph { source: DriverError::Runtime(_), .. }), "{error:?}");
    assert!(error.to_string().contains("model.onnx"), "{error}");
    for file in ["model.onnx", "model.onnx.data"] {
        let folder = Folder::new(&format!("cut-{file}"));
        let bytes = std::fs::read(folder.0.join(file)).unwrap();
        std::fs::write(folder.0.join(file), &bytes[..bytes.len() / 2]).unwrap();
        let error = folder.refusal();
        assert!(matches!(error, LoadError::Graph { source: DriverError::Runtime(_), .. }), "{error:?}");
    }
}

#[test]
fn a_folder_without_a_chat_template_is_refused_with_what_to_do() {
    let error = Folder::new("no-template").remove("chat_template.jinja").refusal();
    assert!(matches!(error, LoadError::Model(ModelError::Template(TemplateError::Missing { .. }))), "{error:?}");
    assert!(error.to_string().contains("chat_template.jinja"), "{error}");
    let inline = r#"{"chat_template": "{{ messages[0].content }}"}"#;
    let folder = Folder::new("inline").remove("chat_template.jinja").write("tokenizer_config.json", inline);
    assert!(folder.load().is_ok());
}

#[test]
fn damaged_json_is_named_with_its_place() {
    let error = Folder::new("config").write("genai_config.json", "{\"model\": {").refusal();
    assert!(matches!(error, LoadError::Model(ModelError::Folder(FolderError::Malformed { .. }))), "{error:?}");
    assert!(error.to_string().contains("line 1"), "{error}");
    let error = Folder::new("tokenizer").write("tokenizer.json", "{}").refusal();
    assert!(matches!(error, LoadError::Model(ModelError::Folder(FolderError::Tokenizer { .. }))), "{error:?}");
    let error = Folder::new("tokenizer-config").write("tokenizer_config.json", "{").refusal();
    assert!(matches!(error, LoadError::Model(ModelError::Template(TemplateError::NotJson { .. }))), "{error:?}");
    let error = Folder::new("syntax").write("chat_template.jinja", "{% if %}").refusal();
    assert!(matches!(error, LoadError::Model(ModelError::Template(TemplateError::Syntax(_)))), "{error:?}");
}

#[test]
fn a_configuration_of_another_model_is_refused() {
    let refusal = |name: &str, from: &str, to: &str| {
        let error = Folder::new(name).configure(from, to).refusal();
        let LoadError::Graph { source: DriverError::Graph(error), .. } = error else {
            panic!("{error:?}");
        };
        error
    };
    assert_eq!(
        refusal("layers", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 6"),
        GraphError::LayerCount { config: 6, graph: 4 }
    );
    assert!(matches!(
        refusal("heads", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4"),
        GraphError::Shape { field: "num_key_value_heads", .. }
    ));
    assert!(matches!(
        refusal("vocab", "\"vocab_size\": 32", "\"vocab_size\": 64"),
        GraphError::Shape { field: "vocab_size", .. }
    ));
    let error = Folder::new("small-vocab").configure("\"vocab_size\": 32", "\"vocab_size\": 10").refusal();
    assert!(
        matches!(error, LoadError::Model(ModelError::Folder(FolderError::ForeignTokenizer { largest: 17, .. }))),
        "{error:?}"
    );
}

#[test]
fn a_cache_larger_than_memory_is_refused_before_it_is_allocated() {
    let folder = Folder::new("memory").configure("\"context_length\": 512", "\"context_length\": 16000000");
    let mut wanted = EngineConfig::new(&folder.0, library());
    wanted.slots = NonZeroU32::new(4000);
    wanted.step_tokens = 5000;
    let error = OnnxEngine::load(&wanted).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::Graph { source: DriverError::Memory(_), .. }), "{error:?}");
    assert!(error.to_string().contains("use at most"), "{error}");
}

#[test]
fn a_device_that_the_library_does_not_know_is_refused_and_not_replaced() {
    let mut wanted = config(1);
    wanted.device = "cuda".parse().unwrap();
    let error = OnnxEngine::load(&wanted).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::Graph { source: DriverError::Device { .. }, .. }), "{error:?}");
    assert!(error.to_string().contains("onnxruntime-gpu"), "{error}");
}

#[test]
fn a_budget_that_leaves_prompts_no_room_is_refused() {
    let mut wanted = config(8);
    wanted.step_tokens = 8;
    let error = OnnxEngine::load(&wanted).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::Bounds(_)), "{error:?}");
    assert!(error.to_string().contains("at least 11"), "{error}");
}

#[test]
fn a_library_that_is_missing_or_another_is_an_error_and_no_panic() {
    let load = |path: &Path| {
        let wanted = EngineConfig::new(fixture("task-int4"), path);
        OnnxEngine::load(&wanted).map(drop).unwrap_err()
    };
    let missing = load(Path::new("no/such/libonnxruntime.so"));
    assert!(matches!(missing, LoadError::Library(LibraryError::Unreadable { .. })), "{missing:?}");
    drop(OnnxEngine::load(&config(1)).unwrap());
    let other = load(&fixture("task-int4").join("model.onnx"));
    assert!(matches!(other, LoadError::Library(LibraryError::Another { .. })), "{other:?}");
}
