//! The `host:port` of a CONNECT target, a Host field, an `:authority` or a URL (RFC 3986 §3.2), and the destination made of it.

use std::fmt;

use super::{Host, HostError};

/// A port that can be dialled: 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(u16);

impl Port {
    /// 80.
    pub const HTTP: Self = Self(80);
    /// 443.
    pub const HTTPS: Self = Self(443);

    /// Reads decimal digits without sign or leading zero.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        match text.parse::<u16>() {
            Ok(number) if plain => Ok(Self(number)),
            _ => Err(AuthorityError::BadPort),
        }
    }

    /// The port as a number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Port {
    type Error = AuthorityError;

    fn try_from(number: u16) -> Result<Self, AuthorityError> {
        if number == 0 { Err(AuthorityError::BadPort) } else { Ok(Self(number)) }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How bytes travel to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain HTTP: no secret ever.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme's default port.
    #[must_use]
    pub const fn default_port(self) -> Port {
        match self {
            Self::Http => Port::HTTP,
            Self::Https => Port::HTTPS,
        }
    }

    /// `http` or `https`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An authority without userinfo: a host and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if one was written.
    pub port: Option<Port>,
}

impl Authority {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.contains('@') {
            return Err(AuthorityError::Userinfo);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, after) = rest.split_once(']').ok_or(AuthorityError::Brackets)?;
                (parse_bracketed(inside)?, after)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                let (host, port) = text.split_at_checked(end).unwrap_or((text, ""));
                (Host::parse(host)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => Some(Port::parse(digits)?),
            None if port.is_empty() => None,
            None => return Err(AuthorityError::Brackets),
        };
        Ok(Self { host, port })
    }

    /// The destination, with the scheme's default port where none was written.
    #[must_use]
    pub fn destination(self, scheme: Scheme) -> Destination {
        Destination { host: self.host, port: self.port.unwrap_or_else(|| scheme.default_port()) }
    }
}

fn parse_bracketed(inside: &str) -> Result<Host, AuthorityError> {
    if !inside.contains(':') {
        return Err(AuthorityError::Brackets);
    }
    Ok(Host::parse(inside)?)
}

/// Where a connection goes: the one host and port that CONNECT, SNI and every request on it must agree on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: Port,
}

impl Destination {
    /// Reads the target of a CONNECT (RFC 9110 §9.3.6): the port is required.
    pub fn parse_connect(text: &str) -> Result<Self, AuthorityError> {
        let authority = Authority::parse(text)?;
        let port = authority.port.ok_or(AuthorityError::BadPort)?;
        Ok(Self { host: authority.host, port })
    }

    /// The canonical authority: the scheme's default port is left out.
    #[must_use]
    pub fn authority(&self, scheme: Scheme) -> String {
        if self.port == scheme.default_port() { self.host.to_string() } else { self.to_string() }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// `user@` in front of the host.
    #[error("the authority holds userinfo")]
    Userinfo,
    /// Brackets around something else than an IPv6 address, or text behind them.
    #[error("the brackets of the authority are not around an IPv6 address")]
    Brackets,
    /// Missing, empty, zero, too large, signed or zero-padded.
    #[error("the port is missing or not a plain number from 1 to 65535")]
    BadPort,
    /// The host itself.
    #[error(transparent)]
    Host(#[from] HostError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_in_one_way_only() {
        for (text, host, port) in [
            ("a.test", "a.test", None),
            ("A.test:8443", "a.test", Some(8443)),
            ("[::1]:443", "::1", Some(443)),
            ("[2001:db8::1]", "2001:db8::1", None),
        ] {
            let authority = Authority::parse(text).unwrap();
            assert_eq!(
                (authority.host.as_str(), authority.port.map(Port::get)),
                (host, port),
                "{text}"
            );
        }
        for text in [
            "",
            ":443",
            "a.test:",
            "a.test:0443",
            "a.test:0",
            "a.test:65536",
            "a.test:+1",
            "a.test:4 43",
            "u@a.test",
            "a.test:80@b",
            "[a.test]:443",
            "[v1.api]:443",
            "[::1:443",
            "::1]:443",
            "[::1].wild.test:443",
            "::1:443",
            "2001:db8::1",
            "[::1%25lo]:443",
            "[127.0.0.1]",
            "a.test:443:1",
            "a.test, b.test",
            "a.test\\:443",
        ] {
            assert!(Authority::parse(text).is_err(), "{text:?} was accepted");
        }
        assert!(Destination::parse_connect("a.test").is_err());
    }
}
