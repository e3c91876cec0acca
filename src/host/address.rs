//! Which addresses are public, and the one kind of address that can be dialled.
//!
//! A [`CheckedAddr`] comes only from the decision (`policy::decide_address`): resolve once, check every answer, dial what was checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::Ipv6Net;

/// Whether an address is on the public Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Globally routable unicast.
    Public,
    /// Loopback, private, link-local, CGNAT, multicast, documentation, metadata, and embeddings of those.
    Internal,
}

/// Classifies an address by the IANA special-purpose registries (RFC 6890 and its updates).
///
/// IPv4 embedded in IPv6 (mapped, 6to4, NAT64, Teredo, ISATAP) is internal whatever it embeds: no public service is named that way.
#[must_use]
pub const fn reach(ip: IpAddr) -> Reach {
    let public = match ip {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    };
    if public { Reach::Public } else { Reach::Internal }
}

const fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (168, 63, 129)
            | (224..=255, _, _)
    )
}

const fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, _, _, e, f, ..] = ip.segments();
    // ISATAP (RFC 5214 §6.1): an interface that holds an IPv4 address, in whatever network.
    if matches!((e, f), (0 | 0x0200, 0x5efe)) {
        return false;
    }
    // Only 2000::/3 is allocated as global unicast; inside it: Teredo and other protocol assignments, documentation, 6to4, 3fff::/20.
    a & 0xe000 == 0x2000
        && !matches!((a, b), (0x2001, 0..=0x01ff | 0x0db8) | (0x2002, _) | (0x3fff, 0..=0x0fff))
}

/// The prefix under which a network's NAT64 holds IPv4 addresses (RFC 6052 §2.2): what stands below it is judged by the address it embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat64(Ipv6Net);

impl Nat64 {
    /// The address that one below the prefix embeds.
    #[must_use]
    pub fn embedded(self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.0.contains(&ip) {
            return None;
        }
        // The ninth octet is none of the address's.
        let octets = ip.octets().into_iter().enumerate();
        let mut held = octets.skip(usize::from(self.0.prefix_len()) / 8).filter(|(at, _)| *at != 8);
        let mut next = || held.next().map(|(_, octet)| octet);
        Some(Ipv4Addr::new(next()?, next()?, next()?, next()?))
    }
}

impl FromStr for Nat64 {
    type Err = Nat64Error;

    fn from_str(text: &str) -> Result<Self, Nat64Error> {
        let net: Ipv6Net = text.parse().map_err(|_error| Nat64Error)?;
        let length_fits = matches!(net.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96);
        if length_fits && net.addr() == net.network() { Ok(Self(net)) } else { Err(Nat64Error) }
    }
}

/// A text is not the prefix of a NAT64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an IPv6 network of 32, 40, 48, 56, 64 or 96 bits, such as `64:ff9b::/96`")]
pub struct Nat64Error;

/// An address that the decision has passed for one destination; the only thing that `proxy::connect` dials.
///
/// ```compile_fail
/// let forged = tollgate::host::address::CheckedAddr { addr: "127.0.0.1:22".parse().unwrap() };
/// ```
///
/// ```compile_fail
/// let forged = tollgate::host::address::CheckedAddr::passed("127.0.0.1:22".parse().unwrap());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckedAddr {
    addr: SocketAddr,
}

impl CheckedAddr {
    /// For the decision alone, which has just checked `addr`.
    pub(crate) const fn passed(addr: SocketAddr) -> Self {
        Self { addr }
    }

    /// The socket address to dial.
    #[must_use]
    pub const fn socket_addr(self) -> SocketAddr {
        self.addr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_addresses_of_every_kind_are_internal() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.10",
            "168.63.129.16",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            "2606:4700::5efe:7f00:1",
            "2606:4700::200:5efe:808:808",
            "fd20:ce::254",
            "100.100.100.200",
            "192.0.0.192",
            "169.254.42.42",
            "169.254.170.2",
        ] {
            assert_eq!(reach(text.parse().unwrap()), Reach::Internal, "{text}");
        }
    }

    #[test]
    fn public_addresses_are_public() {
        for text in [
            "8.8.8.8",
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00::1",
            "2606:4700:1404:c8:0:ffff:ac19:c80e",
            "2606:4700:5efe::1",
        ] {
            assert_eq!(reach(text.parse().unwrap()), Reach::Public, "{text}");
        }
    }

    /// RFC 6052 §2.4's own examples.
    #[test]
    fn a_nat64_prefix_of_each_length_gives_the_embedded_address() {
        for (prefix, ip) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let nat64: Nat64 = prefix.parse().unwrap();
            let embedded = nat64.embedded(ip.parse().unwrap());
            assert_eq!(embedded, Some(Ipv4Addr::new(192, 0, 2, 33)), "{prefix}");
            assert_eq!(nat64.embedded("2606:4700::1".parse().unwrap()), None);
        }
        for text in ["2001:db8::/33", "2001:db8::1/96", "10.0.0.0/32", "64:ff9b::"] {
            assert_eq!(text.parse::<Nat64>(), Err(Nat64Error), "{text}");
        }
    }
}
