//! The OpenAPI document and the router know of the same operations.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use penstock_service::Service;
use penstock_service::config::Timing;
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_sqlite::{DiskBlobs, Sqlite};
use serde_json::Value;
use tower::ServiceExt;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

type Operations = BTreeSet<(String, String)>;

fn document() -> Value {
    let text = std::fs::read_to_string(harness::root().join("crates/wire/openapi.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn documented(document: &Value) -> Operations {
    let paths = document["paths"].as_object().unwrap();
    let methods = |(path, item): (&String, &Value)| {
        let known = METHODS.into_iter().filter(|method| item.get(method).is_some());
        known.map(|method| (method.to_owned(), path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(methods).collect()
}

fn router(folder: &std::path::Path) -> Router {
    let sqlite = Sqlite::in_memory(Arc::new(SystemClock)).unwrap();
    let ports = sqlite.ports(DiskBlobs::new(folder), Arc::new(TaskSpawner), Arc::new(OsEntropy));
    penstock_service::router(Arc::new(Service::new(ports, Timing::default(), b"secret")))
}

/// The paths the router knows, as its own debug output lists them: axum has no other way to ask.
fn paths(router: &Router) -> BTreeSet<String> {
    let told = format!("{router:?}");
    // The rest is axum's own: what takes the paths nobody serves.
    let is_route = |piece: &&str| piece.starts_with("/") && piece.len() > 1 && !piece.contains("__private__");
    told.split('"').filter(is_route).map(str::to_owned).collect()
}

async fn status(router: &Router, method: &str, path: &str) -> (StatusCode, String) {
    let uri = path.replace(['{', '}'], "");
    let request = Request::builder().method(method.to_uppercase().as_str()).uri(uri).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (parts.status, String::from_utf8_lossy(&body).into_owned())
}

/// What the router offers: whatever is not answered with 405.
async fn offered(router: &Router) -> Operations {
    let mut offered = Operations::new();
    for path in paths(router) {
        for method in METHODS {
            if status(router, method, &path).await.0 != StatusCode::METHOD_NOT_ALLOWED {
                offered.insert((method.to_owned(), path.clone()));
            }
        }
    }
    offered
}

#[tokio::test]
async fn every_route_is_in_the_document_and_everything_in_the_document_is_a_route() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path());
    let offered = offered(&router).await;
    assert!(offered.len() > 10, "{offered:?}");
    assert_eq!(offered, documented(&document()));
}

#[tokio::test]
async fn what_needs_a_key_says_so_and_what_does_not_is_answered_without() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path());
    let document = document();
    for (method, path) in documented(&document) {
        let operation = &document["paths"][&path][&method];
        let open = operation["security"].as_array().is_some_and(Vec::is_empty);
        let (status, body) = status(&router, &method, &path).await;
        assert_eq!(status == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {status} {body}");
        assert_eq!(operation["responses"].get("401").is_some(), !open, "{method} {path}");
    }
}

#[tokio::test]
async fn what_is_refused_before_any_handler_has_the_same_body_as_any_other_error() {
    let folder = tempfile::tempdir().unwrap();
    let router = router(folder.path());
    for (method, path, code) in [
        ("get", "/v1/nothing", "unknown_url"),
        ("put", "/v1/models", "method_not_allowed"),
        ("options", "/v1/chat/completions", "method_not_allowed"),
        ("get", "/v1/jobs/%ff", "invalid_value"),
    ] {
        let (_, body) = status(&router, method, path).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error"]["code"], code, "{method} {path}");
    }
    // HEAD is GET without the body.
    assert_eq!(status(&router, "head", "/healthz").await, (StatusCode::OK, String::new()));
}

/// The words of `error.rs` that are no codes: types, and names of fields.
const NO_CODES: [&str; 12] = [
    "batch_id",
    "authentication_error",
    "insufficient_quota",
    "invalid_request_error",
    "permission_error",
    "rate_limit_error",
    "file_id",
    "response_id",
    "upload_id",
    "server_error",
    "service_unavailable_error",
    "model",
];

#[test]
fn every_code_an_error_is_made_with_stands_in_the_list() {
    let source = std::fs::read_to_string(harness::root().join("crates/service/src/error.rs")).unwrap();
    let is_word =
        |piece: &&str| piece.contains('_') && piece.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let words: BTreeSet<&str> = source.split('"').filter(is_word).filter(|word| !NO_CODES.contains(word)).collect();
    assert!(words.len() > 10, "{words:?}");
    let unlisted: Vec<&&str> = words.iter().filter(|word| penstock_wire::codes::find(word).is_none()).collect();
    assert!(unlisted.is_empty(), "list them in crates/wire/src/codes.rs: {unlisted:?}");
}
