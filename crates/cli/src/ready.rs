//! The ready file: how other programs find a running server, and its key.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// What the ready file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) url: String,
    pub(crate) api_key: String,
    pub(crate) models: Vec<String>,
    pub(crate) pid: u32,
}

impl Ready {
    /// Writes the file, readable by its owner alone, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), CliError> {
        let json = serde_json::to_string(self).unwrap_or_default();
        private_file(path, &format!("{json}\n"))
    }

    /// Reads the file; `None` if there is none or it is not one of ours.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

/// The ready file that every server with a data folder keeps there.
pub(crate) fn in_folder(data: &Path) -> PathBuf {
    data.join("ready.json")
}

/// The key of whoever operates the server, beside the ready file.
pub(crate) fn operator_key(data: &Path) -> PathBuf {
    data.join("operator-key")
}

/// Writes a file of mode 0600.
pub(crate) fn private_file(path: &Path, content: &str) -> Result<(), CliError> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        // Temporary files are made with mode 0600; said again, because it is promised.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.write_all(content.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(CliError::file("writing", path))
}
