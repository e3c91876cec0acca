//! `sign: hmac`: HMAC-SHA-256 over parts of the request, in a header field that the proxy writes over any that the sandbox sent.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Request};

use super::sigv4::{hex, sha256_hex};
use super::whole_body;
use crate::policy::Denial;
use crate::proxy::Proxy;
use crate::proxy::substitute::OutgoingBody;
use crate::secret::{HmacRule, SecretValue, SignatureEncoding, SignedPart, TimestampUnit};

/// Signs with the time of this moment.
pub(super) async fn sign(
    rule: &HmacRule,
    value: &SecretValue,
    proxy: &Proxy,
    request: Request<OutgoingBody>,
) -> Result<Request<OutgoingBody>, Denial> {
    let mut request = if rule.signs_body() { whole_body(proxy, request).await? } else { request };
    let now = jiff::Timestamp::now();
    let time = match rule.timestamp_unit {
        TimestampUnit::Seconds => now.as_second().to_string(),
        TimestampUnit::Milliseconds => now.as_millisecond().to_string(),
    };
    let signature = signature(rule, value, &time, &request);
    let (before, behind) = &rule.format;
    let field = HeaderValue::try_from(format!("{before}{signature}{behind}"));
    let time = HeaderValue::try_from(time);
    if let (Some(name), Ok(time)) = (&rule.timestamp_header, time) {
        request.headers_mut().insert(name.clone(), time);
    }
    let mut field = field.map_err(|_error| {
        super::refused("a signature that cannot stand in a header field", "mend the `format`")
    })?;
    field.set_sensitive(true);
    request.headers_mut().insert(rule.header.clone(), field);
    Ok(request)
}

fn signature(
    rule: &HmacRule,
    value: &SecretValue,
    time: &str,
    request: &Request<OutgoingBody>,
) -> String {
    let target = request.uri();
    let body = request.body().whole().unwrap_or_default();
    let parts = Parts {
        method: request.method().as_str(),
        path: target.path(),
        query: target.query().unwrap_or_default(),
        target: target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
        time,
        body,
    };
    let tag = parts.tag(&rule.template, value);
    match rule.encoding {
        SignatureEncoding::Hex => hex(tag.as_ref()),
        SignatureEncoding::Base64 => STANDARD.encode(tag.as_ref()),
    }
}

/// What a template may name.
struct Parts<'r> {
    method: &'r str,
    path: &'r str,
    query: &'r str,
    target: &'r str,
    time: &'r str,
    body: &'r [u8],
}

impl Parts<'_> {
    fn tag(&self, template: &[SignedPart], value: &SecretValue) -> hmac::Tag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, value.expose());
        let mut context = hmac::Context::with_key(&key);
        for part in template {
            match part {
                SignedPart::Text(text) => context.update(text.as_bytes()),
                SignedPart::Method => context.update(self.method.as_bytes()),
                SignedPart::Path => context.update(self.path.as_bytes()),
                SignedPart::Query => context.update(self.query.as_bytes()),
                SignedPart::Target => context.update(self.target.as_bytes()),
                SignedPart::Timestamp => context.update(self.time.as_bytes()),
                SignedPart::Body => context.update(self.body),
                SignedPart::BodySha256 => context.update(sha256_hex(self.body).as_bytes()),
            }
        }
        context.sign()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, in two parts.
    #[test]
    fn parts_are_signed_one_after_the_other() {
        let parts = Parts {
            method: "what do ya want ",
            path: "for ",
            query: "",
            target: "",
            time: "nothing",
            body: b"?",
        };
        let template =
            [SignedPart::Method, SignedPart::Path, SignedPart::Timestamp, SignedPart::Body];
        let key = SecretValue::new(b"Jefe".to_vec()).unwrap();
        assert_eq!(
            hex(parts.tag(&template, &key).as_ref()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
