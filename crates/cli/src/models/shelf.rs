//! The folder of added models: each in a folder of its name, there whole or not at all.
//!
//! A model grows in a folder of its own under `.incoming` and is moved to its name in one step. The place it grows in is
//! named after what it is made of, so that the same command finds what an interrupted one left, and is locked, so that two
//! do not fill it together.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use penstock_policy::id::PoolId;
use sha2::{Digest, Sha256};

use super::provenance::{FILE, Provenance};
use crate::error::CliError;
use crate::paths;

/// Where models grow; no model's name begins with a dot.
const INCOMING: &str = ".incoming";

/// Why a model cannot be added or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    #[error("'{0}' cannot be a model's name: give it one of 1 to 64 letters, digits and ._- with --name NAME")]
    Name(String),
    #[error(
        "there is a model '{name}' already ({origin}): remove it with `penstock model remove {name}`, or say --name NAME"
    )]
    Taken { name: String, origin: String },
    #[error("another `penstock model add` fetches this model now: wait for it")]
    Busy,
    #[error("no model '{name}' was added{}", known(names))]
    Unknown { name: String, names: Vec<String> },
    #[error("'{0}' comes with the program and cannot be removed")]
    BuiltIn(String),
}

fn known(names: &[String]) -> String {
    if names.is_empty() {
        ": add one with `penstock model add`".to_owned()
    } else {
        format!("; there are: {}", names.join(", "))
    }
}

/// The added models of this user.
pub(crate) struct Shelf {
    folder: PathBuf,
}

/// A model that was added.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    pub(crate) folder: PathBuf,
    pub(crate) provenance: Provenance,
}

/// A place where a model grows. Unlocked when dropped; what it holds stays.
pub(crate) struct Incoming {
    pub(crate) folder: PathBuf,
    _lock: File,
}

impl Shelf {
    /// The user's shelf; makes nothing yet.
    pub(crate) fn of_user() -> Result<Self, CliError> {
        Ok(Self { folder: paths::data()?.join("models") })
    }

    /// The models, by name. What has no readable record is no model.
    pub(crate) fn list(&self) -> Result<Vec<Added>, CliError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(CliError::file("reading", &self.folder)(error)),
        };
        let mut list: Vec<Added> = entries.filter_map(Result::ok).filter_map(|entry| read(entry.path())).collect();
        list.sort_by(|a, b| a.provenance.name.cmp(&b.provenance.name));
        Ok(list)
    }

    /// The model of that name.
    pub(crate) fn find(&self, name: &str) -> Option<Added> {
        is_name(name).then(|| read(self.folder.join(name))).flatten()
    }

    /// Checks that a model may have a name.
    pub(crate) fn may_have(&self, name: &str) -> Result<(), ShelfError> {
        if !is_name(name) {
            return Err(ShelfError::Name(name.to_owned()));
        }
        match self.find(name) {
            Some(added) => {
                Err(ShelfError::Taken { name: name.to_owned(), origin: added.provenance.origin.to_string() })
            }
            None => Ok(()),
        }
    }

    /// The place where what `key` names grows.
    pub(crate) fn incoming(&self, key: &str) -> Result<Incoming, CliError> {
        let all = self.folder.join(INCOMING);
        // Beside the server's data, whose folder is its owner's alone.
        paths::private_folder(&all)?;
        let short: String = Sha256::digest(key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let path = all.join(format!("{short}.lock"));
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(CliError::file("opening", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ShelfError::Busy.into()),
            Err(TryLockError::Error(error)) => return Err(CliError::file("locking", &path)(error)),
        }
        let folder = all.join(short);
        std::fs::create_dir_all(&folder).map_err(CliError::file("creating", &folder))?;
        Ok(Incoming { folder, _lock: lock })
    }

    /// Gives what has grown its name, with its record.
    pub(crate) fn put(&self, incoming: &Incoming, provenance: &Provenance) -> Result<Added, CliError> {
        self.may_have(&provenance.name)?;
        let record = incoming.folder.join(FILE);
        let text = serde_json::to_string_pretty(provenance).unwrap_or_default();
        std::fs::write(&record, format!("{text}\n")).map_err(CliError::file("writing", &record))?;
        let folder = self.folder.join(&provenance.name);
        std::fs::rename(&incoming.folder, &folder).map_err(CliError::file("creating", &folder))?;
        let _ = std::fs::remove_file(incoming.folder.with_extension("lock"));
        Ok(Added { folder, provenance: provenance.clone() })
    }

    /// Removes a model: at once by name, then its files.
    pub(crate) fn remove(&self, name: &str) -> Result<Added, CliError> {
        let Some(added) = self.find(name) else {
            if name == super::built_in::NAME {
                return Err(ShelfError::BuiltIn(name.to_owned()).into());
            }
            let names = self.list()?.into_iter().map(|added| added.provenance.name).collect();
            return Err(ShelfError::Unknown { name: name.to_owned(), names }.into());
        };
        let grave = tempfile::Builder::new().prefix(".removed-").tempdir_in(&self.folder);
        let grave = grave.map_err(CliError::file("creating a folder in", &self.folder))?;
        std::fs::rename(&added.folder, grave.path().join(name)).map_err(CliError::file("removing", &added.folder))?;
        grave.close().map_err(CliError::file("removing", &added.folder))?;
        Ok(added)
    }
}

