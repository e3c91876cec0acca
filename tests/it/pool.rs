//! Upstream connections are used again, by the same sandbox only, and a stale one costs nobody a request.

use http::Request;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Protocol, Stream, Tollgate, Upstream, eventually, full, read_request};

const POLICY: &str = r#"
secretStores:
  keys: { egressAllowlist: [api.example.com] }
sandboxes:
  sb-one: { secretStores: [keys] }
  sb-two: { secretStores: [keys] }
"#;
const URL: &str = "https://api.example.com/";

#[tokio::test]
async fn the_next_request_uses_the_same_connection() {
    for builder in
        [Upstream::https("api.example.com").h1_only(), Upstream::https("api.example.com").h2_only()]
    {
        let upstream = builder.await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-one");
        for _ in 0..3 {
            assert_eq!(sandbox.get(URL).await.status, 200);
            let post = Request::post(URL).body(full("body")).unwrap();
            assert_eq!(sandbox.send_h2(post).await.status, 200);
        }
        assert_eq!((upstream.connections(), upstream.requests().len()), (1, 6));
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_connection_is_never_shared_between_two_sandboxes() {
    for builder in
        [Upstream::https("api.example.com").h1_only(), Upstream::https("api.example.com").h2_only()]
    {
        let upstream = builder.await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        for _ in 0..2 {
            for (id, path) in [("sb-one", "one"), ("sb-two", "two")] {
                assert_eq!(tollgate.sandbox(id).get(&format!("{URL}{path}")).await.status, 200);
            }
        }
        let mut seen: Vec<_> = upstream
            .requests()
            .into_iter()
            .map(|request| (request.connection, request.target))
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 2, "each connection serves one sandbox: {seen:?}");
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn streams_of_one_sandbox_share_an_h2_connection() {
    let upstream = Upstream::https("api.example.com").h2_only().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-one");
    let requests = (0..10).map(|_| sandbox.get(URL));
    let answers = futures_util::future::join_all(requests).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(upstream.connections(), 1);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_request() {
    // Each connection answers one request, keeps quiet about it, and closes.
    let upstream = Upstream::raw("api.example.com", |mut io: Stream| async move {
        if !read_request(&mut io).await.is_empty() {
            io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            io.flush().await.unwrap();
        }
        drop(io.shutdown().await);
    })
    .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-one");
    for nth in 0..5 {
        let request = Request::post(URL).body(full("once")).unwrap();
        let answer = sandbox.send(request).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "request {nth}: {answer:?}"
        );
    }
    let received = String::from_utf8_lossy(&upstream.received()).into_owned();
    assert_eq!(received.matches("POST / HTTP/1.1").count(), 5, "none was sent twice");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_request_that_was_sent_is_not_sent_again() {
    // The second request of a connection is read and never answered.
    let upstream = Upstream::raw("api.example.com", |mut io: Stream| async move {
        read_request(&mut io).await;
        io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        io.flush().await.unwrap();
        read_request(&mut io).await;
    })
    .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-one");
    let mut connection = sandbox.open(URL, Protocol::H1).await.unwrap();
    let request = || Request::post(URL).body(full("pay once")).unwrap();
    assert_eq!(connection.send(request()).await.status, 200);
    let answer = connection.send(request()).await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"));
    let received = String::from_utf8_lossy(&upstream.received()).into_owned();
    assert_eq!(received.matches("POST / HTTP/1.1").count(), 2);
    drop(connection);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_failed_upstream_is_asked_anew_by_the_next_request() {
    let tollgate =
        Tollgate::with(&POLICY.replace("api.example.com", "\"api.example.com:*\""), &[]).await;
    tollgate.dns().set("api.example.com", &["127.0.0.1"]);
    let upstream = Upstream::http("api.example.com").await;
    let sandbox = tollgate.sandbox("sb-one");
    // Port 1 of loopback has no listener.
    let answer = sandbox.get("http://api.example.com:1/").await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"));
    let url = format!("http://api.example.com:{}/", upstream.address().port());
    assert_eq!(sandbox.get(&url).await.status, 200);
    eventually("the request", || (!upstream.requests().is_empty()).then_some(())).await;
    tollgate.finish().await;
}
