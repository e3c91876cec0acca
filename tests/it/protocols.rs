//! What is carried, and that it arrives as it was sent: h1 and h2 in any pairing, trailers, streams, WebSocket.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::{
    Body, Builder, Connection, Protocol, SOON, Stream, Tollgate, Upstream, full, read_request,
    streamed,
};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
/// The same host without a secret: nothing is searched, nothing is changed.
const PLAIN: &str = r#"
secretStores: { keys: { egressAllowlist: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

fn chunks(chunks: impl futures_util::Stream<Item = Frame<Bytes>> + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(chunks.map(Ok)))
}

fn data(text: &str) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(text.as_bytes()))
}

#[tokio::test]
async fn every_pairing_of_http_versions_carries_a_request_with_its_secret() {
    for (client, upstream, arrived) in [
        (Protocol::H1, Upstream::https("api.example.com").h1_only(), "HTTP/1.1"),
        (Protocol::H1, Upstream::https("api.example.com").h2_only(), "HTTP/2.0"),
        (Protocol::H2, Upstream::https("api.example.com").h1_only(), "HTTP/1.1"),
        (Protocol::H2, Upstream::https("api.example.com").h2_only(), "HTTP/2.0"),
    ] {
        let upstream = upstream.await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let request = Request::post("https://api.example.com/v1/echo?q=1")
            .header("authorization", format!("Bearer {}", sandbox.token("KEY")))
            .header("x-plain", "as it is")
            .body(full("a body"))
            .unwrap();
        let answer = sandbox.send_over(client, request).await;
        assert_eq!(answer.status, 200, "{client:?} to {arrived}: {answer:?}");
        let spoken =
            if client == Protocol::H1 { http::Version::HTTP_11 } else { http::Version::HTTP_2 };
        assert_eq!(answer.version, spoken);
        let negotiated = if arrived == "HTTP/1.1" { "http/1.1" } else { "h2" };
        assert_eq!(upstream.alpn(), [Some(negotiated.to_owned())]);
        let request = upstream.request();
        assert_eq!((request.version.as_str(), request.target.as_str()), (arrived, "/v1/echo?q=1"));
        assert_eq!(
            request.header("authorization").unwrap(),
            format!("Bearer {}", tollgate.value("KEY"))
        );
        assert_eq!(request.header("x-plain").unwrap(), "as it is");
        assert_eq!(request.body, "a body");
        let json = answer.json();
        assert_eq!(
            (json["method"].as_str(), json["body"].as_str()),
            (Some("POST"), Some("a body"))
        );
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let described = |builder: Builder| {
        builder.handler(|request| async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let frames = vec![Frame::data(request.into_body()), Frame::trailers(trailers)];
            Response::builder()
                .header("trailer", "grpc-status")
                .body(chunks(futures_util::stream::iter(frames)))
                .unwrap()
        })
    };
    for (client, builder) in [
        (Protocol::H2, Upstream::https("api.example.com").h2_only()),
        (Protocol::H2, Upstream::https("api.example.com").h1_only()),
    ] {
        let upstream = described(builder).await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "abc".parse().unwrap());
        let frames = vec![data("payload"), Frame::trailers(trailers)];
        let request = Request::post("https://api.example.com/")
            .header("te", "trailers")
            .header("trailer", "x-checksum")
            .body(streamed(futures_util::stream::iter(frames)))
            .unwrap();
        let answer = tollgate.sandbox("sb-test").send_over(client, request).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "payload"));
        assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0", "{answer:?}");
        assert_eq!(upstream.request().trailers, [("x-checksum".to_owned(), "abc".to_owned())]);
        tollgate.finish().await;
    }
}

/// An upstream that sends one event each time it is told to.
async fn prompted() -> (Upstream, tokio::sync::mpsc::UnboundedSender<&'static str>) {
    let (prompt, prompts) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let prompts = std::sync::Arc::new(std::sync::Mutex::new(Some(prompts)));
    let upstream = Upstream::https("api.example.com").handler(move |_request| {
        let prompts = prompts.lock().unwrap().take().unwrap();
        async move {
            let events = futures_util::stream::unfold(prompts, |mut prompts| async move {
                Some((data(prompts.recv().await?), prompts))
            });
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(chunks(events))
                .unwrap()
        }
    });
    (upstream.await, prompt)
}

