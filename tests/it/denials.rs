//! A denial tells one story: status, document and headers; before the tunnel, inside it, and in gRPC's own words.

use http::Request;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Protocol, SOON, Tollgate, Upstream, full, read_all};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist:
      - api.example.com
      - "rpc.example.com:8443"
      - { host: packages.example.com, methods: [GET, HEAD], paths: ["/simple/**"] }
      - { host: tls.example.com, schemes: [https] }
      - "*.wide.example.com"
    egressDenylist: [bad.wide.example.com]
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

#[tokio::test]
async fn the_document_names_rule_reason_and_what_to_do() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let answer = tollgate.sandbox("sb-test").get("https://evil.example.net/").await;
    assert!(answer.refused_connect);
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("x-deny-reason"), Some("host_not_allowed"));
    assert_eq!(answer.header("x-proxy-error"), Some("blocked-by-allowlist"));
    assert!(
        answer.header("proxy-status").unwrap().starts_with("tollgate; error=http_request_denied")
    );
    let document = answer.json();
    for (field, expected) in [
        ("status", json!(403)),
        ("reason", json!("host_not_allowed")),
        ("host", json!("evil.example.net")),
        ("sandboxID", json!("sb-test")),
    ] {
        assert_eq!(document[field], expected, "{document}");
    }
    for field in ["type", "title", "detail", "hint", "requestID"] {
        assert!(
            document[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field} in {document}"
        );
    }
    assert!(document["hint"].as_str().unwrap().contains("retry"), "{document}");
    assert!(!answer.text().contains("api.example.com"), "the other hosts are nobody's business");
    let event = tollgate.event().await;
    assert_eq!(event["requestID"], document["requestID"]);
    tollgate.finish().await;
}

