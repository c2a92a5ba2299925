//! Stored forms, versioned, the same on every store.

pub mod chunk;
pub mod control;
pub mod flight;
pub mod message;
pub mod record;
pub mod story;
