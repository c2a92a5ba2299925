//! Models on this machine: fetched from a hub or a folder, kept by name, checked, compared, served.
//!
//! | file | concept |
//! |---|---|
//! | [`source`], [`selection`] | where a model comes from, and which of the files there belong to it |
//! | [`hub`], [`download`] | a hub's file API, and files that arrive whole or are gone on with |
//! | [`shelf`], [`provenance`] | the folder of added models |
//! | [`adding`], [`listing`] | `penstock model add`, `list`, `remove` |
//! | [`choice`], [`built_in`] | which models `penstock up` serves |
//! | [`check`], [`compare`], [`trial`] | `penstock model check` and `compare`, and what they have in common |
//! | [`quantize`] | `penstock model quantize` |

pub(crate) mod adding;
pub(crate) mod built_in;
pub(crate) mod check;
pub(crate) mod choice;
pub(crate) mod command;
pub(crate) mod compare;
pub(crate) mod download;
pub(crate) mod hub;
pub(crate) mod listing;
pub(crate) mod provenance;
pub(crate) mod quantize;
pub(crate) mod selection;
pub(crate) mod shelf;
pub(crate) mod source;
pub(crate) mod trial;

use serde::Serialize;

pub(crate) use self::choice::{Model, choose};
use self::command::ModelCommand;
use crate::error::CliError;

/// Does what is asked about models.
pub(crate) async fn run(command: ModelCommand) -> Result<(), CliError> {
    match command {
        ModelCommand::Add(add) => adding::add(add).await,
        ModelCommand::List { json } => listing::list(json),
        // These compute for seconds and have nothing beside them to do.
        ModelCommand::Check { model, trial, json } => check::check(&model, &trial, json),
        ModelCommand::Compare(command) => compare::compare(&command),
        ModelCommand::Try { folder, trial } => trial::run(&folder, &trial),
        ModelCommand::Quantize(command) => quantize::quantize(&command),
        ModelCommand::Remove { name, json } => listing::remove(&name, json),
    }
}

/// Prints an answer as JSON, or in words.
fn show(json: bool, answer: &impl Serialize, words: impl FnOnce() -> String) -> Result<(), CliError> {
    use std::io::Write;

    let text = if json { serde_json::to_string_pretty(answer).unwrap_or_default() } else { words() };
    writeln!(std::io::stdout().lock(), "{text}").map_err(CliError::Print)
}
