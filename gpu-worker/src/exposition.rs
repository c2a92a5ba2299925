//! The fleet worker's numbers for Prometheus: `GET /metrics`, of the engine and of what its service did.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use penstock_gpu_worker::engine::metrics::{Metrics, OPEN_METRICS};
use penstock_service::telemetry::prometheus::Prometheus;
use tokio::net::TcpListener;

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {source}; name another address with --metrics")]
pub(crate) struct NoAddress {
    address: SocketAddr,
    source: std::io::Error,
}

/// Takes the address.
///
/// # Errors
/// [`NoAddress`], if somebody else has it or it is not this machine's.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, NoAddress> {
    TcpListener::bind(address).await.map_err(|source| NoAddress { address, source })
}

/// Serves the numbers, for ever.
pub(crate) async fn serve(listener: TcpListener, engines: Metrics, service: Arc<Prometheus>) {
    let text = move || engines.text_behind(&service.text());
    let router = Router::new().route("/metrics", get(async move || ([(CONTENT_TYPE, OPEN_METRICS)], text())));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "nobody serves the metrics any more");
    }
}
