//! Secrets that the proxy adds by itself: the sandbox sends nothing and cannot choose.

use http::Request;
use serde_json::json;

use crate::support::{Tollgate, Upstream, full};

const POLICY: &str = r#"
secretStores:
  pay:
    egressAllowlist: [api.example.com, other.example.com]
    secrets:
      PAY:
        from: { value: $PAY }
        allowedHosts: [api.example.com]
        inject: { header: authorization, format: "Bearer {value}", methods: [POST], paths: ["/v1/**"] }
sandboxes: { sb-test: { secretStores: [pay] } }
"#;

#[tokio::test]
async fn the_value_is_added_in_place_of_the_sandboxs_own_copy() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "paid").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test").showing_credentials(true);
    let request = Request::post("https://api.example.com/v1/charges")
        .header("authorization", "Bearer mine")
        .body(full("amount=1"))
        .unwrap();
    assert_eq!(sandbox.send(request).await.status, 200);
    let expected = format!("Bearer {}", tollgate.value("PAY"));
    assert_eq!(upstream.request().header("authorization").unwrap(), expected);
    let events = tollgate.finish().await;
    assert_eq!(events.last().unwrap()["locations"][0], "inject:authorization");
}

#[tokio::test]
async fn nothing_is_added_for_other_methods_paths_and_hosts() {
    let api = Upstream::https("api.example.com").answering(200, &[], "").await;
    let other = Upstream::https("other.example.com").answering(200, &[], "").await;
    let tollgate = Tollgate::with(POLICY, &[&api, &other]).await;
    let sandbox = tollgate.sandbox("sb-test").showing_credentials(true);
    sandbox.get("https://api.example.com/v1/charges").await;
    for url in ["https://api.example.com/v2/charges", "https://other.example.com/v1/charges"] {
        sandbox.send(Request::post(url).body(full("")).unwrap()).await;
    }
    let requests = [api.requests(), other.requests()].concat();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.header("authorization").is_none()));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_caller_of_a_shared_listener_without_credentials_gets_none() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let request = Request::post("https://api.example.com/v1/charges").body(full("")).unwrap();
    let answer = tollgate.sandbox("sb-test").showing_credentials(false).send(request).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_unavailable"));
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_caller_that_reaches_an_open_listener_by_loopback_gets_none_either() {
    let upstream = Upstream::https("api.example.com").await;
    let listen = json!({ "listen": { "explicit": ["0.0.0.0:0", "[::]:0"], "nonLocal": true } });
    let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(listen).start().await;
    for listener in tollgate.server().explicit() {
        let caller = tollgate.sandbox("sb-test").showing_credentials(false);
        let caller = caller.through(([127, 0, 0, 1], listener.port()).into());
        let request = Request::post("https://api.example.com/v1/charges").body(full("")).unwrap();
        let answer = caller.send(request).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_unavailable"), "{listener}");
    }
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}
