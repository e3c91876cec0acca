//! Reading the sandbox's own signature, in the `Authorization` field or in the query, and taking it out.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use percent_encoding::percent_decode_str;

use super::super::refused;
use super::super::sigv4::{ALGORITHM, Scope};
use super::{DATE, SECURITY_TOKEN};
use crate::policy::Denial;
use crate::proxy::substitute::Tokens;

/// What the sandbox says that it signed.
#[derive(Debug)]
pub(super) struct Claim {
    /// The sealed access key id.
    pub(super) token: Vec<u8>,
    pub(super) scope: Scope,
    pub(super) signed: Vec<HeaderName>,
    pub(super) form: Form,
}

/// Where the signature stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `Authorization: AWS4-HMAC-SHA256 …`
    Header,
    /// A presigned URL.
    Query {
        /// `X-Amz-Date`.
        date: Option<String>,
        /// `X-Amz-Expires`.
        expires: u32,
    },
}

/// A signature is made when the request leaves: it need not live as long as a URL that is handed on.
const LONGEST_LIFE: u32 = 900;

impl Form {
    /// The date that the sandbox signed.
    pub(super) fn date(&self, headers: &HeaderMap) -> Option<String> {
        match self {
            Self::Header => headers.get(DATE)?.to_str().ok().map(str::to_owned),
            Self::Query { date, .. } => date.clone(),
        }
    }

    /// For how many seconds a URL is good.
    pub(super) fn expires(&self) -> u32 {
        match self {
            Self::Header => LONGEST_LIFE,
            Self::Query { expires, .. } => (*expires).clamp(1, LONGEST_LIFE),
        }
    }
}

/// The claim of a request that is signed with a sealed access key id; none if there is no such signature.
pub(super) fn claim(
    tokens: &Tokens<'_>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<Claim>, Denial> {
    let fields: Vec<&[u8]> =
        headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes).collect();
    let sealed = |field: &&&[u8]| is_aws(field) && tokens.are_in(field);
    if fields.iter().any(|field| sealed(&field)) {
        let [field] = *fields.as_slice() else {
            return Err(refused(
                "a signature in one of several `Authorization` fields",
                "send the field once",
            ));
        };
        return in_header(field).map(Some);
    }
    in_query(tokens, uri)
}

fn is_aws(field: &[u8]) -> bool {
    field.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"AWS4-"))
}

/// `AWS4-HMAC-SHA256 Credential=ID/SCOPE, SignedHeaders=a;b, Signature=…`
fn in_header(field: &[u8]) -> Result<Claim, Denial> {
    let unreadable = || unreadable("the `Authorization` field");
    let text = std::str::from_utf8(field).map_err(|_error| unreadable())?;
    let (algorithm, parts) = text.split_once(' ').ok_or_else(unreadable)?;
    check_algorithm(algorithm)?;
    let part = |name: &str| {
        let mut found =
            parts.split(',').filter_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        found.next().filter(|_| found.next().is_none())
    };
    let (credential, signed) =
        part("Credential").zip(part("SignedHeaders")).ok_or_else(unreadable)?;
    read(credential, signed, Form::Header).ok_or_else(unreadable)
}

/// `X-Amz-Credential=ID%2FSCOPE&X-Amz-SignedHeaders=a%3Bb&…`
fn in_query(tokens: &Tokens<'_>, uri: &Uri) -> Result<Option<Claim>, Denial> {
    // Most queries are no presigned ones; they are not decoded.
    if !parameters(uri).any(|parameter| is_named(parameter, "X-Amz-Credential")) {
        return Ok(None);
    }
    let parameters: Vec<(String, String)> = parameters(uri).map(decoded).collect();
    let all = |name: &str| {
        let name = name.to_owned();
        parameters.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    };
    if !all("X-Amz-Credential").any(|credential| tokens.are_in(credential.as_bytes())) {
        return Ok(None);
    }
    let one = |name: &str| {
        let mut found = all(name);
        found.next().filter(|_| found.next().is_none())
    };
    let unreadable = || unreadable("the query");
    check_algorithm(one("X-Amz-Algorithm").ok_or_else(unreadable)?)?;
    let expires = one("X-Amz-Expires").and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
    let form = Form::Query { date: one("X-Amz-Date").map(str::to_owned), expires };
    let (credential, signed) =
        one("X-Amz-Credential").zip(one("X-Amz-SignedHeaders")).ok_or_else(unreadable)?;
    read(credential, signed, form).ok_or_else(unreadable).map(Some)
}

