//! What a minute of the control function takes at most when there is nothing to do: one pool, no worker, no work. The idle
//! month is priced by it (`tests/template/idle.rs`), and `tests/permissions` holds the function to it.

use std::time::Duration;

/// The time it is billed for; contract and design say 200 ms.
pub const TICK: Duration = Duration::from_millis(200);
/// Read units of the tables, a whole one for each item that may be read strongly.
pub const READS: u32 = 40;
/// Write units of the tables.
pub const WRITES: u32 = 10;
/// Calls on queues.
pub const QUEUE_CALLS: u32 = 8;
/// What it logs, Lambda's own lines included.
pub const LOG_BYTES: u32 = 4_000;
/// Series that are sent: the tick, and four of the pool (its workers, their slots and capacity, and the time until there is one).
pub const METRICS: u32 = 5;
