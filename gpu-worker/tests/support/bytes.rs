//! A model folder whose tokens are bytes: random weights, which say anything, and so make a good adversary.

use std::path::Path;

/// Puts the folder together: `fixtures/bytes` around the random model.
pub fn write(folder: &Path) {
    let files = ["tokenizer.json", "chat_template.jinja", "genai_config.json"].map(|file| ("bytes", file));
    for (fixture, file) in files.into_iter().chain([("random-fp32", "model.onnx")]) {
        std::fs::copy(super::fixture(fixture).join(file), folder.join(file)).unwrap();
    }
}
