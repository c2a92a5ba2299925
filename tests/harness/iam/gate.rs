//! The gate between a program and the emulator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::call::{Wire, lists};
use super::{Call, Judgement, Permission, Role, calls};

/// A gate that lets through what a role permits; it ends with its owner.
pub struct Gate {
    /// Where it listens: the endpoint of the program whose role it is.
    pub url: String,
    guard: Arc<Guard>,
    listening: JoinHandle<()>,
}

struct Guard {
    endpoint: String,
    role: Role,
    http: reqwest::Client,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    used: BTreeSet<Permission>,
    denied: Vec<String>,
    calls: BTreeMap<String, u64>,
}

impl Gate {
    /// Opens one to the emulator at `endpoint`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn open(endpoint: &str, role: Role) -> Arc<Self> {
        let guard = Arc::new(Guard {
            endpoint: endpoint.to_owned(),
            role,
            http: reqwest::Client::new(),
            seen: Mutex::default(),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(pass).with_state(Arc::clone(&guard));
        let listening = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Arc::new(Self { url, guard, listening })
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.guard.role
    }

    /// The permissions that were needed so far.
    ///
    /// # Panics
    /// Never in fact.
    #[must_use]
    pub fn used(&self) -> BTreeSet<Permission> {
        self.guard.seen.lock().unwrap().used.clone()
    }

    /// What was refused since this was last asked, a line each.
    ///
    /// # Panics
    /// Never in fact.
    #[must_use]
    pub fn take_denied(&self) -> Vec<String> {
        std::mem::take(&mut self.guard.seen.lock().unwrap().denied)
    }

    /// How often each action was asked for so far.
    ///
    /// # Panics
    /// Never in fact.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.guard.seen.lock().unwrap().calls.clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Guard {
    /// Whether a call may pass; remembers it either way.
    fn permits(&self, call: &Call) -> bool {
        let mut seen = self.seen.lock().unwrap();
        *seen.calls.entry(call.action.clone()).or_default() += 1;
        match self.role.judge(call) {
            Judgement::Permitted(by) => seen.used.extend(by),
            Judgement::Denied => {
                seen.denied.push(format!("{} may not {call}", self.role.name));
                return false;
            }
        }
        true
    }

    async fn forward(&self, request: axum::http::request::Parts, body: Bytes) -> Result<Response, reqwest::Error> {
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = request.headers;
        // Both are the connection's own.
        headers.remove(header::HOST);
        headers.remove(header::CONTENT_LENGTH);
        let sent = self.http.request(request.method, format!("{}{path}", self.endpoint)).headers(headers).body(body);
        let answer = sent.send().await?;
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if name != header::TRANSFER_ENCODING && name != header::CONNECTION {
                response = response.header(name, value);
            }
        }
        Ok(response.body(Body::from(answer.bytes().await?)).unwrap())
    }
}

async fn pass(State(guard): State<Arc<Guard>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let (service, region) = scope(&parts.headers);
    let path = parts.uri.path().replace("%23", "#").replace("%2F", "/");
    let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let wire = Wire {
        service: &service,
        region: &region,
        target,
        method: parts.method.as_str(),
        path: &path,
        query: parts.uri.query().unwrap_or_default(),
        body: &body,
    };
    let asked = match calls(&wire) {
        Ok(asked) => asked,
        Err(problem) => {
            guard.seen.lock().unwrap().denied.push(format!("{}: {problem}", guard.role.name));
            return denied(&service, &problem);
        }
    };
    for call in &asked {
        if !guard.permits(call) {
            return denied(&service, &format!("{} is not authorized to perform: {call}", guard.role.name));
        }
    }
    let bucket =
        (service == "s3").then(|| path.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned());
    let read = matches!(parts.method.as_str(), "GET" | "HEAD");
    let answer = match guard.forward(parts, body).await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    // S3 does not tell whoever may not list a bucket that something is missing in it.
    match bucket.filter(|_| read && answer.status() == StatusCode::NOT_FOUND) {
        Some(bucket) if !guard.permits(&lists(&bucket, BTreeMap::new())) => denied("s3", "Access Denied"),
        Some(_) | None => answer,
    }
}

/// The service and the region that a request was signed for:
/// `Authorization: AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, ...`.
fn scope(headers: &HeaderMap) -> (String, String) {
    let signed = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let credential =
        signed.split_once("Credential=").map_or("", |(_, rest)| rest.split(',').next().unwrap_or_default());
    let mut parts = credential.split('/').skip(2).map(str::to_owned);
    let region = parts.next().unwrap_or_default();
    (parts.next().unwrap_or_default(), region)
}

/// A refusal in the service's own form.
fn denied(service: &str, message: &str) -> Response {
    if service == "s3" {
        let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        return (StatusCode::FORBIDDEN, [("content-type", "application/xml")], body).into_response();
    }
    let body = json!({"__type": "com.amazon.coral.service#AccessDeniedException", "message": message}).to_string();
    let status = if service == "dynamodb" { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
    (status, [("content-type", "application/x-amz-json-1.0")], body).into_response()
}
