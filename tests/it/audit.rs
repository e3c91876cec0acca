//! One event per request and per refused connection, whatever the sandbox does, and nothing of its in the wrong place.

use std::time::Duration;

use http::Request;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Protocol, Tollgate, Upstream, full, read_all};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

#[tokio::test]
async fn an_allowed_request_is_told_in_full() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let request = Request::post("https://api.example.com/v1/items?key=hidden")
        .header("authorization", sandbox.token("KEY"))
        .body(full("12345"))
        .unwrap();
    let answer = sandbox.send_h2(request).await;
    let events = tollgate.events(2).await;
    let connect = &events.iter().find(|event| event["method"] == "CONNECT").unwrap();
    assert_eq!((&connect["verdict"], &connect["status"]), (&json!("allow"), &json!(200)));
    let event = events.iter().find(|event| event["method"] == "POST").unwrap();
    for (field, expected) in [
        ("event", json!("request")),
        ("sandboxID", json!("sb-test")),
        ("host", json!("api.example.com")),
        ("port", json!(443)),
        ("path", json!("/v1/items")),
        ("protocol", json!("h2+tls")),
        ("verdict", json!("allow")),
        ("layer", json!("keys")),
        ("secrets", json!(["KEY"])),
        ("locations", json!(["header:authorization"])),
        ("scrubbed", json!(1)),
        ("status", json!(200)),
        ("bytesOut", json!(5)),
        ("bytesIn", json!(answer.body.len())),
    ] {
        assert_eq!(event[field], expected, "{field} in {event:#}");
    }
    for field in ["time", "requestID", "client", "rule", "policyDigest"] {
        assert!(event[field].is_string(), "{field} in {event:#}");
    }
    assert!(event["durations"]["total"].as_u64() >= event["durations"]["head"].as_u64());
    assert_eq!(tollgate.finish().await.len(), 2);
}

#[tokio::test]
async fn a_denied_request_is_told_with_its_reason() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    tollgate.sandbox("sb-test").get("https://evil.example.net/").await;
    let event = tollgate.event().await;
    for (field, expected) in [
        ("verdict", json!("deny")),
        ("reason", json!("host_not_allowed")),
        ("host", json!("evil.example.net")),
        ("method", json!("CONNECT")),
        ("status", json!(403)),
    ] {
        assert_eq!(event[field], expected, "{field} in {event:#}");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn what_a_sandbox_writes_cannot_start_a_line_and_is_bounded() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let long = "x".repeat(8000);
    for bytes in [
        "GET http://evil.example.net/a\u{7f}b HTTP/1.1\r\nHost: evil.example.net\r\n\r\n".to_owned(),
        "GET http://evil.example.net/%0a{\"event\":\"request\"} HTTP/1.1\r\nHost: evil.example.net\r\n\r\n".to_owned(),
        format!("GET http://evil.example.net/{long} HTTP/1.1\r\nHost: evil.example.net\r\n\r\n"),
        "CONNECT evil\u{1}.example.net:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
    ] {
        sandbox.raw(bytes.as_bytes()).await;
    }
    let events = tollgate.events(4).await;
    assert_eq!(events.len(), 4, "{events:#?}");
    for event in &events {
        assert_eq!(event["verdict"], "deny");
        assert!(event.to_string().len() < 4096);
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_is_told_all_the_same() {
    let upstream = Upstream::https("api.example.com")
        .handler(|_request| async {
            std::future::pending::<http::Response<crate::support::Body>>().await
        })
        .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut io = sandbox.tls("api.example.com", Protocol::H1).await;
    io.write_all(b"GET /gone HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await.unwrap();
    io.flush().await.unwrap();
    let arrived = || (!upstream.requests().is_empty()).then_some(());
    crate::support::eventually("the request", arrived).await;
    drop(io);
    let events = tollgate.events(2).await;
    assert!(events.iter().any(|event| event["path"] == "/gone"), "{events:#?}");
    tollgate.finish().await;
}

#[tokio::test]
async fn each_request_of_a_connection_has_its_own_event_and_id() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut connection = sandbox.open("https://api.example.com/", Protocol::H1).await.unwrap();
    for nth in 0..5 {
        let request =
            Request::get(format!("https://api.example.com/{nth}")).body(full("")).unwrap();
        assert_eq!(connection.send(request).await.status, 200);
    }
    drop(connection);
    let events = tollgate.finish().await;
    let mut ids: Vec<_> = events.iter().map(|event| event["requestID"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((events.len(), ids.len()), (6, 6));
}

#[tokio::test]
async fn a_load_and_a_refused_load_of_policies_are_events() {
    let mut tollgate = Tollgate::with(POLICY, &[]).await;
    tollgate.expect_error("the policy files were refused");
    assert!(tollgate.reload("secretStores: 5").is_err());
    let file = tollgate.folder().join("audit.jsonl");
    let text = crate::support::eventually("both events", || {
        let text = std::fs::read_to_string(&file).unwrap();
        (text.lines().count() >= 2).then_some(text)
    })
    .await;
    let verdicts: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| (event["event"].clone(), event["verdict"].clone()))
        .collect();
    assert_eq!(verdicts, [(json!("policy"), json!("allow")), (json!("policy"), json!("deny"))]);
    tollgate.finish().await;
}

/// A pipe that nobody reads stands for a disk that is too slow.
#[tokio::test]
async fn a_connection_that_would_be_refused_waits_too_while_the_audit_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let config = json!({
        "audit": { "file": pipe },
        "listen": { "transparent": ["127.0.0.1:0"] },
        "limits": { "auditQueue": "64KiB" },
    });
    let tollgate = Tollgate::describe(POLICY, &[]).config(config).start().await;
    std::fs::write(tollgate.folder().join("audit.jsonl"), "").unwrap();
    // Nothing has redirected it here: it is refused before its first byte.
    let refused = async || {
        let listener = tollgate.server().transparent()[0];
        let mut io = tollgate.sandbox("sb-test").dial_at(listener).await;
        let (_, ended) = read_all(&mut io, Duration::from_millis(500)).await;
        (!ended).then_some(io)
    };
    let mut waiting = None;
    for _ in 0..5_000 {
        waiting = refused().await;
        if waiting.is_some() {
            break;
        }
    }
    let mut waiting = waiting.expect("a connection that waits for room");
    let read = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    assert!(read_all(&mut waiting, crate::support::SOON).await.1, "it goes on once there is room");
    assert!(!read.is_finished());
    tollgate.finish().await;
}