fn read(folder: PathBuf) -> Option<Added> {
    let provenance: Provenance = serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()?;
    let is_named_so = folder.file_name().is_some_and(|name| name == provenance.name.as_str());
    (is_named_so && is_name(&provenance.name)).then_some(Added { folder, provenance })
}

/// Whether a text may be the name of a model and of its folder.
fn is_name(name: &str) -> bool {
    !name.starts_with('.')
        && PoolId::of_model(name).is_ok()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && Path::new(name).components().count() == 1
}

#[cfg(test)]
mod tests {
    use super::super::provenance::{Makes, Origin, VERSION};
    use super::*;

    fn provenance(name: &str) -> Provenance {
        Provenance {
            version: VERSION,
            name: name.to_owned(),
            makes: Makes::Text,
            digest: "d".into(),
            bytes: 1,
            origin: Origin::Folder("/x".into()),
            added: "2026-11-25".into(),
        }
    }

    #[test]
    fn a_model_is_there_whole_or_not_at_all_and_its_name_is_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf { folder: folder.path().join("models") };
        assert!(shelf.list().unwrap().is_empty());
        let incoming = shelf.incoming("a").unwrap();
        std::fs::write(incoming.folder.join("model.onnx"), "x").unwrap();
        assert!(shelf.list().unwrap().is_empty(), "it has not arrived");
        assert!(matches!(shelf.incoming("a"), Err(CliError::Shelf(ShelfError::Busy))));
        shelf.put(&incoming, &provenance("a.b")).unwrap();
        assert_eq!(shelf.find("a.b").unwrap().provenance, provenance("a.b"));
        let error = shelf.put(&shelf.incoming("b").unwrap(), &provenance("a.b")).unwrap_err();
        assert!(matches!(error, CliError::Shelf(ShelfError::Taken { .. })), "{error}");
        shelf.remove("a.b").unwrap();
        assert!(shelf.find("a.b").is_none() && shelf.list().unwrap().is_empty());
        assert!(matches!(shelf.remove("a.b"), Err(CliError::Shelf(ShelfError::Unknown { .. }))));
    }

    #[test]
    fn a_name_means_nothing_in_a_path() {
        let shelf = Shelf { folder: "/nowhere".into() };
        for name in ["", ".", "..", ".incoming", "a/b", "a b", "ä"] {
            assert!(shelf.may_have(name).is_err() && shelf.find(name).is_none(), "{name}");
        }
        assert!(shelf.may_have("Qwen2.5-0.5B_int4").is_ok());
    }
}
