//! An upstream that echoes a value gives the sandbox its token back, wherever and however it echoes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::support::{Answer, Builder, Protocol, Tollgate, Upstream, body, full};

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
