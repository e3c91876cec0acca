//! Step 8: sealed tokens become values. Only with a [`RequestPermit`], only over TLS, only where the secret is bound.
//!
//! One pass: what is written is never read again. A token in the head of a request where it may not stand ends it.

mod body;
mod encoding;
mod exposed;
mod header;
mod tokens;
mod trailers;
mod url;
mod websocket;

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE,
    SEC_WEBSOCKET_EXTENSIONS, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Version};
use hyper::body::{Body as _, Incoming};

use super::Via;
use super::forward::Outgoing;
use super::record::Record;
use super::scrub::Coding;
use crate::host::Destination;
use crate::policy::{BoundSecret, Denial, DenyReason, RequestPermit};
use crate::secret::SecretName;
use crate::session::{Recognised, Session};

#[cfg(fuzzing)]
pub(super) use body::Counter;
pub(super) use body::OutgoingBody;
pub use body::{BodyPieces, open_body};
pub(super) use tokens::{Tokens, unfit};
pub(super) use websocket::{Messages, Violation};

/// Makes the request that leaves: connection fields dropped, tokens opened, injected fields added.
pub(super) async fn request(
    session: &Arc<Session>,
    permit: &RequestPermit,
    recognised: &Recognised,
    via: &Via,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Outgoing, Denial> {
    host(session, permit.destination())?;
    let (mut parts, body) = request.into_parts();
    let exposure = recognised.sandbox.exposure();
    exposed::check(exposure, session, permit, &parts.uri, &parts.headers)?;
    let exchange = record.exchange();
    let tokens = Tokens { session, permit, forwarded: Some(&exchange.tokens_forwarded) };
    record.opened(url::open(&tokens, &mut parts.uri).await?);
    let upgrade = wants_websocket(&parts.headers, parts.version)?;
    drop_connection_fields(&mut parts.headers, parts.version, upgrade);
    if permit.restricts_request() {
        drop_overrides(&mut parts.headers);
    }
    record.opened(header::open(&tokens, &mut parts.headers).await?);
    for secret in permit.injected() {
        record.opened(inject(&tokens, secret, recognised, via, &mut parts.headers).await?);
    }
    if permit.scrubs() {
        ask_for_readable_answers(&mut parts.headers, permit.admits_parts());
    }
    if reads_messages(permit) {
        // An extension could compress a WebSocket's messages.
        drop_fields(&mut parts.headers, &[SEC_WEBSOCKET_EXTENSIONS]);
    }
    let trailing = || exposed::Trailing::of(&recognised.sandbox, session, permit);
    let trailing = if body.is_end_stream() { None } else { trailing() };
    let body =
        body::open(&tokens, via, &mut parts.headers, body, exchange.clone(), trailing).await?;
    let request = Request::from_parts(parts, body);
    Ok(Outgoing {
        request,
        destination: permit.destination().clone(),
        scheme: permit.scheme(),
        upgrade,
    })
}

/// Whether the messages of a WebSocket are read, in either direction, so that no extension may change how they are written.
pub(super) fn reads_messages(permit: &RequestPermit) -> bool {
    permit.scrubs() || permit.secrets().iter().any(|bound| bound.locations.websocket)
}

/// Refuses a destination whose name holds a sealed token: no name is ever substituted, and whoever resolves it would read the token.
pub(super) fn host(session: &Session, destination: &Destination) -> Result<(), Denial> {
    sealed_in_name(session, destination.host.as_str().as_bytes())
}

/// The same for a name as it came in a DNS question, which is no host yet.
pub(crate) fn sealed_in_name(session: &Session, name: &[u8]) -> Result<(), Denial> {
    if !session.is_sealed_name(name) {
        return Ok(());
    }
    Err(tokens::misdirected(
        "a sealed token in the name of a host".to_owned(),
        "send the token in a header field; host names are not opened",
    ))
}

/// A secret that was opened, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedAt {
    /// The secret.
    pub secret: SecretName,
    /// The place, such as `header:authorization`.
    pub place: String,
}

/// Opens the tokens of a request's header fields, or refuses the request that holds one it may not open.
pub async fn open_head(
    session: &Session,
    permit: &RequestPermit,
    headers: &mut HeaderMap,
) -> Result<Vec<OpenedAt>, Denial> {
    header::open(&Tokens { session, permit, forwarded: None }, headers).await
}

