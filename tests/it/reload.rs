//! Policies change while requests run: as a whole or not at all, and what is denied now is cut.

use std::sync::OnceLock;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt as _;

use crate::support::{Protocol, Tollgate, Upstream, body, full};

fn policy(hosts: &str, secret: &str) -> String {
    format!(
        "secretStores:\n  keys:\n    egressAllowlist: [{hosts}]\n    secrets: {{ KEY: {{ from: {{ value: {secret} }}, allowedHosts: [api.example.com] }} }}\nsandboxes: {{ sb-test: {{ secretStores: [keys] }} }}\n"
    )
}

const BOTH: &str = "api.example.com, other.example.com";

#[tokio::test]
async fn a_reload_puts_hosts_and_values_into_force() {
    let api = Upstream::https("api.example.com").answering(200, &[], "").await;
    let other = Upstream::https("other.example.com").answering(200, &[], "").await;
    let tollgate = Tollgate::with(&policy("api.example.com", "$OLD"), &[&api, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY").to_owned();
    assert_eq!(sandbox.get("https://other.example.com/").await.reason(), "host_not_allowed");
    sandbox.get_with("https://api.example.com/", "x-key", &token).await;
    tollgate.reload(&policy(BOTH, "$NEW")).unwrap();
    assert_eq!(sandbox.get("https://other.example.com/").await.status, 200);
    sandbox.get_with("https://api.example.com/", "x-key", &token).await;
    let values: Vec<_> =
        api.requests().iter().map(|request| request.header("x-key").unwrap()).collect();
    assert_eq!(
        values,
        [tollgate.value("OLD"), tollgate.value("NEW")],
        "the token stays, the value changes"
    );
    tollgate.finish().await;
}

#[tokio::test]
async fn a_value_that_was_replaced_is_still_searched_for() {
    let first = OnceLock::new();
    let api = Upstream::https("api.example.com")
        .handler(move |request| {
            // The first value that it was shown, whatever came after.
            let shown = request.headers()["x-key"].to_str().unwrap().to_owned();
            let answer = Response::new(body(first.get_or_init(|| shown).clone()));
            async move { answer }
        })
        .await;
    let tollgate = Tollgate::with(&policy("api.example.com", "$OLD"), &[&api]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY").to_owned();
    for policy in [policy("api.example.com", "$OLD"), policy("api.example.com", "$NEW")] {
        tollgate.reload(&policy).unwrap();
        let answer = sandbox.get_with("https://api.example.com/", "x-key", &token).await;
        assert_eq!((answer.status, answer.text()), (200, token.clone()));
    }
    let shown: Vec<_> =
        api.requests().iter().map(|request| request.header("x-key").unwrap()).collect();
    assert_eq!(shown, [tollgate.value("OLD"), tollgate.value("NEW")]);
    let events = tollgate.finish().await;
    let scrubbed = events.iter().map(|event| event["scrubbed"].as_u64().unwrap_or(0));
    assert_eq!(scrubbed.sum::<u64>(), 2, "{events:#?}");
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_policy_and_says_so() {
    let api = Upstream::https("api.example.com").await;
    let mut tollgate = Tollgate::with(&policy("api.example.com", "$KEY"), &[&api]).await;
    tollgate.expect_error("the policy files were refused");
    let sandbox = tollgate.sandbox("sb-test");
    for broken in ["secretStores: [", "secretStore: {}", &policy("\"not a host\"", "$KEY"), ""] {
        assert!(tollgate.reload(broken).is_err(), "{broken}");
        let health = tollgate.server().health().refused_reload.load_full();
        assert!(health.is_some_and(|why| why.contains("policy.yaml")));
        assert_eq!(sandbox.get("https://api.example.com/").await.status, 200);
    }
    tollgate.reload(&policy(BOTH, "$KEY")).unwrap();
    assert!(tollgate.server().health().refused_reload.load().is_none());
    tollgate.finish().await;
}

#[tokio::test]
async fn a_tunnel_to_a_host_that_is_denied_now_is_cut() {
    let api = Upstream::https("api.example.com").await;
    let other = Upstream::https("other.example.com").await;
    let tollgate = Tollgate::with(&policy(BOTH, "$KEY"), &[&api, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut cut = sandbox.tls("other.example.com", Protocol::H1).await;
    let mut stays = sandbox.open("https://api.example.com/", Protocol::H1).await.unwrap();
    tollgate.reload(&policy("api.example.com", "$KEY")).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(1), cut.read_u8()).await;
    assert!(ended.expect("cut within a second").is_err());
    let request = Request::get("https://api.example.com/").body(full("")).unwrap();
    assert_eq!(stays.send(request).await.status, 200);
    drop(stays);
    let events = tollgate.finish().await;
    assert!(events.iter().any(|event| event["reason"] == "host_not_allowed"), "{events:#?}");
}

#[tokio::test]
async fn a_stream_that_is_denied_now_is_cut() {
    let api = Upstream::https("api.example.com")
        .handler(|_request| async {
            let ticks = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Ok(Frame::data("tick\n".into())), ()))
            });
            Response::new(BodyExt::boxed(StreamBody::new(Box::pin(ticks))))
        })
        .await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let tollgate = Tollgate::with(&policy(BOTH, "$KEY"), &[&api]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let mut connection = sandbox.open("https://api.example.com/", protocol).await.unwrap();
        let mut answer = connection
            .begin(Request::get("https://api.example.com/").body(full("")).unwrap())
            .await
            .unwrap();
        assert!(answer.body_mut().frame().await.unwrap().is_ok());
        tollgate.reload(&policy("other.example.com", "$KEY")).unwrap();
        let cut = async { while let Some(Ok(_)) = answer.body_mut().frame().await {} };
        tokio::time::timeout(Duration::from_secs(1), cut).await.expect("cut within a second");
        drop((answer, connection));
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_sandbox_that_is_gone_is_unknown_and_its_tunnels_are_cut() {
    let api = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(
        "secretStores: { keys: { egressAllowlist: [api.example.com] } }\nsandboxes: { sb-one: { secretStores: [keys] }, sb-two: { secretStores: [keys] } }",
        &[&api],
    )
    .await;
    let sandbox = tollgate.sandbox("sb-two");
    let mut tunnel = sandbox.tls("api.example.com", Protocol::H1).await;
    tollgate
        .reload("secretStores: { keys: { egressAllowlist: [api.example.com] } }\nsandboxes: { sb-one: { secretStores: [keys] } }")
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(1), tunnel.read_u8()).await;
    assert!(ended.expect("cut within a second").is_err());
    assert_eq!(sandbox.get("https://api.example.com/").await.status, 407);
    tollgate.finish().await;
}
