//! Whole requests against a pool, event by event: millions in seconds, decided by the very functions that run.
//!
//! Arrivals ([`load`]) become clients ([`client`]) who ask at a door ([`door`]), wait in fair queues ([`queue`]) for
//! workers ([`worker`]) of a fleet ([`fleet`]) that somebody scales ([`scaling`]); the control loop learns and publishes
//! ([`learning`]). What is simulated beside the decisions: an engine whose step takes longer the more sequences share it,
//! a market that sells, closes and takes back, clients with manners and patience. What is not: the stores' own latency,
//! which the hand-off stands for; the lengths that a tier of degradation caps answers at; and that flexible work beyond two
//! minutes of its queue is parked: here all of it waits in the fair queue.

pub mod client;
pub mod demand;
pub mod door;
pub mod fleet;
pub mod histogram;
pub mod kept;
pub mod learning;
pub mod load;
pub mod moment;
pub mod policy;
pub mod queue;
pub mod report;
pub mod scaling;
pub mod scenario;
pub mod shape;
pub mod simulation;
pub mod tally;
pub mod timeline;
pub mod worker;

mod admitting;
mod controlling;
mod events;
mod slab;
mod working;
