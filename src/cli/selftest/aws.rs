//! Requests as a client of AWS signs them with tokens, and as AWS checks them: the rules of SigV4 are written down here anew, so that what the
//! proxy signs is not proved by itself. Of the client's own signature nothing counts, so it is all zeros.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING};
use http::request::Builder;
use http::{HeaderName, Method, Request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::place::Seen;
use crate::cli::Failure;
use crate::secret::{AwsPair, SecretName, SecretValue};

/// Who signs, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signing {
    pub(super) form: Form,
    /// Holds the secret access key.
    pub(super) signer: SecretName,
    pub(super) pair: AwsPair,
}

/// Where a signature stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In `Authorization`.
    Header,
    /// In the query.
    Presigned,
    /// In `Authorization`, and in front of each chunk of the body.
    Chunks,
}

impl Form {
    pub(super) const ALL: [Self; 3] = [Self::Header, Self::Presigned, Self::Chunks];
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const STREAMING: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
/// S3 has all the forms, in any region.
const SCOPE: &str = "us-east-1/s3/aws4_request";
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// What is sent in chunks; the last is empty.
const CHUNKS: [&str; 3] = ["a chunk", " and another", ""];

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

impl Signing {
    /// Every secret that takes part.
    pub(super) fn parties(&self) -> impl Iterator<Item = &SecretName> {
        [&self.signer, &self.pair.access_key_id].into_iter().chain(&self.pair.session_token)
    }

    /// The methods that suit it, the most fitting first.
    pub(super) const fn methods(&self) -> [Method; 5] {
        match self.form {
            Form::Header | Form::Presigned => {
                [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
            }
            Form::Chunks => [Method::PUT, Method::POST, Method::PATCH, Method::DELETE, Method::GET],
        }
    }

    /// What a presigned URL ends with.
    pub(super) fn query(&self, token: impl Fn(&SecretName) -> String) -> String {
        if self.form != Form::Presigned {
            return String::new();
        }
        let now = now();
        let credential = encoded(self.credential(&now, &token).as_bytes(), ENCODED);
        let session = self.pair.session_token.as_ref();
        let session = session.map(|name| format!("&X-Amz-Security-Token={}", token(name)));
        format!(
            "?b=2&a=1&X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={credential}&X-Amz-Date={now}&X-Amz-Expires=60&X-Amz-SignedHeaders=host{}&X-Amz-Signature={ZEROS}",
            session.unwrap_or_default()
        )
    }

    /// The request, whose URL is written already.
    pub(super) fn request(
        &self,
        request: Builder,
        token: impl Fn(&SecretName) -> String,
    ) -> Result<Request<Bytes>, Failure> {
        if self.form == Form::Presigned {
            return Ok(request.body(Bytes::new())?);
        }
        let now = now();
        let credential = self.credential(&now, &token);
        let authorization = format!(
            "{ALGORITHM} Credential={credential}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={ZEROS}"
        );
        let mut request = request.header(AUTHORIZATION, authorization).header(DATE, now);
        if let Some(name) = &self.pair.session_token {
            request = request.header(SECURITY_TOKEN, token(name));
        }
        if self.form == Form::Header {
            return Ok(request.header(HASH, sha256(b"")).body(Bytes::new())?);
        }
        let request = request
            .header(HASH, STREAMING)
            .header(CONTENT_ENCODING, "aws-chunked")
            .header("x-amz-decoded-content-length", CHUNKS.concat().len());
        Ok(request.body(chunks(|_| ZEROS.to_owned()).into())?)
    }

    fn credential(&self, now: &str, token: impl Fn(&SecretName) -> String) -> String {
        format!("{}/{}/{SCOPE}", token(&self.pair.access_key_id), day(now))
    }

    /// What AWS would say of the request as it arrived: nothing, or what is wrong with it.
    pub(super) fn check(
        &self,
        method: &Method,
        seen: &Seen,
        value: impl Fn(&SecretName) -> Option<Arc<SecretValue>>,
    ) -> Result<(), &'static str> {
        let claim = match self.form {
            Form::Header | Form::Chunks => Claim::in_header(seen),
            Form::Presigned => Claim::in_query(seen),
        };
        let claim = claim.ok_or("no signature that can be read")?;
        let is = |name: &SecretName, text: &str| {
            let text = SecretValue::new(text.as_bytes().to_vec());
            value(name).is_some_and(|value| text.is_ok_and(|text| text.is(&value)))
        };
        if !is(&self.pair.access_key_id, &claim.access_key_id) {
            return Err("a signature with another access key id");
        }
        let session = self.pair.session_token.as_ref();
        if session
            .is_some_and(|name| !claim.session_token.as_ref().is_some_and(|text| is(name, text)))
        {
            return Err("a signature with another session token, or with none");
        }
        if self.form == Form::Header && claim.payload != sha256(&seen.body) {
            return Err("a signature over another body");
        }
        let key = key(&*value(&self.signer).ok_or("its source is missing")?, &claim.scope);
        let canonical = claim.canonical(method, seen).ok_or("no signature that can be read")?;
        let sign = |algorithm: &str, what: &str| {
            let text = format!("{algorithm}\n{}\n{}\n{what}", claim.date, claim.scope);
            hex(hmac::sign(&key, text.as_bytes()).as_ref())
        };
        if sign(ALGORITHM, &sha256(canonical.as_bytes())) != claim.signature {
            return Err("a signature that is wrong");
        }
        if self.form == Form::Chunks {
            let mut before = claim.signature.clone();
            let expected = chunks(|chunk| {
                let hashes = format!("{before}\n{}\n{}", sha256(b""), sha256(chunk.as_bytes()));
                before = sign("AWS4-HMAC-SHA256-PAYLOAD", &hashes);
                before.clone()
            });
            if seen.body != expected {
                return Err("chunks with signatures that are wrong");
            }
        }
        Ok(())
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Presigned => "presigned",
            Self::Chunks => "chunks",
        })
    }
}

