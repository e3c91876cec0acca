//! An upstream that echoes a value gives the sandbox its token back, wherever and however it echoes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::{
    Answer, Builder, Connection, Protocol, SOON, Tollgate, Upstream, body, full, read_request,
};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

/// Asks an upstream that sees the value in `x-key`; returns the answer and the token.
async fn ask(builder: Builder, protocol: Protocol) -> (Answer, String, serde_json::Value) {
    let upstream = builder.await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let request = Request::get("https://api.example.com/")
        .header("x-key", sandbox.token("KEY"))
        .body(full(""))
        .unwrap();
    let answer = sandbox.send_over(protocol, request).await;
    let token = sandbox.token("KEY").to_owned();
    let event = tollgate.finish().await.pop().unwrap();
    (answer, token, event)
}

fn key(request: &Request<Bytes>) -> String {
    request.headers()["x-key"].to_str().unwrap().to_owned()
}

/// An upstream whose body is made of the value.
fn echoing(form: fn(&str) -> Vec<u8>) -> Builder {
    Upstream::https("api.example.com").handler(move |request| {
        let answer = Response::new(body(form(&key(&request))));
        async move { answer }
    })
}

/// The same in pieces of a few bytes, without a length.
fn echoing_in_pieces(content_type: &'static str, form: fn(&str) -> Vec<u8>) -> Builder {
    Upstream::https("api.example.com").handler(move |request| {
        let pieces: Vec<_> = form(&key(&request)).chunks(3).map(Bytes::copy_from_slice).collect();
        let pieces = futures_util::stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
        let answer = Response::builder()
            .header("content-type", content_type)
            .body(BodyExt::boxed(StreamBody::new(pieces)))
            .unwrap();
        async move { answer }
    })
}

#[tokio::test]
async fn a_json_echo_holds_the_token() {
    let (answer, token, event) = ask(Upstream::https("api.example.com"), Protocol::H1).await;
    assert!(answer.text().contains(&token), "{}", answer.text());
    assert_eq!(answer.header("content-length").unwrap(), answer.body.len().to_string());
    assert_eq!(event["scrubbed"], 1);
}

#[tokio::test]
async fn an_echo_in_a_header_and_in_a_trailer_holds_the_token() {
    let builder = Upstream::https("api.example.com").h2_only().handler(|request| async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checked", key(&request).parse().unwrap());
        let frames = [Ok(Frame::data("x".into())), Ok(Frame::trailers(trailers))];
        Response::builder()
            .header("x-echo", format!("key={}", key(&request)))
            .header("set-cookie", format!("k={}", key(&request)))
            .body(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
            .unwrap()
    });
    let (answer, token, _) = ask(builder, Protocol::H2).await;
    assert_eq!(answer.header("x-echo").unwrap(), format!("key={token}"));
    assert_eq!(answer.header("set-cookie").unwrap(), format!("k={token}"));
    assert_eq!(answer.trailers["x-checked"], token.as_str());
}

#[tokio::test]
async fn base64_of_any_alignment_is_found() {
    for prefix in ["", "a", "ab"] {
        let builder = Upstream::https("api.example.com").handler(move |request| {
            let answer =
                Response::new(body(STANDARD.encode(format!("{prefix}{}:tail", key(&request)))));
            async move { answer }
        });
        let (answer, token, event) = ask(builder, Protocol::H1).await;
        assert_eq!(event["scrubbed"], 1, "{prefix:?}: {}", answer.text());
        drop(token);
    }
}

#[tokio::test]
async fn percent_encoded_and_escaped_echoes_are_found() {
    let forms: [fn(&str) -> Vec<u8>; 2] = [
        |value| value.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>().into_bytes(),
        |value| serde_json::to_vec(&serde_json::json!({ "key": value })).unwrap(),
    ];
    for form in forms {
        let (_, _, event) = ask(echoing(form), Protocol::H1).await;
        assert_eq!(event["scrubbed"], 1);
    }
}

#[tokio::test]
async fn an_echo_split_over_chunks_is_found() {
    let form = |value: &str| format!("before {value} between {value}{value} after").into_bytes();
    for protocol in [Protocol::H1, Protocol::H2] {
        let (answer, token, event) = ask(echoing_in_pieces("text/plain", form), protocol).await;
        assert_eq!(answer.text(), format!("before {token} between {token}{token} after"));
        assert_eq!(event["scrubbed"], 3);
    }
}

#[tokio::test]
async fn an_echo_in_an_event_stream_is_found() {
    let form = |value: &str| format!("data: {value}\n\ndata: end\n\n").into_bytes();
    let (answer, token, _) = ask(echoing_in_pieces("text/event-stream", form), Protocol::H2).await;
    assert_eq!(answer.text(), format!("data: {token}\n\ndata: end\n\n"));
}

#[tokio::test]
async fn a_grpc_message_keeps_its_length() {
    let form = |value: &str| {
        let length = u32::try_from(value.len()).unwrap().to_be_bytes();
        [&[0], &length[..], value.as_bytes()].concat()
    };
    let (answer, _, event) = ask(echoing_in_pieces("application/grpc", form), Protocol::H2).await;
    let length = u32::from_be_bytes(answer.body[1..5].try_into().unwrap());
    assert_eq!(answer.body.len(), 5 + usize::try_from(length).unwrap());
    assert_eq!(event["scrubbed"], 1);
}

