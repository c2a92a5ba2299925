//! Endpoints: where a tenant's events go. The operator sets them, because a server that posts to wherever a tenant says
//! must be told by somebody how far that may lead.

use std::sync::Arc;

use penstock_policy::address::Reach;
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_wire::webhooks::{EndpointList, EndpointRemoved, EndpointShown, EventType, NewEndpoint};
use serde::{Deserialize, Serialize};

use super::signature::Secret;
use crate::error::ApiError;
use crate::ports::{Order, PortError, PortResult, ShelfId};
use crate::{Service, outward};

/// The most endpoints of a tenant.
const MOST: usize = 10;

/// The longest URL, in bytes.
const LONGEST_URL: usize = 2_000;

const VERSION: u32 = 1;

/// An endpoint as it is stored.
#[derive(Clone, Serialize, Deserialize)]
struct StoredEndpoint {
    v: u32,
    url: String,
    /// Which events; none: all, those of newer programs too.
    events: Vec<String>,
    reach: String,
    secret: Secret,
    created_ms: i64,
}

/// An endpoint.
pub(crate) struct Endpoint {
    pub(super) id: String,
    pub(super) url: String,
    events: Vec<EventType>,
    pub(super) reach: Reach,
    pub(super) secret: Secret,
    created: Timestamp,
}

impl Endpoint {
    fn read(id: &str, text: &str) -> PortResult<Self> {
        let corrupt = |cause: &str| PortError::Corrupt { what: "endpoint", cause: cause.to_owned() };
        let stored: StoredEndpoint = serde_json::from_str(text).map_err(|error| corrupt(&error.to_string()))?;
        if stored.v != VERSION {
            return Err(corrupt("a newer program wrote it"));
        }
        Ok(Self {
            id: id.to_owned(),
            url: stored.url,
            // What this program does not know it does not tell.
            events: stored.events.iter().filter_map(|name| EventType::from_name(name)).collect(),
            reach: Reach::from_name(&stored.reach).ok_or_else(|| corrupt("its reach is malformed"))?,
            secret: stored.secret,
            created: Timestamp::from_millis(stored.created_ms),
        })
    }

    pub(super) fn wants(&self, event: EventType) -> bool {
        self.events.is_empty() || self.events.contains(&event)
    }

    fn shown(&self, secret: Option<String>) -> EndpointShown {
        let all = || EventType::ALL.iter().map(|event| event.name().to_owned()).collect();
        EndpointShown {
            id: self.id.clone(),
            url: self.url.clone(),
            events: if self.events.is_empty() {
                all()
            } else {
                self.events.iter().map(|event| event.name().to_owned()).collect()
            },
            reach: self.reach.name().to_owned(),
            created_at: self.created.as_secs(),
            secret,
        }
    }
}

fn shelf(tenant: &TenantId) -> ShelfId {
    ShelfId::of_tenant("endpoints", tenant)
}

impl Service {
    pub(crate) async fn add_endpoint(&self, tenant: &str, new: &NewEndpoint) -> Result<EndpointShown, ApiError> {
        let now = self.ports.clock.now();
        let tenant = self.existing(tenant).await?;
        let reach = new.reach.as_deref().map_or(Some(Reach::Public), Reach::from_name).ok_or_else(|| {
            ApiError::invalid("reach", "invalid_value", "'reach' must be public, loopback or private")
        })?;
        if new.url.len() > LONGEST_URL {
            let message = format!("'url' must have {LONGEST_URL} bytes at most");
            return Err(ApiError::invalid("url", "invalid_value", message));
        }
        outward::check_url(&new.url, reach)
            .map_err(|barred| ApiError::invalid("url", "invalid_value", barred.to_string()))?;
        for name in &new.events {
            if EventType::from_name(name).is_none() {
                let known: Vec<&str> = EventType::ALL.iter().map(|event| event.name()).collect();
                let message = format!("'events' knows no '{name}'; there are: {}", known.join(", "));
                return Err(ApiError::invalid("events", "invalid_value", message));
            }
        }
        if self.read_endpoints(&tenant.id).await?.len() >= MOST {
            let message = format!("a tenant has {MOST} endpoints at most: remove one first");
            return Err(ApiError::invalid("url", "invalid_value", message));
        }
        let id = format!("we_{}", JobId::new(now, self.ports.entropy.draw()));
        let stored = StoredEndpoint {
            v: VERSION,
            url: new.url.clone(),
            events: new.events.clone(),
            reach: reach.name().to_owned(),
            secret: Secret::generate(|| self.ports.entropy.draw()),
            created_ms: now.as_millis(),
        };
        self.place(&shelf(&tenant.id), &id, &stored, None, None).await?;
        self.caches.endpoints.forget(&tenant.id);
        let text = serde_json::to_string(&stored).map_err(|_| ApiError::internal())?;
        Ok(Endpoint::read(&id, &text)?.shown(Some(stored.secret.expose())))
    }

    pub(crate) async fn list_endpoints(&self, tenant: &str) -> Result<EndpointList, ApiError> {
        let tenant = self.existing(tenant).await?;
        let endpoints = self.read_endpoints(&tenant.id).await?;
        let data = endpoints.iter().map(|endpoint| endpoint.shown(None)).collect();
        Ok(EndpointList { object: "list".to_owned(), data })
    }

    /// Removes an endpoint. What is on its way to it ends at its next attempt.
    pub(crate) async fn remove_endpoint(&self, tenant: &str, id: &str) -> Result<EndpointRemoved, ApiError> {
        let tenant = self.existing(tenant).await?;
        if self.find_endpoint(&tenant.id, id).await?.is_none() {
            return Err(ApiError::nothing_like_it("endpoint", id));
        }
        self.ports.shelf.take_away(&shelf(&tenant.id), id).await?;
        self.caches.endpoints.forget(&tenant.id);
        Ok(EndpointRemoved { id: id.to_owned(), removed: true })
    }

    pub(super) async fn find_endpoint(&self, tenant: &TenantId, id: &str) -> PortResult<Option<Endpoint>> {
        let found = self.ports.shelf.find(&shelf(tenant), id).await?;
        found.map(|found| Endpoint::read(id, &found.text)).transpose()
    }

    /// A tenant's endpoints, as they were within the time that records are remembered.
    pub(super) async fn endpoints(&self, tenant: &TenantId, now: Timestamp) -> PortResult<Arc<[Endpoint]>> {
        let read = async { Ok(self.read_endpoints(tenant).await?.into()) };
        self.caches.endpoints.fetch(tenant, now, |_| self.timing.record_cache, read).await
    }

    async fn read_endpoints(&self, tenant: &TenantId) -> PortResult<Vec<Endpoint>> {
        let found = self.ports.shelf.walk(&shelf(tenant), Order::Rising, None, MOST).await?;
        found.iter().map(|one| Endpoint::read(&one.name, &one.document.text)).collect()
    }
}
