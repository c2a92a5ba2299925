//! What is written from the code and kept in the repository is what the code would write today.
//!
//! `PENSTOCK_WRITE=1 cargo test -p penstock-wire --all-features --test openapi` writes it anew.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn is_up_to_date(place: &Path, written: &str) {
    if std::env::var_os("PENSTOCK_WRITE").is_some() {
        std::fs::write(place, written).unwrap();
    }
    let kept = std::fs::read_to_string(place).unwrap();
    assert!(kept == written, "{} is out of date: run this test with PENSTOCK_WRITE=1", place.display());
}

#[test]
fn the_openapi_document_is_what_the_types_say() {
    let document = serde_json::to_string_pretty(&penstock_wire::openapi::document()).unwrap() + "\n";
    is_up_to_date(&root().join("crates/wire/openapi.json"), &document);
}

#[test]
fn the_handbook_lists_the_errors_there_are() {
    is_up_to_date(&root().join("handbook/errors.md"), &penstock_wire::codes::page());
}
