//! A request with nothing to substitute leaves as it came: target bytes, header case and order, repeated fields, framing.

use tokio::io::AsyncWriteExt as _;

use crate::support::{Protocol, Tollgate, Upstream, eventually, read_answer};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [plain.example.com, api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

/// Sends a head (and body) inside a tunnel, and returns the head that arrived.
async fn arrived(host: &str, sent: impl Fn(&str) -> String) -> (String, String) {
    let upstream = Upstream::https(host).h1_only().answering(200, &[], "").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let sent = sent(sandbox.token("KEY"));
    let mut io = sandbox.tls(host, Protocol::H1).await;
    io.write_all(sent.as_bytes()).await.unwrap();
    io.flush().await.unwrap();
    assert_eq!(read_answer(&mut io).await.status, 200);
    let request = eventually("the request", || upstream.requests().into_iter().next()).await;
    drop(io);
    let sent = sent.replace(sandbox.token("KEY"), &tollgate.value("KEY"));
    tollgate.finish().await;
    (sent, request.head)
}

#[tokio::test]
async fn case_order_and_repetitions_of_header_fields_are_kept() {
    let (sent, arrived) = arrived("plain.example.com", |_| {
        "GET /a%2Fb/./c?x=%20+&&y#  HTTP/1.1\r\n"
            .replace("#  ", " ")
            + "Host: plain.example.com\r\nX-UPPER: 1\r\nx-lower: 2\r\nAccept: */*\r\nX-Twice: a\r\nX-Twice: b\r\nRange: bytes=0-1\r\nAccept-Encoding: gzip, br\r\nUser-Agent: x\r\n\r\n"
    })
    .await;
    assert_eq!(arrived, sent);
}

#[tokio::test]
async fn beside_an_opened_token_nothing_else_moves() {
    let (sent, arrived) = arrived("api.example.com", |token| {
        format!(
            "POST /v1 HTTP/1.1\r\nHost: api.example.com\r\nB: 1\r\nAuthorization: Bearer {token}\r\nA: 2\r\nAccept-Encoding: identity\r\nContent-Length: 0\r\n\r\n"
        )
    })
    .await;
    assert_eq!(arrived, sent);
}

#[tokio::test]
async fn a_body_keeps_its_kind_of_framing() {
    let (sent, arrived_head) = arrived("plain.example.com", |_| {
        "POST /v1 HTTP/1.1\r\nHost: plain.example.com\r\nContent-Length: 4\r\n\r\nbody".to_owned()
    })
    .await;
    assert_eq!(format!("{arrived_head}body"), sent);
    let (sent, arrived_head) = arrived("plain.example.com", |_| {
        "POST /v1 HTTP/1.1\r\nHost: plain.example.com\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n".to_owned()
    })
    .await;
    let head = sent.split_inclusive("\r\n\r\n").next().unwrap();
    assert_eq!(arrived_head.to_ascii_lowercase(), head.to_ascii_lowercase());
}

#[tokio::test]
async fn fields_of_the_connection_and_proxy_credentials_stay_behind() {
    let upstream = Upstream::http("plain.example.com").answering(200, &[], "").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let head = format!(
        "GET http://plain.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\nProxy-Authorization: {}\r\nProxy-Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nConnection: x-private\r\nX-Private: 1\r\nTE: gzip\r\nX-Kept: 2\r\n\r\n",
        sandbox.proxy_authorization()
    );
    assert!(sandbox.raw(head.as_bytes()).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(
        upstream.request().head,
        "GET / HTTP/1.1\r\nHost: plain.example.com\r\nX-Kept: 2\r\n\r\n"
    );
    tollgate.finish().await;
}

#[tokio::test]
async fn on_a_host_with_a_secret_only_what_hinders_the_search_is_changed() {
    let (_, arrived) = arrived("api.example.com", |_| {
        "GET / HTTP/1.1\r\nHost: api.example.com\r\nAccept-Encoding: gzip, br\r\nRange: bytes=0-1\r\nX-Other: 1\r\n\r\n".to_owned()
    })
    .await;
    assert_eq!(
        arrived,
        "GET / HTTP/1.1\r\nHost: api.example.com\r\nAccept-Encoding: gzip, br\r\nX-Other: 1\r\n\r\n"
    );
}
