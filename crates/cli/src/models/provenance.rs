//! Where an added model came from: a record that lies beside its files.

use serde::{Deserialize, Serialize};

/// The record's file in the model's folder.
pub(crate) const FILE: &str = "penstock.json";

/// What is written beside a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Provenance {
    /// The form of this record.
    pub(crate) version: u32,
    /// What clients write into `model`.
    pub(crate) name: String,
    /// What it makes.
    pub(crate) makes: Makes,
    /// SHA-256 over weights, tokenizer and template: what the engine calls it by.
    pub(crate) digest: String,
    /// Of all its files.
    pub(crate) bytes: u64,
    /// Where it came from.
    pub(crate) origin: Origin,
    /// The day on which it was added, in UTC.
    pub(crate) added: String,
}

/// The form that this version writes.
pub(crate) const VERSION: u32 = 1;

/// What a model makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Makes {
    Text,
    Vectors,
}

/// Where a model came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// With the program.
    Program,
    /// A folder of this machine.
    Folder(String),
    /// A repository.
    Hub {
        /// The hub's address.
        hub: String,
        /// `OWNER/NAME`.
        repository: String,
        /// What was asked for.
        revision: String,
        /// What that was then.
        commit: String,
        /// The folder within the repository, where one was named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folder: Option<String>,
    },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Program => f.write_str("with the program"),
            Self::Folder(path) => f.write_str(path),
            Self::Hub { repository, commit, folder, .. } => {
                write!(f, "hf:{repository}@{}", commit.get(..12).unwrap_or(commit))?;
                folder.iter().try_for_each(|folder| write!(f, " {folder}"))
            }
        }
    }
}
