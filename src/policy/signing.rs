//! `sign` within its store: the other secrets that it names must be there, and must be able to go with it.

use super::diagnostic::{At, Diagnostic, Findings};
use super::file::fields::nearest;
use super::file::{WrittenSecret, WrittenSign, WrittenStore};
use crate::secret::{AwsPair, Locations, SecretName, Sign};

/// The names that AWS's clients read from the environment.
const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";

/// Binds a secret's way of signing, or finds what is wrong with it.
pub(super) fn bind(
    written: &WrittenSecret,
    store: &WrittenStore,
    out: &mut Findings,
) -> Option<Sign> {
    let At { value: sign, place } = written.sign.as_ref()?;
    let at = |name: &str| Some(At { value: name.parse().ok()?, place: place.clone() });
    match sign {
        WrittenSign::Hmac(rule) => Some(Sign::Hmac(rule.clone())),
        WrittenSign::UsualAws => {
            let access_key_id = companion(&at(ACCESS_KEY_ID)?, written, store, out)?;
            let session_token = at(SESSION_TOKEN).filter(|name| find(&name.value, store).is_some());
            let session_token = match session_token {
                Some(name) => Some(companion(&name, written, store, out)?),
                None => None,
            };
            Some(Sign::AwsSigV4(AwsPair { access_key_id, session_token }))
        }
        WrittenSign::Aws { access_key_id, session_token } => {
            let session_token = match session_token {
                Some(name) => Some(companion(name, written, store, out)?),
                None => None,
            };
            let access_key_id = companion(access_key_id, written, store, out)?;
            if session_token.as_ref() == Some(&access_key_id) {
                out.push(
                    Diagnostic::error(
                        "bad-sign",
                        place,
                        "one secret cannot be access key id and session token",
                    )
                    .hint("name two secrets of the store"),
                );
            }
            Some(Sign::AwsSigV4(AwsPair { access_key_id, session_token }))
        }
    }
}

/// Where a secret may stand. One that goes with a signature stands there and nowhere else, unless the policy says more.
pub(super) fn locations(written: &WrittenSecret, store: &WrittenStore) -> Locations {
    let name = &written.name.value;
    let goes_with = |other: &WrittenSecret| match other.sign.as_ref().map(|sign| &sign.value) {
        Some(WrittenSign::UsualAws) => [ACCESS_KEY_ID, SESSION_TOKEN].contains(&name.as_str()),
        Some(WrittenSign::Aws { access_key_id, session_token }) => {
            access_key_id.value == *name
                || session_token.as_ref().is_some_and(|token| token.value == *name)
        }
        Some(WrittenSign::Hmac(_)) | None => false,
    };
    if !written.places_written && store.secrets.iter().any(goes_with) {
        return Locations::NONE;
    }
    written.locations.clone()
}

fn find<'s>(name: &SecretName, store: &'s WrittenStore) -> Option<&'s WrittenSecret> {
    store.secrets.iter().find(|secret| secret.name.value == *name)
}

/// Another secret of the store, which itself neither signs nor is injected.
fn companion(
    name: &At<SecretName>,
    written: &WrittenSecret,
    store: &WrittenStore,
    out: &mut Findings,
) -> Option<SecretName> {
    let At { value: name, place } = name;
    let Some(other) = find(name, store) else {
        let names: Vec<&str> = store
            .secrets
            .iter()
            .map(|secret| secret.name.value.as_str())
            .filter(|other| *other != written.name.value.as_str())
            .collect();
        let hint = match nearest(name.as_str(), &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "define it beside this secret, or name the one that holds it: sign: { scheme: aws-sigv4, accessKeyId: NAME }".to_owned(),
        };
        let message = format!("the store `{}` has no secret `{name}`", store.name.value);
        out.push(Diagnostic::error("unknown-secret", place, message).hint(hint));
        return None;
    };
    if other.sign.is_some() || other.inject.is_some() {
        let message =
            format!("`{name}` signs or is injected itself, so it cannot go with a signature");
        out.push(
            Diagnostic::error("bad-sign", place, message)
                .related(&other.name.place, "it is here")
                .hint("name a secret that holds the access key id or the session token"),
        );
        return None;
    }
    Some(name.clone())
}