#[tokio::test]
async fn each_event_of_a_stream_arrives_before_the_next_is_sent() {
    for (policy, protocol) in
        [(POLICY, Protocol::H1), (POLICY, Protocol::H2), (PLAIN, Protocol::H1)]
    {
        let (upstream, prompt) = prompted().await;
        let tollgate = Tollgate::with(policy, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let mut connection = sandbox.open("https://api.example.com/", protocol).await.unwrap();
        let request = Request::get("https://api.example.com/events").body(full("")).unwrap();
        let mut answer = connection.begin(request).await.unwrap();
        for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
            prompt.send(event).unwrap();
            let mut received = String::new();
            while received.len() < event.len() {
                let frame =
                    tokio::time::timeout(SOON, answer.body_mut().frame()).await.expect("the event");
                received +=
                    std::str::from_utf8(frame.unwrap().unwrap().data_ref().unwrap()).unwrap();
            }
            assert_eq!(received, event);
        }
        drop((prompt, answer, connection));
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn an_upload_streams_while_it_is_being_sent() {
    let upstream = Upstream::https("api.example.com")
        .streaming(|request| async move {
            let echoed = request.into_body().map_err(std::io::Error::other).boxed();
            Response::new(echoed)
        })
        .await;
    let tollgate = Tollgate::with(PLAIN, &[&upstream]).await;
    let (send, parts) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let parts = futures_util::stream::unfold(parts, |mut parts| async move {
        Some((data(parts.recv().await?), parts))
    });
    let mut connection =
        tollgate.sandbox("sb-test").open("https://api.example.com/", Protocol::H2).await.unwrap();
    let request = Request::post("https://api.example.com/").body(streamed(parts)).unwrap();
    send.send("ping").unwrap();
    let mut answer = tokio::time::timeout(SOON, connection.begin(request)).await.unwrap().unwrap();
    for part in ["ping", "pong"] {
        if part == "pong" {
            send.send(part).unwrap();
        }
        let frame = tokio::time::timeout(SOON, answer.body_mut().frame()).await.expect("the echo");
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), part);
    }
    drop((send, answer, connection));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_body_is_asked_for_with_100_continue() {
    let upstream = Upstream::https("api.example.com").h1_only().await;
    let tollgate = Tollgate::with(PLAIN, &[&upstream]).await;
    let mut io = tollgate.sandbox("sb-test").tls("api.example.com", Protocol::H1).await;
    let head = "POST /up HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    io.write_all(head.as_bytes()).await.unwrap();
    io.flush().await.unwrap();
    let mut line = [0; 25];
    tokio::time::timeout(SOON, io.read_exact(&mut line)).await.expect("a 100").unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    io.write_all(b"hello").await.unwrap();
    io.flush().await.unwrap();
    let mut rest = [0; 15];
    tokio::time::timeout(SOON, io.read_exact(&mut rest)).await.expect("the answer").unwrap();
    assert_eq!(&rest, b"HTTP/1.1 200 OK");
    assert_eq!(upstream.request().body, "hello");
    drop(io);
    tollgate.finish().await;
}

fn websocket_request(token: &str) -> Request<crate::support::RequestBody> {
    Request::get("https://api.example.com/socket")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("authorization", token)
        .body(full(""))
        .unwrap()
}

#[tokio::test]
async fn a_websocket_carries_messages_and_its_handshake_the_secret() {
    let upstream = Upstream::raw("api.example.com", |mut io: Stream| async move {
        let head = String::from_utf8(read_request(&mut io).await).unwrap();
        assert!(head.to_ascii_lowercase().contains("upgrade: websocket"));
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        io.write_all(answer.as_bytes()).await.unwrap();
        io.flush().await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    })
    .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut connection = sandbox.open("https://api.example.com/", Protocol::H1).await.unwrap();
    let answer = connection.begin(websocket_request(sandbox.token("KEY"))).await.unwrap();
    assert_eq!(answer.status(), 101);
    let io = Connection::upgraded(answer).await;
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    for message in [Message::text("hello"), Message::binary(vec![7_u8; 200_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(
            tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap(),
            message
        );
    }
    drop(socket.close(None).await);
    let received = String::from_utf8_lossy(&upstream.received()).into_owned();
    assert!(received.contains(&tollgate.value("KEY")), "the handshake carries the value");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_101_that_does_not_answer_the_handshake_opens_nothing() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ] {
        let upstream = Upstream::answers_raw("api.example.com", format!("{answer}raw bytes")).await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let answer = sandbox.send(websocket_request("none")).await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"), "{answer:?}");
        assert!(!answer.text().contains("raw bytes"));
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_opens_nothing() {
    let unasked = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nraw bytes";
    let upstream = Upstream::answers_raw("api.example.com", unasked).await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let answer = tollgate.sandbox("sb-test").get("https://api.example.com/").await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"), "{answer:?}");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_websocket_that_the_upstream_refuses_is_answered_as_it_said() {
    let refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
    let upstream = Upstream::answers_raw("api.example.com", refusal).await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let answer = tollgate.sandbox("sb-test").send(websocket_request("none")).await;
    assert_eq!((answer.status, answer.text().as_str()), (401, "no"));
    tollgate.finish().await;
}

#[tokio::test]
async fn alt_svc_is_taken_out_of_answers() {
    let upstream = Upstream::https("api.example.com").answering(
        200,
        &[("alt-svc", "h3=\":443\""), ("x-kept", "yes")],
        "",
    );
    let upstream = upstream.await;
    let tollgate = Tollgate::with(PLAIN, &[&upstream]).await;
    let answer = tollgate.sandbox("sb-test").get("https://api.example.com/").await;
    assert_eq!((answer.header("alt-svc"), answer.header("x-kept")), (None, Some("yes")));
    tollgate.finish().await;
}

#[tokio::test]
async fn plain_http_goes_in_absolute_form_and_through_a_tunnel_to_port_80() {
    let upstream = Upstream::http("api.example.com").await;
    let tollgate = Tollgate::with(PLAIN, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    assert_eq!(sandbox.get("http://api.example.com/a").await.status, 200);
    let mut io = sandbox.connect("api.example.com:80").await.unwrap();
    io.write_all(b"GET /b HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let targets: Vec<_> = upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/a", "/b"]);
    tollgate.finish().await;
}

#[tokio::test]
async fn what_is_not_http_inside_a_tunnel_is_closed() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(PLAIN, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for bytes in [
        &b"\x00\x00\x00\x0bredis"[..],
        b"\x80\x2e\x01",
        b"SSH-2.0-OpenSSH_9.0\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ] {
        let mut io = sandbox.connect("api.example.com:443").await.unwrap();
        io.write_all(bytes).await.unwrap();
        let mut read = Vec::new();
        drop(tokio::time::timeout(SOON, io.read_to_end(&mut read)).await.expect("closed"));
        assert!(
            read.is_empty() || read.starts_with(b"HTTP/1.1 400 "),
            "{:?}",
            String::from_utf8_lossy(&read)
        );
    }
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn an_answer_that_ends_early_does_not_look_whole() {
    let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let upstream = Upstream::raw("api.example.com", move |mut io: Stream| async move {
        read_request(&mut io).await;
        io.write_all(cut.as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
    })
    .await;
    let tollgate = Tollgate::with(PLAIN, &[&upstream]).await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let request = Request::get("https://api.example.com/").body(full("")).unwrap();
        let answer = tollgate.sandbox("sb-test").send_over(protocol, request).await;
        assert!(answer.cut.is_some(), "{answer:?}");
    }
    tollgate.finish().await;
}
