//! Where the user's caches and data are.

use std::path::PathBuf;

use crate::error::CliError;

/// The folder for what can be fetched or unpacked again.
pub(crate) fn cache() -> Result<PathBuf, CliError> {
    Ok(dirs::cache_dir().ok_or(CliError::NoHome("caches"))?.join("penstock"))
}

/// The folder for what cannot.
pub(crate) fn data() -> Result<PathBuf, CliError> {
    Ok(dirs::data_local_dir().ok_or(CliError::NoHome("data"))?.join("penstock"))
}

/// Makes a folder readable by its owner alone, such as that of the data, which holds prompts and answers.
pub(crate) fn private_folder(path: &std::path::Path) -> Result<(), CliError> {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
    builder.create(path).map_err(CliError::file("creating the folder", path))
}

/// Puts a folder made by `fill` at `place`, whole or not at all; keeps the one that is there already.
pub(crate) fn install(
    place: &std::path::Path,
    fill: impl FnOnce(&std::path::Path) -> Result<(), CliError>,
) -> Result<(), CliError> {
    if place.is_dir() {
        return Ok(());
    }
    let parent = place.parent().unwrap_or(place);
    std::fs::create_dir_all(parent).map_err(CliError::file("creating", parent))?;
    let made = tempfile::tempdir_in(parent).map_err(CliError::file("creating a folder in", parent))?;
    fill(made.path())?;
    match std::fs::rename(made.path(), place) {
        Ok(()) => {
            // It has moved: there is nothing left to clean up.
            let _ = made.keep();
            Ok(())
        }
        // Another process was quicker, with the same content.
        Err(_) if place.is_dir() => Ok(()),
        Err(source) => Err(CliError::file("creating", place)(source)),
    }
}
