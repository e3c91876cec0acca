//! What a sandbox and an operator are told is what is enforced.

use http::Request;
use serde_json::json;

use crate::support::{Tollgate, Upstream, full};

const POLICY: &str = r#"
secretStores:
  git-creds:
    egressAllowlist: [github.com, "*.githubusercontent.com"]
    secrets:
      GITHUB_TOKEN: { from: { value: $GITHUB_TOKEN }, allowedHosts: [github.com] }
      INHERITS: { from: { value: $INHERITS } }
  agent-keys:
    egressAllowlist:
      - api.example.com
      - { host: "packages.example.org:8443", methods: [GET, HEAD], paths: ["/simple/**"] }
      - hidden.example.com
    egressDenylist: [hidden.example.com]
    secrets:
      API_KEY: { from: { value: $API_KEY }, allowedHosts: [api.example.com] }
sandboxes:
  sb-dev: { secretStores: [git-creds, agent-keys] }
  sb-bare: {}
"#;

#[tokio::test]
async fn allowed_hosts_has_the_shape_that_existing_clients_read() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let answer = tollgate.sandbox("sb-dev").get("http://tollgate.internal/allowed-hosts").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.text().trim_end(),
        r#"{"sandboxID":"sb-dev","secretStore":"agent-keys","baseSecretStore":"git-creds","egressAllowlist":["github.com","*.githubusercontent.com","api.example.com","packages.example.org:8443"],"perSecretAllowedHosts":{"API_KEY":["api.example.com"],"GITHUB_TOKEN":["github.com"]}}"#
    );
    let bare = tollgate.sandbox("sb-bare").get("http://tollgate.internal/allowed-hosts").await;
    assert_eq!(
        bare.json(),
        json!({ "sandboxID": "sb-bare", "egressAllowlist": [], "perSecretAllowedHosts": {} })
    );
    tollgate.finish().await;
}

#[tokio::test]
async fn provenance_tells_layers_rules_denies_and_the_mode() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let answer = tollgate
        .sandbox("sb-dev")
        .get("http://tollgate.internal/allowed-hosts?provenance=true")
        .await
        .json();
    assert_eq!(answer["mode"], "listed");
    assert_eq!(answer["layers"], json!(["git-creds", "agent-keys"]));
    assert_eq!(answer["denies"][0]["host"], "hidden.example.com");
    let rule = answer["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|rule| rule["host"] == "packages.example.org:8443");
    assert_eq!(rule.unwrap()["methods"], json!(["GET", "HEAD"]));
    let bare = tollgate
        .sandbox("sb-bare")
        .get("http://tollgate.internal/allowed-hosts?provenance=true")
        .await;
    assert_eq!(bare.json()["mode"], "unrestricted");
    tollgate.finish().await;
}

#[tokio::test]
async fn check_says_what_then_happens() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-dev");
    for (url, verdict, reason) in [
        ("https://api.example.com/v1", "allow", None),
        ("https://evil.example.net/", "deny", Some("host_not_allowed")),
        ("https://hidden.example.com/", "deny", Some("host_denied")),
        ("https://packages.example.org:8443/other", "deny", Some("path_not_allowed")),
    ] {
        let query: String =
            percent_encoding::utf8_percent_encode(url, percent_encoding::NON_ALPHANUMERIC)
                .to_string();
        let said = sandbox
            .get(&format!("http://tollgate.internal/check?url={query}&method=GET"))
            .await
            .json();
        assert_eq!(said["verdict"], verdict, "{said}");
        let done = sandbox.get(url).await;
        assert_eq!(done.reason(), reason.unwrap_or_default(), "{url}");
        assert_eq!(said["reason"].as_str(), reason, "{said}");
        if verdict == "allow" {
            assert_eq!(said["secrets"], json!(["API_KEY"]), "{said}");
        }
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn env_and_certificates_are_what_the_sandbox_needs() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let sandbox = tollgate.sandbox("sb-dev");
    let env = sandbox.get("http://tollgate.internal/env").await.text();
    assert!(env.contains(sandbox.token("GITHUB_TOKEN")) && env.contains("HTTPS_PROXY"), "{env}");
    let ca = sandbox.get("http://tollgate.internal/ca.pem").await.text();
    assert_eq!(ca, std::fs::read_to_string(tollgate.folder().join("authority/ca.pem")).unwrap());
    let bundle = sandbox.get("http://tollgate.internal/ca-bundle.pem").await.text();
    assert!(bundle.contains(ca.trim_end()));
    tollgate.finish().await;
}

#[tokio::test]
async fn introspection_is_read_only_through_a_tunnel_too_and_about_the_asking_sandbox() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let sandbox = tollgate.sandbox("sb-dev");
    let post = Request::post("http://tollgate.internal/allowed-hosts").body(full("")).unwrap();
    assert_eq!(sandbox.send(post).await.status, 405);
    assert_eq!(sandbox.get("http://tollgate.internal/other").await.status, 404);
    let inside = sandbox.get("https://tollgate.internal/allowed-hosts?sandbox=sb-bare").await;
    assert_eq!(inside.json()["sandboxID"], "sb-dev");
    let unknown =
        sandbox.showing_credentials(false).get("http://tollgate.internal/allowed-hosts").await;
    assert_eq!(unknown.status, 407);
    tollgate.finish().await;
}
