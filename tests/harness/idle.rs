//! What a call of each scheduled function takes at most when there is nothing to do: one pool, no worker, no work, no batch,
//! nothing left lying, no prepared questions. The idle month is priced by it (`tests/template/idle.rs`), and
//! `tests/permissions` holds the functions to it.

use std::time::Duration;

/// The time a call is billed for; contract and design say 200 ms.
pub const TICK: Duration = Duration::from_millis(200);
/// What a call logs, Lambda's own lines included.
pub const LOG_BYTES: u32 = 4_000;
/// Series that are sent: the tick, and four of the pool (its workers, their slots and capacity, and the time until there is one).
pub const METRICS: u32 = 5;

/// Calls of stores.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// The function's binary.
    pub function: &'static str,
    /// Read units of the tables, a whole one for each item that may be read strongly.
    pub reads: u32,
    /// Write units of the tables.
    pub writes: u32,
    /// Calls on queues.
    pub queues: u32,
}

/// The most that a call of each takes.
pub const MOST: [Calls; 4] = [
    Calls { function: "control", reads: 40, writes: 10, queues: 8 },
    Calls { function: "preload", reads: 4, writes: 0, queues: 0 },
    Calls { function: "reconcile", reads: 12, writes: 2, queues: 8 },
    Calls { function: "split", reads: 4, writes: 2, queues: 0 },
];
