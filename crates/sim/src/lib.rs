//! The whole service in virtual time: one event kernel that is clock, executor and chance at once, seeded, so that a
//! run replays exactly, with the real use cases on the real SQLite adapters and a scripted engine in place of ONNX
//! Runtime.
//!
//! And the fleet's decisions on recorded load: forecasts ([`forecasting`]), fleets ([`planning`]) and spot markets
//! ([`spot`]) beside what others would have done, by the very functions of policy that run.

pub mod bars;
pub mod baselines;
pub mod chance;
pub mod fluid;
pub mod forecasting;
pub mod planning;
pub mod report;
pub mod requests;
pub mod score;
pub mod spot;
pub mod trace;

mod adversary;
mod engine;
mod fleet;
mod kernel;
mod upstream;
mod world;

pub use adversary::{Adversary, Fault, Plan, Side};
pub use engine::{BAD_PROMPT, Faults, Runs, ScriptedEngine, answer_to, choice_of, vector_of};
pub use fleet::{Make, NOTICE, ScriptedFleet};
pub use kernel::{Group, Kernel};
pub use upstream::{Play, ScriptedUpstream};
pub use world::World;
