//! What can be wrong with a model's folder, of whichever kind the model is, and the checks that both kinds share.

use std::path::{Path, PathBuf};

use super::tokenizer::{TextTokenizer, TokenizerError};

/// Why a folder's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}: {source}; {needs}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What such a folder needs.
        needs: &'static str,
    },
    /// A file is no JSON, or a field is missing or of the wrong type.
    #[error("{} is not a usable configuration: {source}; {advice}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which field, and where.
        source: serde_json::Error,
        /// What to do.
        advice: &'static str,
    },
    /// A field has a value that no model can have, or that is not offered.
    #[error("{}: `{field}` is {value}, but must be {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with its path.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// The tokenizer cannot be used.
    #[error("{} is not a tokenizer this version reads: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// The tokenizer and the model are not of the same family.
    #[error(
        "{} has token ids up to {largest}, but the model's `vocab_size` is {vocab_size}: the tokenizer belongs to \
         another model", path.display()
    )]
    ForeignTokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// Its largest id.
        largest: u32,
        /// The model's vocabulary.
        vocab_size: usize,
    },
}

/// Larger than any model's sizes; keeps the arithmetic on them far from overflow.
pub(super) const LARGEST: usize = 1 << 24;

/// Checks a size of a model.
///
/// # Errors
/// [`FolderError::Field`], unless it is `least` to [`LARGEST`].
pub(super) fn size(path: &Path, field: &'static str, value: usize, least: usize) -> Result<(), FolderError> {
    if (least..=LARGEST).contains(&value) {
        return Ok(());
    }
    let (value, expected) = (value.to_string(), format!("{least} to {LARGEST}"));
    Err(FolderError::Field { path: path.to_owned(), field, value, expected })
}

/// Checks that a file can be read.
///
/// # Errors
/// [`FolderError::Unreadable`].
pub(super) fn readable(path: &Path, needs: &'static str) -> Result<(), FolderError> {
    let opened = std::fs::File::open(path);
    opened.map(drop).map_err(|source| FolderError::Unreadable { path: path.to_owned(), source, needs })
}

/// Reads a tokenizer whose ids a model of `vocab_size` knows.
///
/// # Errors
/// [`FolderError`], saying why it is none.
pub(super) fn tokenizer(path: &Path, vocab_size: usize, needs: &'static str) -> Result<TextTokenizer, FolderError> {
    readable(path, needs)?;
    let tokenizer =
        TextTokenizer::from_file(path).map_err(|source| FolderError::Tokenizer { path: path.to_owned(), source })?;
    if tokenizer.id_bound() as usize > vocab_size {
        let largest = tokenizer.id_bound() - 1;
        return Err(FolderError::ForeignTokenizer { path: path.to_owned(), largest, vocab_size });
    }
    Ok(tokenizer)
}
