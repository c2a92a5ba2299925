//! `penstock batch`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use penstock_wire::batches::{Batch, BatchStatus};
use penstock_wire::error::ErrorBody;
use penstock_wire::files::{Page, Upload, UploadPart};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::ask::{client, running};
use crate::batch_command::{BatchAction, BatchCommand, Client};
use crate::error::CliError;
use crate::paths;

/// How much of a file goes into one request: what every deployment takes.
const PART: usize = 4 << 20;

/// What stands between the parts of a form; no JSON line begins so.
const BOUNDARY: &str = "penstock-3f1c0d9a7b52";

/// How often a batch is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Does what is asked about batches.
pub(crate) async fn run(command: BatchCommand) -> Result<(), CliError> {
    match command.action {
        BatchAction::Submit { file, window, endpoint, metadata, watch, client } => {
            let server = Server::find(&client).await?;
            let endpoint = endpoint.map_or_else(|| first_url(&file), Ok)?;
            let metadata: BTreeMap<&str, &str> =
                metadata.iter().map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
            let input = server.send_file(&file, client.json).await?;
            let ask = json!({"input_file_id": input, "endpoint": endpoint, "completion_window": window,
                             "metadata": metadata});
            let batch: Batch = server.ask(Method::POST, "/v1/batches", &ask).await?;
            if watch {
                return server.watch(&batch.id, &client).await;
            }
            show(&client, &batch, || {
                print_batch(&batch);
                print(&format!("watch it with: penstock batch watch {}", batch.id));
            });
            Ok(())
        }
        BatchAction::Watch { id, client } => Server::find(&client).await?.watch(&plain(&id), &client).await,
        BatchAction::Get { id, output, errors, client } => {
            let server = Server::find(&client).await?;
            let batch: Batch = server.get(&format!("/v1/batches/{}", plain(&id))).await?;
            for (file, place) in [(&batch.output_file_id, &output), (&batch.error_file_id, &errors)] {
                if let Some(place) = place {
                    server.fetch(file.as_deref(), place).await?;
                }
            }
            show(&client, &batch, || print_batch(&batch));
            Ok(())
        }
        BatchAction::Cancel { id, client } => {
            let path = format!("/v1/batches/{}/cancel", plain(&id));
            let batch: Batch = Server::find(&client).await?.ask(Method::POST, &path, &json!({})).await?;
            show(&client, &batch, || print_batch(&batch));
            Ok(())
        }
        BatchAction::List { limit, client } => {
            let list: Page<Batch> = Server::find(&client).await?.get(&format!("/v1/batches?limit={limit}")).await?;
            show(&client, &list, || list.data.iter().for_each(print_batch));
            Ok(())
        }
    }
}

/// A server, and who asks it.
struct Server {
    url: String,
    key: String,
    client: reqwest::Client,
}

impl Server {
    async fn find(asked: &Client) -> Result<Self, CliError> {
        if let (Some(url), Some(key)) = (&asked.url, &asked.api_key) {
            let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
            return Ok(Self { url, key: key.clone(), client: client() });
        }
        let folder = asked.data.clone().map_or_else(paths::data, Ok)?;
        let ready = running(&folder).await.ok_or(CliError::NoServer(folder))?;
        Ok(Self { url: ready.url, key: ready.api_key, client: client() })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, CliError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await.unwrap_or_default();
        let message = serde_json::from_slice::<ErrorBody>(&bytes)
            .map_or_else(|_| String::from_utf8_lossy(&bytes).into_owned(), |body| body.error.message);
        Err(CliError::Answer { status: status.as_u16(), message })
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        CliError::Unreachable { url: self.url.clone(), cause }
    }

