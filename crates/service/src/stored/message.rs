//! The stored form of a queue message: JSON with a version, the same on SQLite and SQS.
//!
//! Version 1. A reader refuses a version it does not know, and tolerates fields it does not know, so that an older
//! worker can read what a newer front writes during a rollout as long as the version stands.

use serde::{Deserialize, Serialize};

use crate::ports::{BlobKey, JobSpec, Message, Payload};
use crate::stored::record::StoredSpec;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    #[serde(flatten)]
    spec: StoredSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    req: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<String>,
}

/// Writes a message down.
#[must_use]
pub fn encode(message: &Message) -> String {
    let (req, blob) = match &message.payload {
        Payload::Inline(text) => (Some(text.clone()), None),
        Payload::Blob(key) => (None, Some(key.as_str().to_owned())),
    };
    let stored = Stored { v: VERSION, spec: StoredSpec::from(&message.spec), req, blob };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// Reads a message.
///
/// # Errors
/// What is wrong with it, for a person to read.
pub fn decode(text: &str) -> Result<Message, String> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let version: Version = serde_json::from_str(text).map_err(|error| format!("not a message: {error}"))?;
    if version.v != VERSION {
        return Err(format!("message version {} is not {VERSION}: a newer front wrote it", version.v));
    }
    let stored: Stored = serde_json::from_str(text).map_err(|error| format!("not a message: {error}"))?;
    let payload = match (stored.req, stored.blob) {
        (Some(text), None) => Payload::Inline(text),
        (None, Some(key)) => Payload::Blob(BlobKey::new(&key).ok_or("the payload's blob key is malformed")?),
        _ => return Err("a message has either a request or a blob".to_owned()),
    };
    Ok(Message { spec: JobSpec::try_from(stored.spec)?, payload })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use penstock_policy::classes::Class;
    use penstock_policy::cost::{Price, UsdMicros};
    use penstock_policy::gcra::Spent;
    use penstock_policy::id::{JobId, PoolId, TenantId};
    use penstock_policy::promise::{Promise, Regime};
    use penstock_policy::tenant::Retention;
    use penstock_policy::time::Timestamp;
    use penstock_policy::trace::TraceContext;
    use proptest::prelude::*;

    use super::*;
    use crate::admission::limits::Hold;
    use crate::door::route::Route;
    use crate::ports::{BucketKey, HoldKey, Keep, Replaced, Reservation};
    use crate::stored::story::{Admitted, Drawn};

    fn message(payload: Payload) -> Message {
        let tenant = TenantId::new("acme").unwrap();
        Message {
            spec: JobSpec {
                id: JobId::new(Timestamp::from_millis(5), 9),
                route: Route::Completions,
                tenant: tenant.clone(),
                class: Class::P2,
                pool: PoolId::new("default").unwrap(),
                model: "task".to_owned(),
                created: Timestamp::from_millis(5),
                due: Timestamp::from_millis(9),
                streamed: true,
                estimated_tokens: 12,
                price: Price { input_usd_micros_per_million_tokens: 3, output_usd_micros_per_million_tokens: 4 },
                retention: Retention { store: false, keep: Duration::from_secs(9) },
                admitted: Admitted {
                    tier: Some("flex".to_owned()),
                    prompt_bytes: 40,
                    drawn: vec![vec![Drawn { took: 1, left: 2, of: 3, refill: Duration::from_millis(4) }], Vec::new()],
                    promise: Some(Promise {
                        eta_50: Duration::from_millis(1),
                        eta_95: Duration::from_millis(2),
                        position: 3,
                        price: UsdMicros(4),
                        expected: Duration::from_millis(5),
                        regime: Regime::Queued,
                    }),
                    holds: vec![
                        Hold { key: HoldKey::Concurrency { tenant: tenant.clone() }, units: 1 },
                        Hold { key: HoldKey::Money { tenant: tenant.clone(), period: "2026-11".to_owned() }, units: 9 },
                    ],
                    trace: Some(TraceContext::new(u128::MAX, 7, true)),
                },
                reservations: vec![
                    Reservation {
                        key: BucketKey::Tenant { tenant: tenant.clone(), shard: 1 },
                        spent: vec![Spent { cost_ns: 3, generation: 4 }],
                    },
                    Reservation {
                        key: BucketKey::VirtualQueue {
                            pool: PoolId::new("default").unwrap(),
                            class: Class::P2,
                            shard: 0,
                        },
                        spent: vec![Spent { cost_ns: 5, generation: 6 }],
                    },
                ],
                keep: Some(Keep {
                    digest: "ab".repeat(32),
                    copies: 4,
                    at_least: Duration::from_secs(3600),
                    replaces: Some(Replaced { answer: u64::MAX, ttl: Duration::from_secs(300), hits: 7 }),
                }),
            },
            payload,
        }
    }

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        for payload in [Payload::Inline("{\"a\":\"\\n\"}".into()), Payload::Blob(BlobKey::new("req/x").unwrap())] {
            let message = message(payload);
            assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }

    #[test]
    fn a_newer_version_is_refused_and_a_new_field_is_not() {
        let text = encode(&message(Payload::Inline(String::new())));
        assert!(decode(&text.replacen("\"v\":1", "\"v\":2", 1)).unwrap_err().contains("version 2"));
        assert!(decode(&text.replacen("\"v\":1", "\"v\":1,\"new\":true", 1)).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            let _ = decode(&text);
        }
    }
}
