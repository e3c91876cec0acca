//! Step 2: which sandbox is it? By source address, by proxy credentials, or as the only sandbox of a sidecar; never by guess.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;

use super::Client;
use crate::policy::{Denial, DenyReason};
use crate::session::Recognised;

/// Recognises the sandbox of a request on the explicit listener.
pub(super) fn recognise(client: &Client, headers: &HeaderMap) -> Result<Recognised, Denial> {
    let registry = &client.proxy.registry;
    let mut fields = headers.get_all(PROXY_AUTHORIZATION).iter();
    let recognised = match (fields.next(), fields.next()) {
        (None, _) => registry.recognise(client.caller(None)),
        (Some(field), None) => {
            let (user, password) = proxy_credentials(field.as_bytes()).ok_or_else(unreadable)?;
            registry.recognise(client.caller(Some((&user, password.as_bytes()))))
        }
        (Some(_), Some(_)) => Err(unreadable()),
    }?;
    // Asked after the other, so that no change of owner falls between the two.
    if client.has_moved() { Err(moved()) } else { Ok(recognised) }
}

/// The denial for a connection that is older than what it was recognised by.
pub(super) fn moved() -> Denial {
    Denial::new(
        DenyReason::SandboxUnknown,
        "the address belongs to another sandbox than when the connection was opened, or the sandbox to other addresses",
        "open a new connection",
    )
}

/// User and password of `Basic base64(user:password)` (RFC 7617), the scheme in any letter case.
#[must_use]
pub fn proxy_credentials(field: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(field).ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn unreadable() -> Denial {
    Denial::new(
        DenyReason::SandboxUnknown,
        "the Proxy-Authorization field is not one `Basic` credential",
        "send the credentials of the proxy URL that `tollgate env` prints",
    )
}
