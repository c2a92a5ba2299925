//! The AWS emulator, one process a test.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::given;
use crate::process::{Process, free_port};

/// A running emulator: DynamoDB, SQS and S3, empty at the start.
pub struct Ministack {
    _process: Process,
    /// Where it listens.
    pub endpoint: String,
}

impl Ministack {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If it does not listen within 20 s.
    pub async fn start() -> Self {
        let port = free_port();
        let mut command = Command::new(given("PENSTOCK_MINISTACK"));
        command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string()).env("LOG_LEVEL", "ERROR");
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let process = Process::start(&mut command);
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the emulator does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { _process: process, endpoint: format!("http://127.0.0.1:{port}") }
    }
}
