//! Step 3: CONNECT target, SNI, and `Host` or `:authority` become one destination, or the request ends here.

use http::{Request, Uri, Version};
use hyper::body::Incoming;
use tokio::io::AsyncReadExt as _;

use super::accept::Wire;
use super::http::Rewound;
use super::{Client, Tunnel, Via};
use crate::host::{Authority, AuthorityError, Destination, Host, Scheme};
use crate::policy::{Denial, DenyReason};

/// How requests of this stretch of a connection say where they go.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Each by its own absolute `http://` target.
    Explicit,
    /// Each by its own Host, at the port of the original destination, whose address is the host where there is no Host.
    Transparent(Destination),
    /// All to the one destination of the CONNECT.
    Tunnel {
        /// Host and port of the CONNECT.
        destination: Destination,
        /// What the tunnel turned out to carry.
        scheme: Scheme,
    },
}

/// Where one request goes, and its target in origin-form.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) destination: Destination,
    pub(super) scheme: Scheme,
    path: Path,
}

#[derive(Debug)]
enum Path {
    Of(http::uri::PathAndQuery),
    /// `OPTIONS *` (RFC 9112 §3.2.4).
    Asterisk,
}

impl Target {
    /// The path as sent, with its query.
    pub(super) fn path(&self) -> &str {
        match &self.path {
            Path::Of(path) => path.as_str(),
            Path::Asterisk => "*",
        }
    }
}

/// The destination of a CONNECT, which decides alone: its Host field is another spelling of the same at best (RFC 9110 §7.2).
pub(super) fn of_connect(via: &Via, request: &Request<Incoming>) -> Result<Destination, Denial> {
    if !matches!(via.origin, Origin::Explicit) || request.version() >= Version::HTTP_2 {
        let denial = Denial::new(
            DenyReason::MethodNotAllowed,
            "CONNECT inside a tunnel",
            "send the CONNECT to the proxy's own listener",
        );
        return Err(denial.with_status(405));
    }
    let uri = request.uri();
    let authority =
        uri.authority().filter(|_| uri.scheme().is_none() && uri.path_and_query().is_none());
    let authority = authority.ok_or_else(|| malformed(AuthorityError::BadPort))?;
    Destination::parse_connect(authority.as_str()).map_err(malformed)
}

/// The destination of any other request.
pub(super) fn of_request(via: &Via, request: &Request<Incoming>) -> Result<Target, Denial> {
    let uri = request.uri();
    let path = path_of(request)?;
    match &via.origin {
        Origin::Explicit => {
            let authority = absolute_http(uri)?;
            let destination = authority.destination(Scheme::Http);
            agree(
                host_field(request)?,
                &destination,
                Scheme::Http,
                "the Host field",
                "the target",
            )?;
            Ok(Target { destination, scheme: Scheme::Http, path })
        }
        Origin::Transparent(original) => {
            let target = match (uri.scheme_str(), uri.authority()) {
                (None | Some("http"), target) => target.map(http::uri::Authority::as_str),
                (Some(_), _) => {
                    return Err(malformed_request("the scheme of the target is not http"));
                }
            };
            let destination = redirected(host_field(request)?.or(target), original)?;
            if let Some(other) =
                target.map(|target| redirected(Some(target), original)).transpose()?
                && other != destination
            {
                return Err(mismatch("the target", other, "the Host field", &destination));
            }
            Ok(Target { destination, scheme: Scheme::Http, path })
        }
        Origin::Tunnel { destination, scheme } => {
            if let Some(other) = uri.scheme_str().filter(|other| *other != scheme.as_str()) {
                let detail = format!("an {other} target inside a connection that carries {scheme}");
                return Err(Denial::new(
                    DenyReason::ProtocolNotAllowed,
                    detail,
                    "send the request to the proxy's own listener",
                ));
            }
            let target = uri.authority().map(http::uri::Authority::as_str);
            let field = host_field(request)?;
            if target.is_none() && field.is_none() {
                return Err(malformed_request("the request names no host"));
            }
            agree(target, destination, *scheme, "the target", "the connection")?;
            agree(field, destination, *scheme, "the Host field", "the connection")?;
            Ok(Target { destination: destination.clone(), scheme: *scheme, path })
        }
    }
}

/// What a redirected request names. A name without a port has the port of the connection, and no other is believed.
fn redirected(said: Option<&str>, original: &Destination) -> Result<Destination, Denial> {
    let Some(said) = said else { return Ok(original.clone()) };
    let Authority { host, port } = parse_authority(said)?;
    let destination = Destination { host, port: port.unwrap_or(original.port) };
    if destination.port == original.port {
        Ok(destination)
    } else {
        Err(mismatch("the Host field", destination, "the connection", original))
    }
}

/// Whether the client asks whoever stands here, and not the upstream (RFC 9110 §7.6.2). TRACE, the other such method, is never allowed.
pub(super) fn ends_here(request: &Request<Incoming>) -> bool {
    *request.method() == http::Method::OPTIONS
        && request.headers().get(http::header::MAX_FORWARDS).is_some_and(|hops| hops == "0")
}

