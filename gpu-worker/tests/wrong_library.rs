//! A file that is no library, in a process that has loaded none: in a binary of its own, since a process loads one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use penstock_gpu_worker::engine::ort::LibraryError;
use penstock_gpu_worker::engine::{EngineConfig, LoadError, OnnxEngine};
use support::{config, fixture};

#[test]
fn a_file_that_is_no_library_is_refused_and_the_right_one_still_loads() {
    let model = fixture("task-int4");
    let wanted = EngineConfig::new(&model, model.join("tokenizer.json"));
    let error = OnnxEngine::load(&wanted).map(drop).unwrap_err();
    assert!(matches!(error, LoadError::Library(LibraryError::Unusable { .. })), "{error:?}");
    assert!(OnnxEngine::load(&config(1)).is_ok());
}
