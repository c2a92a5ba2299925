//! The OpenAI wire: what clients send and get, error bodies, and SSE framing.
//!
//! Requests are read tolerantly (unknown fields are ignored) but checked completely: a value that exists is valid, and
//! a refusal names the field. Answers are written exactly as the stock `openai` clients read them.

pub mod admin;
pub mod batches;
pub mod chat;
pub mod codes;
pub mod completions;
pub mod embeddings;
pub mod error;
pub mod explain;
pub mod files;
pub mod fleet;
pub mod job;
pub mod models;
#[cfg(feature = "openapi")]
pub mod openapi;
pub mod promises;
pub mod quote;
mod reading;
pub mod responses;
pub mod sse;
pub mod standing;
pub mod usage;
pub mod webhooks;

/// The OpenAPI document, as JSON text. A test keeps it equal to what the types generate.
pub const OPENAPI: &str = include_str!("../openapi.json");
