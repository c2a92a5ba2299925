//! What the control tick does, now and then, for everybody.

pub(crate) mod breaker;

pub use breaker::TierChange;
