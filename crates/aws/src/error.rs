//! The one place that reads SDK errors. None of them leaves this crate.
//!
//! What is kept is the service's error code, its throttling reason and, for refusals, the start of its message; never a
//! request or a response, which hold prompts.

use std::error::Error;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::ThrottlingReason;
use aws_sdk_dynamodb::types::error::{
    ProvisionedThroughputExceededException, RequestLimitExceeded, ThrottlingException,
};
use penstock_service::ports::PortError;

/// The store's name in errors and logs.
pub(crate) const DYNAMODB: &str = "dynamodb";
/// The store's name in errors and logs.
pub(crate) const SQS: &str = "sqs";
/// The store's name in errors and logs.
pub(crate) const S3: &str = "s3";

/// The codes by which a service says "too much, later". All were refused before anything was changed.
const THROTTLED: [&str; 15] = [
    "BandwidthLimitExceeded",
    "KmsThrottled",
    "LimitExceededException",
    "OverLimit",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "ReplicatedWriteConflictException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionConflictException",
];

/// The codes of passing failures that come with a 4xx status.
const PASSING: [&str; 4] =
    ["RequestTimeout", "RequestTimeoutException", "InternalError", "TransactionInProgressException"];

/// The longest message of a service that is passed on, in characters.
const MESSAGE_CHARS: usize = 200;

/// Says what an SDK error means.
pub(crate) fn classify<E>(store: &'static str, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::TimeoutError(_) => PortError::Unavailable { store, cause: "no answer in time".to_owned() },
        SdkError::DispatchFailure(failure) => {
            let kind = if failure.is_timeout() {
                "no answer in time"
            } else if failure.is_io() {
                "the connection failed"
            } else {
                "the request was not sent"
            };
            PortError::Unavailable { store, cause: kind.to_owned() }
        }
        SdkError::ResponseError(_) => PortError::Unavailable { store, cause: "the answer broke off".to_owned() },
        SdkError::ConstructionFailure(_) => {
            PortError::Refused { store, cause: "the request could not be built".to_owned() }
        }
        SdkError::ServiceError(answer) => service_error(store, answer.err(), answer.raw().status().as_u16()),
        _ => PortError::Unavailable { store, cause: "an unknown failure".to_owned() },
    }
}

fn service_error<E>(store: &'static str, error: &E, status: u16) -> PortError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    // A query-compatible service prefixes its codes; S3 has a code of its own for every status.
    let code = error.code().map_or("", |code| code.rsplit('.').next().unwrap_or(code));
    if THROTTLED.contains(&code) || status == 429 {
        let cause = throttling_reason(error).unwrap_or_else(|| code.to_owned());
        return PortError::Throttled { store, cause };
    }
    if status >= 500 || PASSING.contains(&code) {
        return PortError::Unavailable { store, cause: format!("{status} {code}") };
    }
    let message: String = error.message().unwrap_or_default().chars().take(MESSAGE_CHARS).collect();
    PortError::Refused { store, cause: format!("{code}: {message}") }
}

/// Which of DynamoDB's limits was met: table or index, read or write, and whose limit it is.
fn throttling_reason(error: &(dyn Error + 'static)) -> Option<String> {
    let source = error.source()?;
    let reasons: &[ThrottlingReason] = if let Some(e) = source.downcast_ref::<ThrottlingException>() {
        e.throttling_reasons()
    } else if let Some(e) = source.downcast_ref::<ProvisionedThroughputExceededException>() {
        e.throttling_reasons()
    } else {
        source.downcast_ref::<RequestLimitExceeded>()?.throttling_reasons()
    };
    reasons.iter().find_map(ThrottlingReason::reason).map(str::to_owned)
}

/// Says that a stored record cannot be read.
pub(crate) fn corrupt(what: &'static str, cause: impl Into<String>) -> PortError {
    PortError::Corrupt { what, cause: cause.into() }
}
