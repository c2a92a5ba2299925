//! What the errors of the services become.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use penstock_aws::{Aws, Timeouts};
use penstock_service::ports::{BlobKey, Blobs, Control, Jobs, Limits, Markers, PortError, Queue};

use crate::harness::*;

const KEY_RANGE: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"Throughput exceeds the current throughput limit","throttlingReasons":[{"reason":"TableWriteKeyRangeThroughputExceeded","resource":"arn:aws:dynamodb:us-east-1:1:table/x"}]}"#;
const INTERNAL: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError","message":"internal"}"#;

#[tokio::test]
async fn a_store_nobody_answers_for_is_unavailable() {
    // Bound and dropped: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sdk = sdk(&format!("http://127.0.0.1:{port}"), Faults::default()).await;
    let timeouts = Timeouts { total: Duration::from_secs(2), ..Timeouts::default() };
    let aws = Aws::new(&sdk, fresh_names(), timeouts, Arc::new(WallClock));
    let key = BlobKey::new("a").unwrap();
    let errors = [
        aws.peek(&tenant_bucket()).await.unwrap_err(),
        aws.find(&marker_key()).await.unwrap_err(),
        aws.record(fresh_job()).await.unwrap_err(),
        aws.depth(&queue_id()).await.unwrap_err(),
        aws.get(&key).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_silent_store_is_unavailable_within_the_time_allowed() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sdk = sdk(&format!("http://{}", silent.local_addr().unwrap()), Faults::default()).await;
    let aws = Aws::new(&sdk, fresh_names(), Timeouts::default(), Arc::new(WallClock));
    let begun = std::time::Instant::now();
    let error = aws.peek(&tenant_bucket()).await.unwrap_err();
    assert_eq!(error, PortError::Unavailable { store: "dynamodb", cause: "no answer in time".to_owned() });
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_missing_table_or_bucket_is_a_refusal_for_good() {
    let world = World::new().await;
    let sdk = sdk(&std::env::var("PENSTOCK_AWS_ENDPOINT").unwrap(), Faults::default()).await;
    let aws = Aws::new(&sdk, fresh_names(), Timeouts::patient(), Arc::new(WallClock));
    let taking = take(tenant_bucket(), &[(per_second(1, 1), 1)]);
    let errors = [
        aws.take(&taking, nonce(), NOW).await.unwrap_err(),
        aws.claim(&claim(fresh_job(), "w", "d"), nonce(), NOW).await.unwrap_err(),
        aws.pools().await.unwrap_err(),
        aws.get(&BlobKey::new("a").unwrap()).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, PortError::Refused { .. }), "{error:?}");
        assert!(!error.is_passing());
    }
    drop(world);
}

#[tokio::test]
async fn throttling_keeps_its_reason_and_a_short_one_is_never_seen() {
    let world = World::new().await;
    let taking = take(tenant_bucket(), &[(per_second(1, 10), 1)]);
    world.faults.next("UpdateItem", "-adm", 3, Fault::Answer(400, KEY_RANGE));
    let error = world.aws.take(&taking, nonce(), NOW).await.unwrap_err();
    let cause = "TableWriteKeyRangeThroughputExceeded".to_owned();
    assert_eq!(error, PortError::Throttled { store: "dynamodb", cause });

    world.faults.next("UpdateItem", "-adm", 2, Fault::Answer(400, KEY_RANGE));
    world.aws.take(&taking, nonce(), NOW).await.unwrap();
    world.faults.next("GetItem", "-adm", 3, Fault::Answer(500, INTERNAL));
    assert!(matches!(world.aws.peek(&tenant_bucket()).await, Err(PortError::Unavailable { .. })));
}

#[tokio::test]
async fn a_newer_records_version_is_said_and_not_guessed_at() {
    let world = World::new().await;
    let sdk = sdk(&std::env::var("PENSTOCK_AWS_ENDPOINT").unwrap(), Faults::default()).await;
    let raw = aws_sdk_dynamodb::Client::new(&sdk);
    let job = fresh_job();
    raw.put_item()
        .table_name(&world.aws.names().job_table)
        .item("pk", AttributeValue::S(format!("J#{job}")))
        .item("sk", AttributeValue::S("M".to_owned()))
        .item("v", AttributeValue::N("2".to_owned()))
        .send()
        .await
        .unwrap();
    let error = world.aws.record(job).await.unwrap_err();
    assert!(matches!(&error, PortError::Corrupt { what: "job record", .. }), "{error:?}");
}
