//! A hub of models: a real HTTP server that speaks the file API, with the faults that hubs and networks have.
//!
//! Large files lie at a second address, to which the hub redirects, as hubs do; so a token that goes where it must not is
//! seen there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The commit that every revision is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Each connection breaks after so many bytes.
    BreaksAfter(usize),
    /// The first connection sends so many bytes and then nothing more, for ever.
    StopsAfter(usize),
    /// A byte is another than the checksum was taken of.
    Damaged,
    /// It is listed, but is not there.
    Missing,
    /// It is said to lie elsewhere.
    LiesAt(String),
    /// It is always sent from its start, in connections that break after so many bytes but for the last.
    FromItsStart(usize),
}

/// A request as the hub saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether it came to the second address.
    pub at_store: bool,
    /// The path.
    pub path: String,
    /// The first byte that was wanted.
    pub from: usize,
    /// Whether the token came with it.
    pub token: bool,
}

/// A hub with one repository, `acme/tiny`; it ends with its owner.
pub struct FileHub {
    /// Its address.
    pub url: String,
    state: Arc<State>,
    listening: [JoinHandle<()>; 2],
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    store: SocketAddr,
    token: Option<String>,
    flaws: Mutex<BTreeMap<String, Flaw>>,
    seen: Mutex<Vec<Seen>>,
}

impl FileHub {
    /// A hub with these files, which asks for `token` if there is one.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(files: BTreeMap<String, Vec<u8>>, token: Option<&str>) -> Self {
        let front = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let store = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let state = Arc::new(State {
            files,
            store: store.local_addr().unwrap(),
            token: token.map(str::to_owned),
            flaws: Mutex::default(),
            seen: Mutex::default(),
        });
        let url = format!("http://{}", front.local_addr().unwrap());
        let serve = |listener: TcpListener, at_store: bool| {
            let state = Arc::clone(&state);
            let router = Router::new().fallback(move |request: Request<Body>| {
                let state = Arc::clone(&state);
                async move { state.answer(at_store, &request) }
            });
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
        };
        let listening = [serve(front, false), serve(store, true)];
        Self { url, state, listening }
    }

    /// Makes a file flawed, or no file.
    pub fn flaw(&self, path: &str, flaw: Option<Flaw>) {
        let mut flaws = self.state.flaws.lock().unwrap_or_else(PoisonError::into_inner);
        flaws.clear();
        flaws.extend(flaw.map(|flaw| (path.to_owned(), flaw)));
    }

    /// What was asked for since the last time this was asked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for FileHub {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
    }
}

impl State {
    fn answer(&self, at_store: bool, request: &Request<Body>) -> Response<Body> {
        let header = |name: &str| request.headers().get(name).and_then(|text| text.to_str().ok()).unwrap_or_default();
        let from = header("range").trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let token = !header("authorization").is_empty();
        let seen = Seen { at_store, path: path.clone(), from, token };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        if let Some(file) = path.strip_prefix("store/") {
            return if at_store { self.bytes(file, from) } else { said(404, "EntryNotFound") };
        }
        if self.token.as_ref().is_some_and(|token| header("authorization") != format!("Bearer {token}")) {
            return said(401, "Invalid credentials");
        }
        let tree = format!("api/models/acme/tiny/tree/{COMMIT}");
        let resolve = format!("acme/tiny/resolve/{COMMIT}/");
        if path == "api/models/acme/tiny/revision/main" {
            json_page(&json!({"id": "acme/tiny", "sha": COMMIT}), None)
        } else if path == tree {
            self.page(request.uri().query().unwrap_or_default(), &tree)
        } else if let Some(file) = path.strip_prefix(&resolve) {
            match (self.flaw_of(file), self.is_large(file)) {
                (Some(Flaw::Missing), _) => said(404, "Entry not found"),
                (Some(Flaw::LiesAt(place)), _) => led(&place),
                (_, true) => led(&format!("http://{}/store/{file}", self.store)),
                (_, false) => self.bytes(file, from),
            }
        } else {
            said(404, "Repository not found")
        }
    }

    /// A page of the list: half of the files on each.
    fn page(&self, query: &str, tree: &str) -> Response<Body> {
        let half = self.files.len().div_ceil(2);
        let second = query.contains("cursor=2");
        let files = self.files.iter().skip(if second { half } else { 0 }).take(half);
        let entry = |(path, bytes): (&String, &Vec<u8>)| {
            let blob =
                hexadecimal(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize());
            let mut entry = json!({"type": "file", "path": path, "size": bytes.len(), "oid": blob});
            if self.is_large(path) {
                entry["lfs"] =
                    json!({"oid": hexadecimal(&Sha256::digest(bytes)), "size": bytes.len(), "pointerSize": 134});
            }
            entry
        };
        let folder = json!({"type": "directory", "path": "onnx", "size": 0, "oid": "x"});
        let list: Vec<Value> = files.map(entry).chain([folder]).collect();
        json_page(&json!(list), (!second).then(|| format!("</{tree}?recursive=true&cursor=2>; rel=\"next\"")))
    }

    fn is_large(&self, path: &str) -> bool {
        path.contains(".onnx")
    }

    fn flaw_of(&self, path: &str) -> Option<Flaw> {
        self.flaws.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    fn bytes(&self, path: &str, from: usize) -> Response<Body> {
        let Some(mut bytes) = self.files.get(path).cloned() else { return said(404, "Entry not found") };
        let flaw = self.flaw_of(path);
        if flaw == Some(Flaw::Damaged) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        let from = if matches!(flaw, Some(Flaw::FromItsStart(_))) { 0 } else { from };
        let whole = bytes.len();
        let rest = Bytes::from(bytes).slice(from..);
        let mut response = Response::builder().header("content-length", rest.len());
        if from > 0 {
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header("content-range", format!("bytes {from}-{}/{whole}", whole - 1));
        }
        let body = match flaw {
            Some(Flaw::BreaksAfter(bytes)) => broken(&rest, bytes),
            Some(Flaw::FromItsStart(bytes)) => {
                self.flaws.lock().unwrap_or_else(PoisonError::into_inner).clear();
                broken(&rest, bytes)
            }
            Some(Flaw::StopsAfter(bytes)) => {
                self.flaws.lock().unwrap_or_else(PoisonError::into_inner).clear();
                let begun = Ok::<_, std::io::Error>(rest.slice(..bytes.min(rest.len())));
                Body::from_stream(stream::iter([begun]).chain(stream::pending()))
            }
            _ => Body::from(rest),
        };
        response.body(body).unwrap()
    }
}

/// A body that breaks off after so many bytes, if it is longer.
fn broken(rest: &Bytes, after: usize) -> Body {
    if rest.len() <= after {
        return Body::from(rest.clone());
    }
    // The break comes a moment behind the bytes, so that they are on their way.
    let begun = stream::iter([Ok(rest.slice(..after))]);
    let breaks = stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    Body::from_stream(begun.chain(breaks))
}

fn json_page(value: &Value, next: Option<String>) -> Response<Body> {
    let mut headers = HeaderMap::new();
    if let Some(next) = next {
        headers.insert("link", next.parse().unwrap());
    }
    let mut response = Response::new(Body::from(value.to_string()));
    *response.headers_mut() = headers;
    response
}

fn led(place: &str) -> Response<Body> {
    Response::builder().status(302).header("location", place).body(Body::empty()).unwrap()
}

fn said(status: u16, message: &str) -> Response<Body> {
    Response::builder().status(status).header("x-error-message", message).body(Body::empty()).unwrap()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
