//! The addresses with which every name is answered: Tollgate's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// At most one address of each family. A question for the other family finds no data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sinks {
    /// For A.
    pub v4: Option<Ipv4Addr>,
    /// For AAAA.
    pub v6: Option<Ipv6Addr>,
}

impl Sinks {
    /// For a network namespace in which every address leads to Tollgate: from the networks for benchmarks (RFC 2544, RFC 5180), which no
    /// network really has.
    pub const ISOLATED: Self = Self {
        v4: Some(Ipv4Addr::new(198, 18, 0, 1)),
        v6: Some(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1)),
    };

    /// One address alone, such as the one to which a question came.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self { v4: Some(v4), v6: None },
            IpAddr::V6(v6) => Self { v4: None, v6: Some(v6) },
        }
    }

    /// Whether a name is the reverse name of a sink (RFC 1035 §3.5, RFC 3596 §2.5).
    pub(super) fn are_named(&self, name: &str) -> bool {
        let v4 = self.v4.map(reverse_v4);
        let v6 = self.v6.map(reverse_v6);
        v4.into_iter().chain(v6).any(|reverse| reverse.eq_ignore_ascii_case(name))
    }
}

fn reverse_v4(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

fn reverse_v6(ip: Ipv6Addr) -> String {
    let nibbles = ip.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
    nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_is_known_by_its_reverse_name_only() {
        let sinks = Sinks { v4: Some([10, 1, 2, 3].into()), v6: "fd00::1".parse().ok() };
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.IP6.arpa";
        assert!(sinks.are_named("3.2.1.10.in-addr.arpa") && sinks.are_named(v6));
        assert!(!sinks.are_named("10.1.2.3.in-addr.arpa") && !sinks.are_named("in-addr.arpa"));
        assert!(!Sinks::of([10, 1, 2, 3].into()).are_named(v6));
    }
}
