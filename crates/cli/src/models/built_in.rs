//! The model that comes with the program.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::error::CliError;
use crate::paths;

/// Its name.
pub(crate) const NAME: &str = "task-int4";

macro_rules! built_in {
    ($($file:literal),*) => {
        [$(($file, include_bytes!(concat!("../../../../gpu-worker/fixtures/task-int4/", $file)).as_slice())),*]
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

/// Unpacks it into the user's cache, under its digest, and says where.
pub(crate) fn unpack() -> Result<PathBuf, CliError> {
    let mut digest = Sha256::new();
    FILES.iter().for_each(|(_, bytes)| digest.update(bytes));
    let short: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let place = paths::cache()?.join("models").join(format!("{NAME}-{short}"));
    paths::install(&place, |folder| {
        for (name, bytes) in FILES {
            let file = folder.join(name);
            std::fs::write(&file, bytes).map_err(CliError::file("writing", file))?;
        }
        Ok(())
    })?;
    Ok(place)
}
