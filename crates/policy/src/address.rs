//! Which addresses a connection that a configuration asks for may go to.
//!
//! A name can be made to resolve to anything, so the check is of the address that is connected to, not of the name.
//! Link-local addresses are never reached: cloud providers answer there with the machine's own credentials. What is
//! listed as not globally reachable (IANA's special-purpose registries, RFC 6890 and its successors) is treated as
//! private or forbidden; an IPv6 address that carries an IPv4 one is judged by what it carries.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reachable from everywhere.
    Public,
    /// This machine.
    Loopback,
    /// A network of one's own.
    Private,
    /// Metadata services, multicast, documentation, reserved: nothing that serves is there.
    Forbidden,
}

/// How far connections may reach. What is forbidden stays so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Public addresses alone.
    #[default]
    Public,
    /// This machine too.
    Loopback,
    /// Private networks and this machine too.
    Private,
}

impl Reach {
    /// The reach of that name in a configuration.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "public" => Some(Self::Public),
            "loopback" => Some(Self::Loopback),
            "private" => Some(Self::Private),
            _ => None,
        }
    }

    /// Its name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::Private => "private",
        }
    }

    /// Whether an address may be connected to.
    #[must_use]
    pub fn allows(self, address: IpAddr) -> bool {
        match kind(address) {
            Kind::Public => true,
            Kind::Loopback => self != Self::Public,
            Kind::Private => self == Self::Private,
            Kind::Forbidden => false,
        }
    }
}

/// What kind of address it is.
#[must_use]
pub fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [127, ..] => Kind::Loopback,
        [10, ..] | [192, 168, ..] => Kind::Private,
        [172, second, ..] if (16..32).contains(&second) => Kind::Private,
        // Shared by the customers of a carrier or of a cloud (RFC 6598).
        [100, second, ..] if (64..128).contains(&second) => Kind::Private,
        [0, ..]
        | [169, 254, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [224..=255, ..] => Kind::Forbidden,
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    let parts = address.segments();
    let carried = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        kind_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => carried(high, low),
        // 6to4 carries its address in front.
        [0x2002, high, low, ..] => match carried(high, low) {
            Kind::Public => Kind::Public,
            Kind::Loopback | Kind::Private | Kind::Forbidden => Kind::Forbidden,
        },
        // IPv6 metadata of EC2 lives in the unique local range, in fd00:ec2::/32.
        [0xfd00, 0xec2, ..] => Kind::Forbidden,
        [0xfc00..=0xfdff, ..] => Kind::Private,
        // Teredo and other protocol assignments; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Kind::Forbidden,
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Forbidden,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Kind {
        kind(text.parse().unwrap())
    }

    #[test]
    fn metadata_services_are_never_reached_in_whatever_dress() {
        for text in ["169.254.169.254", "169.254.170.2", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fe80::1"] {
            assert_eq!(of(text), Kind::Forbidden, "{text}");
            assert!(!Reach::Private.allows(text.parse().unwrap()), "{text}");
        }
        for text in ["fd00:ec2::254", "2002:a9fe:a9fe::1", "0.0.0.0", "::", "ff02::1", "255.255.255.255", "224.0.0.1"] {
            assert_eq!(of(text), Kind::Forbidden, "{text}");
        }
    }

    #[test]
    fn private_networks_and_this_machine_are_reached_only_if_that_is_allowed() {
        for text in
            ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1"]
        {
            assert_eq!(of(text), Kind::Private, "{text}");
        }
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(text), Kind::Loopback, "{text}");
        }
        let (here, there): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert!(!Reach::Public.allows(here) && Reach::Loopback.allows(here) && Reach::Private.allows(here));
        assert!(!Reach::Public.allows(there) && !Reach::Loopback.allows(there) && Reach::Private.allows(there));
    }

    #[test]
    fn what_serves_the_world_is_public() {
        for text in
            ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "2001:4860::8888"]
        {
            assert_eq!(of(text), Kind::Public, "{text}");
        }
    }
}
