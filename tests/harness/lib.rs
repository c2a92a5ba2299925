//! What the system tests share: processes that die with their test, an AWS emulator, a Lambda emulator.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helper may stop at the first surprise")]

pub mod client;
#[cfg(feature = "aws")]
pub mod deployment;
pub mod faults;
pub mod hub;
pub mod iam;
pub mod idle;
pub mod lambda;
#[cfg(feature = "aws")]
pub mod ministack;
pub mod process;
pub mod server;

use std::path::{Path, PathBuf};

/// The project's root.
///
/// # Panics
/// Never in fact.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A program built from this workspace, in the profile the test itself was built in.
///
/// # Panics
/// If it has not been built: says how.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    // .../target/<profile>/deps/<this test>
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(path.is_file(), "{name} is not built: run the tests with `bash tests/run`");
    path
}

/// The value of a variable that `tests/run` sets.
///
/// # Panics
/// If it is not set: says how.
#[must_use]
pub fn given(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run the tests with `bash tests/run`"))
}
