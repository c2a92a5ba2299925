//! Letting a request in: what it takes of its tenant's limits and of the queue, which job it becomes or joins, and what
//! a refusal says.

pub(crate) mod admit;
pub(crate) mod adopt;
pub(crate) mod debts;
pub(crate) mod draft;
pub(crate) mod limits;
pub(crate) mod obtain;
pub(crate) mod offered;
pub(crate) mod parking;
pub(crate) mod rates;
pub(crate) mod returning;
pub(crate) mod sharing;
pub(crate) mod single_flight;
pub(crate) mod wanted;
