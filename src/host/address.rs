//! Which addresses are public, and the one kind of address that can be dialled.
//!
//! A [`CheckedAddr`] comes only from the decision (`policy::decide_address`): resolve once, check every answer, dial what was checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
/// IPv4 embedded in IPv6 (mapped, 6to4, NAT64, Teredo) is internal whatever it embeds: no public service is named that way.
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
    let [a, b, ..] = ip.segments();
    // Only 2000::/3 is allocated as global unicast; inside it: Teredo and other protocol assignments, documentation, 6to4, 3fff::/20.
    a & 0xe000 == 0x2000
        && !matches!((a, b), (0x2001, 0..=0x01ff | 0x0db8) | (0x2002, _) | (0x3fff, 0..=0x0fff))
}

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
        ] {
            assert_eq!(reach(text.parse().unwrap()), Reach::Public, "{text}");
        }
    }
}
