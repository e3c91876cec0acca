//! Real values that a sandbox should not know, on their way to a host that they are not bound to: they leaked some other way.
//!
//! Only values that are held already are compared, in every form in which answers are searched for them. Each refusal confirms a guess, so
//! after `limits.exposedHits` of them the sandbox's secrets rest: nothing is compared any more, and no host with a bound secret is served.

use http::header::HeaderMap;
use http::{Uri, uri::PathAndQuery};

use crate::host::Scheme;
use crate::policy::{Denial, DenyReason, RequestPermit};
use crate::secret::SealedToken;
use crate::session::{Exposure, Session};

/// Refuses a request whose URL or fields, as the sandbox sent them, hold a value that is not bound to its destination.
pub(super) fn check(
    exposure: &Exposure,
    session: &Session,
    permit: &RequestPermit,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Denial> {
    let Some(needles) = session.needles() else { return Ok(()) };
    if exposure.is_exhausted() {
        return if permit.secrets().is_empty() { Ok(()) } else { Err(resting(session)) };
    }
    let host = permit.destination().host.as_str();
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let url = [host, target].into_iter().map(|text| ("the URL", text.as_bytes()));
    let names = headers.keys().map(|name| ("the name of a header field", name.as_str().as_bytes()));
    let fields = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (place, text) in url.chain(names).chain(fields) {
        for token in needles.tokens_of(text) {
            if let Err(denial) = bound(session, permit, token, place) {
                exposure.count();
                return Err(denial);
            }
        }
    }
    Ok(())
}

/// Whether the value of a token, or the same value under another name, may go to this destination.
fn bound(
    session: &Session,
    permit: &RequestPermit,
    token: &SealedToken,
    place: &str,
) -> Result<(), Denial> {
    let destination = permit.destination();
    let exposed = session.by_token(token.as_str().as_bytes());
    let values = exposed.map(|secret| secret.live.held()).unwrap_or_default();
    let permitted = permit.secrets().iter().filter_map(|bound| session.by_name(&bound.name));
    let may_go = permitted.into_iter().any(|secret| {
        secret.token == *token
            || secret.live.held().iter().any(|value| values.iter().any(|other| value.is(other)))
    });
    let name = exposed.map_or("a secret that was taken away", |secret| secret.bound.name.as_str());
    if !may_go {
        return Err(Denial::new(
            DenyReason::SecretExposed,
            format!(
                "the real value of {name} in {place}, towards {destination}, which it is not bound to"
            ),
            "the sandbox knows a real value, which leaked some other way: an operator should replace it; send sealed tokens only",
        ));
    }
    if permit.scheme() == Scheme::Http {
        return Err(Denial::new(
            DenyReason::SecretRequiresTls,
            format!("the real value of {name} in {place}, over plain HTTP towards {destination}"),
            "use https; a secret never travels in the clear",
        ));
    }
    Ok(())
}

fn resting(session: &Session) -> Denial {
    Denial::new(
        DenyReason::SecretUnavailable,
        format!(
            "the secrets of {} rest: real values were seen too often where they are not bound",
            session.id()
        ),
        "an operator should replace the values that leaked; the secrets rest until an hour after the last of limits.exposedHits",
    )
}
