//! What happens when something is not well: how pools fare and stand, local breakers, and what answers instead.

pub(crate) mod fallback;
pub(crate) mod guard;
pub(crate) mod guarded;
pub(crate) mod health;
#[cfg(feature = "upstream")]
pub mod http_upstream;
pub(crate) mod orders;
pub(crate) mod outside;
pub(crate) mod standing;
pub mod upstreams;
