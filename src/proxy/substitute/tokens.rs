//! Finding sealed tokens, and the rule that says which of them open here.

use std::sync::Arc;
use std::sync::LazyLock;

use http::HeaderName;
use memchr::memmem::Finder;

use crate::host::Scheme;
use crate::policy::{BoundSecret, Denial, DenyReason, RequestPermit};
use crate::secret::{SealedToken, SecretName, SecretValue};
use crate::session::{SealedSecret, Session};

/// A place in the head of a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) enum Place<'a> {
    Header(&'a HeaderName),
    Url,
}

/// What one request may open.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Tokens<'a> {
    pub(super) session: &'a Session,
    pub(super) permit: &'a RequestPermit,
}

/// Where the next token starts, at or after `from`. Linear: the prefix is searched for, then 32 digits are looked at.
pub(in crate::proxy) fn find(text: &[u8], from: usize) -> Option<usize> {
    static PREFIX: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(SealedToken::PREFIX));
    let mut from = from;
    loop {
        let start = from + PREFIX.find(text.get(from..)?)?;
        let digits = text.get(start + SealedToken::PREFIX.len()..start + SealedToken::LEN);
        if digits
            .is_some_and(|digits| digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        {
            return Some(start);
        }
        from = start + 1;
    }
}

impl<'a> Tokens<'a> {
    /// The secret of a token, if it may be opened in this place of this request.
    pub(super) fn secret(
        &self,
        token: &[u8],
        place: Place<'_>,
    ) -> Result<&'a SealedSecret, Denial> {
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
        match place {
            Place::Header(name) if bound.locations.header.admits(name) => Ok(secret),
            Place::Header(name) => Err(misdirected(
                format!(
                    "the token of {} in the header field `{name}`, which it is not bound to",
                    bound.name
                ),
                "send it in a field that servers do not echo, or have an operator name the field in the secret's `headers`",
            )),
            Place::Url => Err(misdirected(
                format!("the token of {} in the URL, which it is not bound to", bound.name),
                "send it in a header field; URLs end up in logs",
            )),
        }
    }

    /// The real value of a secret of this session; fetched if it is not held.
    pub(super) async fn value(&self, name: &SecretName) -> Result<Arc<SecretValue>, Denial> {
        let Some(secret) = self.session.by_name(name) else {
            return Err(unavailable(name, "it has no source"));
        };
        value_of(secret).await
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
pub(super) fn unfit(name: &SecretName, place: &str) -> Denial {
    unavailable(name, &format!("its value cannot stand in {place}"))
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

fn misdirected(detail: String, hint: &str) -> Denial {
    Denial::new(DenyReason::SecretMisdirected, detail, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tokens_are_found() {
        let token = format!("{}{}", SealedToken::PREFIX, "0123456789abcdef".repeat(2));
        let upper = token.replace('a', "A");
        for (text, at) in [
            (token.clone(), Some(0)),
            (format!("Bearer {token}"), Some(7)),
            (format!("osb_sealed_osb_sealed_{token}"), Some(22)),
            (format!("{token}ff"), Some(0)),
            (token.chars().take(42).collect(), None),
            (upper, None),
            ("osb_sealed_".repeat(50), None),
            (String::new(), None),
        ] {
            assert_eq!(find(text.as_bytes(), 0), at, "{text}");
        }
    }
}
