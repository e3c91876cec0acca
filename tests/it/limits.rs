//! Every bound holds exactly, and who reaches one is told.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use crate::support::{
    Frames, Protocol, Received, SOON, Stream, Tollgate, Upstream, eventually, full, read_answer,
    received,
};

const POLICY: &str = r#"
secretStores: { keys: { egressAllowlist: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

async fn with_limits(limits: serde_json::Value, upstreams: &[&Upstream]) -> Tollgate {
    Tollgate::describe(POLICY, upstreams).config(json!({ "limits": limits })).start().await
}

/// A request head of exactly this many bytes.
fn head_of(length: usize) -> String {
    let start = "GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nX-Fill: ";
    format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
}

#[tokio::test]
async fn a_head_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let upstream = Upstream::http("api.example.com").answering(200, &[], "").await;
    let tollgate = with_limits(json!({ "headers": "4KiB" }), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let exact = sandbox.raw(head_of(4096).as_bytes()).await;
    assert!(exact.starts_with("HTTP/1.1 200 "), "{exact}");
    let more = sandbox.raw(head_of(4097).as_bytes()).await;
    assert!(
        more.starts_with("HTTP/1.1 431 ") && more.contains("x-deny-reason: limit_exceeded"),
        "{more}"
    );
    assert_eq!(upstream.requests().len(), 1);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_refused_as_soon_as_it_is_too_long() {
    let tollgate = with_limits(json!({ "headers": "4KiB" }), &[]).await;
    let endless = format!("GET http://api.example.com/ HTTP/1.1\r\nX: {}", "x".repeat(10_000));
    let answer = tollgate.sandbox("sb-test").raw(endless.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_target_that_is_too_long_is_414_and_too_many_fields_431() {
    let upstream = Upstream::http("api.example.com").answering(200, &[], "").await;
    let tollgate = with_limits(json!({ "target": "1KiB", "fields": 10 }), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let start = "http://api.example.com/";
    for (length, status) in [(1024, "200"), (1025, "414")] {
        let target = format!("{start}{}", "p".repeat(length - start.len()));
        let answer = sandbox
            .raw(format!("GET {target} HTTP/1.1\r\nHost: api.example.com\r\n\r\n").as_bytes())
            .await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{length}: {answer}");
    }
    for (more, status) in [(9, "200"), (10, "431")] {
        let fields = "X-A: 1\r\n".repeat(more);
        let head = format!("GET {start} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n");
        let answer = sandbox.raw(head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{more}: {answer}");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn who_sends_a_head_byte_by_byte_or_none_at_all_is_closed() {
    let tollgate = with_limits(json!({ "headerTimeout": "200ms" }), &[]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut silent = sandbox.dial().await;
    let mut slow = sandbox.dial().await;
    let dripping = async {
        let mut head =
            b"GET http://api.example.com/ HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x'));
        loop {
            if slow.write_all(&[*head.next().unwrap()]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let closed = async {
        let mut rest = Vec::new();
        drop(silent.read_to_end(&mut rest).await);
        dripping.await;
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("both are closed");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_tunnel_in_which_nobody_shakes_hands_is_closed() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = with_limits(json!({ "handshakeTimeout": "200ms" }), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for first in [&b""[..], &b"\x16\x03\x01\x02"[..]] {
        let mut io = sandbox.connect("api.example.com:443").await.unwrap();
        io.write_all(first).await.unwrap();
        let mut rest = Vec::new();
        drop(
            tokio::time::timeout(Duration::from_secs(3), io.read_to_end(&mut rest))
                .await
                .expect("closed"),
        );
    }
    assert_eq!(upstream.connections(), 0);
    let events = tollgate.finish().await;
    assert_eq!(
        events.iter().filter(|event| event["reason"] == "limit_exceeded").count(),
        2,
        "{events:#?}"
    );
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate =
        with_limits(json!({ "idleTimeout": "300ms", "headerTimeout": "100ms" }), &[&upstream])
            .await;
    let sandbox = tollgate.sandbox("sb-test");
    for protocol in [Protocol::H1, Protocol::H2] {
        let mut io = sandbox.tls("api.example.com", protocol).await;
        let mut rest = Vec::new();
        drop(
            tokio::time::timeout(Duration::from_secs(5), io.read_to_end(&mut rest))
                .await
                .expect("closed"),
        );
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn a_sandbox_has_so_many_connections_and_another_is_not_touched() {
    let two = POLICY.replace("sandboxes: {", "sandboxes: { sb-other: { secretStores: [keys] },");
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::describe(&two, &[&upstream])
        .config(json!({ "limits": { "connectionsPerSandbox": 2 } }))
        .start()
        .await;
    let sandbox = tollgate.sandbox("sb-test");
    let one = sandbox.connect("api.example.com:443").await.unwrap();
    let two = sandbox.connect("api.example.com:443").await.unwrap();
    let refused = sandbox.connect("api.example.com:443").await.err().expect("a refusal");
    assert_eq!((refused.status, refused.reason()), (429, "limit_exceeded"));
    assert_eq!(tollgate.sandbox("sb-other").get("https://api.example.com/").await.status, 200);
    drop((one, two));
    let freed = async {
        while sandbox.connect("api.example.com:443").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, freed).await.expect("the slots are free again");
    tollgate.finish().await;
}

#[tokio::test]
async fn all_listeners_together_have_so_many_connections() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::describe(POLICY, &[&upstream])
        .config(json!({
            "limits": { "connections": 2 },
            "listen": { "explicit": ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"] },
        }))
        .start()
        .await;
    let through =
        |nth: usize| tollgate.sandbox("sb-test").through(tollgate.server().explicit()[nth]);
    let (one, two, three) = (through(0), through(1), through(2));
    let held = one.connect("api.example.com:443").await.unwrap();
    let also_held = two.connect("api.example.com:443").await.unwrap();
    let waits = tokio::spawn(async move { three.get("https://api.example.com/").await.status });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waits.is_finished(), "a third connection is served");
    drop(held);
    assert_eq!(tokio::time::timeout(SOON, waits).await.expect("its turn").unwrap(), 200);
    drop(also_held);
    tollgate.finish().await;
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_504() {
    let upstream = Upstream::https("api.example.com")
        .handler(|_request| async {
            std::future::pending::<http::Response<crate::support::Body>>().await
        })
        .await;
    let tollgate = with_limits(json!({ "responseTimeout": "200ms" }), &[&upstream]).await;
    let answer = tollgate.sandbox("sb-test").get("https://api.example.com/").await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_timeout"));
    tollgate.finish().await;
}

#[tokio::test]
async fn an_upstream_that_never_shakes_hands_is_504() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let tollgate = Tollgate::describe(POLICY, &[])
        .config(json!({
            "limits": { "connectTimeout": "200ms" },
            "upstream": { "connectTo": { "api.example.com:443": address } },
        }))
        .start()
        .await;
    let answer = tollgate.sandbox("sb-test").get("https://api.example.com/").await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_timeout"));
    tollgate.finish().await;
}

/// An upstream that holds every answer until it is let go.
async fn holding() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let upstream = Upstream::https("api.example.com").handler(move |_request| {
        let gate = opened.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            http::Response::new(crate::support::empty())
        }
    });
    (upstream.await, gate)
}

/// So many requests have come, ever.
async fn arrived(upstream: &Upstream, requests: usize) {
    eventually(&format!("{requests} requests at the upstream"), || {
        (upstream.requests().len() == requests).then_some(())
    })
    .await;
}

/// The streams' ends, once all have ended.
async fn ends(io: &mut Stream, read: &mut Vec<u8>, streams: &[u32]) -> Vec<Received> {
    let all = async {
        loop {
            let ends: Vec<_> = streams.iter().map(|stream| received(read, *stream)).collect();
            if ends.iter().all(|end| end.ended) {
                return ends;
            }
            assert!(io.read_buf(read).await.unwrap() > 0, "the connection ended: {ends:?}");
        }
    };
    tokio::time::timeout(SOON, all).await.expect("the streams end")
}

#[tokio::test]
async fn an_h2_client_that_opens_more_streams_than_it_may_has_those_refused() {
    const REFUSED_STREAM: u32 = 7;
    let (upstream, gate) = holding().await;
    let tollgate = with_limits(json!({ "streamsPerConnection": 2 }), &[&upstream]).await;
    let mut io = tollgate.sandbox("sb-test").tls("api.example.com", Protocol::H2).await;
    let get = |frames: Frames, stream: u32| frames.get(stream, "api.example.com", "/", &[]);
    // The number is announced, and this client does not care.
    io.write_all([1, 3, 5, 7, 9].into_iter().fold(Frames::new(), get).bytes()).await.unwrap();
    io.flush().await.unwrap();
    let mut read = Vec::new();
    for end in ends(&mut io, &mut read, &[5, 7, 9]).await {
        assert_eq!((end.status, end.reset), (None, Some(REFUSED_STREAM)), "{end:?}");
    }
    // SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 §6.5.2).
    assert!(memchr::memmem::find(&read, &[0, 3, 0, 0, 0, 2]).is_some(), "{read:?}");
    arrived(&upstream, 2).await;
    gate.add_permits(2);
    for end in ends(&mut io, &mut read, &[1, 3]).await {
        assert_eq!(end.status, Some(200), "{end:?}");
    }
    // Both places are free again, and no more than both.
    let preface = Frames::new().bytes().len();
    let more = [11, 13, 15].into_iter().fold(Frames::new(), get);
    io.write_all(&more.bytes()[preface..]).await.unwrap();
    io.flush().await.unwrap();
    let refused = ends(&mut io, &mut read, &[15]).await;
    assert_eq!(refused[0].reset, Some(REFUSED_STREAM), "{refused:?}");
    arrived(&upstream, 4).await;
    gate.add_permits(2);
    for end in ends(&mut io, &mut read, &[11, 13]).await {
        assert_eq!(end.status, Some(200), "{end:?}");
    }
    drop(io);
    let events = tollgate.finish().await;
    assert_eq!(events.iter().filter(|event| event["method"] == "GET").count(), 4, "{events:#?}");
}

#[tokio::test]
async fn an_h2_client_that_heeds_the_announced_number_waits_and_is_served() {
    let (upstream, gate) = holding().await;
    let tollgate = with_limits(json!({ "streamsPerConnection": 2 }), &[&upstream]).await;
    let h2 = tollgate.sandbox("sb-test").open("https://api.example.com/", Protocol::H2).await;
    let mut h2 = h2.unwrap();
    // The announcement has come once an answer has.
    gate.add_permits(1);
    let get = || Request::get("https://api.example.com/").body(full("")).unwrap();
    assert_eq!(h2.send(get()).await.status, 200);
    let asking = (0..6).map(|_| {
        let mut h2 = h2.shared();
        async move { h2.send(get()).await.status }
    });
    let asking = tokio::spawn(futures_util::future::join_all(asking));
    // Two run, and each that ends lets in one that waits.
    for come in [3, 4, 5, 6, 7, 7] {
        arrived(&upstream, come).await;
        gate.add_permits(1);
    }
    assert_eq!(asking.await.unwrap(), [200; 6]);
    drop(h2);
    tollgate.finish().await;
}

#[tokio::test]
async fn an_answers_head_is_bounded_too() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(8192));
    let upstream = Upstream::answers_raw("api.example.com", long).await;
    let tollgate = with_limits(json!({ "headers": "4KiB" }), &[&upstream]).await;
    let answer = tollgate.sandbox("sb-test").get("https://api.example.com/").await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_connection_lives_on_after_a_denial() {
    let upstream = Upstream::http("api.example.com").answering(200, &[], "").await;
    let tollgate = with_limits(json!({}), &[&upstream]).await;
    let mut io = tollgate.sandbox("sb-test").dial().await;
    for (host, status) in
        [("evil.example.net", 403), ("api.example.com", 200), ("evil.example.net", 403)]
    {
        let head = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut io).await.status, status);
    }
    drop(io);
    tollgate.finish().await;
}
