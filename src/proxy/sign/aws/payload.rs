//! What a signature says of the body: a hash that the sandbox states, a word that stands for one, or the hash of what was read.

use http::{HeaderName, Request};

use super::super::refused;
use super::super::sigv4::{EMPTY_SHA256, sha256_hex};
use super::request::Form;
use super::{Asked, set};
use crate::policy::{Denial, DenyReason};
use crate::proxy::substitute::OutgoingBody;

/// What the payload's part of the signature is, as far as the head tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// A hash or a word that is signed as it stands.
    Word(String),
    /// The hash of a body that is known whole, here and in its field.
    Rehashed,
    /// Nobody says; the body must be read.
    Unknown,
}

impl Payload {
    pub(super) fn of(asked: &Asked, request: &Request<OutgoingBody>) -> Result<Self, Denial> {
        let mut fields = request.headers().get_all(&CONTENT_SHA256).iter();
        let field = fields.next().map(|field| field.to_str().unwrap_or_default());
        if fields.next().is_some() {
            return Err(refused(
                "a signature over two hashes of the payload",
                "send x-amz-content-sha256 once",
            ));
        }
        let body = request.body();
        let presigned = matches!(asked.form, Form::Query { .. });
        match field {
            None if presigned && asked.scope.takes_paths_as_sent() => {
                Ok(Self::Word(UNSIGNED_PAYLOAD.to_owned()))
            }
            Some(UNSIGNED_PAYLOAD) => Ok(Self::Word(UNSIGNED_PAYLOAD.to_owned())),
            Some(word)
                if STREAMING.contains(&word) && !body.lost_its_length() && !body.was_read() =>
            {
                Ok(Self::Word(word.to_owned()))
            }
            Some(word) if STREAMING.contains(&word) => Err(substituted()),
            Some(hash) if is_sha256(hash) && body.lost_its_length() => Err(substituted()),
            Some(hash) if is_sha256(hash) && body.was_read() => Ok(Self::Rehashed),
            Some(hash) if is_sha256(hash) => Ok(Self::Word(hash.to_owned())),
            Some(_) => Err(refused(
                "a signature over a payload of an unknown kind in x-amz-content-sha256",
                "sign a SHA-256, UNSIGNED-PAYLOAD, or a body in chunks with SigV4 (not SigV4A)",
            )),
            None if body.lost_its_length() => Err(substituted()),
            None => Ok(Self::Unknown),
        }
    }

    /// The text that is signed; the body has been read if it must be.
    pub(super) fn known(
        self,
        asked: &Asked,
        request: &mut Request<OutgoingBody>,
    ) -> Result<String, Denial> {
        let hash = match &self {
            Self::Word(word) => return Ok(word.clone()),
            Self::Rehashed | Self::Unknown => {
                request.body().whole().map_or_else(|| EMPTY_SHA256.to_owned(), sha256_hex)
            }
        };
        // S3 wants the hash told; others may be told.
        if self == Self::Rehashed || asked.scope.takes_paths_as_sent() {
            set(request.headers_mut(), &CONTENT_SHA256, &hash)?;
        }
        Ok(hash)
    }
}

const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const STREAMING: [&str; 3] = [
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
];

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Tokens are opened in a body that streams, so that nobody knows its hash before its end.
fn substituted() -> Denial {
    let detail = "the signature covers a body in which tokens are opened while it streams";
    let hint = "send a smaller body, or have an operator raise limits.bufferedBody or take `body` out of the secret's `locations`";
    Denial::new(DenyReason::LimitExceeded, detail, hint).with_status(413)
}
