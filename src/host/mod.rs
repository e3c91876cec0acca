//! Host names and addresses, parsed once at the edge.
//!
//! A [`Host`] is canonical by construction: every later comparison is a comparison of bytes. What cannot be read in exactly one way
//! (`0x7f.1`, `127.1`, `::ffff:10.0.0.1`, userinfo, U-labels on the wire) is refused here, never interpreted.

pub mod address;
mod authority;
mod pattern;
mod set;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

pub use authority::{Authority, AuthorityError, Destination, Port, Scheme};
pub use pattern::{HostPattern, PatternError, PortRule};
pub use set::HostSet;

/// A canonical host: a lower-case name of A-labels without a trailing dot, or an IP address.
///
/// ```
/// use tollgate::host::Host;
/// assert_eq!(Host::parse("API.Example.com.").unwrap().as_str(), "api.example.com");
/// assert!(Host::parse("127.1").is_err());
/// ```
///
/// The text cannot be set from outside, so a value that exists is canonical:
///
/// ```compile_fail
/// let forged = tollgate::host::Host { text: "EVIL".into(), ip: None };
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    text: Arc<str>,
    ip: Option<IpAddr>,
}

impl Host {
    /// Reads a host as it stands on the wire: ASCII only, IPv6 without brackets.
    ///
    /// One trailing dot is the same host (RFC 3986 §3.2.2) and is dropped.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if !text.is_ascii() {
            return Err(HostError::NotAscii);
        }
        if text.contains(':') {
            return Self::parse_ipv6(text);
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        check_labels(&name)?;
        if last_label_is_number(&name) {
            return Self::parse_ipv4(text);
        }
        if name.split('.').any(|label| label.starts_with("xn--"))
            && idna::domain_to_ascii_strict(&name.replace('_', "-")).is_err()
        {
            return Err(HostError::BadIdna);
        }
        Ok(Self { text: name.into(), ip: None })
    }

    /// Reads a host as a person writes it in a policy: as [`Host::parse`], and U-labels become A-labels (UTS 46, non-transitional).
    pub fn parse_written(text: &str) -> Result<Self, HostError> {
        if text.is_ascii() {
            return Self::parse(text);
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_error| HostError::BadIdna)?;
        Self::parse(&ascii)
    }

    /// The canonical text; IPv6 without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The canonical text, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.text.clone()
    }

    /// The address, if this host is an IP literal.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// The host for an address that somebody else parsed, such as a socket's.
    #[must_use]
    pub fn from_ip(ip: IpAddr) -> Self {
        Self { text: ip.to_string().into(), ip: Some(ip) }
    }

    fn parse_ipv4(text: &str) -> Result<Self, HostError> {
        let address = Ipv4Addr::from_str(text).map_err(|_error| HostError::AmbiguousAddress)?;
        Ok(Self::from_ip(address.into()))
    }

    fn parse_ipv6(text: &str) -> Result<Self, HostError> {
        let address = Ipv6Addr::from_str(text).map_err(|_error| HostError::AmbiguousAddress)?;
        if address.to_ipv4().is_some()
            && address != Ipv6Addr::LOCALHOST
            && address != Ipv6Addr::UNSPECIFIED
        {
            return Err(HostError::AmbiguousAddress);
        }
        if address.to_string() != text.to_ascii_lowercase() {
            return Err(HostError::AmbiguousAddress);
        }
        Ok(Self::from_ip(address.into()))
    }
}

/// Checks lengths and letters of every label (RFC 1035 §2.3.1, with the underscore that real names use).
fn check_labels(name: &str) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > 253 {
        return Err(HostError::TooLong);
    }
    for label in name.split('.') {
        match label.len() {
            0 => return Err(HostError::EmptyLabel),
            1..=63 => {}
            _ => return Err(HostError::LabelTooLong),
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(HostError::BadCharacter);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(HostError::BadHyphen);
        }
    }
    Ok(())
}

/// Whether resolvers would take the name for an IPv4 address in some notation (WHATWG URL, "ends in a number").
fn last_label_is_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex =
        last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    hex || last.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for Host {
    /// As in a URL: IPv6 in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(IpAddr::V6(_)) => write!(f, "[{}]", self.text),
            _ => f.write_str(&self.text),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Host {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, HostError> {
        Self::parse_written(&text)
    }
}

impl serde::Serialize for Host {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing between the delimiters.
    #[error("the host is empty")]
    Empty,
    /// A non-ASCII byte on the wire; U-labels are for policy files only.
    #[error("the host holds a non-ASCII character; write it as an A-label (xn--…)")]
    NotAscii,
    /// More than 253 octets.
    #[error("the host is longer than 253 octets")]
    TooLong,
    /// Two dots in a row, or a leading dot.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// A label of more than 63 octets.
    #[error("a label of the host is longer than 63 octets")]
    LabelTooLong,
    /// Anything but letters, digits, hyphen, underscore and dot.
    #[error("the host holds a character that no host name has")]
    BadCharacter,
    /// A label that starts or ends with a hyphen.
    #[error("a label of the host starts or ends with a hyphen")]
    BadHyphen,
    /// Not a name by UTS 46.
    #[error("the host is not a valid internationalised name")]
    BadIdna,
    /// An address in a form that programs read differently.
    #[error("the IP address is not in its canonical form")]
    AmbiguousAddress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_accepted_and_folded() {
        for (input, canonical) in [
            ("API.Allowed.TEST", "api.allowed.test"),
            ("api.allowed.test.", "api.allowed.test"),
            ("xn--bcher-kva.test", "xn--bcher-kva.test"),
            ("_acme.example.com", "_acme.example.com"),
            ("localhost", "localhost"),
            ("203.0.113.10", "203.0.113.10"),
            ("2001:db8::1", "2001:db8::1"),
            ("::1", "::1"),
            ("a1", "a1"),
        ] {
            assert_eq!(
                Host::parse(input).map(|h| h.as_str().to_owned()),
                Ok(canonical.to_owned()),
                "{input}"
            );
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for input in [
            "",
            ".",
            "..",
            "evil.test..",
            ".wild.test",
            "a..b",
            "*",
            "*.wild.test",
            "a b",
            "a\tb",
            "a\0b",
            "a/b",
            "a#b",
            "a?b",
            "a;b",
            "a,b",
            "x@y",
            "bücher.test",
            "ａpi.test",
            "evil。test",
            "-a.test",
            "a-.test",
            "2130706433",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "127.1",
            "127.0.1",
            "0",
            "1.2.3.4.",
            "1.2.3.256",
            "01.2.3.4",
            "0:0:0:0:0:0:0:1",
            "::0001",
            "::ffff:127.0.0.1",
            "::ffff:a9fe:a9fe",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::1%lo",
            "fe80::1%25eth0",
            "::1]",
            "[::1",
            "a.0x7f",
            "evil.1",
            "xn--a.test",
            "xn--.test",
        ] {
            assert!(Host::parse(input).is_err(), "{input:?} was accepted");
        }
        assert!(Host::parse(&"a".repeat(64)).is_err());
        assert!(Host::parse(&"a".repeat(63)).is_ok());
        assert!(Host::parse(&format!("{}a", "a.".repeat(126))).is_ok());
        assert!(Host::parse(&format!("{}aa", "a.".repeat(126))).is_err());
    }

    #[test]
    fn a_policy_may_be_written_with_u_labels() {
        assert_eq!(Host::parse_written("bücher.test").unwrap().as_str(), "xn--bcher-kva.test");
        assert_eq!(Host::parse_written("faß.test").unwrap().as_str(), "xn--fa-hia.test");
    }
}
