//! Signing: a secret that never leaves Tollgate, because requests are signed with it here.

use http::HeaderName;

use super::name::SecretName;

/// How requests are signed with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// AWS Signature Version 4; the secret is the secret access key.
    AwsSigV4(AwsPair),
    /// An HMAC over chosen parts of the request, in a header field.
    Hmac(HmacRule),
}

impl Sign {
    /// The name in policy files.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::AwsSigV4(_) => "aws-sigv4",
            Self::Hmac(_) => "hmac",
        }
    }
}

/// What goes with a secret access key: other secrets of the same sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsPair {
    /// The secret that holds the access key id. Whoever signs with its token gets a real signature.
    pub access_key_id: SecretName,
    /// The secret that holds the session token of temporary credentials.
    pub session_token: Option<SecretName>,
}

/// HMAC-SHA-256 in a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacRule {
    /// The field that carries the signature.
    pub header: HeaderName,
    /// What is signed.
    pub template: Vec<SignedPart>,
    /// How the signature is written.
    pub encoding: SignatureEncoding,
    /// What stands in front of the signature in the field, and behind it.
    pub format: (String, String),
    /// The field that carries the time that was signed.
    pub timestamp_header: Option<HeaderName>,
    /// The unit of that time.
    pub timestamp_unit: TimestampUnit,
}

impl HmacRule {
    /// Whether the body is signed, so that it must be known whole.
    #[must_use]
    pub fn signs_body(&self) -> bool {
        let body = |part: &SignedPart| matches!(part, SignedPart::Body | SignedPart::BodySha256);
        self.template.iter().any(body)
    }
}

/// One part of what an HMAC covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedPart {
    /// Literal text.
    Text(String),
    /// The method.
    Method,
    /// The path, as it is sent.
    Path,
    /// The query, as it is sent, without the question mark.
    Query,
    /// Path and query, as they are sent.
    Target,
    /// The time of signing since 1970.
    Timestamp,
    /// The body.
    Body,
    /// The SHA-256 of the body in lower-case hex.
    BodySha256,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureEncoding {
    /// Lower-case hex.
    Hex,
    /// Base64 with padding (RFC 4648 §4).
    Base64,
}

/// The unit of a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampUnit {
    /// Whole seconds.
    Seconds,
    /// Whole milliseconds.
    Milliseconds,
}