/// A signature as it arrived.
struct Claim {
    access_key_id: String,
    session_token: Option<String>,
    /// `20130524/us-east-1/s3/aws4_request`
    scope: String,
    date: String,
    /// Names, sorted, as the client wrote them.
    signed: String,
    payload: String,
    signature: String,
}

impl Claim {
    fn in_header(seen: &Seen) -> Option<Self> {
        let field = |name: &HeaderName| seen.headers.get(name)?.to_str().ok().map(str::to_owned);
        let authorization = field(&AUTHORIZATION)?;
        let mut parts = authorization.strip_prefix(ALGORITHM)?.trim_start().split(", ");
        let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let (access_key_id, scope) = part("Credential")?.split_once('/')?;
        Some(Self {
            access_key_id: access_key_id.to_owned(),
            session_token: field(&SECURITY_TOKEN),
            scope: scope.to_owned(),
            date: field(&DATE)?,
            signed: part("SignedHeaders")?.to_owned(),
            payload: field(&HASH)?,
            signature: part("Signature")?.to_owned(),
        })
    }

    fn in_query(seen: &Seen) -> Option<Self> {
        let parameter = |name: &str| {
            let mut parameters = parameters(&seen.target);
            let value = parameters.find_map(|it| it.strip_prefix(name)?.strip_prefix('='))?;
            Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
        };
        let credential = parameter("X-Amz-Credential")?;
        let (access_key_id, scope) = credential.split_once('/')?;
        Some(Self {
            access_key_id: access_key_id.to_owned(),
            session_token: parameter("X-Amz-Security-Token"),
            scope: scope.to_owned(),
            date: parameter("X-Amz-Date")?,
            signed: parameter("X-Amz-SignedHeaders")?,
            payload: "UNSIGNED-PAYLOAD".to_owned(),
            signature: parameter("X-Amz-Signature")?,
        })
    }

    fn canonical(&self, method: &Method, seen: &Seen) -> Option<String> {
        let path = seen.target.split('?').next()?;
        let path = encoded(&percent_decode_str(path).collect::<Vec<_>>(), PATH);
        let mut query: Vec<&str> =
            parameters(&seen.target).filter(|it| !it.starts_with("X-Amz-Signature=")).collect();
        query.sort_unstable();
        let mut headers = String::new();
        for name in self.signed.split(';') {
            headers += &format!("{name}:{}\n", seen.headers.get(name)?.to_str().ok()?);
        }
        Some(format!(
            "{method}\n{path}\n{}\n{headers}\n{}\n{}",
            query.join("&"),
            self.signed,
            self.payload
        ))
    }
}

fn parameters(target: &str) -> impl Iterator<Item = &str> {
    target.split_once('?').map_or("", |(_, query)| query).split('&').filter(|it| !it.is_empty())
}

/// The body in chunks, each behind its signature.
fn chunks(mut signature: impl FnMut(&str) -> String) -> String {
    let chunk = |chunk: &&str| {
        format!("{:x};chunk-signature={}\r\n{chunk}\r\n", chunk.len(), signature(chunk))
    };
    CHUNKS.iter().map(chunk).collect()
}

fn key(secret: &SecretValue, scope: &str) -> hmac::Key {
    let first = zeroize::Zeroizing::new([b"AWS4", secret.expose()].concat());
    scope.split('/').fold(hmac::Key::new(hmac::HMAC_SHA256, &first), |key, part| {
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref())
    })
}

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &ENCODED.remove(b'/');

fn encoded(text: &[u8], set: &'static AsciiSet) -> String {
    percent_encode(text, set).to_string()
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn day(date: &str) -> &str {
    date.split('T').next().unwrap_or_default()
}

fn sha256(data: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, data).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_signs_with_zeros_is_right_in_no_form() {
        for form in Form::ALL {
            let [signer, access_key_id] = ["SECRET", "ID"].map(|name| name.parse().unwrap());
            let pair = AwsPair { access_key_id, session_token: None };
            let signing = Signing { form, signer, pair };
            let token = |name: &SecretName| name.as_str().to_owned();
            let url = format!("https://s3.example.com/k{}", signing.query(token));
            let request = Request::put(url).header("host", "s3.example.com");
            let (head, body) = signing.request(request, token).unwrap().into_parts();
            let seen = Seen::of(&head, &body);
            let with = |text: &str| {
                let value = Arc::new(SecretValue::new(text.as_bytes().to_vec()).unwrap());
                signing.check(&Method::PUT, &seen, |_| Some(value.clone()))
            };
            assert_eq!(with("OTHER"), Err("a signature with another access key id"), "{form}");
            assert_eq!(with("ID"), Err("a signature that is wrong"), "{form}");
        }
    }
}
