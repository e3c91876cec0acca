//! What a policy says of hosts: `api.example.com`, `*.example.com`, `*`, each with `:port`, `:*` or neither.

use std::fmt;
use std::str::FromStr;

use super::{AuthorityError, Host, HostError, Port};

/// A host pattern of an allowlist, a denylist or a secret's allowed hosts.
///
/// Patterns and hosts are different types: a host is never parsed as a pattern, so a `*` on the wire matches nothing.
///
/// ```
/// use tollgate::host::{Host, HostPattern, Port};
/// let below: HostPattern = "*.example.com".parse().unwrap();
/// assert!(below.matches(&Host::parse("a.b.example.com").unwrap(), Port::HTTPS));
/// assert!(!below.matches(&Host::parse("example.com").unwrap(), Port::HTTPS));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    pub(super) hosts: Hosts,
    ports: PortRule,
}

/// The host part of a pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Hosts {
    /// This host alone; the only kind that an IP literal matches.
    Exact(Host),
    /// Every name below this one at any depth, never the name itself.
    Below(Host),
    /// Every name; no IP literal.
    Any,
}

/// The port part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortRule {
    /// No port was written: 80 and 443.
    Web,
    /// Exactly this port.
    One(Port),
    /// `:*`: every port.
    Any,
}

impl PortRule {
    /// Whether the rule admits the port.
    #[must_use]
    pub fn admits(self, port: Port) -> bool {
        match self {
            Self::Web => port == Port::HTTP || port == Port::HTTPS,
            Self::One(one) => one == port,
            Self::Any => true,
        }
    }

    fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Web, Self::Web) => true,
            (Self::One(a), Self::One(b)) => a == b,
            (Self::Web, Self::One(port)) => self.admits(port),
            (Self::Web | Self::One(_), Self::Any) | (Self::One(_), Self::Web) => false,
        }
    }

    fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) | (Self::Web, Self::Web) => true,
            (Self::One(port), ports) | (ports, Self::One(port)) => ports.admits(port),
        }
    }
}

impl HostPattern {
    /// Whether host and port match.
    #[must_use]
    pub fn matches(&self, host: &Host, port: Port) -> bool {
        self.ports.admits(port) && self.hosts.matches(host)
    }

    /// The port part.
    #[must_use]
    pub const fn ports(&self) -> PortRule {
        self.ports
    }

    /// The one host that the pattern names, if it names one.
    #[must_use]
    pub const fn exact_host(&self) -> Option<&Host> {
        match &self.hosts {
            Hosts::Exact(host) => Some(host),
            Hosts::Below(_) | Hosts::Any => None,
        }
    }

    /// The name of which everything below matches, for `*.name`.
    #[must_use]
    pub const fn below(&self) -> Option<&Host> {
        match &self.hosts {
            Hosts::Below(host) => Some(host),
            Hosts::Exact(_) | Hosts::Any => None,
        }
    }

    /// Whether the host part is `*`.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        matches!(self.hosts, Hosts::Any)
    }

    /// Whether everything that `other` matches is matched by this pattern too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let hosts = match (&self.hosts, &other.hosts) {
            (Hosts::Any, Hosts::Exact(host)) => host.ip().is_none(),
            (Hosts::Any, Hosts::Below(_) | Hosts::Any) => true,
            (Hosts::Below(_), Hosts::Exact(host)) => self.hosts.matches(host),
            (Hosts::Below(a), Hosts::Below(b)) => a == b || self.hosts.matches(b),
            (Hosts::Exact(a), Hosts::Exact(b)) => a == b,
            (Hosts::Below(_) | Hosts::Exact(_), Hosts::Any)
            | (Hosts::Exact(_), Hosts::Below(_)) => false,
        };
        hosts && self.ports.covers(other.ports)
    }

    /// Whether some host and port matches both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let hosts = match (&self.hosts, &other.hosts) {
            (Hosts::Exact(host), hosts) | (hosts, Hosts::Exact(host)) => hosts.matches(host),
            (Hosts::Below(a), Hosts::Below(b)) => {
                a == b || self.hosts.matches(b) || other.hosts.matches(a)
            }
            (Hosts::Any, Hosts::Below(_) | Hosts::Any) | (Hosts::Below(_), Hosts::Any) => true,
        };
        hosts && self.ports.overlaps(other.ports)
    }
}

impl Hosts {
    fn matches(&self, host: &Host) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Below(apex) => host.ip().is_none() && is_below(host.as_str(), apex.as_str()),
            Self::Any => host.ip().is_none(),
        }
    }
}

