//! Tokens in the text messages of a WebSocket, client to server, for secrets that are opted into `websocket`.

use futures_util::{SinkExt as _, StreamExt as _};
use http::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::{Connection, Protocol, SOON, Sandbox, Tollgate, Upstream, full, read_request};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets:
      KEY: { from: { value: $KEY }, allowedHosts: [api.example.com], locations: [websocket] }
      ODD: { from: { value: "odd \"value\" \\ 0123" }, allowedHosts: [api.example.com], locations: [websocket] }
      HEADER: { from: { value: $HEADER }, allowedHosts: [api.example.com] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Answers each message with how long it was and what stood around its middle, so that nothing is scrubbed out of sight.
async fn reversing() -> Upstream {
    Upstream::raw("api.example.com", |mut io| async move {
        let head = String::from_utf8(read_request(&mut io).await).unwrap().to_ascii_lowercase();
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        io.write_all(answer.as_bytes()).await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let answer = match message {
                Message::Text(text) => Message::text(text.chars().rev().collect::<String>()),
                Message::Binary(bytes) => Message::Binary(bytes),
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => continue,
            };
            socket.send(answer).await.unwrap();
        }
    })
    .await
}

async fn raw(sandbox: &Sandbox) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut connection = sandbox.open("https://api.example.com/", Protocol::H1).await.unwrap();
    let request = Request::get("https://api.example.com/socket")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")
        .body(full(""))
        .unwrap();
    Connection::upgraded(connection.begin(request).await.unwrap()).await
}

/// What the upstream took a text message for.
async fn taken(socket: &mut Socket) -> String {
    let answer = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    answer.to_text().unwrap().chars().rev().collect()
}

/// The event of the WebSocket.
async fn carried(tollgate: Tollgate) -> serde_json::Value {
    let mut events = tollgate.finish().await.into_iter();
    events.find(|event| event["path"] == "/socket").unwrap()
}

/// One frame of a client's, under a mask.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0xa5, 0x5a, 0x01, 0xfe];
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(short @ ..126) => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

#[tokio::test]
async fn a_token_in_a_text_message_becomes_the_value_and_others_pass_and_are_counted() {
    let upstream = reversing().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let io = raw(&sandbox).await;
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    let (key, odd, header) = (sandbox.token("KEY"), sandbox.token("ODD"), sandbox.token("HEADER"));
    let value = tollgate.value("KEY");
    let hidden = key.replacen('o', "\\u006f", 1);
    for (sent, expected) in [
        ("nothing in it".to_owned(), "nothing in it".to_owned()),
        (format!("{key} and {header}"), format!("{value} and {header}")),
        (
            format!(r#"{{"a": "{hidden}", "b": "{odd}"}}"#),
            format!(r#"{{"a": "{value}", "b": "odd \"value\" \\ 0123"}}"#),
        ),
        (format!("say {odd}"), "say odd \"value\" \\ 0123".to_owned()),
        (format!("{}{key}", "x".repeat(70_000)), format!("{}{value}", "x".repeat(70_000))),
    ] {
        socket.send(Message::text(sent)).await.unwrap();
        assert_eq!(taken(&mut socket).await, expected);
    }
    let binary = Message::binary(format!("{key}{}", "x".repeat(100_000)));
    socket.send(binary.clone()).await.unwrap();
    let answer = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer, binary);
    drop(socket.close(None).await);
    drop(socket);
    let event = carried(tollgate).await;
    assert_eq!(event["secrets"], serde_json::json!(["KEY", "ODD"]));
    assert_eq!(event["locations"], serde_json::json!(["websocket", "websocket"]));
    assert_eq!((&event["tokensInBody"], &event["status"]), (&1.into(), &101.into()));
}

#[tokio::test]
async fn a_token_is_found_across_frames_and_reads_with_control_frames_between() {
    let upstream = reversing().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let (front, back) = sandbox.token("KEY").split_at(20);
    let mut io = raw(&sandbox).await;
    let sent = [
        frame(0x01, front.as_bytes()),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x80, back.as_bytes()),
    ]
    .concat();
    for piece in sent.chunks(3) {
        io.write_all(piece).await.unwrap();
        io.flush().await.unwrap();
    }
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    let pong = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(pong, Message::Pong("ping".into()));
    assert_eq!(taken(&mut socket).await, tollgate.value("KEY"));
    drop(socket.close(None).await);
    tollgate.finish().await;
}

#[tokio::test]
async fn what_a_client_may_not_send_ends_the_websocket_with_its_code() {
    let small = serde_json::json!({ "limits": { "bufferedBody": "4KiB" } });
    let long = vec![b'x'; 5000];
    let mut unmasked = frame(0x81, b"");
    unmasked.truncate(1);
    unmasked.extend([3, b'a', b'b', b'c']);
    for (sent, code) in [
        (unmasked, 1002_u16),
        (frame(0xc1, b"compressed"), 1002),
        (frame(0x83, b"reserved"), 1002),
        (frame(0x80, b"continues nothing"), 1002),
        ([frame(0x01, b"a"), frame(0x01, b"b")].concat(), 1002),
        (frame(0x09, b"a ping in parts"), 1002),
        (frame(0x81, b"\xff\xfe"), 1007),
        (frame(0x81, &long), 1009),
        ([frame(0x01, &long[..3000]), frame(0x80, &long[..3000])].concat(), 1009),
    ] {
        let upstream = reversing().await;
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(small.clone()).start().await;
        let sandbox = tollgate.sandbox("sb-test");
        let mut io = raw(&sandbox).await;
        io.write_all(&sent).await.unwrap();
        io.flush().await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(SOON, io.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, [&[0x88, 2], &code.to_be_bytes()[..]].concat(), "{sent:x?}");
        drop(io);
        let event = carried(tollgate).await;
        assert_eq!((&event["verdict"], &event["status"]), (&"deny".into(), &101.into()));
    }
}

#[tokio::test]
async fn the_policy_of_the_moment_decides_about_every_message() {
    let upstream = reversing().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let io = raw(&sandbox).await;
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    let token = sandbox.token("KEY").to_owned();
    tollgate.reload(&format!("{POLICY}# nothing changed\n")).unwrap();
    socket.send(Message::text(token.clone())).await.unwrap();
    assert_eq!(taken(&mut socket).await, tollgate.value("KEY"));
    let closed = POLICY.replace(
        "allowedHosts: [api.example.com], locations: [websocket] }\n      ODD",
        "allowedHosts: [api.example.com], locations: [query] }\n      ODD",
    );
    tollgate.reload(&closed).unwrap();
    socket.send(Message::text(token.clone())).await.unwrap();
    assert_eq!(taken(&mut socket).await, token);
    tollgate.reload(&POLICY.replace("$KEY", "$ANOTHER")).unwrap();
    socket.send(Message::text(token)).await.unwrap();
    let end = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    let Message::Close(Some(close)) = end else { panic!("{end:?}") };
    assert_eq!(u16::from(close.code), 1012);
    drop(socket);
    let event = carried(tollgate).await;
    assert_eq!(event["reason"], "secret_unavailable");
}
