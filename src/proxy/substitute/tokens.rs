//! Finding sealed tokens, and the rule that says which of them open here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderName;

use crate::host::Scheme;
use crate::policy::{BoundSecret, Denial, DenyReason, Misdirected, RequestPermit};
use crate::secret::{SecretName, SecretValue, TokensIn};
use crate::session::{SealedSecret, Session};

/// A place in the head of a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) enum Place<'a> {
    Header(&'a HeaderName),
    Path,
    Query,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Path => f.write_str("path"),
            Self::Query => f.write_str("query"),
        }
    }
}

/// What one request may open.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Tokens<'a> {
    pub(in crate::proxy) session: &'a Session,
    pub(in crate::proxy) permit: &'a RequestPermit,
    /// How many misdirected tokens were forwarded, since their store says so; none where none may be.
    pub(in crate::proxy) forwarded: Option<&'a AtomicU64>,
}

impl<'a> Tokens<'a> {
    /// Where tokens stand in a text, this sandbox's or not.
    pub(super) fn found<'t>(&self, text: &'t [u8]) -> TokensIn<'t>
    where
        'a: 't,
    {
        self.session.finder().find(text)
    }

    /// Whether a text holds a token.
    pub(in crate::proxy) fn are_in(&self, text: &[u8]) -> bool {
        self.found(text).next().is_some()
    }

    /// The secret of a token, if it may be opened in this place of this request; none if the token goes on as it is, sealed and counted,
    /// since its store says `misdirected: forward`.
    pub(super) fn secret(
        &self,
        token: &[u8],
        place: Place<'_>,
    ) -> Result<Option<&'a SealedSecret>, Denial> {
        let misdirected = match self.session.by_token(token) {
            Some(secret) => secret.bound.misdirected,
            None => self.permit.policy().strangers(),
        };
        match self.opens(token, place) {
            Err(denial)
                if denial.reason == DenyReason::SecretMisdirected
                    && misdirected == Misdirected::Forward =>
            {
                let Some(forwarded) = self.forwarded else { return Err(denial) };
                forwarded.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            opens => opens.map(Some),
        }
    }

    /// The secrets of the session.
    pub(in crate::proxy) fn secrets(&self) -> &'a [SealedSecret] {
        self.session.secrets()
    }

    /// The secret of a name that a policy wrote.
    pub(in crate::proxy) fn named(&self, name: &SecretName) -> Result<&'a SealedSecret, Denial> {
        self.session.by_name(name).ok_or_else(|| unavailable(name, "it has no source"))
    }

    /// The authority of the request's destination, as it is sent.
    pub(in crate::proxy) fn authority(&self) -> String {
        self.permit.destination().authority(self.permit.scheme())
    }

    /// The secret of a token, if it may be sent to the host of this request at all.
    pub(in crate::proxy) fn bound(&self, token: &[u8]) -> Result<&'a SealedSecret, Denial> {
        let destination = self.permit.destination();
        let Some(secret) = self.session.by_token(token) else {
            return Err(misdirected(
                format!("a sealed token that is not one of this sandbox's, towards {destination}"),
                "use the tokens that `tollgate env` prints for this very sandbox",
            ));
        };
        let bound = &secret.bound;
        if !self.permit.secrets().iter().any(|permitted| Arc::ptr_eq(permitted, bound)) {
            return Err(not_bound(bound, &destination.to_string()));
        }
        if self.permit.scheme() == Scheme::Http {
            return Err(Denial::new(
                DenyReason::SecretRequiresTls,
                format!("the token of {} over plain HTTP towards {destination}", bound.name),
                "use https; a secret never travels in the clear",
            ));
        }
        Ok(secret)
    }

    fn opens(&self, token: &[u8], place: Place<'_>) -> Result<&'a SealedSecret, Denial> {
        let secret = self.bound(token)?;
        let bound = &secret.bound;
        match place {
            Place::Header(name) if bound.locations.header.admits(name) => Ok(secret),
            Place::Header(name) => Err(misdirected(
                format!(
                    "the token of {} in the header field `{name}`, which it is not bound to",
                    bound.name
                ),
                "send it in a field that servers do not echo, or have an operator name the field in the secret's `headers`",
            )),
            Place::Path if bound.locations.path => Ok(secret),
            Place::Query if bound.locations.query => Ok(secret),
            Place::Path | Place::Query => Err(misdirected(
                format!(
                    "the token of {} in the {place} of the URL, which it is not bound to",
                    bound.name
                ),
                "send it in a header field, since URLs end up in logs; or an operator names the place in the secret's `locations`",
            )),
        }
    }

    /// The real value of a secret of this session; fetched if it is not held.
    pub(in crate::proxy) async fn value(
        &self,
        name: &SecretName,
    ) -> Result<Arc<SecretValue>, Denial> {
        value_of(self.named(name)?).await
    }
}

/// The current value: held, or fetched now.
pub(super) async fn value_of(secret: &SealedSecret) -> Result<Arc<SecretValue>, Denial> {
    if let Some(value) = secret.live.fresh() {
        return Ok(value);
    }
    secret.live.value().await.map_err(|error| {
        tracing::warn!(secret = %secret.bound.name, %error, "a secret cannot be fetched");
        unavailable(&secret.bound.name, "its source gives no value")
    })
}

/// A value that has no form in a place.
pub(in crate::proxy) fn unfit(name: &SecretName, place: &str) -> Denial {
    unavailable(name, &format!("its value cannot stand in {place}"))
}

/// How many bytes of values the fields of one request may hold, and its target: more than any value is long, and no server reads more.
const MOST_IN_HEAD: usize = 128 * 1024;

/// The bytes of values that may yet be written into a head: a token is short and its value may be long.
pub(super) struct Room(usize);

impl Room {
    pub(super) const fn of_head() -> Self {
        Self(MOST_IN_HEAD)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Denial> {
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| too_much("128 KiB of values"))?;
        Ok(())
    }
}

/// The values of so many tokens would take up more than may be held for one request.
pub(super) fn too_much(bound: &str) -> Denial {
    Denial::new(
        DenyReason::LimitExceeded,
        format!("the values of the tokens in this request are longer than {bound}"),
        "send each token once",
    )
    .with_status(413)
}

fn unavailable(name: &SecretName, why: &str) -> Denial {
    let hint =
        "the log of Tollgate says why; an operator mends the source (`from`), then a retry works";
    Denial::new(DenyReason::SecretUnavailable, format!("{name} is unavailable: {why}"), hint)
}

fn not_bound(bound: &BoundSecret, destination: &str) -> Denial {
    let detail =
        format!("the token of {} towards {destination}, which it is not bound to", bound.name);
    if bound.hosts.is_empty() {
        return misdirected(
            detail,
            "the secret is bound to no host at all; an operator would give it `allowedHosts`",
        );
    }
    misdirected(
        detail,
        "an operator would add the host to the secret's `allowedHosts`; a retry will not help",
    )
}

pub(super) fn misdirected(detail: String, hint: &str) -> Denial {
    Denial::new(DenyReason::SecretMisdirected, detail, hint)
}