/// SNI must be the host of the CONNECT.
pub(super) fn agree_sni(sni: Option<&Host>, tunnel: &Tunnel) -> Result<(), Denial> {
    match sni {
        Some(name) if *name == tunnel.destination.host => Ok(()),
        // A client sends no SNI for an IP literal (RFC 6066 §3).
        None if tunnel.destination.host.ip().is_some() => Ok(()),
        Some(name) => {
            Err(mismatch("the TLS server name", name, "the CONNECT", &tunnel.destination))
        }
        None => Err(Denial::new(
            DenyReason::HostMismatch,
            format!("the TLS handshake towards {} names no server", tunnel.destination),
            "use a client that sends SNI",
        )),
    }
}

/// What a tunnel carries, by its first byte.
pub(super) enum First<S> {
    /// A TLS handshake record (RFC 8446 §5.1).
    Tls(S),
    /// A letter: the method of an HTTP/1 request, which the strict reading then looks at.
    Http(S),
}

/// Looks at the first byte of a tunnel, or of a redirected connection, without taking it.
pub(super) async fn first_bytes(
    io: Rewound<Wire>,
    client: &Client,
) -> Result<First<Rewound<Wire>>, Denial> {
    let mut io = io;
    let mut first = [0];
    let limit = client.proxy.limits.handshake_timeout;
    let read = tokio::time::timeout(limit, io.read(&mut first)).await;
    match read {
        Ok(Ok(1)) => {}
        Ok(_) => {
            return Err(Denial::new(
                DenyReason::ProtocolNotAllowed,
                "the connection was closed before its first byte",
                "",
            ));
        }
        Err(_elapsed) => {
            return Err(Denial::new(
                DenyReason::LimitExceeded,
                "nothing came through the connection in time",
                "",
            )
            .with_status(408));
        }
    }
    let [byte] = first;
    let io = io.put_back(&first);
    match byte {
        0x16 => Ok(First::Tls(io)),
        b'A'..=b'Z' | b'a'..=b'z' => Ok(First::Http(io)),
        _ => Err(Denial::new(
            DenyReason::ProtocolNotAllowed,
            "neither TLS nor HTTP is spoken inside the connection",
            "only HTTP and HTTPS are carried",
        )),
    }
}

/// What the request's Host field says; more than one is malformed (RFC 9112 §3.2).
fn host_field(request: &Request<Incoming>) -> Result<Option<&str>, Denial> {
    let mut fields = request.headers().get_all(http::header::HOST).iter();
    let first = fields.next();
    if fields.next().is_some() {
        return Err(malformed_request("the request has more than one Host"));
    }
    first
        .map(|field| {
            field.to_str().map_err(|_error| malformed_request("the Host field is not ASCII"))
        })
        .transpose()
}

fn absolute_http(uri: &Uri) -> Result<Authority, Denial> {
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) => parse_authority(authority.as_str()),
        (Some("https"), _) => Err(Denial::new(
            DenyReason::ProtocolNotAllowed,
            "an https target in absolute-form would leave the request unprotected up to the proxy",
            "use CONNECT for https, as every client does with HTTPS_PROXY",
        )),
        (Some(_), _) => Err(malformed_request("the scheme of the target is not http")),
        _ => Err(Denial::new(
            DenyReason::ProtocolNotAllowed,
            "this is a proxy: the request target has no scheme and host",
            "set HTTP_PROXY and HTTPS_PROXY to this address; introspection is at http://tollgate.internal/ through the proxy",
        )),
    }
}

fn path_of(request: &Request<Incoming>) -> Result<Path, Denial> {
    let text = request.uri().path_and_query();
    match text {
        Some(path) if path.as_str() == "*" && request.method() == http::Method::OPTIONS => {
            Ok(Path::Asterisk)
        }
        Some(path) if path.as_str().starts_with('/') => Ok(Path::Of(path.clone())),
        _ => Err(malformed_request("the request target has no path")),
    }
}

fn parse_authority(text: &str) -> Result<Authority, Denial> {
    Authority::parse(text).map_err(malformed)
}

/// Compares canonically, the port included; what was not said agrees.
fn agree(
    said: Option<&str>,
    destination: &Destination,
    scheme: Scheme,
    who: &str,
    with: &str,
) -> Result<(), Denial> {
    let Some(said) = said else { return Ok(()) };
    // What nearly every request says: the canonical name itself. An IPv6 literal would need its brackets.
    let is_canonical = said == destination.host.as_str() && destination.host.ip().is_none();
    if is_canonical && destination.port == scheme.default_port() {
        return Ok(());
    }
    let said = parse_authority(said)?.destination(scheme);
    if said == *destination { Ok(()) } else { Err(mismatch(who, said, with, destination)) }
}

fn mismatch(
    who: &str,
    said: impl std::fmt::Display,
    with: &str,
    destination: &Destination,
) -> Denial {
    Denial::new(
        DenyReason::HostMismatch,
        format!("{who} says {said}, but {with} goes to {destination}"),
        "open a connection of its own for every host",
    )
}

fn malformed(error: AuthorityError) -> Denial {
    malformed_request(&error.to_string())
}

fn malformed_request(detail: &str) -> Denial {
    Denial::new(DenyReason::ProtocolNotAllowed, detail, "send a well-formed request (RFC 9112)")
}
