//! Upstreams are verified, always: no application byte reaches one that is not who it should be.

use crate::support::{Builder, Tollgate, Upstream};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

async fn assert_refused(described: Builder) {
    let upstream = described.await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let answer =
        sandbox.get_with("https://api.example.com/", "authorization", sandbox.token("KEY")).await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_tls"), "{}", answer.text());
    assert!(upstream.connections() > 0);
    assert!(upstream.received().is_empty(), "bytes reached it");
    let events = tollgate.finish().await;
    assert_eq!(events.last().unwrap()["reason"], "upstream_tls");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    assert_refused(Upstream::https("api.example.com").expired()).await;
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused() {
    assert_refused(Upstream::https("api.example.com").self_signed()).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    assert_refused(Upstream::https("api.example.com").wrong_name()).await;
}

#[tokio::test]
async fn a_certificate_of_our_own_authority_is_refused() {
    assert_refused(Upstream::https("api.example.com").signed_by_tollgate()).await;
}

#[tokio::test]
async fn an_upstream_that_speaks_no_tls_is_refused() {
    let upstream = Upstream::http("api.example.com").on_port(443).await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let answer =
        sandbox.get_with("https://api.example.com/", "authorization", sandbox.token("KEY")).await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_tls"), "{}", answer.text());
    assert!(upstream.requests().is_empty());
    tollgate.finish().await;
}
