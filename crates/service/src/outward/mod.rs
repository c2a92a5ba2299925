//! Connections that leave this deployment, to where a configuration or a tenant's terms say: how far they may lead.

#[cfg(feature = "upstream")]
pub(crate) mod client;

use std::net::IpAddr;

use penstock_policy::address::Reach;

/// Whether a URL may be connected to: only `https`, and `http` to this machine where that is allowed; an address in place
/// of a name must be allowed itself, since nobody resolves it.
///
/// # Errors
/// What is wrong with `url`.
pub(crate) fn check_url(url: &str, reach: Reach) -> Result<(), String> {
    let uri: http::Uri = url.parse().map_err(|_| "'url' is no URL".to_owned())?;
    let host = uri.host().unwrap_or_default();
    if host.is_empty() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("'url' must be a whole URL such as https://host/path, without a user".to_owned());
    }
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    if address.is_some_and(|address| !reach.allows(address)) {
        return Err(format!("the address {host} is out of reach: see 'reach'"));
    }
    let here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if here && reach != Reach::Public => Ok(()),
        _ => Err("'url' must begin with https:// (http:// only to this machine, with 'reach': 'loopback')".to_owned()),
    }
}
