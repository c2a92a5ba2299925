//! What is kept of a response beside its job: the request, the conversation before it, and whether it was cancelled.
//!
//! Noted as blobs under the tenant's name, so that nobody reads another's, for as long as payloads are. A blob never
//! changes; that a response was cancelled is a second one beside the first.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use penstock_policy::classes::Class;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_wire::responses::{Item, ResponseEcho};
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::admission::admit::Admission;
use crate::door::telling::Heading;
use crate::error::ApiError;
use crate::ports::{BlobKey, PortError};

const VERSION: u32 = 1;

/// A response's request, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noted {
    v: u32,
    /// The job that answers, which may be another request's.
    job: String,
    created_ms: i64,
    class: String,
    /// What the response says of its request.
    pub(crate) echo: ResponseEcho,
    /// What was said before.
    pub(crate) history: Vec<Item>,
    /// What this request added.
    pub(crate) input: Vec<Item>,
}

impl Noted {
    /// What is kept of an admitted request.
    pub(crate) fn new(admission: &Admission, echo: ResponseEcho, history: Vec<Item>, input: Vec<Item>) -> Self {
        let owner = admission.shown.to_string();
        let name = |(place, item): (usize, Item)| item.named(&owner, place);
        Self {
            v: VERSION,
            job: admission.job.to_string(),
            created_ms: admission.created.as_millis(),
            class: admission.class.name().to_owned(),
            echo,
            history,
            input: input.into_iter().enumerate().map(name).collect(),
        }
    }

    /// The job that answers.
    pub(crate) fn job(&self) -> Result<JobId, PortError> {
        self.job.parse().map_err(|_| corrupt("its job's id is malformed"))
    }

    /// What stands at the head of the response, which its client knows as `shown`.
    pub(crate) fn heading(&self, shown: JobId) -> Result<Heading, PortError> {
        let class = Class::from_name(&self.class).ok_or_else(|| corrupt("its class is malformed"))?;
        Ok(Heading { shown, created: Timestamp::from_millis(self.created_ms), model: self.echo.model.clone(), class })
    }
}

fn corrupt(cause: &str) -> PortError {
    PortError::Corrupt { what: "response", cause: cause.to_owned() }
}

/// What was kept under a response's id.
enum Blob {
    Request,
    Cancelled,
}

/// What the names of all that is noted of a tenant's responses begin with.
#[must_use]
pub fn noted_of(tenant: &TenantId) -> String {
    format!("resp/{}/", URL_SAFE_NO_PAD.encode(tenant.to_string()))
}

fn key(tenant: &TenantId, shown: JobId, blob: &Blob) -> Result<BlobKey, PortError> {
    let suffix = match blob {
        Blob::Request => "",
        Blob::Cancelled => ".cancelled",
    };
    BlobKey::new(&format!("{}{shown}{suffix}", noted_of(tenant))).ok_or_else(|| corrupt("its name is malformed"))
}

impl Service {
    /// Keeps a response's request. Durable when this returns.
    pub(crate) async fn note_down(&self, tenant: &TenantId, shown: JobId, noted: &Noted) -> Result<(), ApiError> {
        let bytes = serde_json::to_vec(noted).map_err(|_| ApiError::internal())?;
        Ok(self.ports.blobs.put(&key(tenant, shown, &Blob::Request)?, Bytes::from(bytes)).await?)
    }

    /// What was kept of a tenant's response; `None` if nothing was, or no longer is.
    pub(crate) async fn noted(&self, tenant: &TenantId, shown: JobId) -> Result<Option<Noted>, ApiError> {
        let Some(bytes) = self.ports.blobs.get(&key(tenant, shown, &Blob::Request)?).await? else { return Ok(None) };
        let noted = serde_json::from_slice::<Noted>(&bytes).map_err(|error| corrupt(&error.to_string()))?;
        if noted.v != VERSION {
            return Err(corrupt("a newer program wrote it").into());
        }
        Ok(Some(noted))
    }

    /// Notes that a response was cancelled.
    pub(super) async fn note_cancelled(&self, tenant: &TenantId, shown: JobId) -> Result<(), ApiError> {
        Ok(self.ports.blobs.put(&key(tenant, shown, &Blob::Cancelled)?, Bytes::from_static(b"cancelled")).await?)
    }

    /// Whether a response was cancelled.
    pub(super) async fn is_cancelled(&self, tenant: &TenantId, shown: JobId) -> Result<bool, ApiError> {
        Ok(self.ports.blobs.get(&key(tenant, shown, &Blob::Cancelled)?).await?.is_some())
    }

    /// Removes everything that was kept of a response.
    pub(super) async fn forget(&self, tenant: &TenantId, shown: JobId) -> Result<(), ApiError> {
        for blob in [Blob::Request, Blob::Cancelled] {
            self.ports.blobs.remove(&key(tenant, shown, &blob)?).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tenants_keep_theirs_in_one_place_whatever_their_names() {
        let id = JobId::new(Timestamp::from_millis(1), 1);
        let place = |name: &str| key(&TenantId::new(name).unwrap(), id, &Blob::Request).unwrap();
        let names = ["a", "a.b", "a:b", "a_b", "A", "a-b"];
        let places: std::collections::BTreeSet<BlobKey> = names.into_iter().map(place).collect();
        assert_eq!(places.len(), names.len());
    }
}
