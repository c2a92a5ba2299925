//! The outbox: events that are to be delivered, each to each endpoint that wants it, and what came of them.

use std::sync::Arc;
use std::time::Duration;

use penstock_policy::delivery::{self, Verdict};
use penstock_policy::id::{JobId, TenantId};
use penstock_policy::job::State;
use penstock_policy::time::Timestamp;
use penstock_wire::webhooks::{DeliveryList, DeliveryShown, Event, EventData, EventType};
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::agenda::{Errand, Kind, Then};
use crate::door::route::Route;
use crate::error::ApiError;
use crate::ports::{FinishReason, JobRecord, Letter, Order, PortError, PortResult, ShelfId};

/// For how long it is kept what came of a message.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many messages the operator is shown.
const SHOWN: usize = 100;

/// How often it is looked whether a response that waits for another request's job has ended.
const LOOK_EVERY: Duration = Duration::from_secs(10);

const VERSION: u32 = 1;

/// A message to one endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Message {
    v: u32,
    event: String,
    endpoint: String,
    kind: String,
    /// What the event happened to.
    subject: String,
    at_ms: i64,
    attempts: u32,
    state: MessageState,
    /// What came of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MessageState {
    Pending,
    Delivered,
    Failed,
}

impl Message {
    fn read(text: &str) -> PortResult<Self> {
        let corrupt = |cause: String| PortError::Corrupt { what: "delivery", cause };
        let message: Self = serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
        if message.v == VERSION { Ok(message) } else { Err(corrupt("a newer program wrote it".to_owned())) }
    }

    fn kind(&self) -> PortResult<EventType> {
        EventType::from_name(&self.kind)
            .ok_or_else(|| PortError::Corrupt { what: "delivery", cause: format!("no event is called {}", self.kind) })
    }

    fn body(&self) -> PortResult<String> {
        let event = Event {
            id: self.event.clone(),
            object: "event".to_owned(),
            created_at: Timestamp::from_millis(self.at_ms).as_secs(),
            kind: self.kind()?,
            data: EventData { id: self.subject.clone() },
        };
        serde_json::to_string(&event).map_err(|error| PortError::Corrupt { what: "delivery", cause: error.to_string() })
    }

    fn shown(&self) -> PortResult<DeliveryShown> {
        Ok(DeliveryShown {
            event_id: self.event.clone(),
            endpoint_id: self.endpoint.clone(),
            kind: self.kind()?,
            subject: self.subject.clone(),
            created_at: Timestamp::from_millis(self.at_ms).as_secs(),
            status: match self.state {
                MessageState::Pending => "pending",
                MessageState::Delivered => "delivered",
                MessageState::Failed => "failed",
            }
            .to_owned(),
            attempts: self.attempts,
            last: self.last.clone(),
        })
    }
}

fn shelf(tenant: &TenantId) -> ShelfId {
    ShelfId::of_tenant("deliveries", tenant)
}

impl Service {
    /// Writes down that something happened to `subject`, whose own id is `id`: one event for each, whoever says it again
    /// and whatever it says then.
    ///
    /// # Errors
    /// If the store does not answer; it may be said again.
    pub(crate) async fn announce(
        &self,
        tenant: &TenantId,
        event: EventType,
        subject: &str,
        id: JobId,
        at: Timestamp,
    ) -> PortResult<()> {
        for endpoint in self.endpoints(tenant, self.ports.clock.now()).await?.iter() {
            if !endpoint.wants(event) {
                continue;
            }
            let message = Message {
                v: VERSION,
                event: format!("evt_{id}"),
                endpoint: endpoint.id.clone(),
                kind: event.name().to_owned(),
                subject: subject.to_owned(),
                at_ms: at.as_millis(),
                attempts: 0,
                state: MessageState::Pending,
                last: None,
            };
            let name = format!("{}-{}", message.event, endpoint.id);
            self.place(&shelf(tenant), &name, &message, None, Some(at.after(KEPT))).await?;
            self.put_down(&Errand::new(Kind::Deliver, tenant, &name), at).await?;
        }
        Ok(())
    }

