//! The operator's routes: tenants, keys, usage and explanations of any tenant.
//!
//! They are served only by whoever holds an operator key: the embedded server makes one at its start and leaves it beside
//! its ready file, readable by its owner alone. On AWS nobody serves them: the command goes to the tables itself, as its
//! IAM rights allow, through the same router inside its own process.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::Service;
use crate::door::answering::json;
use crate::error::ApiError;
use crate::tenancy::usage::Days;

type App = State<Arc<Service>>;

/// The most bytes of a body.
const MOST_BODY_BYTES: usize = 64 << 10;

/// The longest that a revocation can be put off.
const LONGEST_OVERLAP_SECS: u64 = 90 * 24 * 3600;

/// What the operator proves to be one with: 256 random bits.
#[derive(Clone)]
pub struct OperatorKey(String);

impl OperatorKey {
    /// Makes a key from random draws.
    #[must_use]
    pub fn generate(mut draw: impl FnMut() -> u128) -> Self {
        let mut secret = [0u8; 32];
        secret[..16].copy_from_slice(&draw().to_le_bytes());
        secret[16..].copy_from_slice(&draw().to_le_bytes());
        Self(format!("po_{}", URL_SAFE_NO_PAD.encode(secret)))
    }

    /// The key as its owner writes it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The operator's routes, for whoever sends `Authorization: Bearer <operator key>`.
pub fn admin_router(service: Arc<Service>, key: &OperatorKey) -> Router {
    let expected: [u8; 32] = Sha256::digest(key.0.as_bytes()).into();
    Router::new()
        .route("/admin/v1/tenants", get(list_tenants).post(add_tenant))
        .route("/admin/v1/tenants/{id}", get(show_tenant).patch(set_terms))
        .route("/admin/v1/tenants/{id}/keys", post(new_key).get(list_keys))
        .route("/admin/v1/tenants/{id}/keys/{key}", delete(revoke_key))
        .route("/admin/v1/tenants/{id}/usage", get(usage))
        .route("/admin/v1/tenants/{id}/webhooks", post(add_endpoint).get(list_endpoints))
        .route("/admin/v1/tenants/{id}/webhooks/{endpoint}", delete(remove_endpoint))
        .route("/admin/v1/tenants/{id}/deliveries", get(deliveries))
        .route("/admin/v1/tenants/{id}/erase", post(erase))
        .route("/admin/v1/jobs/{id}/explain", get(explain))
        .route("/admin/v1/pools/standing", get(list_standings))
        .route("/admin/v1/pools/{id}/order", put(give_order))
        .route("/admin/v1/pools/{id}/fleet", get(show_fleet))
        .layer(axum::extract::DefaultBodyLimit::max(MOST_BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(expected, check))
        .with_state(service)
}

/// Lets nobody through who has not the operator's key. Digests are compared, in constant time.
async fn check(State(expected): State<[u8; 32]>, request: Request, next: Next) -> Result<Response, ApiError> {
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let given: [u8; 32] = Sha256::digest(given.trim().as_bytes()).into();
    if !bool::from(given.ct_eq(&expected)) {
        return Err(ApiError::unauthorized("this takes the operator's key, which lies beside the ready file"));
    }
    Ok(next.run(request).await)
}

async fn list_tenants(State(service): App) -> Result<Response, ApiError> {
    Ok(json(&service.list_tenants().await?))
}

async fn add_tenant(State(service): App, body: Bytes) -> Result<Response, ApiError> {
    Ok(json(&service.add_tenant(&read(&body)?).await?))
}

async fn show_tenant(State(service): App, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(json(&service.show_tenant(&id).await?))
}

async fn set_terms(State(service): App, Path(id): Path<String>, body: Bytes) -> Result<Response, ApiError> {
    Ok(json(&service.set_terms(&id, &read(&body)?).await?))
}

async fn new_key(State(service): App, Path(id): Path<String>, body: Bytes) -> Result<Response, ApiError> {
    Ok(json(&service.new_key(&id, &read(&body)?).await?))
}

async fn list_keys(State(service): App, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(json(&service.list_keys(&id).await?))
}

async fn revoke_key(
    State(service): App,
    Path((id, key)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let after_s = query.split('&').find_map(|pair| pair.strip_prefix("after_s="));
    let after_s: u64 = match after_s.map_or(Ok(0), str::parse) {
        Ok(after_s @ ..=LONGEST_OVERLAP_SECS) => after_s,
        Ok(_) | Err(_) => {
            let message = format!("'after_s' must be a number of seconds up to {LONGEST_OVERLAP_SECS}");
            return Err(ApiError::invalid("after_s", "invalid_value", message));
        }
    };
    Ok(json(&service.revoke_key(&id, &key, Duration::from_secs(after_s)).await?))
}

async fn usage(State(service): App, Path(id): Path<String>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let days = Days::read(query.as_deref().unwrap_or_default(), service.ports().clock.now())?;
    let tenant = service.existing(&id).await?;
    Ok(json(&service.usage(&tenant.id, &days).await?))
}

async fn add_endpoint(State(service): App, Path(id): Path<String>, body: Bytes) -> Result<Response, ApiError> {
    Ok(json(&service.add_endpoint(&id, &read(&body)?).await?))
}

async fn list_endpoints(State(service): App, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(json(&service.list_endpoints(&id).await?))
}

async fn remove_endpoint(
    State(service): App,
    Path((id, endpoint)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    Ok(json(&service.remove_endpoint(&id, &endpoint).await?))
}

async fn deliveries(State(service): App, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(json(&service.list_deliveries(&id).await?))
}

async fn list_standings(State(service): App) -> Result<Response, ApiError> {
    Ok(json(&service.list_standings().await?))
}

async fn give_order(State(service): App, Path(id): Path<String>, body: Bytes) -> Result<Response, ApiError> {
    Ok(json(&service.give_order(&id, &read(&body)?).await?))
}

async fn show_fleet(State(service): App, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(json(&service.fleet_log(&id).await?))
}

async fn erase(State(service): App, Path(id): Path<String>, body: Bytes) -> Result<Response, ApiError> {
    Ok(json(&service.erase_some(&id, &read(&body)?).await?))
}

async fn explain(State(service): App, Path(id): Path<String>) -> Result<Response, ApiError> {
    let id = id.parse().map_err(|_| ApiError::no_such_job())?;
    Ok(json(&service.explain_any(id).await?))
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| ApiError::invalid("body", "invalid_body", error.to_string()))
}
