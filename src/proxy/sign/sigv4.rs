//! AWS Signature Version 4 as a calculation: scope, canonical request, string to sign, key, signature. No I/O and no clock.
//!
//! What is written here is what the signature covers; a server computes the same from the bytes that arrive.

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use crate::secret::SecretValue;

/// The one algorithm; the asymmetric one is not spoken.
pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What ends every scope.
const TERMINATOR: &str = "aws4_request";
/// How long a date is that both the header and the scope begin with: `20130524`.
const DAY: usize = 8;

/// Where and until when a signature is good for: `20130524/us-east-1/s3/aws4_request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) region: String,
    pub(super) service: String,
}

impl Scope {
    /// Reads what follows the access key id in a credential. The day in it is not believed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (day, region, service) = (parts.next()?, parts.next()?, parts.next()?);
        let ends = parts.next() == Some(TERMINATOR) && parts.next().is_none();
        let name = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let dated = day.len() == DAY && day.bytes().all(|b| b.is_ascii_digit());
        (dated && ends && name(region) && name(service))
            .then(|| Self { region: region.to_owned(), service: service.to_owned() })
    }

    /// The scope on the day of a date.
    pub(super) fn on(&self, date: &str) -> String {
        format!("{}/{}/{}/{TERMINATOR}", day(date), self.region, self.service)
    }

    /// S3 takes its paths as they are sent; every other service wants them normalised and encoded once more.
    pub(super) fn takes_paths_as_sent(&self) -> bool {
        self.service == "s3" || self.service.starts_with("s3-") || self.service == "s3express"
    }
}

/// The key of one day, region and service, with what it signs for.
pub(super) struct Signer {
    key: hmac::Key,
    /// `20130524T000000Z`.
    date: String,
    scope: String,
}

impl Signer {
    /// Derives the key; `date` is the full date of the request.
    pub(super) fn new(secret: &SecretValue, scope: &Scope, date: &str) -> Self {
        let mut first = Zeroizing::new(Vec::with_capacity(secret.len() + 4));
        first.extend_from_slice(b"AWS4");
        first.extend_from_slice(secret.expose());
        let steps = [day(date), &scope.region, &scope.service, TERMINATOR];
        let key = steps.iter().fold(hmac::Key::new(hmac::HMAC_SHA256, &first), |key, step| {
            hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, step.as_bytes()).as_ref())
        });
        Self { key, date: date.to_owned(), scope: scope.on(date) }
    }

    /// The full date that is signed.
    pub(super) fn date(&self) -> &str {
        &self.date
    }

    /// The scope that is signed.
    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    /// The signature of a canonical request.
    pub(super) fn request(&self, canonical: &str) -> String {
        self.sign(ALGORITHM, &sha256_hex(canonical.as_bytes()))
    }

    /// The signature of a piece of a body in chunks, behind the signature before it.
    pub(super) fn chunk(&self, before: &str, sha256: &str) -> String {
        self.sign("AWS4-HMAC-SHA256-PAYLOAD", &format!("{before}\n{EMPTY_SHA256}\n{sha256}"))
    }

    /// The signature of the trailers of a body in chunks.
    pub(super) fn trailers(&self, before: &str, sha256: &str) -> String {
        self.sign("AWS4-HMAC-SHA256-TRAILER", &format!("{before}\n{sha256}"))
    }

    fn sign(&self, algorithm: &str, what: &str) -> String {
        let text = format!("{algorithm}\n{}\n{}\n{what}", self.date, self.scope);
        hex(hmac::sign(&self.key, text.as_bytes()).as_ref())
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("scope", &self.scope).finish_non_exhaustive()
    }
}

fn day(date: &str) -> &str {
    date.get(..DAY).unwrap_or(date)
}

/// The SHA-256 of nothing.
pub(super) const EMPTY_SHA256: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// SHA-256 in lower-case hex.
pub(super) fn sha256_hex(data: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, data).as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec()).unwrap()
    }

    fn scope(region: &str, service: &str) -> Scope {
        Scope { region: region.to_owned(), service: service.to_owned() }
    }

    /// The key derivation example of AWS's documentation.
    #[test]
    fn a_key_is_derived_step_by_step() {
        let signer = Signer::new(
            &secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            &scope("us-east-1", "iam"),
            "20150830T123600Z",
        );
        let canonical = "GET\n/\nAction=ListUsers&Version=2010-05-08\n\
             content-type:application/x-www-form-urlencoded; charset=utf-8\n\
             host:iam.amazonaws.com\nx-amz-date:20150830T123600Z\n\n\
             content-type;host;x-amz-date\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            sha256_hex(canonical.as_bytes()),
            "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
        );
        assert_eq!(
            signer.request(canonical),
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    /// The example of a body in chunks of the S3 reference: 66560 bytes in chunks of 64 KiB.
    #[test]
    fn chunks_are_signed_in_a_chain() {
        let signer = Signer::new(
            &secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            &scope("us-east-1", "s3"),
            "20130524T000000Z",
        );
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let first = signer.chunk(seed, &sha256_hex(&[b'a'; 65536]));
        assert_eq!(first, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648");
        let second = signer.chunk(&first, &sha256_hex(&[b'a'; 1024]));
        assert_eq!(second, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497");
        let last = signer.chunk(&second, EMPTY_SHA256);
        assert_eq!(last, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9");
    }

    #[test]
    fn scopes_are_read_strictly() {
        assert_eq!(
            Scope::parse("20130524/eu-west-1/s3/aws4_request"),
            Some(scope("eu-west-1", "s3"))
        );
        for text in [
            "",
            "20130524/eu-west-1/s3",
            "20130524/eu-west-1/s3/aws4_request/x",
            "20130524/eu-west-1/s3/aws5_request",
            "2013052/eu-west-1/s3/aws4_request",
            "20130524//s3/aws4_request",
            "20130524/eu west/s3/aws4_request",
            "20130524/eu-west-1/s\n3/aws4_request",
        ] {
            assert_eq!(Scope::parse(text), None, "{text:?}");
        }
    }
}
