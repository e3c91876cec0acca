//! The operator's API: what the sandboxes are, and what each may reach, read from the very policies that are enforced.
//!
//! A caller shows one of the keys in `X-API-Key`; that is checked before anything else is looked at. Every error is
//! `{"error", "reason", "hint"}`.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use subtle::{Choice, ConstantTimeEq as _};

use super::json;
use crate::introspect::{AllowedHosts, Provenance, asks_for_provenance};
use crate::secret::{SandboxId, SecretValue, StoreName};
use crate::session::{Registry, Session};

/// The keys of which a caller shows one. Only their digests are kept.
pub struct ApiKeys(Vec<Digest>);

impl ApiKeys {
    /// These keys and no other.
    #[must_use]
    pub fn new(keys: &[Arc<SecretValue>]) -> Self {
        Self(keys.iter().map(|key| digest(&SHA256, key.expose())).collect())
    }

    /// Whether exactly one key is shown and it is one of ours. Takes as long for every wrong key, whatever it shares with a right one.
    fn admit(&self, headers: &HeaderMap) -> bool {
        let mut shown = headers.get_all("x-api-key").iter();
        let (Some(key), None) = (shown.next(), shown.next()) else { return false };
        let key = digest(&SHA256, key.as_bytes());
        let same = |known: &Digest| known.as_ref().ct_eq(key.as_ref());
        let right = self.0.iter().fold(Choice::from(0), |right, known| right | same(known));
        right.into()
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

/// The API's routes.
pub fn router(keys: ApiKeys, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/api/sandboxes/{id}", get(sandbox))
        .route("/api/sandboxes/{id}/allowed-hosts", get(allowed_hosts))
        .method_not_allowed_fallback(|| async { Refused::Method })
        .fallback(|| async { Refused::Route })
        .with_state(registry)
        .layer(middleware::from_fn_with_state(Arc::new(keys), authenticate))
}

async fn authenticate(State(keys): State<Arc<ApiKeys>>, request: Request, next: Next) -> Response {
    if keys.admit(request.headers()) {
        next.run(request).await
    } else {
        Refused::Key.into_response()
    }
}

/// A sandbox as clients read it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SandboxView {
    #[serde(rename = "sandboxID")]
    sandbox_id: SandboxId,
    status: &'static str,
    /// A sandbox of a policy file has no end.
    end_at: Option<String>,
    secret_stores: Vec<StoreName>,
    policy_digest: String,
}

async fn sandbox(
    State(registry): State<Arc<Registry>>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let session = find(&registry, &id)?;
    Ok(json(
        StatusCode::OK,
        &SandboxView {
            sandbox_id: session.id().clone(),
            status: "running",
            end_at: None,
            secret_stores: session.policy().layers().to_vec(),
            policy_digest: session.policy().digest().to_string(),
        },
    ))
}

async fn allowed_hosts(
    State(registry): State<Arc<Registry>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let session = find(&registry, &id)?;
    let (id, policy) = (session.id(), session.policy());
    Ok(if asks_for_provenance(query.as_deref().unwrap_or_default()) {
        json(StatusCode::OK, &Provenance::of(id, policy))
    } else {
        json(StatusCode::OK, &AllowedHosts::of(id, policy))
    })
}

fn find(registry: &Registry, id: &str) -> Result<Arc<Session>, Refused> {
    let sandbox = registry.get(id).ok_or(Refused::Sandbox)?;
    sandbox.session().map_err(|_ended| Refused::Sandbox)
}

/// Why a call is not answered.
#[derive(Clone, Copy, Debug)]
enum Refused {
    Key,
    Sandbox,
    Route,
    Method,
}

#[derive(Serialize)]
struct RefusedBody {
    error: &'static str,
    reason: &'static str,
    hint: &'static str,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, reason, error, hint) = match self {
            Self::Key => (
                StatusCode::UNAUTHORIZED,
                "api_key_invalid",
                "the API key is missing or wrong",
                "send one of the keys that the server was started with as the one X-API-Key field",
            ),
            Self::Sandbox => (
                StatusCode::NOT_FOUND,
                "sandbox_unknown",
                "there is no sandbox of this id",
                "check the id; `sandboxes` in the policy files lists those that exist",
            ),
            Self::Route => (
                StatusCode::NOT_FOUND,
                "route_unknown",
                "there is nothing at this path",
                "the routes are /api/sandboxes/{id} and /api/sandboxes/{id}/allowed-hosts",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path is read-only",
                "use GET",
            ),
        };
        json(status, &RefusedBody { error, reason, hint })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::exchange;
    use super::*;
    use crate::policies::Policies;
    use crate::policy::OperatorRules;
    use crate::secret::SealKey;
    use crate::shutdown::Tasks;

