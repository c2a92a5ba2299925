//! Upstreams over real connections: another `penstock up`, and a server that behaves as badly as it is told to.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use harness::client::{Client, tasks};
use harness::process::{Process, Signal, appears};
use harness::{built, given, root};
use penstock_policy::classes::Class;
use penstock_policy::degrade::Order;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId};
use penstock_policy::tenant::FallbackConsent;
use penstock_policy::time::Timestamp;
use penstock_service::config::Timing;
use penstock_service::degradation::http_upstream::HttpUpstream;
use penstock_service::degradation::upstreams::UpstreamConfig;
use penstock_service::ports::{Clock, Control, Entropy, Fallback, Pool, Tenant, TenantLimits};
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_service::{ApiKey, Service};
use penstock_sqlite::{DiskBlobs, Sqlite};
use serde_json::{Value, json};

const MODEL: &str = "task-int4";

/// A server and what it needs on disk.
struct Server {
    process: Process,
    ready: Value,
    client: Client,
    _home: tempfile::TempDir,
}

fn up(arguments: &[&str], key_of_upstream: Option<&str>) -> Server {
    up_on(&[&["--ephemeral"], arguments].concat(), key_of_upstream)
}

fn up_on(arguments: &[&str], key_of_upstream: Option<&str>) -> Server {
    let home = tempfile::tempdir().unwrap();
    let ready = home.path().join("ready.json");
    let mut command = Command::new(built("penstock"));
    command.args(["up", "--port", "0"]).args(arguments).arg("--ready-file").arg(&ready);
    command.env("XDG_CACHE_HOME", home.path()).env("XDG_DATA_HOME", home.path());
    command.env("PENSTOCK_ORT", given("PENSTOCK_ORT"));
    if let Some(key) = key_of_upstream {
        command.env("PENSTOCK_UPSTREAM_KEY", key);
    }
    let process = Process::start(&mut command);
    let ready: Value = serde_json::from_str(&appears(&ready, Duration::from_secs(60))).unwrap();
    let client = Client::new(ready["url"].as_str().unwrap(), ready["api_key"].as_str().unwrap());
    Server { process, ready, client, _home: home }
}

