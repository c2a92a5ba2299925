//! `penstock model add`.

use std::path::Path;

use indicatif::HumanBytes;
use penstock_gpu_worker::engine::encoder::folder::EncoderFolder;
use penstock_gpu_worker::engine::model::ModelFolder;
use penstock_gpu_worker::engine::{AnyEngine, LoadError};
use penstock_policy::calendar::Day;
use penstock_service::ports::{Clock, PoolKind};
use penstock_service::system::SystemClock;

use super::command::Add;
use super::download::Place;
use super::hub::Hub;
use super::provenance::{Makes, Origin, Provenance, VERSION};
use super::selection::{Chosen, Listed, select};
use super::shelf::{Incoming, Shelf};
use super::show;
use super::source::{Repository, Source};
use crate::error::CliError;
use crate::progress;

/// Adds a model, and says how to serve it.
pub(crate) async fn add(command: Add) -> Result<(), CliError> {
    let shelf = Shelf::of_user()?;
    let json = command.json;
    let added = match &command.source {
        Source::Folder(folder) => from_folder(&shelf, folder, &command).await?,
        Source::Hub(repository) => from_hub(&shelf, repository, &command).await?,
    };
    show(json, &added, || {
        let Provenance { name, digest, bytes, .. } = &added;
        let digest = digest.get(..16).unwrap_or(digest);
        format!("model {name} is added ({}, digest {digest}): penstock up --model {name}", HumanBytes(*bytes))
    })
}

async fn from_folder(shelf: &Shelf, folder: &Path, command: &Add) -> Result<Provenance, CliError> {
    let folder = folder.canonicalize().map_err(CliError::file("opening the model folder", folder))?;
    let place = folder.display().to_string();
    let files = select(&files_below(&folder)?, command.folder.as_deref(), &place)?;
    let name = match (&command.name, &command.folder) {
        (Some(name), _) => name.clone(),
        (None, inner) => {
            let whole = inner.as_ref().map_or_else(|| folder.clone(), |inner| folder.join(inner));
            whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
    };
    shelf.may_have(&name)?;
    let incoming = shelf.incoming(&format!("{place}\n{name}"))?;
    progress(&format!("copying {} files, {}", files.len(), HumanBytes(total(&files))));
    let (from, into, copied) = (folder, incoming.folder.clone(), files.clone());
    tokio::task::spawn_blocking(move || copy(&from, &into, &copied)).await.map_err(|_| CliError::Died)??;
    let grown = incoming.folder.clone();
    let finished = finish(shelf, incoming, name, &files, Origin::Folder(place)).await;
    if let Err(CliError::Unusable { source, .. }) = finished {
        // The user has them already.
        let _ = std::fs::remove_dir_all(&grown);
        return Err(CliError::Load(source));
    }
    finished
}

async fn from_hub(shelf: &Shelf, repository: &Repository, command: &Add) -> Result<Provenance, CliError> {
    let name = command.name.clone().unwrap_or_else(|| repository.name.clone());
    shelf.may_have(&name)?;
    let hub = Hub::new(&command.hub)?;
    let commit = hub.commit(repository).await?;
    let listed = hub.files(repository, &commit).await?;
    let files = select(&listed, command.folder.as_deref(), &repository.to_string())?;
    let whole = format!("{}/{}", repository.owner, repository.name);
    let folder = command.folder.clone();
    let key = format!("{}\n{whole}\n{commit}\n{}", hub.address(), folder.as_deref().unwrap_or_default());
    let incoming = shelf.incoming(&key)?;
    let here = bytes_below(&incoming.folder);
    let goes_on = if here > 0 { format!(", {} of them are here already", HumanBytes(here)) } else { String::new() };
    progress(&format!("fetching {} files, {}{goes_on}", files.len(), HumanBytes(total(&files))));
    Place { hub: &hub, repository, commit: &commit }.fetch(&files, &incoming.folder).await?;
    let hub = hub.address().to_owned();
    let origin = Origin::Hub { hub, repository: whole, revision: repository.revision.clone(), commit, folder };
    finish(shelf, incoming, name, &files, origin).await
}

/// Checks what has arrived as the engine does, and gives it its name.
async fn finish(
    shelf: &Shelf,
    incoming: Incoming,
    name: String,
    files: &[Chosen],
    origin: Origin,
) -> Result<Provenance, CliError> {
    let folder = incoming.folder.clone();
    let opened = tokio::task::spawn_blocking(move || identity(&folder)).await.map_err(|_| CliError::Died)?;
    let (makes, digest) = opened.map_err(|source| CliError::Unusable { folder: incoming.folder.clone(), source })?;
    let added = Day::of(SystemClock.now()).name();
    let provenance = Provenance { version: VERSION, name, makes, digest, bytes: total(files), origin, added };
    Ok(shelf.put(&incoming, &provenance)?.provenance)
}

/// What a folder's model makes, and its digest; reads all of the weights.
fn identity(folder: &Path) -> Result<(Makes, String), LoadError> {
    Ok(match AnyEngine::kind_of(folder) {
        PoolKind::Generation => (Makes::Text, ModelFolder::open(folder)?.digest.to_string()),
        PoolKind::Embedding => (Makes::Vectors, EncoderFolder::open(folder)?.digest.to_string()),
    })
}

fn total(files: &[Chosen]) -> u64 {
    files.iter().map(|chosen| chosen.file.bytes).sum()
}

/// How deep a folder is looked into: an encoder's graph may lie one below its files, and a model some below the folder.
const DEPTH: usize = 5;

/// The files below a folder, by their paths within.
fn files_below(folder: &Path) -> Result<Vec<Listed>, CliError> {
    let mut files = Vec::new();
    let mut open = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((path, within, depth)) = open.pop() {
        for entry in std::fs::read_dir(&path).map_err(CliError::file("reading", &path))?.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let inner = if within.is_empty() { name } else { format!("{within}/{name}") };
            // Links are followed: caches of hubs are made of them.
            match std::fs::metadata(entry.path()) {
                Ok(is) if is.is_dir() && depth < DEPTH => open.push((entry.path(), inner, depth + 1)),
                Ok(is) if is.is_file() => files.push(Listed { path: inner, bytes: is.len(), checksum: None }),
                Ok(_) | Err(_) => {}
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn bytes_below(folder: &Path) -> u64 {
    files_below(folder).unwrap_or_default().iter().map(|file| file.bytes).sum()
}

fn copy(from: &Path, into: &Path, files: &[Chosen]) -> Result<(), CliError> {
    for chosen in files {
        let target = into.join(&chosen.target);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(CliError::file("creating", folder))?;
        }
        std::fs::copy(from.join(&chosen.file.path), &target).map_err(CliError::file("copying to", target))?;
    }
    Ok(())
}
