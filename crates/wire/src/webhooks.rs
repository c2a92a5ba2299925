//! Webhooks: the events that are sent, as the stock clients read them, and the operator's routes about where to.

use serde::{Deserialize, Serialize};

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventType {
    /// A background response has ended with an answer.
    #[serde(rename = "response.completed")]
    ResponseCompleted,
    /// A background response has ended with a part of an answer.
    #[serde(rename = "response.incomplete")]
    ResponseIncomplete,
    /// A background response has ended without an answer.
    #[serde(rename = "response.failed")]
    ResponseFailed,
    /// A background response was cancelled.
    #[serde(rename = "response.cancelled")]
    ResponseCancelled,
    /// A batch has ended.
    #[serde(rename = "batch.completed")]
    BatchCompleted,
    /// A batch never began, because of what is wrong with its file.
    #[serde(rename = "batch.failed")]
    BatchFailed,
    /// A batch's time was over before all of it was done.
    #[serde(rename = "batch.expired")]
    BatchExpired,
    /// A batch was cancelled.
    #[serde(rename = "batch.cancelled")]
    BatchCancelled,
}

impl EventType {
    /// Everything that can be told.
    pub const ALL: [Self; 8] = [
        Self::ResponseCompleted,
        Self::ResponseIncomplete,
        Self::ResponseFailed,
        Self::ResponseCancelled,
        Self::BatchCompleted,
        Self::BatchFailed,
        Self::BatchExpired,
        Self::BatchCancelled,
    ];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResponseCompleted => "response.completed",
            Self::ResponseIncomplete => "response.incomplete",
            Self::ResponseFailed => "response.failed",
            Self::ResponseCancelled => "response.cancelled",
            Self::BatchCompleted => "batch.completed",
            Self::BatchFailed => "batch.failed",
            Self::BatchExpired => "batch.expired",
            Self::BatchCancelled => "batch.cancelled",
        }
    }

    /// The event of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }
}

/// An event, the body of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its id, `evt_...`: the same at every attempt.
    pub id: String,
    /// Always `event`.
    pub object: String,
    /// When it happened, in seconds since the epoch.
    pub created_at: i64,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// What it happened to.
    pub data: EventData,
}

/// What an event happened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventData {
    /// A response or a batch.
    pub id: String,
}

/// Where a tenant's events are to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEndpoint {
    /// An `https` URL; `http` to this machine alone, with the reach `loopback`.
    pub url: String,
    /// Which events; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// How far it may lead: `public` (the default), `loopback` or `private`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<String>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointShown {
    /// Its id, `we_...`.
    pub id: String,
    /// Where it is.
    pub url: String,
    /// Which events it gets.
    pub events: Vec<String>,
    /// How far it may lead.
    pub reach: String,
    /// When it was added, in seconds since the epoch.
    pub created_at: i64,
    /// What its messages are signed with, `whsec_...`; shown once, when it is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A tenant's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointList {
    /// Always `list`.
    pub object: String,
    /// The endpoints.
    pub data: Vec<EndpointShown>,
}

/// That an endpoint is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRemoved {
    /// The endpoint.
    pub id: String,
    /// Always true.
    pub removed: bool,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryShown {
    /// The event.
    pub event_id: String,
    /// Where it is sent.
    pub endpoint_id: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// What it happened to.
    pub subject: String,
    /// When it happened, in seconds since the epoch.
    pub created_at: i64,
    /// `pending`, `delivered` or `failed`.
    pub status: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What came of the last attempt: an HTTP status, or why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// The newest messages of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryList {
    /// Always `list`.
    pub object: String,
    /// Newest first; kept for a week.
    pub data: Vec<DeliveryShown>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_as_the_stock_clients_read_it() {
        for kind in EventType::ALL {
            let data = EventData { id: "resp_1".to_owned() };
            let event = Event { id: "evt_1".to_owned(), object: "event".to_owned(), created_at: 7, kind, data };
            let expected = format!(
                r#"{{"id":"evt_1","object":"event","created_at":7,"type":"{}","data":{{"id":"resp_1"}}}}"#,
                kind.name()
            );
            assert_eq!(serde_json::to_string(&event).unwrap(), expected);
            assert_eq!(EventType::from_name(kind.name()), Some(kind));
        }
    }
}
