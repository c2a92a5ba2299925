//! Every word that can stand in an error's `code`: the one list, from which the handbook's page and the OpenAPI document
//! are written.

/// Whether another try can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No: the request has to change first.
    No,
    /// Yes, at the moment that `retry-after-ms` and `retry-after` name; or not by itself, where `x-should-retry: false`
    /// says so.
    AsTold,
    /// Yes, soon: the clients' own back-off will do.
    Soon,
}

impl Retry {
    /// The same in a few words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::AsTold => "when `retry-after-ms` says; never if `x-should-retry` is `false`",
            Self::Soon => "yes, soon",
        }
    }
}

/// A word and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// The word.
    pub code: &'static str,
    /// The HTTP status it comes with.
    pub status: u16,
    /// The `type` it comes with.
    pub kind: &'static str,
    /// Whether another try can help.
    pub retry: Retry,
    /// When it comes.
    pub when: &'static str,
}

const fn of_client(status: u16, code: &'static str, when: &'static str) -> ErrorCode {
    ErrorCode { code, status, kind: "invalid_request_error", retry: Retry::No, when }
}

const fn of_limit(status: u16, kind: &'static str, code: &'static str, when: &'static str) -> ErrorCode {
    ErrorCode { code, status, kind, retry: Retry::AsTold, when }
}

const fn of_server(status: u16, code: &'static str, when: &'static str) -> ErrorCode {
    ErrorCode { code, status, kind: "server_error", retry: Retry::Soon, when }
}

/// Every word, by status.
pub const ERROR_CODES: &[ErrorCode] = &[
    of_client(400, "invalid_json", "The body is no JSON."),
    of_client(400, "invalid_type", "A field, or the whole body, has the wrong type."),
    of_client(400, "invalid_value", "A field has a value that it must not have; `param` names it."),
    of_client(400, "invalid_body", "The body broke off before its end."),
    of_client(400, "missing_required_parameter", "A field is missing; `param` names it."),
    of_client(400, "unsupported_parameter", "A field asks for what is not offered; leaving it out helps."),
    of_client(400, "invalid_prompt", "The model's chat template refuses the conversation."),
    of_client(400, "untokenizable_prompt", "The model knows none of the characters of the prompt."),
    of_client(
        400,
        "context_length_exceeded",
        "The prompt alone fills the model's context, or an input is longer than it.",
    ),
    of_client(400, "wrong_model_kind", "The model answers, or makes vectors, and was asked for the other."),
    of_client(400, "previous_response_not_found", "`previous_response_id` names nothing that was kept."),
    ErrorCode {
        code: "invalid_api_key",
        status: 401,
        kind: "authentication_error",
        retry: Retry::No,
        when: "There is no key, or it is malformed, unknown, wrong or revoked.",
    },
    ErrorCode {
        code: "invalid_token",
        status: 401,
        kind: "authentication_error",
        retry: Retry::No,
        when: "The signed token is not accepted; the message says why.",
    },
    ErrorCode {
        code: "account_suspended",
        status: 403,
        kind: "permission_error",
        retry: Retry::No,
        when: "The tenant is suspended by the operator.",
    },
    of_client(404, "not_found", "There is nothing of that name."),
    of_client(404, "unknown_url", "There is no such path."),
    of_client(404, "model_not_found", "There is no such model; the message lists those there are."),
    of_client(404, "job_not_found", "There is no such job of this tenant."),
    of_client(404, "file_not_found", "There is no such file of this tenant, or it has expired."),
    of_client(404, "batch_not_found", "There is no such batch of this tenant."),
    of_client(404, "upload_not_found", "There is no such upload of this tenant."),
    of_client(404, "pool_not_found", "There is no such pool."),
    of_client(404, "response_not_found", "There is no such response of this tenant, or it is no longer kept."),
    of_client(405, "method_not_allowed", "The path does not take this method; `allow` lists those it takes."),
    of_client(409, "idempotency_key_reuse", "The `Idempotency-Key` was used with another request."),
    of_client(409, "job_cancelled", "The job was cancelled while its answer was waited for."),
    of_client(409, "already_exists", "There is something of that name already."),
    of_client(409, "batch_is_over", "The batch has ended, so it cannot be cancelled."),
    of_client(409, "upload_closed", "The upload was completed, cancelled, or took longer than an hour."),
    of_client(410, "result_expired", "The result was kept for a while and has been removed."),
    of_client(
        410,
        "answer_not_kept",
        "The answer was delivered and is not kept, by its request or its tenant's terms.",
    ),
    of_client(413, "request_too_large", "The body is larger than a request may be."),
    of_client(413, "file_too_large", "The file, or the part of an upload, is larger than one may be."),
    of_client(415, "unsupported_media_type", "The body is not JSON, by its `content-type` or `content-encoding`."),
    of_limit(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "A limit of the tenant is reached; the message says which.",
    ),
    of_limit(429, "rate_limit_error", "slow_down", "The tenant's rate grows faster than it may."),
    of_limit(429, "insufficient_quota", "credit_balance_exhausted", "The tenant's budget is used up."),
    ErrorCode {
        code: "poison",
        status: 500,
        kind: "server_error",
        retry: Retry::No,
        when: "Three workers failed on the job, so it is taken for the cause.",
    },
    of_server(500, "internal_error", "A fault on our side, in the log under the request's id."),
    of_server(500, "payload_missing", "The stored request is gone; it has to be sent again."),
    of_server(500, "payload_unreadable", "The stored request cannot be read; it has to be sent again."),
    of_server(502, "upstream_failed", "The answer of an upstream broke off."),
    of_limit(
        503,
        "service_unavailable_error",
        "server_is_overloaded",
        "The queue is as long as the class accepts, or the model takes no work while it recovers.",
    ),
    of_limit(503, "service_unavailable_error", "store_unavailable", "A part of the service does not answer."),
    of_limit(503, "service_unavailable_error", "issuer_unavailable", "The keys of a token's issuer cannot be fetched."),
    of_client(504, "not_cached", "Only a kept answer was wanted, and none is kept."),
    of_server(504, "timeout", "The job could not be run in time."),
];

/// What a word means; `None` if nobody says it.
#[must_use]
pub fn find(code: &str) -> Option<&'static ErrorCode> {
    ERROR_CODES.iter().find(|known| known.code == code)
}

/// The handbook's page.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Errors\n\nEvery answer that is no success has the body `{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`. \
         This page is written from the list\nin `crates/wire/src/codes.rs`; a test keeps the two alike.\n\n\
         | status | code | type | when | another try |\n|---|---|---|---|---|\n",
    );
    for ErrorCode { code, status, kind, retry, when } in ERROR_CODES {
        page.push_str(&format!("| {status} | `{code}` | `{kind}` | {when} | {} |\n", retry.words()));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_listed_twice_and_they_stand_in_the_order_of_their_status() {
        for pair in ERROR_CODES.windows(2) {
            assert!(pair[0].status <= pair[1].status, "{pair:?}");
        }
        for (place, code) in ERROR_CODES.iter().enumerate() {
            assert!(ERROR_CODES[..place].iter().all(|other| other.code != code.code), "{code:?}");
        }
    }
}
