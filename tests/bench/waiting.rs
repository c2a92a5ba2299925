//! How much memory a waiting connection takes: a load program.
//!
//!     cargo build --release -p penstock
//!     cargo run --release -p system-tests --example waiting -- [CONNECTIONS]
//!
//! Starts `penstock up --workers 0` (nobody answers, so everybody waits), opens that many connections (10,000 unless told)
//! with a request each, half of them streams, and reads the server's resident memory before and after. Then it checks that
//! none was dropped, that streams are kept alive, and that another request is accepted beside them.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a load program stops at the first surprise and prints its figures"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use harness::process::Process;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connections opened side by side.
const BATCH: usize = 100;

/// How long the waiting goes on: beyond the moment at which a stream's status is committed and its first comment sent.
const WAITS: Duration = Duration::from_secs(45);

struct Server {
    process: Process,
    address: String,
    key: String,
}

impl Server {
    async fn start(folder: &std::path::Path) -> Self {
        let ready = folder.join("ready.json");
        let mut command = Command::new(harness::root().join("target/release/penstock"));
        command.args(["up", "--workers", "0", "--port", "0", "--data"]).arg(folder.join("data"));
        let process = Process::start(command.arg("--ready-file").arg(&ready).stdout(std::process::Stdio::null()));
        loop {
            if let Ok(text) = std::fs::read_to_string(&ready)
                && let Ok(ready) = serde_json::from_str::<Value>(&text)
            {
                let address = ready["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
                return Self { process, address, key: ready["api_key"].as_str().unwrap().to_owned() };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Resident memory, in KiB.
    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends a request and leaves its connection open.
    async fn ask(&self, model: &str, number: usize) -> TcpStream {
        let stream = number % 2 == 1;
        let body = serde_json::json!({"model": model, "max_tokens": 1, "service_tier": "batch", "stream": stream,
            "messages": [{"role": "user", "content": format!("R:{number}=")}]})
        .to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
            self.address,
            self.key,
            body.len()
        );
        let mut connection = TcpStream::connect(&self.address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(body.as_bytes()).await.unwrap();
        connection
    }
}

/// What has arrived on a connection so far; `None` if it was closed.
fn arrived(connection: &TcpStream) -> Option<String> {
    let mut bytes = vec![0; 16 * 1024];
    match connection.try_read(&mut bytes) {
        Ok(0) => None,
        Ok(read) => Some(String::from_utf8_lossy(&bytes[..read]).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(String::new()),
        Err(_) => None,
    }
}

#[tokio::main]
async fn main() {
    let wanted: usize = std::env::args().nth(1).map_or(10_000, |text| text.parse().unwrap());
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let possible = usize::try_from(hard).unwrap().saturating_sub(200);
    let count = wanted.min(possible);
    if count < wanted {
        println!("only {count} connections: the hard limit of open files is {hard}");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    let model = "task-int4";
    // Buffers and pools that are there once, however many wait.
    let first = server.ask(model, 0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = server.resident_kib();
    let begun = Instant::now();
    let mut waiting = vec![first];
    while waiting.len() < count {
        let next = waiting.len()..count.min(waiting.len() + BATCH);
        let asked = next.map(|number| server.ask(model, number));
        waiting.extend(futures_util::future::join_all(asked).await);
    }
    let opened = begun.elapsed();
    tokio::time::sleep(WAITS).await;
    let after = server.resident_kib();
    let (mut dropped, mut kept_alive, mut refused, mut streams) = (0u32, 0u32, 0u32, 0u32);
    for (number, connection) in waiting.iter().enumerate() {
        let Some(text) = arrived(connection) else {
            dropped += 1;
            continue;
        };
        if number % 2 == 1 {
            streams += 1;
            kept_alive += u32::from(text.contains(": keep-alive"));
        }
        refused += u32::from(text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5"));
    }
    let each = (after.saturating_sub(before)) as f64 * 1024.0 / (waiting.len().max(2) - 1) as f64;
    println!("{} connections opened in {:.1} s", waiting.len(), opened.as_secs_f64());
    println!("resident: {before} KiB with one waiting, {after} KiB with all: {:.1} KiB each", each / 1024.0);
    println!("dropped {dropped}, refused {refused}, streams kept alive {kept_alive} of {streams}");
    let begun = Instant::now();
    let mut another = TcpStream::connect(&server.address).await.unwrap();
    another.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    another.read_to_string(&mut answer).await.unwrap();
    println!("another client is answered in {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!((dropped, refused), (0, 0));
}
