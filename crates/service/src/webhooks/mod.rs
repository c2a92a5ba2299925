//! Webhooks: events told to where a tenant wants them, signed, until they have arrived or a day has passed.
//!
//! An event is written down ([`outbox`]) before what it tells of counts as settled, under an id made of what it tells of:
//! whoever draws the consequence twice writes it once. From there it is an errand of the [`agenda`](crate::agenda), and
//! the result of the thing itself never depends on its delivery.

pub(crate) mod endpoint;
#[cfg(feature = "upstream")]
mod http_courier;
mod outbox;
mod signature;

#[cfg(feature = "upstream")]
pub use http_courier::{HttpCourier, NoCourier};
