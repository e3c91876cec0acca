//! Tokens in the trailers of a request: opened where the secret's `headers` name the field and the request announced it in `Trailer`.
//!
//! A trailer comes when nothing can be fetched any more, so values are fetched for announced fields only. A token anywhere else among the
//! trailers ends the request, and so does a real value that is not bound to the destination; fields that would change framing or routing are dropped.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue, TRAILER};
use zeroize::Zeroizing;

use super::exposed::Trailing;
use super::is_connection_field;
use super::tokens::{self, Tokens, value_of};
use crate::host::Scheme;
use crate::policy::{BoundSecret, Denial, DenyReason};
use crate::proxy::record::Exchange;
use crate::secret::{HeaderRule, SealedToken, SecretValue, TokenFinder};

/// What may be opened in the trailers of one request.
#[derive(Debug)]
pub(super) struct Trailers {
    finder: Arc<TokenFinder>,
    opens: Vec<Opens>,
    /// Looks for values that may not go with them.
    exposed: Option<Trailing>,
}

#[derive(Debug)]
struct Opens {
    bound: Arc<BoundSecret>,
    token: SealedToken,
    value: Arc<SecretValue>,
}

impl Trailers {
    /// Fetches the values that announced trailers may need.
    pub(super) async fn of(
        tokens: &Tokens<'_>,
        headers: &HeaderMap,
        exposed: Option<Trailing>,
    ) -> Result<Self, Denial> {
        let finder = tokens.session.finder().clone();
        let mut trailers = Self { finder, opens: Vec::new(), exposed };
        if !headers.contains_key(TRAILER) || tokens.permit.scheme() == Scheme::Http {
            return Ok(trailers);
        }
        let announced: Vec<HeaderName> = announced(headers).collect();
        for bound in tokens.permit.secrets() {
            let opens = announced.iter().any(|name| names(bound, name));
            let secret = tokens.session.by_name(&bound.name).filter(|_| opens);
            if let Some(secret) = secret {
                let (token, value) = (secret.token.clone(), Box::pin(value_of(secret)).await?);
                trailers.opens.push(Opens { bound: bound.clone(), token, value });
            }
        }
        Ok(trailers)
    }

    /// What finds the tokens of the session.
    pub(super) const fn finder(&self) -> &Arc<TokenFinder> {
        &self.finder
    }

    /// The trailers as they leave.
    pub(super) fn open(&self, sent: &HeaderMap, exchange: &Exchange) -> Result<HeaderMap, Denial> {
        if let Some(exposed) = &self.exposed {
            exposed.check(sent)?;
        }
        let mut kept = HeaderMap::with_capacity(sent.len());
        for (name, value) in sent {
            if self.finder.find(name.as_str().as_bytes()).next().is_some() {
                return Err(misdirected("a sealed token as the name of a trailer"));
            }
            let opened = self.opened(name, value, exchange)?;
            if !is_forbidden(name) {
                kept.append(name.clone(), opened.unwrap_or_else(|| value.clone()));
            }
        }
        Ok(kept)
    }

    /// One trailer with its tokens opened; none if it holds none.
    fn opened(
        &self,
        name: &HeaderName,
        field: &HeaderValue,
        exchange: &Exchange,
    ) -> Result<Option<HeaderValue>, Denial> {
        let text = field.as_bytes();
        let mut out = Zeroizing::new(Vec::new());
        let mut copied = 0;
        for token in self.finder.find(text) {
            let written = text.get(token.clone()).unwrap_or_default();
            let mut opens = self.opens.iter().filter(|_| !is_forbidden(name));
            let opens = opens.find(|opens| {
                names(&opens.bound, name) && opens.token.as_str().as_bytes() == written
            });
            let Opens { bound, value, .. } = opens
                .ok_or_else(|| misdirected(&format!("a sealed token in the trailer `{name}`")))?;
            if !value.fits_header() {
                return Err(tokens::unfit(&bound.name, "a trailer"));
            }
            out.extend_from_slice(text.get(copied..token.start).unwrap_or_default());
            out.extend_from_slice(value.expose());
            copied = token.end;
            exchange.opened(vec![bound.name.clone()], &format!("trailer:{name}"));
        }
        if copied == 0 {
            return Ok(None);
        }
        out.extend_from_slice(text.get(copied..).unwrap_or_default());
        let mut value = HeaderValue::from_bytes(&out)
            .map_err(|_error| misdirected(&format!("a value that cannot stand in `{name}`")))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// The fields that the request announces as trailers (RFC 9110 §6.6.2).
fn announced(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let fields = headers.get_all(TRAILER).iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).filter_map(|name| name.trim().parse().ok())
}

/// Whether the secret's `headers` name the field; what is merely not excluded does not open in trailers.
fn names(bound: &BoundSecret, name: &HeaderName) -> bool {
    matches!(&bound.locations.header, HeaderRule::Only(names) if names.contains(name))
}

fn misdirected(detail: &str) -> Denial {
    Denial::new(
        DenyReason::SecretMisdirected,
        detail,
        "send the token in a header field; a trailer is opened where the secret's `headers` name it and `Trailer` announces it",
    )
}

/// RFC 9110 §6.5.1: framing, routing, authentication and control do not belong into trailers.
fn is_forbidden(name: &HeaderName) -> bool {
    let exact = [
        "host",
        "content-length",
        "transfer-encoding",
        "authorization",
        "te",
        "trailer",
        "cookie",
        "set-cookie",
        "expect",
        "range",
        "max-forwards",
    ];
    exact.contains(&name.as_str())
        || name.as_str().starts_with("content-")
        || name.as_str().starts_with("proxy-")
        || is_connection_field(name)
}
