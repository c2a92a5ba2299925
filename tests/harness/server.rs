//! `penstock up` as a real process in a folder of its own.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::client::Client;
use crate::process::{Process, appears};
use crate::{built, given};

/// A folder in which a server lives: its cache, its data, its ready file.
pub struct Home {
    folder: tempfile::TempDir,
}

/// A running server.
pub struct Server {
    /// The process.
    pub process: Process,
    /// What its ready file says.
    pub ready: Value,
    /// A client with its key.
    pub client: Client,
}

impl Home {
    /// An empty folder.
    ///
    /// # Panics
    /// If there can be none.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "an empty folder on the disk is no default value")]
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The `penstock` command, at home here.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built("penstock"));
        command.args(arguments).env("XDG_CACHE_HOME", self.path()).env("XDG_DATA_HOME", self.path());
        command.env("PENSTOCK_ORT", given("PENSTOCK_ORT"));
        command
    }

    /// Starts a server on a free port; returns once it is ready.
    ///
    /// # Panics
    /// If it is not ready within a minute.
    #[must_use]
    pub fn up(&self, more: &[&str]) -> Server {
        let ready = self.path().join("ready-file.json");
        let _ = std::fs::remove_file(&ready);
        let mut command = self.command(&["up", "--port", "0"]);
        command.args(more).arg("--ready-file").arg(&ready).stdout(Stdio::piped());
        let process = Process::start(&mut command);
        let text = appears(&ready, Duration::from_secs(60));
        let ready: Value = serde_json::from_str(&text).unwrap();
        let client = Client::new(ready["url"].as_str().unwrap(), ready["api_key"].as_str().unwrap());
        Server { process, ready, client }
    }

    /// Runs the `penstock` command to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

/// What a command printed, as text.
#[must_use]
pub fn printed(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}
