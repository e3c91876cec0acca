//! The places of a request: how a token is written into each, and how an upstream reads it back.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::{Builder, Parts};
use http::{HeaderMap, HeaderName, Method, Request};
use percent_encoding::percent_decode_str;

use super::aws::{Form, Signing};
use super::grpc;
use crate::cli::{Failure, loopback};
use crate::policy::BoundSecret;
use crate::secret::{HeaderRule, HmacRule, Inject, SecretName, Sign, SignatureEncoding};

/// A place that a secret is opted into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The whole value of a field.
    Header(HeaderName),
    /// The password of `Authorization: Basic`.
    Basic,
    /// A parameter of the query.
    Query,
    /// A part of the path.
    Path,
    /// A body.
    Body(Kind),
    /// The text messages of a WebSocket.
    WebSocket,
    /// A field that the proxy adds.
    Injected(Inject),
    /// A field that the proxy adds, with a signature in it and not the value.
    Hmac(HmacRule),
    /// A signature that a client makes with tokens first.
    Aws(Signing),
}

/// The kinds of bodies that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Json,
    Form,
    Multipart,
    Lines,
    Grpc,
}

/// What an upstream received.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Any field but those that servers like to send back will do.
const USUAL: HeaderName = HeaderName::from_static("x-tollgate-selftest");
/// What stands in front of the token in the message over a WebSocket.
pub(super) const MESSAGE: &str = "key: ";
const BOUNDARY: &str = "tollgate-selftest";

impl Place {
    /// Every place that a secret is opted into, among the others of its sandbox.
    pub(super) fn all(bound: &BoundSecret, others: &[Arc<BoundSecret>]) -> Vec<Self> {
        let locations = &bound.locations;
        let mut places = Vec::new();
        match &locations.header {
            _ if bound.inject.is_some() => {}
            HeaderRule::Usual => places.extend([Self::Header(USUAL), Self::Header(AUTHORIZATION)]),
            HeaderRule::Only(names) => places.extend(names.iter().cloned().map(Self::Header)),
            HeaderRule::None => {}
        }
        if places.contains(&Self::Header(AUTHORIZATION)) {
            places.push(Self::Basic);
        }
        places.extend(locations.query.then_some(Self::Query));
        places.extend(locations.path.then_some(Self::Path));
        places.extend(Kind::ALL.into_iter().filter(|_| locations.body).map(Self::Body));
        places.extend(locations.websocket.then_some(Self::WebSocket));
        places.extend(bound.inject.clone().map(Self::Injected));
        match &bound.sign {
            Some(Sign::Hmac(rule)) => places.push(Self::Hmac(rule.clone())),
            Some(Sign::AwsSigV4(pair)) => {
                let signing =
                    |form| Signing { form, signer: bound.name.clone(), pair: pair.clone() };
                places.extend(Form::ALL.map(signing).map(Self::Aws));
            }
            // What stands nowhere and does not sign goes with one that does.
            None if !bound.travels() => places.extend(goes_with(bound, others).map(Self::Aws)),
            None => {}
        }
        places
    }

    /// The methods that suit it, the most fitting first.
    pub(super) const fn methods(&self) -> [Method; 5] {
        use Method as M;
        match self {
            Self::Aws(signing) => signing.methods(),
            Self::Body(_) => [M::POST, M::PUT, M::PATCH, M::DELETE, M::GET],
            Self::WebSocket => [M::GET, M::GET, M::GET, M::GET, M::GET],
            Self::Header(_)
            | Self::Basic
            | Self::Query
            | Self::Path
            | Self::Injected(_)
            | Self::Hmac(_) => [M::GET, M::POST, M::PUT, M::PATCH, M::DELETE],
        }
    }

    /// A request with the token here, or with those of other secrets. The path is chosen by who knows the rules.
    pub(super) fn request(
        &self,
        method: &Method,
        origin: &str,
        path: &str,
        token: &str,
        others: impl Fn(&SecretName) -> String,
    ) -> Result<Request<Bytes>, Failure> {
        let query = match self {
            Self::Query => format!("?first=1&key={token}&last=%20"),
            Self::Aws(signing) => signing.query(&others),
            Self::Header(_)
            | Self::Basic
            | Self::Path
            | Self::Body(_)
            | Self::WebSocket
            | Self::Injected(_)
            | Self::Hmac(_) => String::new(),
        };
        let request =
            Request::builder().method(method).uri(format!("https://{origin}{path}{query}"));
        Ok(match self {
            Self::Header(name) => request.header(name, token).body(Bytes::new()),
            Self::Basic => {
                let pair = STANDARD.encode(format!("selftest:{token}"));
                request.header(AUTHORIZATION, format!("Basic {pair}")).body(Bytes::new())
            }
            Self::Body(kind) => kind.write(request, token),
            Self::WebSocket => loopback::asking(request).body(Bytes::new()),
            Self::Aws(signing) => return signing.request(request, others),
            Self::Query | Self::Path | Self::Injected(_) | Self::Hmac(_) => {
                request.body(Bytes::new())
            }
        }?)
    }

