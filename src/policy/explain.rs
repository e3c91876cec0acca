//! A decision told in full: what `tollgate explain` and `tollgate test` show comes from the very decision that the proxy takes.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::Method;
use serde::Serialize;

use super::decide::{OwnSockets, decide_address, decide_request};
use super::effective::{BoundSecret, EffectivePolicy, Misdirected};
use super::verdict::{Denial, DenyReason, RequestPermit, Verdict};
use crate::host::{Authority, AuthorityError, Destination, Scheme};
use crate::secret::SecretName;

/// A request as people write it: `POST https://api.example.com/v1/messages`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine {
    /// The method.
    pub method: Method,
    /// The scheme.
    pub scheme: Scheme,
    /// Host and port.
    pub destination: Destination,
    /// Path and query, as they would be sent.
    pub path: String,
}

impl RequestLine {
    /// Reads a method and a URL.
    pub fn new(method: &str, url: &str) -> Result<Self, RequestLineError> {
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_error| RequestLineError::Method)?;
        let (scheme, rest) = match url.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            _ => return Err(RequestLineError::Scheme),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if path.contains('#') || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(RequestLineError::Path);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let destination = Authority::parse(authority)?.destination(scheme);
        Ok(Self { method, scheme, destination, path })
    }
}

impl FromStr for RequestLine {
    type Err = RequestLineError;

    fn from_str(text: &str) -> Result<Self, RequestLineError> {
        let (method, url) = text.split_once(' ').ok_or(RequestLineError::Method)?;
        Self::new(method, url)
    }
}

/// Why a text is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestLineError {
    /// No method, or none that HTTP knows.
    #[error("a request is a method and a URL: GET https://api.example.com/v1")]
    Method,
    /// No scheme, or another one.
    #[error("the URL starts with https:// or http://")]
    Scheme,
    /// A fragment, a space, a control character or a letter that is not ASCII.
    #[error(
        "the URL is written as it is sent: printable ASCII, percent-encoded, without a fragment"
    )]
    Path,
    /// The host and port.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// The verdict on one request, with everything that led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `allow` or `deny`.
    pub verdict: VerdictName,
    /// Why it is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<DenyReason>,
    /// The same in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What would change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The rule that decided, within its layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The layer of that rule, or `operator`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Which policy decided.
    pub policy_digest: String,
    /// The secrets whose tokens would be opened in this request, by name.
    pub secrets: Vec<SecretName>,
    /// Those of them that the proxy would add itself.
    pub injected: Vec<SecretName>,
    /// Those with which the request would be signed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signing: Vec<SecretName>,
    /// What else a person should know.
    pub notes: Vec<String>,
}

/// The two verdicts by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictName {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

