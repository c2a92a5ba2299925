//! The models to serve: folders named on the command line, or the small one that comes with the program.

use std::path::{Path, PathBuf};

use penstock_policy::id::PoolId;
use sha2::{Digest, Sha256};

use crate::error::CliError;
use crate::paths;

/// The built-in model's name.
const BUILT_IN: &str = "task-int4";

macro_rules! built_in {
    ($($file:literal),*) => {
        [$(($file, include_bytes!(concat!("../../../gpu-worker/fixtures/task-int4/", $file)).as_slice())),*]
    };
}

/// A decoder of 0.8 million parameters that copies, reverses and sorts digits: its answers can be checked.
static FILES: [(&str, &[u8]); 6] = built_in!(
    "model.onnx",
    "model.onnx.data",
    "genai_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja"
);

/// A model to serve.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// What clients write into `model`: the folder's name.
    pub(crate) name: String,
    /// Its pool.
    pub(crate) pool: PoolId,
    /// Its folder.
    pub(crate) folder: PathBuf,
}

/// The models of the command line, or the built-in one.
pub(crate) fn choose(folders: &[PathBuf]) -> Result<Vec<Model>, CliError> {
    if folders.is_empty() {
        return Ok(vec![named(&unpack()?, BUILT_IN)?]);
    }
    let mut models: Vec<Model> = Vec::with_capacity(folders.len());
    for folder in folders {
        let whole = folder.canonicalize().map_err(CliError::file("opening the model folder", folder))?;
        let name = whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let model = named(&whole, &name)?;
        if models.iter().any(|known| known.pool == model.pool) {
            return Err(CliError::SameName(name));
        }
        models.push(model);
    }
    Ok(models)
}

fn named(folder: &Path, name: &str) -> Result<Model, CliError> {
    let pool = PoolId::of_model(name).map_err(|_| CliError::ModelName(folder.to_owned()))?;
    Ok(Model { name: name.to_owned(), pool, folder: folder.to_owned() })
}

/// Unpacks the built-in model into the user's cache, under its digest.
fn unpack() -> Result<PathBuf, CliError> {
    let mut digest = Sha256::new();
    FILES.iter().for_each(|(_, bytes)| digest.update(bytes));
    let short: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let place = paths::cache()?.join("models").join(format!("{BUILT_IN}-{short}"));
    paths::install(&place, |folder| {
        for (name, bytes) in FILES {
            let file = folder.join(name);
            std::fs::write(&file, bytes).map_err(CliError::file("writing", file))?;
        }
        Ok(())
    })?;
    Ok(place)
}