fn is_below(name: &str, apex: &str) -> bool {
    name.strip_suffix(apex)
        .and_then(|rest| rest.strip_suffix('.'))
        .is_some_and(|labels| !labels.is_empty())
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.contains("//") || text.contains('/') {
            return Err(PatternError::Url);
        }
        let (host, ports) = split_port(text)?;
        let hosts = if host == "*" {
            Hosts::Any
        } else if let Some(apex) = host.strip_prefix("*.") {
            let apex = Host::parse_written(no_star(apex)?)?;
            if apex.ip().is_some() {
                return Err(PatternError::WildcardOverAddress);
            }
            Hosts::Below(apex)
        } else {
            Hosts::Exact(Host::parse_written(no_star(host)?)?)
        };
        Ok(Self { hosts, ports })
    }
}

fn no_star(host: &str) -> Result<&str, PatternError> {
    if host.contains('*') { Err(PatternError::MisplacedStar) } else { Ok(host) }
}

fn split_port(text: &str) -> Result<(&str, PortRule), PatternError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(PatternError::Port(AuthorityError::Brackets))?,
        None if text.matches(':').count() > 1 => (text, ""),
        None => text.find(':').and_then(|at| text.split_at_checked(at)).unwrap_or((text, "")),
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((host, PortRule::Web)),
        None => Err(PatternError::Port(AuthorityError::Brackets)),
        Some("*") => Ok((host, PortRule::Any)),
        Some(digits) => Ok((host, PortRule::One(Port::parse(digits)?))),
    }
}

impl fmt::Display for HostPattern {
    /// The canonical text, which parses back to the same pattern.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Exact(host) => write!(f, "{host}")?,
            Hosts::Below(apex) => write!(f, "*.{apex}")?,
            Hosts::Any => f.write_str("*")?,
        }
        match self.ports {
            PortRule::Web => Ok(()),
            PortRule::One(port) => write!(f, ":{port}"),
            PortRule::Any => f.write_str(":*"),
        }
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a host pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A scheme or a path.
    #[error("a host pattern is a host, not a URL: leave out scheme and path")]
    Url,
    /// A `*` that is not the whole first label.
    #[error("a `*` stands alone or as the whole first label: `*` or `*.example.com`")]
    MisplacedStar,
    /// `*.` in front of an IP address.
    #[error("an IP address has no names below it")]
    WildcardOverAddress,
    /// The port or the brackets.
    #[error(transparent)]
    Port(#[from] AuthorityError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_round_trip_in_canonical_form() {
        for (text, canonical) in [
            ("API.example.com.", "api.example.com"),
            ("*.Example.com:8443", "*.example.com:8443"),
            ("*", "*"),
            ("*:*", "*:*"),
            ("[::1]:443", "[::1]:443"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("203.0.113.1:*", "203.0.113.1:*"),
            ("bücher.test", "xn--bcher-kva.test"),
        ] {
            let pattern: HostPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), canonical);
            assert_eq!(canonical.parse::<HostPattern>().unwrap(), pattern);
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in [
            "",
            "api.*.test",
            "a*.test",
            "*a.test",
            "*.*.test",
            "foo.*",
            "**",
            "http://a.test",
            "a.test/x",
            "a.test:0",
            "a.test:65536",
            "a.test:-1",
            "1e3:x",
            "0x7f000001",
            "*.127.0.0.1",
            "~",
            "u@a.test",
            "12:30:45",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_matches_and_no_more() {
        let covers =
            |a: &str, b: &str| a.parse::<HostPattern>().unwrap().covers(&b.parse().unwrap());
        for (a, b) in [
            ("*", "a.test"),
            ("*.test", "*.a.test"),
            ("*.test:*", "a.test:8443"),
            ("a.test", "a.test:443"),
            ("*", "*.x"),
        ] {
            assert!(covers(a, b), "{a} covers {b}");
            assert!(a == b || !covers(b, a), "{b} does not cover {a}");
        }
        assert!(!covers("*.test", "test"));
        assert!(!covers("*", "203.0.113.1"));
        assert!(!covers("a.test", "a.test:8443"));
    }

    #[test]
    fn patterns_overlap_if_something_matches_both() {
        let overlaps =
            |a: &str, b: &str| a.parse::<HostPattern>().unwrap().overlaps(&b.parse().unwrap());
        for (a, b) in [
            ("*.test", "a.test"),
            ("*.test", "*.a.test"),
            ("a.test", "a.test:443"),
            ("*:8443", "a.test:*"),
            ("*", "*.test"),
        ] {
            assert!(overlaps(a, b) && overlaps(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("*.test", "test"),
            ("a.test", "a.test:8443"),
            ("*", "203.0.113.1"),
            ("*.a.test", "*.b.test"),
        ] {
            assert!(!overlaps(a, b) && !overlaps(b, a), "{a} {b}");
        }
    }
}