    /// Announces the end of a job that is a response in the background.
    pub(crate) async fn announce_response(&self, job: JobId, record: &JobRecord) -> PortResult<()> {
        let (Some(spec), Some(at)) = (&record.spec, record.finished) else { return Ok(()) };
        if spec.route != Route::Responses || self.endpoints(&spec.tenant, at).await?.is_empty() {
            return Ok(());
        }
        match self.noted(&spec.tenant, job).await {
            Ok(Some(noted)) if noted.echo.background => self.announce_end(&spec.tenant, job, record, at).await,
            // Somebody waits for it; or its note is not written yet, and whoever writes it looks at the job afterwards.
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%job, ?error, "whether a response is to be announced is not known");
                Err(PortError::Unavailable { store: "blobs", cause: "a response's note cannot be read".to_owned() })
            }
        }
    }

    async fn announce_end(&self, tenant: &TenantId, shown: JobId, record: &JobRecord, at: Timestamp) -> PortResult<()> {
        let Some(event) = event_of(record) else { return Ok(()) };
        self.announce(tenant, event, &format!("resp_{shown}"), shown, at).await
    }

    /// Announces that a response was cancelled, though its job may run on for others.
    pub(crate) async fn announce_cancelled(&self, tenant: &TenantId, shown: JobId) -> PortResult<()> {
        let now = self.ports.clock.now();
        self.announce(tenant, EventType::ResponseCancelled, &format!("resp_{shown}"), shown, now).await
    }

    /// Sees to it that the end of a background response is announced: of one whose job ended before the response was
    /// noted, now; of one that another request's job answers, when that has ended.
    pub(crate) async fn watch_response(&self, tenant: &TenantId, shown: JobId, job: JobId) -> PortResult<()> {
        let now = self.ports.clock.now();
        if self.endpoints(tenant, now).await?.is_empty() {
            return Ok(());
        }
        let errand = Errand::new(Kind::Response, tenant, &shown.to_string());
        let then = self.look_at_response(tenant, &errand.subject, now).await?;
        match then {
            Then::Again(at) if shown != job => self.put_down(&errand, at).await,
            // Its own job's end announces it.
            Then::Again(_) | Then::Nothing => Ok(()),
        }
    }

    /// Announces a response if it has ended.
    pub(crate) async fn look_at_response(&self, tenant: &TenantId, shown: &str, now: Timestamp) -> PortResult<Then> {
        let Ok(shown) = shown.parse::<JobId>() else { return Ok(Then::Nothing) };
        let unread =
            |_| PortError::Unavailable { store: "blobs", cause: "a response's note cannot be read".to_owned() };
        let Some(noted) = self.noted(tenant, shown).await.map_err(unread)? else { return Ok(Then::Nothing) };
        let Some(record) = self.ports.jobs.record(noted.job()?).await? else { return Ok(Then::Nothing) };
        if !record.head.state.is_terminal() {
            return Ok(Then::Again(now.after(LOOK_EVERY)));
        }
        self.announce_end(tenant, shown, &record, record.finished.unwrap_or(now)).await?;
        Ok(Then::Nothing)
    }

    /// Tries to deliver a message.
    pub(crate) async fn deliver(self: &Arc<Self>, tenant: &TenantId, name: &str, now: Timestamp) -> PortResult<Then> {
        let Some(found) = self.ports.shelf.find(&shelf(tenant), name).await? else { return Ok(Then::Nothing) };
        let mut message = Message::read(&found.text)?;
        if message.state != MessageState::Pending {
            return Ok(Then::Nothing);
        }
        let (verdict, last) = self.attempt(tenant, &message, now).await?;
        message.attempts += 1;
        message.last = Some(last);
        let then = match verdict {
            Verdict::Delivered => {
                message.state = MessageState::Delivered;
                Then::Nothing
            }
            Verdict::Unwanted => {
                message.state = MessageState::Failed;
                Then::Nothing
            }
            Verdict::TryAgain => match delivery::next_attempt(message.attempts, self.fraction(), now) {
                Some(at) => Then::Again(at),
                None => {
                    message.state = MessageState::Failed;
                    tracing::warn!(%tenant, event = message.event, "a webhook was given up; its result is kept");
                    Then::Nothing
                }
            },
        };
        let expires = Timestamp::from_millis(message.at_ms).after(KEPT);
        self.place(&shelf(tenant), name, &message, Some(found.version), Some(expires)).await?;
        Ok(then)
    }

    async fn attempt(&self, tenant: &TenantId, message: &Message, now: Timestamp) -> PortResult<(Verdict, String)> {
        let Some(endpoint) = self.find_endpoint(tenant, &message.endpoint).await? else {
            return Ok((Verdict::Unwanted, "the endpoint was removed".to_owned()));
        };
        let Some(courier) = &self.courier else {
            return Ok((Verdict::TryAgain, "this process delivers nothing".to_owned()));
        };
        let body = message.body()?;
        let damaged = || PortError::Corrupt { what: "endpoint", cause: "its secret is malformed".to_owned() };
        let headers = endpoint.secret.headers(&message.event, now, &body).ok_or_else(damaged)?;
        let letter = Letter { url: endpoint.url, reach: endpoint.reach, headers, body };
        Ok(match courier.bring(&letter).await {
            Ok(status) => (delivery::verdict(status), status.to_string()),
            Err(error) => (Verdict::TryAgain, error.to_string()),
        })
    }

    /// What came of a tenant's newest messages.
    pub(crate) async fn list_deliveries(&self, tenant: &str) -> Result<DeliveryList, ApiError> {
        let tenant = self.existing(tenant).await?;
        let found = self.ports.shelf.walk(&shelf(&tenant.id), Order::Falling, None, SHOWN).await?;
        let shown = |one: &crate::ports::Shelved| Message::read(&one.document.text)?.shown();
        let data = found.iter().map(shown).collect::<PortResult<_>>()?;
        Ok(DeliveryList { object: "list".to_owned(), data })
    }
}

/// What the end of a response's job is to its client; `None` while it has not ended.
fn event_of(record: &JobRecord) -> Option<EventType> {
    Some(match (record.head.state, &record.outcome) {
        (State::Parked | State::Queued | State::Running, _) => return None,
        (State::Succeeded, Some(Ok(answer))) if answer.reasons.contains(&FinishReason::Length) => {
            EventType::ResponseIncomplete
        }
        (State::Succeeded, _) => EventType::ResponseCompleted,
        (State::Cancelled, _) => EventType::ResponseCancelled,
        (State::Failed | State::Expired, _) => EventType::ResponseFailed,
    })
}
