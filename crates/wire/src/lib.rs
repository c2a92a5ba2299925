//! The OpenAI wire: what clients send and get, error bodies, and SSE framing.
//!
//! Requests are read tolerantly (unknown fields are ignored) but checked completely: a value that exists is valid, and
//! a refusal names the field. Answers are written exactly as the stock `openai` clients read them.

pub mod admin;
pub mod chat;
pub mod error;
pub mod explain;
pub mod job;
pub mod models;
pub mod sse;
pub mod standing;
pub mod usage;
