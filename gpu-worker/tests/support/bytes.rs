//! A model folder whose tokens are bytes: random weights, which say anything, and so make a good adversary.

use std::path::Path;

/// Puts the folder together: `fixtures/bytes` around the random model.
pub fn write(folder: &Path) {
    let files = ["tokenizer.json", "chat_template.jinja", "genai_config.json"].map(|file| ("bytes", file));
    for (fixture, file) in files.into_iter().chain([("random-fp32", "model.onnx")]) {
        std::fs::copy(super::fixture(fixture).join(file), folder.join(file)).unwrap();
    }
}

/// The same around a model of `fixtures/paged`, with the configuration that it was exported with.
pub fn write_around(folder: &Path, model: &str) {
    let files = ["tokenizer.json", "chat_template.jinja"].map(|file| ("bytes".to_owned(), file));
    let model = format!("paged/{model}");
    let exported = ["genai_config.json", "model.onnx"].map(|file| (model.clone(), file));
    for (fixture, file) in files.into_iter().chain(exported) {
        std::fs::copy(super::fixture(&fixture).join(file), folder.join(file)).unwrap();
    }
}
