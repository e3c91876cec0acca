//! What Tollgate tells of itself: to the sandbox at `http://tollgate.internal/`, and, computed by the same functions, to the operator.
//!
//! Read-only, and always about the asking sandbox: no parameter names another one.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;

use crate::environment::Places;
use crate::host::{Host, HostPattern};
use crate::policy::{Allowlist, EffectivePolicy, RequestLine, explain};
use crate::proxy::Proxy;
use crate::secret::{SandboxId, SecretName, StoreName};
use crate::session::Session;

/// What does not change while the process runs.
#[derive(Debug)]
pub struct Introspection {
    /// The authority's certificate.
    pub ca_pem: String,
    /// The platform's roots and the authority's certificate.
    pub bundle_pem: String,
    /// Where a sandbox finds the proxy and the files.
    pub places: Places,
}

/// The host that Tollgate answers for itself.
pub const HOST: &str = "tollgate.internal";

/// Whether a host is Tollgate's own.
#[must_use]
pub fn is_ours(host: &Host) -> bool {
    host.as_str() == HOST
}

/// Answers a request for `tollgate.internal`.
#[must_use]
pub fn answer<B>(proxy: &Proxy, session: &Session, request: &Request<B>) -> Response<Bytes> {
    if *request.method() != Method::GET && *request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "introspection is read-only: use GET\n");
    }
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path() {
        "/" => text(StatusCode::OK, ROUTES),
        "/allowed-hosts" if asks_for_provenance(query) => {
            json(&Provenance::of(session.id(), session.policy()))
        }
        "/allowed-hosts" => json(&AllowedHosts::of(session.id(), session.policy())),
        "/check" => check(session, query),
        "/env" => shell(&proxy.introspection.places, session),
        "/ca.pem" => pem(&proxy.introspection.ca_pem),
        "/ca-bundle.pem" => pem(&proxy.introspection.bundle_pem),
        _ => text(StatusCode::NOT_FOUND, ROUTES),
    }
}

const ROUTES: &str = "\
/allowed-hosts              what this sandbox may reach (?provenance=true: and by which rule)
/check?url=URL&method=GET   what the policy says of one request
/env                        what to export in this sandbox
/ca.pem, /ca-bundle.pem     what to trust
";

/// Whether a query asks for where each rule comes from.
#[must_use]
pub fn asks_for_provenance(query: &str) -> bool {
    query.split('&').any(|pair| pair == "provenance=true")
}

/// What a sandbox may reach, in the shape that existing clients read.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AllowedHosts {
    /// The sandbox.
    #[serde(rename = "sandboxID")]
    pub sandbox_id: SandboxId,
    /// The last layer; absent without a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_store: Option<StoreName>,
    /// The layer before the last; absent unless layered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_secret_store: Option<StoreName>,
    /// The union of the layers' allowlists in layer order, as canonical patterns.
    pub egress_allowlist: Vec<HostPattern>,
    /// The secrets that have allowed hosts of their own.
    pub per_secret_allowed_hosts: BTreeMap<SecretName, Vec<HostPattern>>,
}

impl AllowedHosts {
    /// Reads the very policy that is enforced.
    #[must_use]
    pub fn of(id: &SandboxId, policy: &EffectivePolicy) -> Self {
        let denied = |pattern: &HostPattern| {
            policy.deny_rules().iter().any(|(deny, _)| deny.covers(pattern))
        };
        let mut egress_allowlist: Vec<HostPattern> = Vec::new();
        for rule in policy.allow_rules() {
            if !denied(&rule.pattern) && !egress_allowlist.contains(&rule.pattern) {
                egress_allowlist.push(rule.pattern.clone());
            }
        }
        let mut layers = policy.layers().iter().rev().cloned();
        let own = policy.secrets().iter().filter(|secret| secret.own_hosts);
        Self {
            sandbox_id: id.clone(),
            secret_store: layers.next(),
            base_secret_store: layers.next(),
            egress_allowlist,
            per_secret_allowed_hosts: own
                .map(|secret| (secret.name.clone(), secret.hosts.clone()))
                .collect(),
        }
    }
}