    async fn read<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, CliError> {
        let bytes = self.answer(request).await?.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).map_err(CliError::Unreadable)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.read(self.request(Method::GET, path)).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: &Value) -> Result<T, CliError> {
        let request = self.request(method, path).header("content-type", "application/json").body(body.to_string());
        self.read(request).await
    }

    /// Sends a file in parts; gives its id.
    async fn send_file(&self, path: &Path, quiet: bool) -> Result<String, CliError> {
        let failed = || CliError::file("reading", path);
        let mut file = std::fs::File::open(path).map_err(failed())?;
        let bytes = file.metadata().map_err(failed())?.len();
        let name = path.file_name().map_or_else(|| "batch.jsonl".into(), |name| name.to_string_lossy());
        let ask = json!({"bytes": bytes, "filename": name, "purpose": "batch", "mime_type": "application/jsonl"});
        let upload: Upload = self.ask(Method::POST, "/v1/uploads", &ask).await?;
        let bar = bar(bytes, quiet, "{msg} {bar:40} {bytes}/{total_bytes}");
        bar.set_message("sending");
        let mut parts = Vec::new();
        loop {
            let mut part = Vec::with_capacity(PART);
            (&mut file).take(PART as u64).read_to_end(&mut part).map_err(failed())?;
            if part.is_empty() {
                break;
            }
            bar.inc(part.len() as u64);
            let sent: UploadPart = self.read(self.form(&format!("/v1/uploads/{}/parts", upload.id), &part)).await?;
            parts.push(sent.id);
        }
        bar.finish_and_clear();
        let path = format!("/v1/uploads/{}/complete", upload.id);
        let completed: Upload = self.ask(Method::POST, &path, &json!({"part_ids": parts})).await?;
        let missing = || CliError::BrokenOff("the completed upload names no file".to_owned());
        completed.file.map(|file| file.id).ok_or_else(missing)
    }

    fn form(&self, path: &str, part: &[u8]) -> reqwest::RequestBuilder {
        let mut body = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"data\"; filename=\"part\"\r\n\
             content-type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(part);
        body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        let media = format!("multipart/form-data; boundary={BOUNDARY}");
        self.request(Method::POST, path).header("content-type", media).body(body)
    }

    /// Writes a file of the server's to a file here; an empty one, if there is none yet.
    async fn fetch(&self, id: Option<&str>, place: &Path) -> Result<(), CliError> {
        let failed = || CliError::file("writing", place);
        let mut file = std::fs::File::create(place).map_err(failed())?;
        let Some(id) = id else { return Ok(()) };
        let response = self.answer(self.request(Method::GET, &format!("/v1/files/{id}/content"))).await?;
        let mut bytes = response.bytes_stream();
        while let Some(piece) = bytes.next().await {
            file.write_all(&piece.map_err(|error| self.unreachable(&error))?).map_err(failed())?;
        }
        file.sync_all().map_err(failed())
    }

    /// Shows a batch's progress until it is over.
    async fn watch(&self, id: &str, asked: &Client) -> Result<(), CliError> {
        let bar = bar(0, asked.json, "{msg:12} {bar:40} {pos}/{len} {eta}");
        loop {
            let batch: Batch = self.get(&format!("/v1/batches/{id}")).await?;
            let counts = batch.request_counts;
            bar.set_length(counts.total);
            bar.set_position(counts.completed + counts.failed);
            bar.set_message(batch.status.name());
            if batch.status.is_over() {
                bar.finish_and_clear();
                show(asked, &batch, || print_batch(&batch));
                return match batch.status {
                    BatchStatus::Failed => Err(CliError::BatchFailed(problems(&batch))),
                    BatchStatus::Validating
                    | BatchStatus::InProgress
                    | BatchStatus::Finalizing
                    | BatchStatus::Completed
                    | BatchStatus::Expired
                    | BatchStatus::Cancelling
                    | BatchStatus::Cancelled => Ok(()),
                };
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Where the requests of a file go, by its first line.
fn first_url(path: &Path) -> Result<String, CliError> {
    let file = std::fs::File::open(path).map_err(CliError::file("reading", path))?;
    let lines = BufReader::new(file).lines();
    for line in lines {
        let line = line.map_err(CliError::file("reading", path))?;
        if !line.trim().is_empty() {
            let url = serde_json::from_str::<Value>(&line).ok().and_then(|line| Some(line["url"].as_str()?.to_owned()));
            return url.ok_or_else(|| CliError::NoUrl(path.to_owned()));
        }
    }
    Err(CliError::NoUrl(path.to_owned()))
}

/// A bar, where somebody sees it.
fn bar(length: u64, quiet: bool, template: &str) -> ProgressBar {
    let hidden = quiet || !std::io::stderr().is_terminal();
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn problems(batch: &Batch) -> String {
    let told = batch.errors.iter().flat_map(|problems| &problems.data).map(|problem| {
        problem.line.map_or_else(|| problem.message.clone(), |line| format!("line {line}: {}", problem.message))
    });
    told.collect::<Vec<_>>().join("\n")
}

fn print_batch(batch: &Batch) {
    let counts = batch.request_counts;
    print(&format!(
        "{}  {}  {} of {} answered, {} not  {} within {}",
        batch.id,
        batch.status.name(),
        counts.completed,
        counts.total,
        counts.failed,
        batch.endpoint.path(),
        batch.completion_window.name(),
    ));
    if batch.output_file_id.is_some() || batch.error_file_id.is_some() {
        print(&format!("  fetch with: penstock batch get {} --output answers.jsonl --errors errors.jsonl", batch.id));
    }
    for line in problems(batch).lines() {
        print(&format!("  {line}"));
    }
}

/// Only what an id is written with, so that it never becomes another path.
fn plain(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn show(asked: &Client, answer: &impl Serialize, words: impl FnOnce()) {
    if asked.json {
        print(&serde_json::to_string_pretty(answer).unwrap_or_default());
    } else {
        words();
    }
}

/// Prints a line; standard output may be closed.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
