//! The models to serve: named or in folders on the command line, or the small one that comes with the program.

use std::path::{Path, PathBuf};

use penstock_policy::id::PoolId;

use super::built_in;
use super::shelf::{Shelf, ShelfError};
use crate::error::CliError;

/// A model to serve.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// What clients write into `model`.
    pub(crate) name: String,
    /// Its pool.
    pub(crate) pool: PoolId,
    /// Its folder.
    pub(crate) folder: PathBuf,
}

/// The models of the command line, or the built-in one.
pub(crate) fn choose(wanted: &[PathBuf]) -> Result<Vec<Model>, CliError> {
    if wanted.is_empty() {
        return Ok(vec![named(&built_in::unpack()?, built_in::NAME)?]);
    }
    let shelf = Shelf::of_user()?;
    let mut models: Vec<Model> = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let model = find(&shelf, wanted)?;
        if models.iter().any(|known| known.pool == model.pool) {
            return Err(CliError::SameName(model.name));
        }
        models.push(model);
    }
    Ok(models)
}

/// One model: an added one or the built-in one by its name, else a folder. What has a slash is a folder.
pub(crate) fn find(shelf: &Shelf, wanted: &Path) -> Result<Model, CliError> {
    let name = wanted.to_str().filter(|name| !name.contains('/'));
    if let Some(name) = name {
        if let Some(added) = shelf.find(name) {
            return named(&added.folder, name);
        }
        if name == built_in::NAME && !wanted.is_dir() {
            return named(&built_in::unpack()?, name);
        }
        if !wanted.exists() {
            let names = shelf.list()?.into_iter().map(|added| added.provenance.name).collect();
            return Err(ShelfError::Unknown { name: name.to_owned(), names }.into());
        }
    }
    let whole = wanted.canonicalize().map_err(CliError::file("opening the model folder", wanted))?;
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    named(&whole, &name)
}

fn named(folder: &Path, name: &str) -> Result<Model, CliError> {
    let pool = PoolId::of_model(name).map_err(|_| CliError::ModelName(folder.to_owned()))?;
    Ok(Model { name: name.to_owned(), pool, folder: folder.to_owned() })
}