    const POLICY: &str = "
secretStores:
  base:
    egressAllowlist: [a.example.com, b.example.com]
    secrets:
      A_KEY: { from: { env: A }, allowedHosts: [a.example.com] }
      B_KEY: { from: { env: B } }
  fork:
    egressAllowlist: [\"c.example.com:8443\"]
    secrets: {}
sandboxes:
  sb-none: {}
  sb-one: { secretStores: [base] }
  sb-two: { secretStores: [base, fork] }
";

    async fn ask(method: &str, path: &str, key: &str) -> (u16, Value) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, POLICY).unwrap();
        let registry = Arc::new(Registry::new(crate::session::Bounds {
            connections: 8,
            exposed_hits: 8,
            dns_questions: 8,
            told_refusals: 8,
        }));
        let policies = Policies::new(
            vec![file],
            OperatorRules::default(),
            None,
            SealKey::new(&[1; 32]),
            registry.clone(),
            Tasks::new().1,
        );
        policies.load().unwrap();
        let value = |text: &str| Arc::new(SecretValue::new(text.as_bytes().to_vec()).unwrap());
        let keys = ApiKeys::new(&[value("first-key-1234"), value("second-key-1234")]);
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{key}connection: close\r\n\r\n");
        let read = exchange(router(keys, registry), &request).await;
        let status = read.split(' ').nth(1).unwrap().parse().unwrap();
        let body = read.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    const KEY: &str = "x-api-key: second-key-1234\r\n";

    #[tokio::test]
    async fn clients_read_a_sandbox_and_its_allowed_hosts() {
        let (status, sandbox) = ask("GET", "/api/sandboxes/sb-two", KEY).await;
        assert_eq!((status, &sandbox["status"]), (200, &json!("running")));
        assert_eq!(sandbox["sandboxID"], "sb-two");
        assert!(sandbox.get("connectURL").is_none() && sandbox.get("token").is_none());
        let hosts = |id: &'static str| async move {
            ask("GET", &format!("/api/sandboxes/{id}/allowed-hosts"), KEY).await
        };
        let none =
            json!({ "sandboxID": "sb-none", "egressAllowlist": [], "perSecretAllowedHosts": {} });
        assert_eq!(hosts("sb-none").await, (200, none));
        let one = json!({
            "sandboxID": "sb-one", "secretStore": "base",
            "egressAllowlist": ["a.example.com", "b.example.com"],
            "perSecretAllowedHosts": { "A_KEY": ["a.example.com"] },
        });
        assert_eq!(hosts("sb-one").await, (200, one));
        let two = json!({
            "sandboxID": "sb-two", "secretStore": "fork", "baseSecretStore": "base",
            "egressAllowlist": ["a.example.com", "b.example.com", "c.example.com:8443"],
            "perSecretAllowedHosts": { "A_KEY": ["a.example.com"] },
        });
        assert_eq!(hosts("sb-two").await, (200, two));
        let path = "/api/sandboxes/sb-two/allowed-hosts?provenance=true";
        let (status, provenance) = ask("GET", path, KEY).await;
        assert_eq!((status, &provenance["mode"]), (200, &json!("listed")));
    }

    #[tokio::test]
    async fn the_key_comes_before_everything_else() {
        let wrong = [
            "",
            "x-api-key: \r\n",
            "x-api-key: second-key-123\r\n",
            "x-api-key: second-key-12345\r\n",
            "x-api-key: first-key-1234\r\nx-api-key: second-key-1234\r\n",
            "authorization: Bearer second-key-1234\r\n",
        ];
        for key in wrong {
            for (method, path) in [
                ("GET", "/api/sandboxes/sb-one"),
                ("GET", "/nothing"),
                ("DELETE", "/api/sandboxes/sb-one"),
            ] {
                let (status, body) = ask(method, path, key).await;
                assert_eq!((status, &body["reason"]), (401, &json!("api_key_invalid")), "{key}");
            }
        }
    }

    #[tokio::test]
    async fn what_does_not_exist_is_said_so_with_a_hint() {
        for (method, path, status, reason) in [
            ("GET", "/api/sandboxes/sb-gone", 404, "sandbox_unknown"),
            ("GET", "/api/sandboxes/%00/allowed-hosts", 404, "sandbox_unknown"),
            ("GET", "/api/sandboxes", 404, "route_unknown"),
            ("POST", "/api/sandboxes/sb-one", 405, "method_not_allowed"),
        ] {
            let (answered, body) = ask(method, path, KEY).await;
            assert_eq!((answered, &body["reason"]), (status, &json!(reason)), "{path}");
            assert!(body["error"].is_string() && body["hint"].is_string());
        }
    }
}
