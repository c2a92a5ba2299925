//! Every decision Penstock takes, as plain functions of (state, input, config, now).
//!
//! Nothing here reads a clock, draws a random number, waits, or touches the outside world: `now` and draws are
//! arguments, and an answer is an enum that says what to do, why, and when to look again. The Lambda handlers, the
//! worker, the embedded server and the simulator all call these very functions.

pub mod address;
pub mod admission;
pub mod attempt;
pub mod batch;
pub mod breaker;
pub mod bytes;
pub mod cache;
pub mod calendar;
pub mod classes;
pub mod cost;
pub mod decision;
pub mod degrade;
pub mod delivery;
pub mod fair;
pub mod fleet;
pub mod forecast;
pub mod gcra;
pub mod hot;
pub mod id;
pub mod job;
pub mod key_set;
pub mod learned;
pub mod marker;
pub mod paged;
pub mod parking;
pub mod preempt;
pub mod prefix;
pub mod promise;
pub mod ramp;
pub mod rates;
pub mod reconcile;
pub mod resume;
pub mod retry;
pub mod returns;
pub mod slots;
pub mod tenant;
pub mod time;
pub mod token;
pub mod trace;
pub mod window;
