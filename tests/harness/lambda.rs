//! Lambda and API Gateway on this machine: the Runtime API that the real binaries speak, and a REST API in front.
//!
//! As on AWS, an environment (a process) has one request at a time, and a request that finds none idle starts another.
//! Answers are streamed: the function sends a JSON prelude (status, headers), eight NUL bytes, then the body as it
//! grows (<https://docs.aws.amazon.com/lambda/latest/dg/response-streaming-tutorial.html>).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use crate::process::Process;

/// The separator between prelude and body.
const SEPARATOR: [u8; 8] = [0; 8];

/// A function: a binary and its environment.
pub struct Function {
    binary: PathBuf,
    variables: BTreeMap<String, String>,
    environments: Mutex<Vec<Arc<Environment>>>,
}

/// One execution environment.
struct Environment {
    _process: Mutex<Option<Process>>,
    idle: AtomicBool,
    next: Mutex<Option<(String, String)>>,
    arrived: Notify,
    answers: Mutex<BTreeMap<String, mpsc::Sender<Piece>>>,
    begun: Instant,
    init: Mutex<Option<Duration>>,
}

/// A piece of an answer, or why there is none.
type Piece = Result<Bytes, String>;

impl Function {
    /// A function that runs `binary` with `variables`.
    #[must_use]
    pub fn new(binary: PathBuf, variables: BTreeMap<String, String>) -> Arc<Self> {
        Arc::new(Self { binary, variables, environments: Mutex::default() })
    }

    /// How long each environment took from its start to its first request for work.
    ///
    /// # Panics
    /// Never in fact.
    #[must_use]
    pub fn inits(&self) -> Vec<Duration> {
        self.environments.lock().unwrap().iter().filter_map(|environment| *environment.init.lock().unwrap()).collect()
    }

    /// Invokes the function as a schedule or another event does, and waits for what it says at its end.
    ///
    /// # Errors
    /// What the function failed with, or says if that is no JSON.
    pub async fn call(&self, event: &Value) -> Result<Value, String> {
        let said = self.answer(event).await?;
        serde_json::from_slice(&said).map_err(|_| String::from_utf8_lossy(&said).into_owned())
    }

    /// Invokes the function and gives all that it answers.
    ///
    /// # Errors
    /// What the function failed with.
    pub async fn answer(&self, event: &Value) -> Result<Vec<u8>, String> {
        let (mut answer, mut whole) = (self.invoke(event).await, Vec::new());
        while let Some(piece) = answer.recv().await {
            whole.extend_from_slice(&piece?);
        }
        Ok(whole)
    }

    /// Invokes the function; the answer's pieces arrive as the function sends them.
    async fn invoke(&self, event: &Value) -> mpsc::Receiver<Piece> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let id = format!("request-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let idle = {
            let environments = self.environments.lock().unwrap();
            environments.iter().find(|environment| environment.idle.swap(false, Ordering::SeqCst)).cloned()
        };
        let environment = match idle {
            Some(environment) => environment,
            None => self.start().await,
        };
        let (pieces, answer) = mpsc::channel(64);
        environment.answers.lock().unwrap().insert(id.clone(), pieces);
        *environment.next.lock().unwrap() = Some((id, event.to_string()));
        environment.arrived.notify_one();
        answer
    }

    async fn start(&self) -> Arc<Environment> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let environment = Arc::new(Environment {
            _process: Mutex::new(None),
            idle: AtomicBool::new(false),
            next: Mutex::default(),
            arrived: Notify::new(),
            answers: Mutex::default(),
            begun: Instant::now(),
            init: Mutex::default(),
        });
        let api = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(failed))
            .with_state(Arc::clone(&environment));
        tokio::spawn(async move { axum::serve(listener, api).await });
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .envs(&self.variables)
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "function")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "group")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "stream")
            // Where its figures go, a line each.
            .stdout(std::process::Stdio::null())
            // Every function ends complaining: its Runtime API goes away before it does.
            .stderr(std::process::Stdio::null());
        *environment._process.lock().unwrap() = Some(Process::start(&mut command));
        self.environments.lock().unwrap().push(Arc::clone(&environment));
        environment
    }
}

async fn next(State(environment): State<Arc<Environment>>) -> Response {
    environment.init.lock().unwrap().get_or_insert_with(|| environment.begun.elapsed());
    loop {
        let waiting = environment.next.lock().unwrap().take();
        if let Some((id, event)) = waiting {
            let deadline = std::time::SystemTime::now() + Duration::from_secs(900);
            let deadline_ms = deadline.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
            let headers = [
                ("lambda-runtime-aws-request-id", id),
                ("lambda-runtime-deadline-ms", deadline_ms.to_string()),
                ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:0:function:function".to_owned()),
                ("content-type", "application/json".to_owned()),
            ];
            return (headers, event).into_response();
        }
        environment.idle.store(true, Ordering::SeqCst);
        environment.arrived.notified().await;
    }
}

async fn response(State(environment): State<Arc<Environment>>, Path(id): Path<String>, body: Body) -> Response {
    let answer = environment.answers.lock().unwrap().remove(&id);
    if let Some(answer) = answer {
        let mut body = body.into_data_stream();
        while let Some(piece) = body.next().await {
            // A client that has gone does not stop the function, which Lambda lets run on.
            let _ = answer.send(piece.map_err(|error| error.to_string())).await;
        }
    }
    (axum::http::StatusCode::ACCEPTED, "{}").into_response()
}

