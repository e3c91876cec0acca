//! Step 2: which sandbox is it? By source address, by proxy credentials, or as the only sandbox of a sidecar; never by guess.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;

use super::Client;
use crate::policy::{Denial, DenyReason};
use crate::session::{Caller, Recognised};

/// Recognises the sandbox of a request on the explicit listener.
pub(super) fn recognise(client: &Client, headers: &HeaderMap) -> Result<Recognised, Denial> {
    let source = client.peer.ip();
    let mut fields = headers.get_all(PROXY_AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (None, _) => client.proxy.registry.recognise(Caller { source, credentials: None }),
        (Some(field), None) => {
            let (user, password) = proxy_credentials(field.as_bytes()).ok_or_else(unreadable)?;
            client
                .proxy
                .registry
                .recognise(Caller { source, credentials: Some((&user, password.as_bytes())) })
        }
        (Some(_), Some(_)) => Err(unreadable()),
    }
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