/// A server without workers that asks `upstream` for everything.
fn gateway(upstream: &Server, more: &[&str]) -> Server {
    let url = format!("{}/v1", upstream.ready["url"].as_str().unwrap());
    let arguments: [&[&str]; 3] = [
        &["--workers", "0", "--upstream", &url, "--upstream-reach", "loopback"],
        &["--upstream-price", "1/2", "--upstream-usd-per-day", "5"],
        more,
    ];
    up(&arguments.concat(), upstream.ready["api_key"].as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_workers_answers_by_another_penstock() {
    let upstream = up(&[], None);
    let gateway = gateway(&upstream, &[]);
    for (n, (prompt, answer)) in tasks(5, 16).into_iter().enumerate() {
        let reply = gateway.client.ask(MODEL, &prompt, n % 2 == 0).await;
        assert_eq!(reply.text(), answer, "{prompt}: {}", reply.body);
        assert_eq!(reply.header("x-penstock-served-by"), "fallback");
        assert_eq!(reply.header("x-penstock-fallback"), "upstream=upstream");
        assert_eq!(reply.header("x-penstock-tier"), "4");
        assert!(reply.header("x-penstock-cost-usd").parse::<f64>().unwrap() > 0.0);
        assert!(reply.body.contains("\"id\":\"chatcmpl-") && reply.body.contains(MODEL), "{}", reply.body);
    }
    let (prompt, _) = tasks(6, 1).remove(0);
    let (direct, through) = (
        upstream.client.ask(MODEL, &prompt, false).await.json(),
        gateway.client.ask(MODEL, &prompt, false).await.json(),
    );
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(direct["usage"][count], through["usage"][count], "the upstream's own count");
    }
    assert_ne!(direct["id"], through["id"], "ids are the gateway's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_upstream_is_killed_ends_in_an_error_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("bytes");
    random_model(&model);
    let model = model.to_str().unwrap();
    let body = json!({"model": "bytes", "stream": true, "max_tokens": 400, "seed": 1,
        "messages": [{"role": "user", "content": "say much"}]});
    // The model is so quick that an answer may be whole with its first words, however slowed: then it is asked anew.
    for _ in 0..10 {
        let upstream = up(&["--model", model], None);
        let gateway = gateway(&upstream, &["--model", model]);
        let slowed = upstream.process.slowed(Duration::from_millis(1), Duration::from_millis(80));
        let mut arriving = gateway.client.begin_with(&body).await;
        arriving.first_words().await;
        upstream.process.signal(Signal::SIGKILL);
        drop(slowed);
        let reply = arriving.rest().await;
        assert!(reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
        if reply.body.contains("\"finish_reason\":\"length\"") {
            continue;
        }
        assert!(reply.body.contains("upstream_failed"), "{}", reply.body);
        let refused = gateway.client.ask("bytes", "again", false).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        return;
    }
    panic!("no stream was interrupted in ten tries");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_closes_a_pool_by_command_and_opens_it_again() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    let data = data.to_str().unwrap();
    let server = up_on(&["--data", data], None);
    let breaker = |arguments: &[&str]| {
        let output = Command::new(built("penstock")).arg("breaker").args(arguments).args(["--data", data]).output();
        let output = output.unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (_, shown, _) = breaker(&["--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["data"][0]["tier"], &shown["data"][0]["reason"]), (&json!(0), &json!("healthy")));
    let pool = shown["data"][0]["pool"].as_str().unwrap().to_owned();
    assert!(breaker(&[&pool, "--refuse", "--for", "20s"]).1.contains("tier 4  by order (refuse)"));
    let refused = server.client.ask(MODEL, "R:12=", false).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((15..=31).contains(&wait), "{wait} s");
    assert!(breaker(&[&pool, "--clear"]).1.contains("tier 0"));
    assert_eq!(server.client.ask(MODEL, "R:12=", false).await.text(), "21");
    assert!(breaker(&["no-such-pool", "--clear"]).2.contains(&pool), "the error names the pools there are");
    assert!(!breaker(&[&pool, "--refuse"]).0, "an order must end");
}

/// A model that says random bytes, for as long as it is let.
fn random_model(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let files = ["tokenizer.json", "chat_template.jinja", "genai_config.json"].map(|file| ("bytes", file));
    for (fixture, file) in files.into_iter().chain([("random-fp32", "model.onnx")]) {
        std::fs::copy(root().join("gpu-worker/fixtures").join(fixture).join(file), folder.join(file)).unwrap();
    }
}

/// How the server of a test behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Answers,
    Busy,
    Redirects,
    BreaksOff,
    NeverEnds,
}

/// A server of OpenAI's form, and what it has seen.
#[derive(Clone)]
struct Stub {
    manner: Arc<Mutex<Manner>>,
    calls: Arc<AtomicU32>,
    seen: Arc<Mutex<Vec<(axum::http::HeaderMap, Value)>>>,
    hung_up: Arc<AtomicBool>,
    url: String,
}

struct HungUp(Arc<AtomicBool>);

impl Drop for HungUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Stub {
    async fn start(manner: Manner) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self {
            manner: Arc::new(Mutex::new(manner)),
            calls: Arc::default(),
            seen: Arc::default(),
            hung_up: Arc::default(),
            url: format!("http://{}/v1", listener.local_addr().unwrap()),
        };
        let router = Router::new().route("/v1/chat/completions", post(Self::answer)).with_state(stub.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        stub
    }

    async fn answer(State(stub): State<Self>, request: Request) -> Response {
        stub.calls.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        stub.seen.lock().unwrap().push((parts.headers, serde_json::from_slice(&body).unwrap()));
        let piece = |text: &str| {
            let piece = json!({"choices": [{"index": 0, "delta": {"content": text}}]});
            Ok::<_, std::io::Error>(Bytes::from(format!("data: {piece}\n\n")))
        };
        let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let manner = *stub.manner.lock().unwrap();
        match manner {
            Manner::Answers => {
                Body::from_stream(stream::iter([piece("so "), piece("said"), Ok(Bytes::from(end))])).into_response()
            }
            Manner::Busy => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "30")]).into_response(),
            Manner::Redirects => {
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/v1/chat/completions")]).into_response()
            }
            Manner::BreaksOff => {
                let broken = Err(std::io::Error::other("reset"));
                let slowly = stream::iter([piece("half"), broken]).then(|piece| async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    piece
                });
                Body::from_stream(slowly).into_response()
            }
            Manner::NeverEnds => {
                let held = HungUp(Arc::clone(&stub.hung_up));
                let pieces = stream::iter([piece("on ")]).chain(stream::unfold(held, |held| async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Some((
                        Ok(Bytes::from("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"and on \"}}]}\n\n")),
                        held,
                    ))
                }));
                Body::from_stream(pieces).into_response()
            }
        }
    }
}

/// A front door in this process whose only pool is closed, so that the upstream answers.
struct Front {
    client: Client,
    _blobs: tempfile::TempDir,
}

