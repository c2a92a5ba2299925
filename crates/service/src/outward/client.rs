//! The client that opens those connections; nothing else in this crate does. Behind the feature `upstream`, so that a build
//! without it has no TLS.
//!
//! Safe against being led elsewhere: a name is resolved here, every address it resolves to is checked, and only the
//! checked ones are given to the connector, so nothing resolves the name a second time. Redirects are answers like any
//! other, and no proxy is taken from the environment.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use penstock_policy::address::Reach;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;

/// How long a connection may take to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(2);

/// How long an idle connection is kept: less than servers usually do.
const IDLE: Duration = Duration::from_secs(30);

/// A client whose connections go no further than `reach`, to be finished by its user.
pub fn client_of(reach: Reach) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .dns_resolver(Arc::new(CheckedResolver { reach }))
        .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
}

/// The error with everything behind it, without the URL.
#[must_use]
pub fn cause(error: &reqwest::Error) -> String {
    let mut words = Vec::new();
    let mut behind: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = behind {
        words.push(error.to_string());
        behind = error.source();
    }
    if words.is_empty() {
        words.push(if error.is_timeout() { "it took too long".to_owned() } else { "no reason given".to_owned() });
    }
    words.join(": ")
}

/// Resolves a name to those of its addresses that may be connected to.
struct CheckedResolver {
    reach: Reach,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = within_reach(reach, name.as_str(), found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// A name leads where it may not.
#[derive(Debug, thiserror::Error)]
#[error("'{name}' resolves to {address}, which is out of reach")]
struct OutOfReach {
    name: String,
    address: IpAddr,
}

/// All addresses, if every one of them may be connected to: a name that leads to one forbidden place is not trusted with
/// its other places.
fn within_reach(reach: Reach, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, OutOfReach> {
    match found.iter().find(|address| !reach.allows(address.ip())) {
        Some(address) => Err(OutOfReach { name: name.to_owned(), address: address.ip() }),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_to_a_forbidden_place_too_is_not_followed_at_all() {
        let addresses =
            |list: &[&str]| list.iter().map(|text| format!("{text}:0").parse().unwrap()).collect::<Vec<_>>();
        assert!(within_reach(Reach::Public, "n", addresses(&["1.1.1.1", "[2606:4700::1]"])).is_ok());
        assert!(within_reach(Reach::Public, "n", addresses(&["1.1.1.1", "169.254.169.254"])).is_err());
        assert!(within_reach(Reach::Loopback, "n", addresses(&["127.0.0.1"])).is_ok());
        assert!(within_reach(Reach::Public, "n", addresses(&["[::1]"])).is_err());
    }
}
