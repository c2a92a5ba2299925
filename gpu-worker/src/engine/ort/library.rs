//! Loads ONNX Runtime's shared library, once per process, from a path that the caller names.
//!
//! Left alone, `ort` looks for the library by itself at the first call and panics when it does not find it; so nothing
//! of `ort` may be called before [`environment`], which gives an error instead. One process has one library and one
//! environment: a second path is refused rather than ignored.
//!
//! ONNX Runtime prints errors even when its caller handles them. Its log goes to `tracing` instead, one level lower,
//! since whatever matters is also returned.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

/// Why ONNX Runtime is not available.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// There is no such file.
    #[error(
        "the ONNX Runtime library {} cannot be read: {source}; it is in the Python wheel `onnxruntime` \
         (onnxruntime/capi/libonnxruntime.so.*)", path.display()
    )]
    Unreadable {
        /// The path that was named.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no library for this machine, or too old.
    #[error("{} is not a usable ONNX Runtime library: {source}", path.display())]
    Unusable {
        /// The path that was named.
        path: PathBuf,
        /// The loader's words.
        source: ort::LoadDynamicError,
    },
    /// Another one is in use.
    #[error(
        "this process already uses the ONNX Runtime library {}, so it cannot also use {}", loaded.display(), asked.display()
    )]
    Another {
        /// The one in use.
        loaded: PathBuf,
        /// The one asked for.
        asked: PathBuf,
    },
    /// The library loads but does not start.
    #[error("ONNX Runtime does not start: {0}")]
    Start(#[source] ort::Error),
}

/// The library in use. Never dropped: tensors may be copied only while an environment lives.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// The process's environment, from the library at `path`; loads it at the first call.
///
/// # Errors
/// [`LibraryError`]; never a panic.
pub fn environment(path: &Path) -> Result<Environment, LibraryError> {
    let path = path.canonicalize().map_err(|source| LibraryError::Unreadable { path: path.to_owned(), source })?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((other, environment)) = loaded.as_ref() {
        if *other == path {
            return Ok(environment.clone());
        }
        return Err(LibraryError::Another { loaded: other.clone(), asked: path });
    }
    let builder = ort::init_from(&path).map_err(|source| LibraryError::Unusable { path: path.clone(), source })?;
    let environment = builder
        .with_name("penstock")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(LibraryError::Start)?;
    environment.set_log_level(LogLevel::Warning);
    *loaded = Some((path, environment.clone()));
    Ok(environment)
}

fn log(level: LogLevel, category: &str, id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal | LogLevel::Error => {
            tracing::warn!(target: "onnxruntime", category, id, location, "{message}");
        }
        LogLevel::Warning => tracing::debug!(target: "onnxruntime", category, id, location, "{message}"),
        LogLevel::Info | LogLevel::Verbose => {}
    }
}
