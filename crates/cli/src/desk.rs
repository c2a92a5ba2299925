//! Where the operator's commands are dealt with.
//!
//! The same routes answer in every case. Of a running server they are asked over HTTP, with the operator key that it left
//! in its data folder. While none runs, and on AWS, they are asked in this very process, on the data folder or on the
//! deployment's tables.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Entropy};
use penstock_service::system::{OsEntropy, SystemClock, TaskSpawner};
use penstock_service::{OperatorKey, Ports, Service, admin_router};
use penstock_sqlite::{DiskBlobs, Durability, Sqlite};
use penstock_wire::error::ErrorBody;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt;

use crate::ask::{client, running};
use crate::embedded::BLOBS;
use crate::error::CliError;
use crate::tenant_command::Place;
use crate::{paths, ready};

/// The most bytes of an answer: a list of some ten thousand tenants.
const MOST_ANSWER_BYTES: usize = 64 << 20;

/// The way to the operator's routes.
pub(crate) enum Desk {
    /// A running server's.
    Remote { url: String, key: String },
    /// This process's own.
    Direct { router: Router, key: String },
}

impl Desk {
    /// Finds the deployment that is meant.
    pub(crate) async fn open(place: &Place) -> Result<Self, CliError> {
        #[cfg(feature = "aws")]
        if place.aws {
            return Self::on_aws().await;
        }
        let folder = place.data.clone().map_or_else(paths::data, Ok)?;
        if let Some(server) = running(&folder).await {
            let path = ready::operator_key(&folder);
            let key = std::fs::read_to_string(&path).map_err(CliError::file("reading", path))?;
            return Ok(Self::Remote { url: server.url, key: key.trim().to_owned() });
        }
        Self::on_folder(&folder)
    }

    /// The folder itself, which stays locked as long as this lives.
    fn on_folder(folder: &Path) -> Result<Self, CliError> {
        let database = folder.join("penstock.db");
        if !database.is_file() {
            return Err(CliError::NoData(folder.to_owned()));
        }
        let sqlite = Sqlite::open(&database, Durability::Process, Arc::new(SystemClock) as Arc<dyn Clock>)?;
        let blobs = DiskBlobs::new(&folder.join(BLOBS));
        Ok(Self::on(sqlite.ports(blobs, Arc::new(TaskSpawner), Arc::new(OsEntropy))))
    }

    #[cfg(feature = "aws")]
    async fn on_aws() -> Result<Self, CliError> {
        use penstock_aws::{Aws, Names, Timeouts};
        let config = penstock_service::config::Config::from_lookup(|name| std::env::var(name).ok())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let aws = Aws::connect(Names::from(&config), Timeouts::patient(), config.endpoint.as_deref(), clock).await;
        Ok(Self::on(Arc::new(aws).ports(Arc::new(TaskSpawner), Arc::new(OsEntropy))))
    }

    fn on(ports: Ports) -> Self {
        // Nothing here looks a request up by its content, which is what the secret is for.
        let service = Arc::new(Service::new(ports, Timing::default(), &[]));
        let key = OperatorKey::generate(|| OsEntropy.draw());
        Self::Direct { router: admin_router(service, &key), key: key.expose().to_owned() }
    }

    /// Asks for something and reads the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_string(body).unwrap_or_default();
        let (status, bytes) = match self {
            Self::Remote { url, key } => {
                let unreachable = |error: reqwest::Error| CliError::Unreachable {
                    url: url.clone(),
                    cause: std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
                };
                let request = client().request(method, format!("{url}{path}")).bearer_auth(key).body(body);
                let response = request.send().await.map_err(unreachable)?;
                (response.status(), response.bytes().await.map_err(unreachable)?)
            }
            Self::Direct { router, key } => {
                let request =
                    Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
                let request = request.body(Body::from(body)).map_err(|error| CliError::BrokenOff(error.to_string()))?;
                let response = match router.clone().oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let status = response.status();
                let bytes = axum::body::to_bytes(response.into_body(), MOST_ANSWER_BYTES).await;
                (status, bytes.map_err(|error| CliError::BrokenOff(error.to_string()))?)
            }
        };
        if !status.is_success() {
            let message = serde_json::from_slice::<ErrorBody>(&bytes)
                .map_or_else(|_| String::from_utf8_lossy(&bytes).into_owned(), |body| body.error.message);
            return Err(CliError::Answer { status: status.as_u16(), message });
        }
        serde_json::from_slice(&bytes).map_err(CliError::Unreadable)
    }
}