    /// What stands here, as the upstream reads it.
    pub(super) fn read(&self, seen: &Seen, path_before: &str) -> Option<Vec<u8>> {
        let field = |name: &HeaderName| seen.headers.get(name).map(|value| value.as_bytes());
        match self {
            Self::Header(name) => field(name).map(<[u8]>::to_vec),
            Self::Basic => {
                let encoded = field(&AUTHORIZATION)?.strip_prefix(b"Basic ")?;
                let pair = STANDARD.decode(encoded).ok()?;
                pair.strip_prefix(b"selftest:").map(<[u8]>::to_vec)
            }
            Self::Query => {
                let query = seen.target.split_once('?')?.1;
                let key = query.split('&').find_map(|pair| pair.strip_prefix("key="))?;
                Some(percent_decode_str(key).collect())
            }
            Self::Path => {
                let path = seen.target.split('?').next()?;
                let rest = path.strip_prefix(path_before)?;
                Some(percent_decode_str(rest.split('/').next()?).collect())
            }
            Self::Body(kind) => kind.read(&seen.body),
            Self::Injected(inject) => {
                let written = field(&inject.header)?.strip_prefix(inject.prefix.as_bytes())?;
                written.strip_suffix(inject.suffix.as_bytes()).map(<[u8]>::to_vec)
            }
            Self::Hmac(rule) => {
                let (before, behind) = &rule.format;
                let written = field(&rule.header)?.strip_prefix(before.as_bytes())?;
                written.strip_suffix(behind.as_bytes()).map(<[u8]>::to_vec)
            }
            Self::WebSocket => seen.body.strip_prefix(MESSAGE.as_bytes()).map(<[u8]>::to_vec),
            Self::Aws(_) => None,
        }
    }
}

/// How the secret goes with another's signature: as its access key id or session token.
fn goes_with(bound: &BoundSecret, others: &[Arc<BoundSecret>]) -> Option<Signing> {
    others.iter().find_map(|other| match &other.sign {
        Some(Sign::AwsSigV4(pair)) => {
            let form = Form::Header;
            let signing = Signing { form, signer: other.name.clone(), pair: pair.clone() };
            let takes_part = signing.parties().any(|name| *name == bound.name);
            takes_part.then_some(signing)
        }
        Some(Sign::Hmac(_)) | None => None,
    })
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Text, Self::Json, Self::Form, Self::Multipart, Self::Lines, Self::Grpc];

    const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Json => "application/json",
            Self::Form => "application/x-www-form-urlencoded",
            Self::Multipart => "multipart/form-data; boundary=tollgate-selftest",
            Self::Lines => "application/x-ndjson",
            Self::Grpc => "application/grpc",
        }
    }

    fn write(self, request: Builder, token: &str) -> http::Result<Request<Bytes>> {
        let request = request.header(CONTENT_TYPE, self.content_type());
        let body = match self {
            Self::Text => format!("key: {token}\n"),
            Self::Json => format!("{{\"first\": 1, \"key\": \"{token}\"}}"),
            Self::Form => format!("first=1&key={token}&last=%20"),
            Self::Multipart => format!(
                "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"key\"\r\n\r\n{token}\r\n--{BOUNDARY}--\r\n"
            ),
            Self::Lines => format!("{{\"first\": 1}}\n{{\"key\": \"{token}\"}}\n"),
            Self::Grpc => return request.body(Bytes::from(grpc::write(token))),
        };
        request.body(Bytes::from(body))
    }

    fn read(self, body: &[u8]) -> Option<Vec<u8>> {
        let between = |start: &str, end: &str| {
            let rest = body.strip_prefix(start.as_bytes())?;
            rest.strip_suffix(end.as_bytes()).map(<[u8]>::to_vec)
        };
        let json = |text: &[u8]| {
            let parsed: serde_json::Value = serde_json::from_slice(text).ok()?;
            Some(parsed.get("key")?.as_str()?.as_bytes().to_vec())
        };
        match self {
            Self::Text => between("key: ", "\n"),
            Self::Json => json(body),
            Self::Form => {
                let written = between("first=1&key=", "&last=%20")?;
                let plain = String::from_utf8(written).ok()?.replace('+', " ");
                Some(percent_decode_str(&plain).collect())
            }
            Self::Multipart => between(
                &format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"key\"\r\n\r\n"),
                &format!("\r\n--{BOUNDARY}--\r\n"),
            ),
            Self::Lines => json(body.strip_prefix(b"{\"first\": 1}\n")?),
            Self::Grpc => grpc::read(body),
        }
    }
}

/// Whether this has the form of an HMAC-SHA-256. That it is the right one, only who has the value and the time could tell.
pub(super) fn is_signature(written: &[u8], rule: &HmacRule) -> bool {
    match rule.encoding {
        SignatureEncoding::Hex => written.len() == 64 && written.iter().all(u8::is_ascii_hexdigit),
        SignatureEncoding::Base64 => {
            STANDARD.decode(written).is_ok_and(|decoded| decoded.len() == 32)
        }
    }
}

impl Seen {
    pub(super) fn of(head: &Parts, body: &Bytes) -> Self {
        let target = head.uri.path_and_query().map_or("", |target| target.as_str());
        Self { target: target.to_owned(), headers: head.headers.clone(), body: body.clone() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Basic => f.write_str("header authorization: Basic"),
            Self::Query => f.write_str("query"),
            Self::Path => f.write_str("path"),
            Self::Body(kind) => {
                let name = kind.content_type().split(';').next().unwrap_or_default();
                write!(f, "body {name}")
            }
            Self::WebSocket => f.write_str("websocket"),
            Self::Injected(inject) => write!(f, "inject {}", inject.header),
            Self::Hmac(rule) => write!(f, "sign {}", rule.header),
            Self::Aws(signing) => write!(f, "sign aws-sigv4 {}", signing.form),
        }
    }
}

impl serde::Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
