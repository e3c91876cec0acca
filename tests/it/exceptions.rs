//! What an operator may lift, store by store and entry by entry: `misdirected: forward` and `scrub: off`.

use http::{Request, Response};
use serde_json::json;

use crate::support::{Protocol, Tollgate, Upstream, body, full};

const FORWARD: &str = r#"
secretStores:
  base:
    misdirected: forward
    egressAllowlist: [api.example.com, other.example.com]
    secrets:
      LAX: { from: { value: $LAX }, allowedHosts: [api.example.com] }
  strict:
    secrets:
      STRICT: { from: { value: $STRICT }, allowedHosts: [api.example.com] }
sandboxes:
  sb-lax: { secretStores: [base] }
  sb-both: { secretStores: [base, strict] }
"#;

#[tokio::test]
async fn a_misdirected_token_is_forwarded_sealed_where_its_own_store_says_so() {
    for protocol in [Protocol::H1, Protocol::H2] {
        let upstream = Upstream::https("other.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::describe(FORWARD, &[&upstream]).start().await;
        let both = tollgate.sandbox("sb-both");
        let (lax, strict) = (both.token("LAX"), both.token("STRICT"));
        let request = |token: &str| {
            Request::get(format!("https://other.example.com/{token}?k={token}"))
                .header("x-key", token)
                .body(full(""))
                .unwrap()
        };
        let answer = both.send_over(protocol, request(lax)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = upstream.request();
        assert_eq!(seen.target, format!("/{lax}?k={lax}"));
        assert_eq!(seen.header("x-key").unwrap(), lax);
        let answer = both.send_over(protocol, request(strict)).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
        let events = tollgate.finish().await;
        let forwarded: Vec<_> =
            events.iter().filter_map(|event| event["tokensForwarded"].as_u64()).collect();
        assert_eq!(forwarded, [3]);
    }
}

#[tokio::test]
async fn a_token_of_nobody_is_forwarded_only_if_every_layer_says_so() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::describe(FORWARD, &[&upstream]).start().await;
    let stranger = format!("osb_sealed_{}", "0123456789abcdef".repeat(2));
    let url = "https://api.example.com/";
    let answer = tollgate.sandbox("sb-lax").get_with(url, "x-key", &stranger).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.request().header("x-key").unwrap(), stranger);
    let answer = tollgate.sandbox("sb-both").get_with(url, "x-key", &stranger).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    tollgate.finish().await;
}

const SCRUB_OFF: &str = r#"
secretStores:
  base:
    egressAllowlist: [{ host: api.example.com, scrub: off, paths: ["/raw/**"] }, { host: api.example.com, paths: ["/**"], methods: [POST] }]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
  fork:
    egressAllowlist: [{ host: api.example.com, scrub: "on", paths: ["/raw/both"] }]
sandboxes: { sb-test: { secretStores: [base, fork] } }
"#;

#[tokio::test]
async fn scrub_off_lifts_every_exception_where_all_entries_that_admit_the_request_say_it() {
    for protocol in [Protocol::H1, Protocol::H2] {
        let upstream = Upstream::https("api.example.com").handler(|request| async move {
            let range = request.headers().contains_key("range");
            let key = request.headers()["x-key"].to_str().unwrap().to_owned();
            let text = key.chars().rev().collect::<String>();
            let answer = Response::builder().header("content-encoding", "x-own");
            answer.status(if range { 206 } else { 200 }).body(body(text)).unwrap()
        });
        let upstream = upstream.await;
        let tollgate = Tollgate::with(SCRUB_OFF, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let request = |method: &str, path: &str| {
            Request::builder()
                .method(method)
                .uri(format!("https://api.example.com{path}"))
                .header("x-key", sandbox.token("KEY"))
                .header("range", "bytes=0-9")
                .header("accept-encoding", "x-own, gzip")
                .body(full(""))
                .unwrap()
        };
        let answer = sandbox.send_over(protocol, request("GET", "/raw/a")).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (206, Some("x-own")));
        let seen = upstream.request();
        assert_eq!(seen.header("range").unwrap(), "bytes=0-9");
        assert_eq!(seen.header("accept-encoding").unwrap(), "x-own, gzip");
        // Another entry admits each of these, and does not lift anything.
        for (method, path) in [("GET", "/raw/both"), ("POST", "/raw/a"), ("POST", "/b")] {
            let answer = sandbox.send_over(protocol, request(method, path)).await;
            assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"), "{path}");
            let seen = upstream.requests().pop().unwrap();
            assert_eq!(
                (seen.header("range"), seen.header("accept-encoding").unwrap()),
                (None, "gzip".to_owned())
            );
        }
        let events = tollgate.finish().await;
        assert!(events.iter().all(|event| event["scrubbed"] != json!(1)));
    }
}
