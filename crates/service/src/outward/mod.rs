//! Connections that leave this deployment, to where a configuration or a tenant's terms say: how far they may lead.

#[cfg(feature = "upstream")]
pub mod client;

use std::net::IpAddr;

use penstock_policy::address::Reach;

/// Why a URL is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Barred {
    /// It is none.
    #[error("'url' is no URL")]
    NoUrl,
    /// It names no host, or carries a user.
    #[error("'url' must be a whole URL such as https://host/path, without a user")]
    Host,
    /// It is an address that may not be connected to.
    #[error("the address {0} is out of reach: see 'reach'")]
    Address(String),
    /// What it says could be read on its way.
    #[error("'url' must begin with https:// (http:// only to this machine, with 'reach': 'loopback')")]
    Scheme,
}

/// Whether a URL may be connected to: only `https`, and `http` to this machine where that is allowed; an address in place
/// of a name must be allowed itself, since nobody resolves it.
///
/// # Errors
/// What is wrong with `url`.
pub fn check_url(url: &str, reach: Reach) -> Result<(), Barred> {
    let uri: http::Uri = url.parse().map_err(|_| Barred::NoUrl)?;
    let host = uri.host().unwrap_or_default();
    if host.is_empty() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Barred::Host);
    }
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    if address.is_some_and(|address| !reach.allows(address)) {
        return Err(Barred::Address(host.to_owned()));
    }
    let here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if here && reach != Reach::Public => Ok(()),
        _ => Err(Barred::Scheme),
    }
}