async fn failed(State(environment): State<Arc<Environment>>, Path(id): Path<String>, body: String) -> Response {
    let answer = environment.answers.lock().unwrap().remove(&id);
    if let Some(answer) = answer {
        let _ = answer.send(Err(body)).await;
    }
    (axum::http::StatusCode::ACCEPTED, "{}").into_response()
}

/// A route of a REST API, and the function that serves it.
pub struct Route {
    /// The method, in capitals.
    pub method: String,
    /// The path; a part in braces stands for any one part.
    pub path: String,
    /// The function.
    pub function: Arc<Function>,
}

impl Route {
    fn serves(&self, method: &str, path: &str) -> bool {
        let (mut parts, mut asked) = (self.path.split('/'), path.split('/'));
        let fit = parts.by_ref().all(|part| asked.next().is_some_and(|one| part.starts_with('{') || part == one));
        self.method == method && fit && asked.next().is_none()
    }
}

/// A REST API with Lambda proxy integrations.
pub struct Gateway {
    /// Where it listens.
    pub url: String,
}

/// What a gateway knows.
struct Api {
    stage: String,
    routes: Vec<Route>,
    /// Its own answer where there is no route: status and JSON.
    unknown: (u16, String),
}

impl Gateway {
    /// Starts the API's stage.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(stage: &str, routes: Vec<Route>, unknown: (u16, String)) -> Self {
        let api = Arc::new(Api { stage: stage.to_owned(), routes, unknown });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward).with_state(api);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url }
    }
}

async fn forward(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(route) = api.routes.iter().find(|route| route.serves(parts.method.as_str(), parts.uri.path())) else {
        let (status, body) = &api.unknown;
        let status = axum::http::StatusCode::from_u16(*status).unwrap();
        return (status, [("content-type", "application/json")], body.clone()).into_response();
    };
    // API Gateway's own limit.
    let Ok(body) = axum::body::to_bytes(body, 10 << 20).await else {
        return (axum::http::StatusCode::PAYLOAD_TOO_LARGE, "{\"message\":\"Request Too Long\"}").into_response();
    };
    let mut answer = route.function.invoke(&event(&api.stage, &route.path, &parts, &body)).await;
    let mut gathered = Vec::new();
    let end = loop {
        match answer.recv().await {
            Some(Ok(piece)) => gathered.extend_from_slice(&piece),
            Some(Err(error)) => return bad_gateway(&error),
            None => return bad_gateway(&String::from_utf8_lossy(&gathered)),
        }
        if let Some(end) = gathered.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
            break end;
        }
    };
    let Ok(prelude) = serde_json::from_slice::<Value>(&gathered[..end]) else {
        return bad_gateway("the prelude is no JSON");
    };
    let first = Bytes::copy_from_slice(&gathered[end + SEPARATOR.len()..]);
    let rest = futures_util::stream::unfold(answer, |mut answer| async {
        answer.recv().await.map(|piece| (piece.map_err(std::io::Error::other), answer))
    });
    let whole = futures_util::stream::once(async { Ok(first) }).chain(rest);
    let status = u16::try_from(prelude["statusCode"].as_u64().unwrap_or(200)).unwrap_or(200);
    let mut response = Response::builder().status(status);
    for (name, value) in prelude["headers"].as_object().into_iter().flatten() {
        response = response.header(name, value.as_str().unwrap_or_default());
    }
    response.body(Body::from_stream(whole)).unwrap()
}

fn bad_gateway(cause: &str) -> Response {
    (axum::http::StatusCode::BAD_GATEWAY, format!("{{\"message\":\"Internal server error\",\"cause\":{cause:?}}}"))
        .into_response()
}

/// The event that API Gateway's REST API makes of a request.
fn event(stage: &str, resource: &str, parts: &axum::http::request::Parts, body: &[u8]) -> Value {
    let path = parts.uri.path();
    let mut single = serde_json::Map::new();
    let mut multi = serde_json::Map::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        single.insert(name.to_string(), json!(value));
        multi.entry(name.to_string()).or_insert_with(|| json!([])).as_array_mut().unwrap().push(json!(value));
    }
    let mut single_query = serde_json::Map::new();
    let mut multi_query = serde_json::Map::new();
    for pair in parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        single_query.insert(name.to_owned(), json!(value));
        multi_query.entry(name.to_owned()).or_insert_with(|| json!([])).as_array_mut().unwrap().push(json!(value));
    }
    let (text, encoded) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (base64::Engine::encode(&base64::engine::general_purpose::STANDARD, body), true),
    };
    json!({
        "resource": resource,
        "path": path,
        "httpMethod": parts.method.as_str(),
        "headers": single,
        "multiValueHeaders": multi,
        "queryStringParameters": single_query,
        "multiValueQueryStringParameters": multi_query,
        "pathParameters": null,
        "stageVariables": null,
        "requestContext": {
            "accountId": "000000000000", "apiId": "api", "stage": stage, "protocol": "HTTP/1.1",
            "path": format!("/{stage}{path}"), "resourcePath": resource, "httpMethod": parts.method.as_str(),
            "requestId": "r", "requestTimeEpoch": 0, "identity": {"sourceIp": "127.0.0.1"},
        },
        "body": if body.is_empty() { Value::Null } else { json!(text) },
        "isBase64Encoded": encoded,
    })
}
