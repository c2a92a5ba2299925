//! The other side of the queue: receiving, running one job on the engine, writing down what it says, and the
//! consequences of its end.

pub(crate) mod consume;
pub(crate) mod learning;
pub(crate) mod settle;
pub(crate) mod voices;
pub(crate) mod work;