fn check_algorithm(algorithm: &str) -> Result<(), Denial> {
    if algorithm == ALGORITHM {
        return Ok(());
    }
    Err(refused(
        "a sealed access key id in a signature that is not AWS4-HMAC-SHA256",
        "signatures over several regions (SigV4A) are not made here: configure the client for SigV4 and the endpoint of one region",
    ))
}

fn read(credential: &str, signed: &str, form: Form) -> Option<Claim> {
    let (token, scope) = credential.split_once('/')?;
    let signed: Result<Vec<HeaderName>, _> =
        signed.split(';').map(|name| HeaderName::from_bytes(name.as_bytes())).collect();
    Some(Claim {
        token: token.as_bytes().to_vec(),
        scope: Scope::parse(scope)?,
        signed: signed.ok()?,
        form,
    })
}

fn unreadable(place: &str) -> Denial {
    refused(
        format!("a sealed access key id in {place}, in a signature that cannot be read"),
        "sign as SigV4 says: Credential=ID/DAY/REGION/SERVICE/aws4_request, SignedHeaders, Signature",
    )
}

/// Takes the signature out, and the sealed session token, so that nothing sealed stands where only a signature may.
pub(super) fn empty<B>(request: &mut Request<B>, form: &Form, session_token: Option<&str>) {
    match form {
        // The field keeps its place among the others; its value is written when the request is signed.
        Form::Header => {
            let emptied = HeaderValue::from_static(ALGORITHM);
            request.headers_mut().insert(AUTHORIZATION, emptied);
        }
        Form::Query { .. } => {
            let kept: Vec<&str> = parameters(request.uri())
                .filter(|it| !is_of_signature(it, session_token))
                .collect();
            let query = kept.join("&");
            let path = request.uri().path();
            let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = target.parse().ok();
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
    }
    let sealed = |value: &HeaderValue| session_token.is_some_and(|token| value == token);
    if request.headers().get(SECURITY_TOKEN).is_some_and(sealed) {
        request.headers_mut().insert(SECURITY_TOKEN, HeaderValue::from_static("-"));
    }
}

/// A parameter that is written anew. A session token that is not the sandbox's sealed one is left to the rules for tokens in URLs.
fn is_of_signature(parameter: &str, session_token: Option<&str>) -> bool {
    let (name, value) = decoded(parameter);
    match name.as_str() {
        "X-Amz-Algorithm"
        | "X-Amz-Credential"
        | "X-Amz-Date"
        | "X-Amz-Expires"
        | "X-Amz-SignedHeaders"
        | "X-Amz-Signature" => true,
        "X-Amz-Security-Token" => session_token == Some(value.as_str()),
        _ => false,
    }
}

fn parameters(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty())
}

fn is_named(parameter: &str, wanted: &str) -> bool {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    percent_decode_str(name).eq(wanted.bytes())
}

fn decoded(parameter: &str) -> (String, String) {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    (decode(name), decode(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "AWS4-HMAC-SHA256 Credential=AKIATOKEN/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=0";

    #[test]
    fn the_field_is_read_in_one_way_only() {
        for good in [GOOD.to_owned(), GOOD.replace(", ", ","), GOOD.replace("host;", "HOST;")] {
            let claim = in_header(good.as_bytes()).unwrap();
            assert_eq!(claim.token, b"AKIATOKEN");
            assert_eq!((claim.scope.region.as_str(), claim.signed.len()), ("us-east-1", 2));
        }
        for bad in [
            GOOD.replace("HMAC-SHA256", "ECDSA-P256-SHA256"),
            GOOD.replace(
                ", SignedHeaders",
                ", Credential=x/20130524/us-east-1/s3/aws4_request, SignedHeaders",
            ),
            GOOD.replace("/s3", ""),
            GOOD.replace("Credential=AKIATOKEN/", "Credential="),
            GOOD.replace("host;", "ho st;"),
            GOOD.replace("Credential", "credential"),
            GOOD.replace(' ', ""),
            "AWS4-HMAC-SHA256".to_owned(),
        ] {
            assert!(in_header(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_presigned_url_is_emptied_of_its_signature_only() {
        let uri =
            "/k?b=%2f&X-Amz-Credential=a&a=&X-Amz-Signature=1&X-Amz-Security-Token=t&X-Amz-Date=d";
        let form = Form::Query { date: None, expires: 604_800 };
        assert_eq!(form.expires(), 900);
        let mut request = Request::get(uri).body(()).unwrap();
        empty(&mut request, &form, Some("t"));
        assert_eq!(request.uri(), "/k?b=%2f&a=");
        let mut request = Request::get("https://a.test/k?X-Amz-Credential=a").body(()).unwrap();
        empty(&mut request, &form, None);
        assert_eq!(request.uri(), "https://a.test/k");
    }
}