#[tokio::test]
async fn what_cannot_be_searched_does_not_arrive() {
    let compressed = |value: &str| {
        let length = u32::try_from(value.len()).unwrap().to_be_bytes();
        [&[1], &length[..], value.as_bytes()].concat()
    };
    let wide = |value: &str| value.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content_type, form) in [
        ("application/grpc", compressed as fn(&str) -> Vec<u8>),
        ("text/plain; charset=UTF-16LE", wide),
    ] {
        let upstream = echoing_in_pieces(content_type, form).await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let mut connection = sandbox.open("https://api.example.com/", Protocol::H2).await.unwrap();
        let request = Request::get("https://api.example.com/")
            .header("x-key", sandbox.token("KEY"))
            .body(full(""))
            .unwrap();
        // A cut may overtake the head.
        if let Ok(answer) = connection.begin(request).await {
            let status = answer.status();
            let body = answer.into_body().collect().await;
            assert!(status == 502 || body.is_err(), "{content_type}: {status} {body:?}");
        }
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_grpc_message_arrives_before_the_next_is_sent() {
    let (sender, messages) = tokio::sync::mpsc::channel::<Bytes>(1);
    let messages = std::sync::Mutex::new(Some(messages));
    let upstream = Upstream::https("api.example.com").h2_only().handler(move |_| {
        let messages = messages.lock().unwrap().take().unwrap();
        let messages = futures_util::stream::unfold(messages, |mut messages| async move {
            messages.recv().await.map(|message| (Ok(Frame::data(message)), messages))
        });
        let answer = Response::builder()
            .header("content-type", "application/grpc")
            .body(BodyExt::boxed(StreamBody::new(messages)))
            .unwrap();
        async move { answer }
    });
    let upstream = upstream.await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut connection = sandbox.open("https://api.example.com/", Protocol::H2).await.unwrap();
    let request = Request::post("https://api.example.com/")
        .header("x-key", sandbox.token("KEY"))
        .header("grpc-accept-encoding", "gzip, identity")
        .body(full(""))
        .unwrap();
    let mut answer = connection.begin(request).await.unwrap().into_body();
    for _ in 0..3 {
        let message = Bytes::from(&b"\0\0\0\0\x08abcdefgh"[..]);
        sender.send(message.clone()).await.unwrap();
        let mut got = Vec::new();
        while got.len() < message.len() {
            let frame = tokio::time::timeout(SOON, answer.frame()).await.expect("it is held back");
            got.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(got, message);
    }
    drop((sender, answer, connection));
    assert_eq!(upstream.request().header("grpc-accept-encoding").unwrap(), "identity");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_websocket_message_holds_a_mask_and_its_compression_is_not_offered() {
    let upstream = Upstream::raw("api.example.com", |mut io| async move {
        let head = String::from_utf8(read_request(&mut io).await).unwrap().to_ascii_lowercase();
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        io.write_all(answer.as_bytes()).await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let Some(Ok(Message::Text(value))) = socket.next().await else { panic!("no message") };
        let echo = format!("echo {value}{}", "x".repeat(100_000));
        socket.send(Message::text(echo)).await.unwrap();
        drop(socket.next().await);
    })
    .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut connection = sandbox.open("https://api.example.com/", Protocol::H1).await.unwrap();
    let request = Request::get("https://api.example.com/socket")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-extensions", "permessage-deflate")
        .header("authorization", sandbox.token("KEY"))
        .body(full(""))
        .unwrap();
    let io = Connection::upgraded(connection.begin(request).await.unwrap()).await;
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    // The upstream learns the value from the message, as from any head; only what it answers matters.
    let value = tollgate.value("KEY");
    socket.send(Message::text(value.clone())).await.unwrap();
    let echo = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    let expected = format!("echo {}{}", "*".repeat(value.len()), "x".repeat(100_000));
    assert!(echo.to_text().unwrap() == expected);
    drop(socket.close(None).await);
    let event = tollgate.finish().await.pop().unwrap();
    assert_eq!(event["scrubbed"], 1);
}

#[tokio::test]
async fn a_long_body_of_stated_length_keeps_it() {
    let form = |value: &str| {
        let filler = "x".repeat(1 << 20);
        format!("{filler} {value} {filler}").into_bytes()
    };
    let (answer, _, event) = ask(echoing(form), Protocol::H1).await;
    assert_eq!(answer.header("content-length").unwrap(), answer.body.len().to_string());
    assert_eq!(event["scrubbed"], 1);
}

#[tokio::test]
async fn a_part_that_was_not_asked_for_is_refused() {
    let builder = Upstream::https("api.example.com").answering(
        206,
        &[("content-range", "bytes 0-1/9")],
        "ab",
    );
    let (answer, _, _) = ask(builder, Protocol::H1).await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"));
}

#[tokio::test]
async fn an_echo_by_a_host_that_never_got_the_value_is_left_alone() {
    let upstream = Upstream::https("plain.example.com")
        .answering(200, &[("etag", "\"1\"")], "some text")
        .await;
    let policy = POLICY.replace(
        "[api.example.com]\n    secrets",
        "[api.example.com, plain.example.com]\n    secrets",
    );
    let tollgate = Tollgate::with(&policy, &[&upstream]).await;
    let answer = tollgate.sandbox("sb-test").get("https://plain.example.com/").await;
    assert_eq!((answer.text().as_str(), answer.header("etag")), ("some text", Some("\"1\"")));
    tollgate.finish().await;
}
