//! The adapters on the wire, against an emulator of AWS or a real account: what the contract suite cannot see because it
//! belongs to DynamoDB, SQS and S3 alone. `PENSTOCK_AWS_ENDPOINT` names the emulator; every test makes tables, queues and
//! a bucket of its own.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

mod accept;
mod errors;
mod harness;
mod jobs;
mod limits;
mod queue;
mod records;
