//! What happens to a request, whatever it is stored on: the use cases, and the ports they need.
//!
//! Time, chance and tasks come only from ports; the AWS adapters, the SQLite adapters and the simulation are three
//! surroundings of this one crate.

pub mod message;
pub mod ports;