/// The same with where everything comes from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    #[serde(flatten)]
    hosts: AllowedHosts,
    mode: &'static str,
    layers: Vec<StoreName>,
    rules: Vec<RuleView>,
    denies: Vec<DenyView>,
    secrets: Vec<SecretView>,
    policy_digest: String,
}

#[derive(Debug, Serialize)]
struct RuleView {
    host: HostPattern,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schemes: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    layer: String,
    rule: String,
}

#[derive(Debug, Serialize)]
struct DenyView {
    host: HostPattern,
    layer: String,
    rule: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SecretView {
    name: SecretName,
    layer: StoreName,
    allowed_hosts: Vec<HostPattern>,
    inherited: bool,
}

impl Provenance {
    /// Reads the very policy that is enforced.
    #[must_use]
    pub fn of(id: &SandboxId, policy: &EffectivePolicy) -> Self {
        let rule = |rule: &std::sync::Arc<crate::policy::AllowRule>| RuleView {
            host: rule.pattern.clone(),
            schemes: rule.schemes.iter().map(|scheme| scheme.as_str()).collect(),
            methods: rule.methods.iter().map(ToString::to_string).collect(),
            paths: rule.paths.iter().map(ToString::to_string).collect(),
            layer: rule.name.layer().to_owned(),
            rule: rule.name.text().to_owned(),
        };
        let deny = |(host, name): &(HostPattern, crate::policy::RuleName)| DenyView {
            host: host.clone(),
            layer: name.layer().to_owned(),
            rule: name.text().to_owned(),
        };
        let secret = |secret: &std::sync::Arc<crate::policy::BoundSecret>| SecretView {
            name: secret.name.clone(),
            layer: secret.store.clone(),
            allowed_hosts: secret.hosts.clone(),
            inherited: !secret.own_hosts,
        };
        Self {
            hosts: AllowedHosts::of(id, policy),
            mode: match policy.allowlist() {
                Allowlist::Unrestricted => "unrestricted",
                Allowlist::Only(_) => "listed",
                Allowlist::Nothing => "closed",
            },
            layers: policy.layers().to_vec(),
            rules: policy.allow_rules().iter().map(rule).collect(),
            denies: policy.deny_rules().iter().map(deny).collect(),
            secrets: policy.secrets().iter().map(secret).collect(),
            policy_digest: policy.digest().to_string(),
        }
    }
}

fn check(session: &Session, query: &str) -> Response<Bytes> {
    let parameter = |name: &str| {
        let pair =
            query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
        pair.map(|(_, value)| {
            percent_encoding::percent_decode_str(&value.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        })
    };
    let Some(url) = parameter("url") else { return text(StatusCode::BAD_REQUEST, ROUTES) };
    let method = parameter("method").unwrap_or_else(|| "GET".to_owned());
    match RequestLine::new(&method, &url) {
        Ok(request) => json(&explain(session.policy(), &request)),
        Err(error) => text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    }
}

fn shell(places: &Places, session: &Session) -> Response<Bytes> {
    text(StatusCode::OK, &crate::environment::Environment::of(session, places).shell())
}

fn pem(certificates: &str) -> Response<Bytes> {
    of_type(
        StatusCode::OK,
        "application/x-pem-file",
        Bytes::copy_from_slice(certificates.as_bytes()),
    )
}

fn text(status: StatusCode, body: &str) -> Response<Bytes> {
    of_type(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(body.as_bytes()))
}

fn json(value: &impl Serialize) -> Response<Bytes> {
    match serde_json::to_vec(value) {
        Ok(body) => of_type(StatusCode::OK, "application/json", body.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written\n"),
    }
}

fn of_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