#[tokio::test]
async fn each_rule_has_its_own_reason() {
    let packages = Upstream::https("packages.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&packages]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for (method, url, reason) in [
        ("GET", "https://api.example.com:8443/", "port_not_allowed"),
        ("GET", "https://rpc.example.com/", "port_not_allowed"),
        ("GET", "https://bad.wide.example.com/", "host_denied"),
        ("GET", "https://wide.example.com/", "host_not_allowed"),
        ("POST", "https://packages.example.com/simple/x", "method_not_allowed"),
        ("GET", "https://packages.example.com/other", "path_not_allowed"),
        ("GET", "https://packages.example.com/simple/..%2fother", "path_not_allowed"),
        ("GET", "https://packages.example.com/simple/%2e%2e/other", "path_not_allowed"),
        ("GET", "http://tls.example.com/", "scheme_not_allowed"),
    ] {
        let request = Request::builder().method(method).uri(url).body(full("")).unwrap();
        let answer = sandbox.send(request).await;
        assert_eq!((answer.status, answer.reason()), (403, reason), "{method} {url}");
    }
    let request =
        Request::builder().method("TRACE").uri("https://api.example.com/").body(full("")).unwrap();
    let answer = sandbox.send(request).await;
    assert_eq!((answer.status, answer.reason()), (405, "method_not_allowed"), "never carried");
    assert_eq!(packages.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn with_denials_inside_the_answer_comes_through_the_tunnel() {
    let tollgate =
        Tollgate::describe(POLICY, &[]).config(json!({ "denials": "inside" })).start().await;
    let sandbox = tollgate.sandbox("sb-test");
    for protocol in [Protocol::H1, Protocol::H2] {
        let request = Request::get("https://evil.example.net/x").body(full("")).unwrap();
        let answer = sandbox.send_over(protocol, request).await;
        assert!(!answer.refused_connect);
        assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
        assert_eq!(answer.json()["host"], "evil.example.net");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn grpc_reads_its_own_status() {
    let policy = POLICY
        .replace("- api.example.com", "- { host: api.example.com, paths: [\"/ok.Service/*\"] }");
    let tollgate = Tollgate::with(&policy, &[]).await;
    let request = Request::post("https://api.example.com/bad.Service/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(full(""))
        .unwrap();
    let answer = tollgate.sandbox("sb-test").send_h2(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(answer.header("grpc-status"), Some("7"));
    assert!(answer.header("grpc-message").unwrap().starts_with("path_not_allowed: "));
    assert_eq!(answer.reason(), "path_not_allowed");
    assert!(answer.body.is_empty() && answer.trailers.is_empty());
    tollgate.finish().await;
}

#[tokio::test]
async fn who_cannot_be_told_apart_is_asked_for_credentials_and_the_connection_stays() {
    let two = POLICY.replace("sandboxes: {", "sandboxes: { sb-other: { secretStores: [keys] },");
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(&two, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let answer = sandbox.clone().showing_credentials(false).get("https://api.example.com/").await;
    assert_eq!((answer.status, answer.reason()), (407, "sandbox_unknown"));
    assert_eq!(answer.header("proxy-authenticate"), Some("Basic realm=\"tollgate\""));
    // As git does: the answer to the challenge comes on the same connection.
    let mut io = sandbox.dial().await;
    let target = "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n";
    io.write_all(format!("{target}\r\n").as_bytes()).await.unwrap();
    assert_eq!(crate::support::read_answer(&mut io).await.status, 407);
    let credentials = sandbox.proxy_authorization();
    io.write_all(format!("{target}Proxy-Authorization: {credentials}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(crate::support::read_answer(&mut io).await.status, 200);
    for wrong in ["Basic c2ItdGVzdDp3cm9uZw==", "Bearer x", "Basic !!!"] {
        let head = format!("{target}Proxy-Authorization: {wrong}\r\n\r\n");
        assert!(sandbox.raw(head.as_bytes()).await.starts_with("HTTP/1.1 407 "), "{wrong}");
    }
    assert_eq!(sandbox.get("https://api.example.com/").await.status, 200);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_host_that_is_not_the_tunnels_is_misdirected() {
    let upstream = Upstream::https("api.example.com").also("evil.example.net").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for (host, status) in [
        ("evil.example.net", 421),
        ("api.example.com:444", 421),
        ("api.example.com:443", 200),
        ("API.Example.COM", 200),
    ] {
        let request =
            Request::get("https://api.example.com/").header("host", host).body(full("")).unwrap();
        let answer = sandbox.send(request).await;
        assert_eq!(answer.status, status, "{host}");
        assert!(status == 200 || answer.reason() == "host_mismatch", "{host}");
    }
    let io = sandbox.connect("api.example.com:443").await.unwrap();
    assert!(sandbox.tls_over(io, "evil.example.net", &[b"http/1.1"]).await.is_err());
    let mut h2 = sandbox.open("https://api.example.com/", Protocol::H2).await.unwrap();
    let answer = h2.send(Request::get("https://evil.example.net/").body(full("")).unwrap()).await;
    assert_eq!((answer.status, answer.reason()), (421, "host_mismatch"));
    assert_eq!(upstream.requests().len(), 2);
    let events = tollgate.finish().await;
    assert!(events.iter().filter(|event| event["reason"] == "host_mismatch").count() >= 4);
}

#[tokio::test]
async fn absolute_https_and_origin_form_are_refused_with_advice() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for target in ["https://api.example.com/", "/"] {
        let answer = sandbox
            .raw(format!("GET {target} HTTP/1.1\r\nHost: api.example.com\r\n\r\n").as_bytes())
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(
            answer.contains("x-deny-reason: protocol_not_allowed") && answer.contains("\"hint\":"),
            "{answer}"
        );
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn a_refusal_that_waits_inside_the_tunnel_is_recorded_although_nobody_asks_there() {
    let config = json!({ "denials": "inside", "limits": { "idleTimeout": "300ms", "headerTimeout": "100ms" } });
    let tollgate = Tollgate::describe(POLICY, &[]).config(config).start().await;
    let sandbox = tollgate.sandbox("sb-test");
    for protocol in [Protocol::H1, Protocol::H2] {
        let hung_up = sandbox.tls("evil.example.net", protocol).await;
        drop(hung_up);
    }
    let mut silent = sandbox.tls("evil.example.net", Protocol::H1).await;
    assert!(read_all(&mut silent, SOON).await.1, "it is cut");
    let events = tollgate.finish().await;
    let refused = events.iter().filter(|event| event["reason"] == "host_not_allowed");
    let refused: Vec<_> = refused.map(|event| (&event["event"], &event["protocol"])).collect();
    assert_eq!(refused, [(&json!("connection"), &json!("connect")); 3], "{events:#?}");
}
