//! Signed tokens in the place of API keys: which issuers are trusted, with which keys, and what their tokens may say.
//!
//! Nothing of a token chooses how it is checked. Its `iss` picks one of the configured issuers and its `kid` one of that
//! issuer's keys; algorithm and place of the keys are the configuration's (RFC 8725). Decisions of time are
//! [`penstock_policy::token`] and [`penstock_policy::key_set`].

pub mod issuer;

#[cfg(feature = "tokens")]
mod http_keys;
#[cfg(feature = "tokens")]
mod key_ring;
#[cfg(feature = "tokens")]
mod trusted;

#[cfg(feature = "tokens")]
pub use http_keys::NoClient;
#[cfg(feature = "tokens")]
pub use trusted::{Issuer, TrustedIssuers};
