//! `penstock ask`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use penstock_wire::chat::CompletionChunk;
use penstock_wire::error::ErrorBody;
use serde_json::json;

use crate::command::Ask;
use crate::embedded::{Data, Embedded, Plan};
use crate::error::CliError;
use crate::paths;
use crate::ready::{self, Ready};
use crate::upstream::UpstreamArgs;

/// How long a running server may take to say that it runs.
const HEALTH: Duration = Duration::from_secs(2);

/// Asks a running server, or starts one for the length of the question.
pub(crate) async fn run(args: Ask) -> Result<(), CliError> {
    if let (Some(url), Some(api_key)) = (&args.url, &args.api_key) {
        let server = Ready { url: url.clone(), api_key: api_key.clone(), models: Vec::new(), pid: 0 };
        return ask(&args, &server).await;
    }
    let folder = args.data.clone().map_or_else(paths::data, Ok)?;
    // A model named here is to be asked, whatever a running server serves.
    if args.engine.models.is_empty()
        && let Some(server) = running(&folder).await
    {
        return ask(&args, &server).await;
    }
    let upstream = UpstreamArgs::default();
    let plan = Plan {
        engine: args.engine.clone(),
        upstream,
        issuers: Vec::new(),
        workers: 1,
        autoscale: None,
        port: 0,
        data: Data::Memory,
        traces: None,
    };
    let embedded = Embedded::start(plan, crate::progress).await?;
    let result = ask(&args, &embedded.ready).await;
    embedded.stop().await;
    result
}

/// The server whose ready file lies in the data folder, if it answers.
pub(crate) async fn running(folder: &Path) -> Option<Ready> {
    let ready = Ready::read(&ready::in_folder(folder))?;
    let health = client().get(format!("{}/healthz", ready.url)).timeout(HEALTH).send().await.ok()?;
    health.status().is_success().then_some(ready)
}

/// A client that goes where it is told: this machine's servers are not reached through a proxy.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap_or_default()
}

async fn ask(args: &Ask, server: &Ready) -> Result<(), CliError> {
    let unreachable = |error: reqwest::Error| CliError::Unreachable {
        url: server.url.clone(),
        cause: std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
    };
    let client = client();
    let model = match args.name.clone().or_else(|| server.models.first().cloned()) {
        Some(model) => model,
        None => first_model(&client, server).await?,
    };
    let mut body = json!({
        "model": model,
        "stream": !args.json,
        "temperature": args.temperature,
        "messages": [{"role": "user", "content": args.prompt}],
    });
    if let Some(max_tokens) = args.max_tokens {
        body["max_tokens"] = json!(max_tokens);
    }
    let response = client
        .post(format!("{}/v1/chat/completions", server.url))
        .bearer_auth(&server.api_key)
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .map_err(unreachable)?;
    let status = response.status();
    if !status.is_success() {
        return Err(refusal(status.as_u16(), &response.bytes().await.unwrap_or_default()));
    }
    if args.json {
        let whole = response.bytes().await.map_err(unreachable)?;
        print(&format!("{}\n", String::from_utf8_lossy(&whole).trim()));
        return Ok(());
    }
    let mut bytes = response.bytes_stream();
    let mut pending = Vec::new();
    while let Some(piece) = bytes.next().await {
        pending.extend_from_slice(&piece.map_err(unreachable)?);
        while let Some(end) = pending.windows(2).position(|pair| pair == b"\n\n") {
            let frame: Vec<u8> = pending.drain(..end + 2).collect();
            show(&String::from_utf8_lossy(&frame))?;
        }
    }
    print("\n");
    Ok(())
}

/// Prints the text of one event.
fn show(frame: &str) -> Result<(), CliError> {
    let Some(data) = frame.trim().strip_prefix("data: ").filter(|data| *data != "[DONE]") else { return Ok(()) };
    if let Ok(chunk) = serde_json::from_str::<CompletionChunk>(data) {
        let text = chunk.choices.into_iter().filter_map(|choice| choice.delta.content).collect::<String>();
        print(&text);
        return Ok(());
    }
    let message = serde_json::from_str::<ErrorBody>(data).map_or_else(|_| data.to_owned(), |body| body.error.message);
    Err(CliError::BrokenOff(message))
}

async fn first_model(client: &reqwest::Client, server: &Ready) -> Result<String, CliError> {
    let url = format!("{}/v1/models", server.url);
    let response = client.get(&url).bearer_auth(&server.api_key).send().await;
    let response = response.map_err(|error| CliError::Unreachable { url: url.clone(), cause: error.to_string() })?;
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    if !status.is_success() {
        return Err(refusal(status.as_u16(), &body));
    }
    let list: Option<penstock_wire::models::ModelList> = serde_json::from_slice(&body).ok();
    list.and_then(|list| list.data.into_iter().next())
        .map(|model| model.id)
        .ok_or_else(|| CliError::Answer { status: 200, message: "it serves no model".to_owned() })
}

fn refusal(status: u16, body: &[u8]) -> CliError {
    let message = serde_json::from_slice::<ErrorBody>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |body| body.error.message);
    CliError::Answer { status, message }
}

/// Prints at once; standard output may be closed.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
