//! SigV4 on a request: the sandbox's signature with a sealed access key id goes out of it, the real one goes in.
//!
//! Region and service are those that the sandbox signed for; host, path, query and headers are those that leave. The payload's hash is the
//! sandbox's own where the body leaves as it came, so that it streams; a body in signed chunks is signed anew chunk by chunk.

mod payload;
mod request;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use hyper::body::Incoming;
use zeroize::Zeroizing;

use super::canonical::{Canonical, encoded, names};
use super::chunks::Chunks;
use super::sigv4::{ALGORITHM, Scope, Signer};
use super::{refused, whole_body};
use crate::policy::Denial;
use crate::proxy::Proxy;
use crate::proxy::substitute::{OpenedAt, OutgoingBody, Tokens, unfit};
use crate::secret::{AwsPair, SecretName, SecretValue, Sign};

use payload::Payload;
use request::{Claim, Form};

/// A request that the sandbox signed with a sealed access key id.
#[derive(Debug)]
pub(super) struct Asked {
    /// The secret access key.
    signer: SecretName,
    pair: AwsPair,
    scope: Scope,
    /// What the sandbox signed of the headers.
    signed: Vec<HeaderName>,
    form: Form,
}

/// Looks for a sealed access key id in the places of a signature. The places are emptied of what the sandbox signed.
pub(super) fn asked(
    tokens: &Tokens<'_>,
    request: &mut Request<Incoming>,
) -> Result<Option<Asked>, Denial> {
    let Some(claim) = request::claim(tokens, request.uri(), request.headers())? else {
        return Ok(None);
    };
    let Claim { token, scope, signed, form } = claim;
    let access_key = tokens.bound(&token)?;
    let signs_for = |sign: &Option<Sign>| match sign {
        Some(Sign::AwsSigV4(pair)) if pair.access_key_id == access_key.bound.name => {
            Some(pair.clone())
        }
        Some(Sign::AwsSigV4(_) | Sign::Hmac(_)) | None => None,
    };
    let mut signers = tokens.secrets().iter();
    let found = signers.find_map(|secret| Some((secret, signs_for(&secret.bound.sign)?)));
    let Some((signer, pair)) = found else {
        return Err(refused(
            format!(
                "a signature with the token of {}, with which nothing is signed here",
                access_key.bound.name
            ),
            "an operator writes `sign: aws-sigv4` on the secret that holds the secret access key",
        ));
    };
    tokens.bound(signer.token.as_str().as_bytes())?;
    let session_token = match &pair.session_token {
        Some(name) => Some(tokens.named(name)?),
        None => None,
    };
    if let Some(secret) = session_token {
        tokens.bound(secret.token.as_str().as_bytes())?;
    }
    request::empty(request, &form, session_token.map(|secret| secret.token.as_str()));
    Ok(Some(Asked { signer: signer.bound.name.clone(), pair, scope, signed, form }))
}

impl Asked {
    /// What is put to use, for the record.
    pub(super) fn opened(&self) -> Vec<OpenedAt> {
        let names =
            [Some(&self.pair.access_key_id), Some(&self.signer), self.pair.session_token.as_ref()];
        let place = || "sign:aws-sigv4".to_owned();
        let names = names.into_iter().flatten();
        names.map(|name| OpenedAt { secret: name.clone(), place: place() }).collect()
    }

    /// Signs the request with the real pair.
    pub(super) async fn sign(
        self,
        tokens: &Tokens<'_>,
        proxy: &Proxy,
        request: Request<OutgoingBody>,
    ) -> Result<Request<OutgoingBody>, Denial> {
        let access_key_id = self.in_text(tokens, &self.pair.access_key_id).await?;
        let session_token = match &self.pair.session_token {
            Some(name) => Some(self.in_text(tokens, name).await?),
            None => None,
        };
        let secret = tokens.value(&self.signer).await?;
        let payload = Payload::of(&self, &request)?;
        let mut request =
            if payload == Payload::Unknown { whole_body(proxy, request).await? } else { request };
        let payload = payload.known(&self, &mut request)?;
        let date = date(self.form.date(request.headers()), jiff::Timestamp::now());
        let signer = Signer::new(&secret, &self.scope, &date);
        let credential = Zeroizing::new(format!("{}/{}", *access_key_id, signer.scope()));
        let made_of = Signature {
            asked: &self,
            host: tokens.authority(),
            signer: &signer,
            credential: &credential,
            session_token: session_token.as_ref().map(|token| token.as_str()),
            payload: &payload,
        };
        let signature = match &self.form {
            Form::Header => made_of.in_header(&mut request)?,
            Form::Query { .. } => made_of.in_query(&mut request)?,
        };
        let trailers = match payload.as_str() {
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => false,
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => true,
            _ => return Ok(request),
        };
        let most = proxy.limits.buffered_body.get();
        let chunks = Chunks::new(signer, signature, trailers, most);
        Ok(request.map(|body| body.signing(chunks)))
    }