/// Whether the request is a WebSocket handshake (RFC 6455 §4.1). Any other upgrade is dropped, not refused: it is only an offer.
fn wants_websocket(headers: &HeaderMap, version: Version) -> Result<bool, Denial> {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let websocket =
        upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && upgrades.next().is_none();
    let nominated = nominated(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    if !(websocket && nominated && version == Version::HTTP_11) {
        return Ok(false);
    }
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(http::header::CONTENT_LENGTH).is_some_and(|value| value != "0");
    if has_body {
        return Err(Denial::new(
            DenyReason::ProtocolNotAllowed,
            "a WebSocket handshake with a body",
            "send the handshake as RFC 6455 says",
        ));
    }
    Ok(true)
}

/// Drops what speaks of this connection only (RFC 9110 §7.6.1), and the sandbox's own proxy credentials.
///
/// The map is rebuilt, never removed from: removal would reorder what stays.
fn drop_connection_fields(headers: &mut HeaderMap, version: Version, upgrade: bool) {
    let wants_trailers =
        version == Version::HTTP_2 && headers.get(TE).is_some_and(|te| te == "trailers");
    let crumbs =
        version == Version::HTTP_2 && headers.get_all(http::header::COOKIE).iter().nth(1).is_some();
    let named: Vec<HeaderName> = nominated(headers)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !never_nominated(name))
        .collect();
    if named.is_empty() && !crumbs && !headers.keys().any(is_connection_field) {
        return;
    }
    let old = std::mem::take(headers);
    headers.reserve(old.len());
    for (name, value) in &old {
        let kept_te = *name == TE && wants_trailers;
        let kept_upgrade = upgrade && (*name == UPGRADE || *name == CONNECTION);
        if (is_connection_field(name) || named.contains(name)) && !kept_te && !kept_upgrade {
            continue;
        }
        if crumbs && *name == http::header::COOKIE {
            if !headers.contains_key(name) {
                headers.append(name.clone(), joined_crumbs(&old));
            }
            continue;
        }
        headers.append(name.clone(), value.clone());
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// HTTP/2 splits cookies into crumbs; one field is what an HTTP/1 server reads (RFC 9113 §8.2.3).
fn joined_crumbs(headers: &HeaderMap) -> HeaderValue {
    let crumbs: Vec<&[u8]> =
        headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
        .unwrap_or_else(|_error| HeaderValue::from_static(""))
}

/// The fields that `Connection` names.
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

/// A `Connection` field may not take away what frames or routes the message.
fn never_nominated(name: &HeaderName) -> bool {
    *name == HOST || *name == http::header::CONTENT_LENGTH || *name == TRANSFER_ENCODING
}

/// Fields between two neighbours. `Trailer` is none of them: hyper writes only trailers that were announced.
pub(super) fn is_connection_field(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        || name.as_str() == "keep-alive"
        || name.as_str() == "http2-settings"
        || name.as_str().starts_with("proxy-")
}

/// Fields by which some servers take another method or path than the one that was decided.
fn drop_overrides(headers: &mut HeaderMap) {
    const OVERRIDES: [&str; 5] = [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
    ];
    if headers.keys().any(|name| OVERRIDES.contains(&name.as_str())) {
        let old = std::mem::take(headers);
        for (name, value) in old.iter().filter(|(name, _)| !OVERRIDES.contains(&name.as_str())) {
            headers.append(name.clone(), value.clone());
        }
    }
}

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const CONNECT_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("connect-accept-encoding");

/// On hosts with a bound secret the answer is searched, so it must come whole and in an encoding that can be read.
fn ask_for_readable_answers(headers: &mut HeaderMap, in_parts: bool) {
    if !in_parts {
        drop_fields(headers, &[RANGE, IF_RANGE]);
    }
    let readable = readable_encodings(headers);
    headers.insert(ACCEPT_ENCODING, readable);
    // Compressed messages are not read.
    for name in [GRPC_ACCEPT_ENCODING, CONNECT_ACCEPT_ENCODING] {
        if headers.keys().any(|known| *known == name) {
            headers.insert(name, HeaderValue::from_static("identity"));
        }
    }
}

/// Rebuilds the map without these fields.
fn drop_fields(headers: &mut HeaderMap, fields: &[HeaderName]) {
    // A request has a few fields: to look at each name costs less than to hash one.
    if headers.keys().any(|name| fields.contains(name)) {
        let old = std::mem::take(headers);
        for (name, value) in old.iter().filter(|(name, _)| !fields.contains(name)) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// What the client accepts of what can be read, with its weights; its own words where that is all of it.
fn readable_encodings(headers: &HeaderMap) -> HeaderValue {
    let mut fields = headers.get_all(ACCEPT_ENCODING).iter();
    let only = fields.next().filter(|_| fields.next().is_none());
    let readable = |member: &&str| {
        let name = member.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("identity") || Coding::parse(name).is_some()
    };
    let all = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|field| field.to_str().ok());
    let members: Vec<_> =
        all.flat_map(|field| field.split(',')).map(str::trim).filter(|it| !it.is_empty()).collect();
    let kept: Vec<_> = members.iter().copied().filter(readable).collect();
    match only {
        Some(only) if !kept.is_empty() && kept.len() == members.len() => only.clone(),
        _ if kept.is_empty() => HeaderValue::from_static("identity"),
        _ => HeaderValue::from_str(&kept.join(", "))
            .unwrap_or_else(|_error| HeaderValue::from_static("identity")),
    }
}

/// Adds a field of the proxy's own in place of any that the sandbox sent.
async fn inject(
    tokens: &Tokens<'_>,
    secret: &BoundSecret,
    recognised: &Recognised,
    via: &Via,
    headers: &mut HeaderMap,
) -> Result<Vec<OpenedAt>, Denial> {
    let Some(inject) = &secret.inject else { return Ok(Vec::new()) };
    check_proven(&secret.name, recognised, via)?;
    let value = tokens.value(&secret.name).await?;
    let mut field = HeaderValue::from_bytes(&inject.render(&value))
        .map_err(|_error| unfit(&secret.name, "a header field"))?;
    field.set_sensitive(true);
    headers.insert(inject.header.clone(), field);
    let place = format!("inject:{}", inject.header);
    Ok(vec![OpenedAt { secret: secret.name.clone(), place }])
}

/// What the sandbox need not name itself is put to use only for those who prove that they are the sandbox.
pub(super) fn check_proven(
    secret: &SecretName,
    recognised: &Recognised,
    via: &Via,
) -> Result<(), Denial> {
    if via.client.shared_loopback && !recognised.proven {
        return Err(Denial::new(
            DenyReason::SecretUnavailable,
            format!("{secret} is added only for callers that show proxy credentials, since every process of this machine can reach the listener"),
            "use the proxy URL with credentials that `tollgate env` prints",
        )
        .with_status(403));
    }
    Ok(())
}