async fn front(upstream: Value) -> Front {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sqlite = Sqlite::in_memory(Arc::clone(&clock)).unwrap();
    let pool = PoolId::new("default").unwrap();
    let fallbacks = vec![Fallback::Upstream("u".to_owned())];
    sqlite.put_pool(&Pool { fallbacks, ..Pool::new(pool.clone(), "m", 4096, clock.now()) }).await.unwrap();
    let wide = Limit::per_minute(1_000_000).unwrap();
    let tenant = TenantId::new("t").unwrap();
    let fallback = FallbackConsent { upstream: true, ..FallbackConsent::default() };
    let terms = Tenant::new(tenant.clone(), Class::P0, TenantLimits::rates(wide, wide), clock.now());
    sqlite.put_tenant(&Tenant { fallback, ..terms }).await.unwrap();
    let key = ApiKey::generate(|| OsEntropy.draw());
    sqlite.put_key(&key.record(tenant)).await.unwrap();
    let mut config = json!({"name": "u", "key": "sk-of-the-upstream", "reach": "loopback", "usd_per_day": "1",
        "input_usd_per_million_tokens": "1", "output_usd_per_million_tokens": "1"});
    config.as_object_mut().unwrap().extend(upstream.as_object().unwrap().clone());
    let config = UpstreamConfig::list(&json!([config]).to_string(), |_| None).unwrap().remove(0);
    let blobs = tempfile::tempdir().unwrap();
    let ports = sqlite.ports(DiskBlobs::new(blobs.path()), Arc::new(TaskSpawner), Arc::new(OsEntropy));
    let service = Service::new(ports, Timing::default(), b"test");
    let service = Arc::new(service.with_upstreams([HttpUpstream::outside(config).unwrap()]));
    service.order(&pool, Some((Order::Fallbacks, Timestamp::MAX))).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, penstock_service::router(service)).into_future());
    Front { client: Client::new(&url, &key.expose()), _blobs: blobs }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_gets_its_key_and_our_request_and_its_words_come_through() {
    let stub = Stub::start(Manner::Answers).await;
    let front = front(json!({"url": stub.url, "models": {"m": "theirs"}})).await;
    for streamed in [false, true] {
        assert_eq!(front.client.ask("m", "hello", streamed).await.text(), "so said");
    }
    let (headers, body) = stub.seen.lock().unwrap()[0].clone();
    assert_eq!(headers["authorization"], "Bearer sk-of-the-upstream");
    assert!(headers.contains_key("idempotency-key"));
    assert_eq!((body["model"].as_str(), body["messages"][0]["content"].as_str()), (Some("theirs"), Some("hello")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_upstream_is_left_alone_and_the_client_is_told_to_come_back() {
    let stub = Stub::start(Manner::Busy).await;
    let front = front(json!({"url": stub.url})).await;
    for _ in 0..3 {
        let reply = front.client.ask("m", "hello", false).await;
        assert_eq!(reply.status, 503, "{}", reply.body);
    }
    assert_eq!(stub.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let stub = Stub::start(Manner::Redirects).await;
    let front = front(json!({"url": stub.url})).await;
    assert_eq!(front.client.ask("m", "hello", false).await.status, 503);
    assert_eq!(stub.calls.load(Ordering::SeqCst), 1, "neither followed nor tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_resolves_to_this_machine_is_not_connected_to_unless_that_is_allowed() {
    let stub = Stub::start(Manner::Answers).await;
    let https = stub.url.replace("http://127.0.0.1", "https://localhost");
    let front = front(json!({"url": https, "reach": "public"})).await;
    assert_eq!(front.client.ask("m", "hello", false).await.status, 503);
    assert_eq!(stub.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_in_mid_stream_ends_in_an_error_chunk() {
    let stub = Stub::start(Manner::BreaksOff).await;
    let front = front(json!({"url": stub.url})).await;
    let reply = front.client.ask("m", "hello", true).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.contains("half") && reply.body.contains("upstream_failed"), "{}", reply.body);
    assert_eq!(front.client.ask("m", "hello", false).await.status, 502, "a whole answer says so in its status");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_hangs_up_on_the_upstream() {
    let stub = Stub::start(Manner::NeverEnds).await;
    let front = front(json!({"url": stub.url})).await;
    let mut arriving = front.client.begin("m", "hello").await;
    arriving.first_words().await;
    assert!(!stub.hung_up.load(Ordering::SeqCst));
    drop(arriving);
    for _ in 0..200 {
        if stub.hung_up.load(Ordering::SeqCst) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the upstream still sends five seconds after the client has left");
}
