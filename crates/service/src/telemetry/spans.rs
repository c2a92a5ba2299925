//! Spans: what was done for a request and when, under the trace that it belongs to.
//!
//! They are told when they are over, from times that are known anyway; nothing is carried along meanwhile but the context
//! in the job. A request is one span, from its arrival to the first byte of its answer; its job is two more, the wait in
//! the queue and the run, told by whoever settles it, on whatever machine.

use penstock_policy::time::Timestamp;
use penstock_policy::trace::TraceContext;

/// Something that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace, and this span in it.
    pub context: TraceContext,
    /// The span it was done for; none at the root.
    pub parent: Option<u64>,
    /// What was done, from a list of a known length.
    pub name: String,
    /// Which side of a message this is.
    pub side: Side,
    /// When it began.
    pub begun: Timestamp,
    /// When it was over.
    pub ended: Timestamp,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// What else is known, never a word of a prompt.
    pub attributes: Vec<(&'static str, Value)>,
}

/// Which side of a call or a message a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It answers a request.
    Server,
    /// It takes a message from a queue.
    Consumer,
    /// Neither.
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// Is told spans. Must be quick and must not fail: nobody waits for it.
pub trait Tracer: Send + Sync {
    /// The share of traces beginning here that are kept, 0 to 1.
    fn share(&self) -> f64;

    /// Notes a span that is over.
    fn record(&self, span: Span);
}

/// Keeps no trace.
#[derive(Clone, Copy, Debug)]
pub struct Untraced;

impl Tracer for Untraced {
    fn share(&self) -> f64 {
        0.0
    }

    fn record(&self, _: Span) {}
}