impl VerdictName {
    /// `allow` or `deny`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Decides a request, and tells the decision in full. Names are not resolved: an address is judged only where the host is one.
#[must_use]
pub fn explain(policy: &Arc<EffectivePolicy>, request: &RequestLine) -> Explanation {
    let verdict = decide_request(
        policy,
        &request.destination,
        request.scheme,
        &request.method,
        &request.path,
    );
    let digest = policy.digest().to_string();
    match verdict {
        Verdict::Deny(denial) => denied(digest, denial),
        Verdict::Allow(permit) => match check_literal(&permit) {
            Some(denial) => denied(digest, denial),
            None => allowed(digest, &permit),
        },
    }
}

/// The decision about the address, where the host is one.
fn check_literal(permit: &RequestPermit) -> Option<Denial> {
    let Destination { host, port } = permit.destination();
    let address = SocketAddr::new(host.ip()?, port.get());
    decide_address(permit, &[address], &OwnSockets::default()).err()
}

fn denied(policy_digest: String, denial: Denial) -> Explanation {
    Explanation {
        verdict: VerdictName::Deny,
        reason: Some(denial.reason),
        detail: Some(denial.detail.into()),
        hint: Some(denial.hint.into()),
        rule: denial.rule.as_ref().map(|rule| rule.text().to_owned()),
        layer: denial.rule.as_ref().map(|rule| rule.layer().to_owned()),
        policy_digest,
        secrets: Vec::new(),
        injected: Vec::new(),
        signing: Vec::new(),
        notes: Vec::new(),
    }
}

fn allowed(policy_digest: String, permit: &RequestPermit) -> Explanation {
    let bound = names(permit.secrets());
    let (secrets, notes) = match permit.scheme() {
        Scheme::Http if !bound.is_empty() => (Vec::new(), vec![over_plain_http(&bound)]),
        Scheme::Http | Scheme::Https => (bound, Vec::new()),
    };
    let mut notes = notes;
    if !permit.scrubs() && !permit.secrets().is_empty() {
        notes.push("answers are not searched for values: `scrub: off`".to_owned());
    }
    for secret in permit.secrets() {
        if secret.misdirected == Misdirected::Forward {
            notes.push(format!(
                "a token of {} in the wrong place is forwarded, sealed: `misdirected: forward`",
                secret.name
            ));
        }
    }
    if permit.rule().is_none() {
        notes.push("no layer has an allowlist: every public host is reachable".to_owned());
    }
    if permit.destination().host.ip().is_none() {
        notes.push(
            "the addresses that the name resolves to are checked when it is dialled".to_owned(),
        );
    }
    Explanation {
        verdict: VerdictName::Allow,
        reason: None,
        detail: None,
        hint: None,
        rule: permit.rule().map(|rule| rule.text().to_owned()),
        layer: permit.rule().map(|rule| rule.layer().to_owned()),
        policy_digest,
        secrets,
        injected: names(permit.injected()),
        signing: signing(permit),
        notes,
    }
}

/// The secrets that sign; over plain HTTP none does.
fn signing(permit: &RequestPermit) -> Vec<SecretName> {
    let secrets = permit.secrets().iter().filter(|secret| secret.sign.is_some());
    let secrets: Vec<_> = secrets.cloned().collect();
    if permit.scheme() == Scheme::Https { names(&secrets) } else { Vec::new() }
}

/// Sorted by name.
fn names(secrets: &[Arc<BoundSecret>]) -> Vec<SecretName> {
    let mut names: Vec<_> = secrets.iter().map(|secret| secret.name.clone()).collect();
    names.sort();
    names
}

fn over_plain_http(bound: &[SecretName]) -> String {
    let names: Vec<_> = bound.iter().map(SecretName::as_str).collect();
    format!(
        "over plain HTTP a request with the token of {} is refused ({})",
        names.join(", "),
        DenyReason::SecretRequiresTls
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_in_one_way_only() {
        let read =
            |text: &str| text.parse::<RequestLine>().map(|r| (r.destination.to_string(), r.path));
        assert_eq!(
            read("GET https://A.test/x?y"),
            Ok(("a.test:443".to_owned(), "/x?y".to_owned()))
        );
        assert_eq!(read("GET http://a.test:8080"), Ok(("a.test:8080".to_owned(), "/".to_owned())));
        assert_eq!(read("GET https://a.test?q"), Ok(("a.test:443".to_owned(), "/?q".to_owned())));
        for text in [
            "https://a.test/",
            "GET a.test",
            "GET ftp://a.test/",
            "GET https://u@a.test/",
            "GET https://a.test/#f",
            "GET https://a.test/ä",
            "GET https:///x",
            " https://a.test/",
            "GET  https://a.test/",
        ] {
            assert!(text.parse::<RequestLine>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn what_lifts_a_rule_is_told() {
        let text = "secretStores: { s: { egressAllowlist: [{ host: a.test, scrub: 'off' }, b.test], misdirected: forward, secrets: { K: { from: { env: K }, allowedHosts: [a.test] } } } }";
        let set = crate::policy::PolicySet::read(std::path::Path::new("p.yaml"), text).set.unwrap();
        let operator = crate::policy::OperatorRules::default();
        let policy = Arc::new(set.effective(&["s".parse().unwrap()], &operator).unwrap());
        let notes = |request: &str| explain(&policy, &request.parse().unwrap()).notes.join("\n");
        let lifted = notes("GET https://a.test/");
        assert!(lifted.contains("`scrub: off`"), "{lifted}");
        assert!(lifted.contains("of K in the wrong place is forwarded"), "{lifted}");
        let other = notes("GET https://b.test/");
        assert!(!other.contains("scrub") && !other.contains("misdirected"), "{other}");
    }
}