    /// A value that goes into a header field.
    async fn in_text(
        &self,
        tokens: &Tokens<'_>,
        name: &SecretName,
    ) -> Result<Zeroizing<String>, Denial> {
        let value: Arc<SecretValue> = tokens.value(name).await?;
        let text = std::str::from_utf8(value.expose()).ok();
        let plain = |text: &&str| text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
        let text = text.filter(plain).ok_or_else(|| unfit(name, "a signature"))?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

/// Everything that a signature is made of, but for the request.
struct Signature<'s> {
    asked: &'s Asked,
    /// The authority as it is sent.
    host: String,
    signer: &'s Signer,
    credential: &'s str,
    session_token: Option<&'s str>,
    payload: &'s str,
}

impl Signature<'_> {
    fn in_header(&self, request: &mut Request<OutgoingBody>) -> Result<String, Denial> {
        let headers = request.headers_mut();
        set(headers, &DATE, self.signer.date())?;
        if let Some(token) = self.session_token {
            set(headers, &SECURITY_TOKEN, token)?;
        }
        let signed = self.signed(headers, true);
        let query = request.uri().query().unwrap_or_default().to_owned();
        let signature = self.signer.request(&self.canonical(request, &query, &signed));
        let authorization = format!(
            "{ALGORITHM} Credential={}, SignedHeaders={}, Signature={signature}",
            self.credential,
            names(&signed)
        );
        set(request.headers_mut(), &AUTHORIZATION, &Zeroizing::new(authorization))?;
        Ok(signature)
    }

    fn in_query(&self, request: &mut Request<OutgoingBody>) -> Result<String, Denial> {
        let signed = self.signed(request.headers(), false);
        let mut query = Zeroizing::new(request.uri().query().unwrap_or_default().to_owned());
        let mut add = |name: &str, value: &str| {
            let joint = if query.is_empty() { "" } else { "&" };
            query.push_str(joint);
            query.push_str(&format!("{name}={}", encoded(value.as_bytes())));
        };
        add("X-Amz-Algorithm", ALGORITHM);
        add("X-Amz-Credential", self.credential);
        add("X-Amz-Date", self.signer.date());
        add("X-Amz-Expires", &self.asked.form.expires().to_string());
        add("X-Amz-SignedHeaders", &names(&signed));
        if let Some(token) = self.session_token {
            add("X-Amz-Security-Token", token);
        }
        let signature = self.signer.request(&self.canonical(request, &query, &signed));
        let target = format!("{}?{}&X-Amz-Signature={signature}", request.uri().path(), *query);
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.path_and_query = target.parse().ok();
        *request.uri_mut() = Uri::from_parts(parts)
            .map_err(|_error| refused("a signed URL that is too long", "sign in headers"))?;
        Ok(signature)
    }

    fn canonical(
        &self,
        request: &Request<OutgoingBody>,
        query: &str,
        signed: &[HeaderName],
    ) -> String {
        let canonical = Canonical {
            method: request.method(),
            path: request.uri().path(),
            query,
            host: &self.host,
            headers: request.headers(),
            signed,
            payload: self.payload,
        };
        canonical.text(&self.asked.scope)
    }

    /// What the sandbox signed and still leaves, and what must be signed.
    fn signed(&self, headers: &HeaderMap, amz: bool) -> Vec<HeaderName> {
        let wanted = self.asked.signed.iter().filter(|name| headers.contains_key(*name));
        let must = headers.keys().filter(|name| amz && name.as_str().starts_with("x-amz-"));
        let mut signed: Vec<HeaderName> = wanted
            .chain(must)
            .filter(|name| !UNSIGNED.contains(name))
            .cloned()
            .chain([http::header::HOST])
            .collect();
        signed.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        signed.dedup();
        signed
    }
}

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// Fields that change after signing, or that hold the signature; `host` is added by itself.
const UNSIGNED: [HeaderName; 4] =
    [AUTHORIZATION, http::header::HOST, http::header::TRANSFER_ENCODING, http::header::EXPECT];

fn set(headers: &mut HeaderMap, name: &HeaderName, value: &str) -> Result<(), Denial> {
    let mut field = HeaderValue::from_str(value).map_err(|_error| {
        refused(format!("a signature that cannot stand in `{name}`"), "sign in headers")
    })?;
    field.set_sensitive(*name == AUTHORIZATION || *name == SECURITY_TOKEN);
    headers.insert(name.clone(), field);
    Ok(())
}

/// AWS takes dates within 15 minutes of its own clock; a date near the edge might be over it on arrival.
const DATES_WITHIN: i64 = 600;

/// The sandbox's date if it is near enough, so that retries and logs agree; or else this moment.
fn date(written: Option<String>, now: jiff::Timestamp) -> String {
    let near = |date: &String| {
        let parsed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date);
        let time = parsed.and_then(|date| jiff::tz::TimeZone::UTC.to_timestamp(date));
        time.is_ok_and(|time| (time.as_second() - now.as_second()).abs() <= DATES_WITHIN)
    };
    let canonical =
        |date: &String| date.len() == 16 && date.bytes().all(|b| b.is_ascii_alphanumeric());
    let this_moment = || now.strftime("%Y%m%dT%H%M%SZ").to_string();
    written.filter(canonical).filter(near).unwrap_or_else(this_moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_kept_only_near_the_present() {
        let now: jiff::Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        let dated = |text: &str| date(Some(text.to_owned()), now);
        for near in ["20261124T095000Z", "20261124T100000Z", "20261124T101000Z"] {
            assert_eq!(dated(near), near);
        }
        for far in ["20261124T094959Z", "20261124T101001Z", "20130524T000000Z", "99991231T235959Z"]
        {
            assert_eq!(dated(far), "20261124T100000Z", "{far}");
        }
        for broken in ["", "now", "20261124T10:00:00Z", "20261324T100000Z", "+0261124T100000Z"] {
            assert_eq!(dated(broken), "20261124T100000Z", "{broken}");
        }
        assert_eq!(date(None, now), "20261124T100000Z");
    }
}
