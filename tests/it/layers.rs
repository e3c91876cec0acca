//! Base first, fork last: allowlists unite, secrets are overridden whole, and nothing widens where another layer's secrets go.

use crate::support::{Tollgate, Upstream};

const POLICY: &str = r#"
secretStores:
  base:
    egressAllowlist: [api.example.com]
    secrets:
      SHARED: { from: { value: $BASE_SHARED }, allowedHosts: [api.example.com] }
      INHERITS: { from: { value: $INHERITS } }
  fork:
    egressAllowlist: [fork.example.com]
    egressDenylist: [denied.example.com]
    secrets:
      SHARED: { from: { value: $FORK_SHARED }, allowedHosts: [fork.example.com] }
sandboxes: { sb-fork: { secretStores: [base, fork] } }
"#;

#[tokio::test]
async fn a_forks_secret_replaces_the_bases_value_and_hosts() {
    let api = Upstream::https("api.example.com").answering(200, &[], "").await;
    let fork = Upstream::https("fork.example.com").answering(200, &[], "").await;
    let tollgate = Tollgate::with(POLICY, &[&api, &fork]).await;
    let sandbox = tollgate.sandbox("sb-fork");
    let token = sandbox.token("SHARED").to_owned();
    assert_eq!(sandbox.get_with("https://fork.example.com/", "x-key", &token).await.status, 200);
    assert_eq!(fork.request().header("x-key").unwrap(), tollgate.value("FORK_SHARED"));
    let answer = sandbox.get_with("https://api.example.com/", "x-key", &token).await;
    assert_eq!(answer.reason(), "secret_misdirected");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_fork_never_widens_where_base_secrets_go() {
    let api = Upstream::https("api.example.com").answering(200, &[], "").await;
    let fork = Upstream::https("fork.example.com").answering(200, &[], "").await;
    let tollgate = Tollgate::with(POLICY, &[&api, &fork]).await;
    let sandbox = tollgate.sandbox("sb-fork");
    let token = sandbox.token("INHERITS").to_owned();
    assert_eq!(sandbox.get_with("https://api.example.com/", "x-key", &token).await.status, 200);
    assert_eq!(api.request().header("x-key").unwrap(), tollgate.value("INHERITS"));
    let answer = sandbox.get_with("https://fork.example.com/", "x-key", &token).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    assert_eq!(
        sandbox.get("https://fork.example.com/").await.status,
        200,
        "the host itself is open"
    );
    tollgate.finish().await;
}

#[tokio::test]
async fn a_deny_of_any_layer_and_of_the_operator_beats_every_allow() {
    let policy = POLICY.replace(
        "[api.example.com]\n    secrets",
        "[api.example.com, \"*.example.com\"]\n    secrets",
    );
    let tollgate = Tollgate::describe(&policy, &[])
        .config(serde_json::json!({ "egress": { "deny": ["forbidden.example.com"] } }))
        .start()
        .await;
    let sandbox = tollgate.sandbox("sb-fork");
    for host in ["denied.example.com", "forbidden.example.com"] {
        let answer = sandbox.get(&format!("https://{host}/")).await;
        assert_eq!((answer.status, answer.reason()), (403, "host_denied"), "{host}");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn without_any_allowlist_the_operators_floor_decides() {
    let policy = "sandboxes: { sb-test: {} }";
    let upstream = Upstream::https("api.example.com").await;
    let closed = Tollgate::describe(policy, &[&upstream])
        .config(serde_json::json!({ "egress": { "default": "deny" } }))
        .start()
        .await;
    assert_eq!(
        closed.sandbox("sb-test").get("https://api.example.com/").await.reason(),
        "host_not_allowed"
    );
    closed.finish().await;
    let open = Tollgate::with(policy, &[&upstream]).await;
    // Unrestricted means public hosts: the stub's loopback address is none.
    assert_eq!(
        open.sandbox("sb-test").get("https://api.example.com/").await.reason(),
        "address_not_allowed"
    );
    assert_eq!(upstream.connections(), 0);
    open.finish().await;
}
