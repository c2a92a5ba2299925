//! `penstock model list` and `penstock model remove`.

use indicatif::HumanBytes;
use serde::Serialize;

use super::built_in;
use super::provenance::{Makes, Origin, Provenance};
use super::shelf::Shelf;
use super::show;
use crate::error::CliError;

/// A model that can be served by its name.
#[derive(Serialize)]
struct Line {
    name: String,
    makes: Makes,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    origin: Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<String>,
}

/// Lists the models that can be served by name.
pub(crate) fn list(json: bool) -> Result<(), CliError> {
    let program = Line {
        name: built_in::NAME.to_owned(),
        makes: Makes::Text,
        digest: None,
        bytes: None,
        origin: Origin::Program,
        added: None,
        folder: None,
    };
    let added = Shelf::of_user()?.list()?.into_iter().map(|added| {
        let Provenance { name, makes, digest, bytes, origin, added: day, .. } = added.provenance;
        let folder = Some(added.folder.display().to_string());
        Line { name, makes, digest: Some(digest), bytes: Some(bytes), origin, added: Some(day), folder }
    });
    // An added one of the same name goes before.
    let mut lines: Vec<Line> = added.collect();
    if !lines.iter().any(|line| line.name == built_in::NAME) {
        lines.insert(0, program);
    }
    show(json, &serde_json::json!({ "data": lines }), || {
        let words = lines.iter().map(|line| {
            let makes = match line.makes {
                Makes::Text => "text",
                Makes::Vectors => "vectors",
            };
            let bytes = line.bytes.map(|bytes| HumanBytes(bytes).to_string()).unwrap_or_default();
            let digest = line.digest.as_deref().and_then(|digest| digest.get(..16)).unwrap_or_default();
            format!("{:<32} {makes:<8} {bytes:>12}  {digest:<16}  {}", line.name, line.origin)
        });
        words.collect::<Vec<_>>().join("\n")
    })
}

/// Removes an added model.
pub(crate) fn remove(name: &str, json: bool) -> Result<(), CliError> {
    let removed = Shelf::of_user()?.remove(name)?.provenance;
    show(json, &removed, || format!("model {name} is gone, and {} with it", HumanBytes(removed.bytes)))
}
