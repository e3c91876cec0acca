//! Real values that a sandbox should not know, on their way to a host that they are not bound to: they leaked some other way.
//!
//! Trailers are looked at too, when nothing but an end of the request can keep them back. Only values that are held already are compared, in every form in which answers are searched for them. Each refusal confirms a guess, so
//! after `limits.exposedHits` of them the sandbox's secrets rest: nothing is compared any more, and no host with a bound secret is served.

use std::sync::Arc;

use http::header::HeaderMap;
use http::{Uri, uri::PathAndQuery};

use crate::host::Scheme;
use crate::policy::{Denial, DenyReason, RequestPermit};
use crate::secret::{Needles, SealedToken};
use crate::session::{Exposure, Sandbox, Session};

/// Refuses a request whose URL or fields, as the sandbox sent them, hold a value that is not bound to its destination.
pub(super) fn check(
    exposure: &Exposure,
    session: &Session,
    permit: &RequestPermit,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Denial> {
    refuse(exposure, session, permit, |needles| find(needles, session, permit, uri, headers))
}

/// What is needed to look at the trailers of a request, when everything else of it may have been sent.
#[derive(Debug)]
pub(super) struct Trailing {
    sandbox: Arc<Sandbox>,
    session: Arc<Session>,
    permit: RequestPermit,
}

impl Trailing {
    /// For a request with a body; without secrets there is nothing to look for.
    pub(super) fn of(
        sandbox: &Arc<Sandbox>,
        session: &Arc<Session>,
        permit: &RequestPermit,
    ) -> Option<Self> {
        if session.secrets().is_empty() {
            return None;
        }
        let (sandbox, session) = (sandbox.clone(), session.clone());
        Some(Self { sandbox, session, permit: permit.clone() })
    }

    /// Refuses trailers that hold a value which is not bound to their destination.
    pub(super) fn check(&self, trailers: &HeaderMap) -> Result<(), Denial> {
        let Self { sandbox, session, permit } = self;
        refuse(sandbox.exposure(), session, permit, |needles| {
            let (token, place) = in_fields(needles, session, permit, trailers)?;
            Some((token, format!("{place} behind the body")))
        })
    }
}

/// Looks for a value unless the secrets rest, and counts what is found.
fn refuse(
    exposure: &Exposure,
    session: &Session,
    permit: &RequestPermit,
    find: impl FnOnce(&Needles) -> Option<(SealedToken, String)>,
) -> Result<(), Denial> {
    let Some(needles) = session.needles() else { return Ok(()) };
    if exposure.is_exhausted() {
        return if permit.secrets().is_empty() { Ok(()) } else { Err(resting(session)) };
    }
    let Some((exposed, place)) = find(&needles) else { return Ok(()) };
    exposure.count();
    Err(refused(&needles, session, permit, &exposed, &place))
}

/// The first value that may not stand where it stands, and where that is. Names are compared in lower case, in which they travel.
fn find(
    needles: &Needles,
    session: &Session,
    permit: &RequestPermit,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<(SealedToken, String)> {
    // A host's name goes out in the clear, to resolvers and in the SNI: no value may stand in one, wherever it is bound.
    if let Some(token) = needles.tokens_of_name(permit.destination().host.as_str()).next() {
        return Some((token.clone(), "the name of the host".to_owned()));
    }
    let strays = |token: &&SealedToken| !may_go(session, permit, token);
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    if let Some(token) = needles.tokens_of(target.as_bytes()).find(strays) {
        return Some((token.clone(), "the URL".to_owned()));
    }
    in_fields(needles, session, permit, headers)
}

fn in_fields(
    needles: &Needles,
    session: &Session,
    permit: &RequestPermit,
    headers: &HeaderMap,
) -> Option<(SealedToken, String)> {
    let strays = |token: &&SealedToken| !may_go(session, permit, token);
    for (name, value) in headers {
        if let Some(token) = needles.tokens_of_name(name.as_str()).find(strays) {
            return Some((token.clone(), "the name of a header field".to_owned()));
        }
        if let Some(token) = needles.tokens_of(value.as_bytes()).find(strays) {
            return Some((token.clone(), name.as_str().to_owned()));
        }
    }
    None
}

/// Whether the value of a token, or the same value under another name, may go to this destination.
fn may_go(session: &Session, permit: &RequestPermit, token: &SealedToken) -> bool {
    permit.scheme() == Scheme::Https && is_bound(session, permit, token)
}

fn is_bound(session: &Session, permit: &RequestPermit, token: &SealedToken) -> bool {
    let exposed = session.by_token(token.as_str().as_bytes());
    let values = exposed.map(|secret| secret.live.held()).unwrap_or_default();
    let mut permitted = permit.secrets().iter().filter_map(|bound| session.by_name(&bound.name));
    permitted.any(|secret| {
        secret.token == *token
            || secret.live.held().iter().any(|value| values.iter().any(|other| value.is(other)))
    })
}

/// The sentence names the destination without the value that may stand in it.
fn refused(
    needles: &Needles,
    session: &Session,
    permit: &RequestPermit,
    token: &SealedToken,
    place: &str,
) -> Denial {
    let destination = permit.destination().to_string();
    let destination = needles.redacted(&destination);
    let exposed = session.by_token(token.as_str().as_bytes());
    let name = exposed.map_or("a secret that was taken away", |secret| secret.bound.name.as_str());
    if permit.scheme() == Scheme::Http && is_bound(session, permit, token) {
        return Denial::new(
            DenyReason::SecretRequiresTls,
            format!("the real value of {name} in {place}, over plain HTTP towards {destination}"),
            "use https; a secret never travels in the clear",
        );
    }
    Denial::new(
        DenyReason::SecretExposed,
        format!(
            "the real value of {name} in {place}, towards {destination}, which it is not bound to"
        ),
        "the sandbox knows a real value, which leaked some other way: an operator should replace it; send sealed tokens only",
    )
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
