//! Encoded answers of hosts with a bound secret are read, searched and sent decoded; what cannot be read does not arrive.

use std::io::Write as _;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::sync::mpsc;

use crate::support::{Answer, Body, Builder, Protocol, SOON, Tollgate, Upstream, body, full};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, plain.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

const URL: &str = "https://api.example.com/";

/// Those that are read.
pub(crate) const CODINGS: [&str; 5] = ["gzip", "x-gzip", "deflate", "br", "zstd"];

/// A text in a content coding.
pub(crate) fn encoded(coding: &str, text: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    let mut out = Vec::new();
    match coding {
        "gzip" | "x-gzip" => {
            flate2::write::GzEncoder::new(&mut out, level).write_all(text).unwrap();
        }
        "deflate" => flate2::write::ZlibEncoder::new(&mut out, level).write_all(text).unwrap(),
        "br" => brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(text).unwrap(),
        "zstd" => out = zstd::encode_all(text, 3).unwrap(),
        other => panic!("no coding {other}"),
    }
    out
}

/// A body without a stated length, in small pieces.
fn in_pieces(bytes: &[u8]) -> Body {
    let pieces: Vec<_> = bytes.chunks(61).map(Bytes::copy_from_slice).collect();
    let pieces = futures_util::stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
    BodyExt::boxed(StreamBody::new(pieces))
}

/// An upstream whose answer is made of the value that it got.
fn answering(answer: impl Fn(String) -> Response<Body> + Send + Sync + 'static) -> Builder {
    Upstream::https("api.example.com").handler(move |request: Request<Bytes>| {
        let answer = answer(request.headers()["x-key"].to_str().unwrap().to_owned());
        async move { answer }
    })
}

fn labelled(coding: &str, body: Body) -> Response<Body> {
    Response::builder().header("content-encoding", coding).body(body).unwrap()
}

/// Asks with the token; gives the answer, the token and the request's event.
async fn ask(builder: Builder, protocol: Protocol) -> (Answer, String, serde_json::Value) {
    let upstream = builder.await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY").to_owned();
    let request = Request::get(URL).header("x-key", &token).body(full("")).unwrap();
    let answer = sandbox.send_over(protocol, request).await;
    let event = tollgate.finish().await.pop().unwrap();
    (answer, token, event)
}

#[tokio::test]
async fn an_encoded_echo_arrives_decoded_and_sealed() {
    for coding in CODINGS {
        let builder = answering(move |key| {
            let text = format!("before {key} after\n");
            let mut answer = labelled(coding, body(encoded(coding, text.as_bytes())));
            let headers = answer.headers_mut();
            headers.insert("etag", "\"abc\"".parse().unwrap());
            headers.insert("content-md5", "xyz".parse().unwrap());
            headers.insert("repr-digest", "sha-256=:xyz:".parse().unwrap());
            headers.insert("vary", "accept-encoding".parse().unwrap());
            answer
        });
        let protocol = if coding == "br" { Protocol::H2 } else { Protocol::H1 };
        let (answer, token, event) = ask(builder, protocol).await;
        assert_eq!(answer.text(), format!("before {token} after\n"), "{coding}");
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(answer.header("content-length").unwrap(), answer.body.len().to_string());
        for validator in ["etag", "content-md5", "repr-digest"] {
            assert_eq!(answer.header(validator), None, "{coding}");
        }
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert_eq!(event["scrubbed"], 1);
    }
}

#[tokio::test]
async fn an_encoded_stream_is_read_in_pieces() {
    for (coding, protocol) in [
        ("gzip", Protocol::H2),
        ("deflate", Protocol::H1),
        ("br", Protocol::H1),
        ("zstd", Protocol::H2),
    ] {
        let long = "some filler that is long enough\n".repeat(5000);
        let text = format!("{long}{{}} and {{}}{long}");
        let sent = text.clone();
        let builder = answering(move |key| {
            labelled(coding, in_pieces(&encoded(coding, sent.replace("{}", &key).as_bytes())))
        });
        let (answer, token, event) = ask(builder, protocol).await;
        assert_eq!(answer.cut, None, "{coding}");
        assert!(answer.text() == text.replace("{}", &token), "{coding}");
        assert_eq!(
            (answer.header("content-encoding"), answer.header("content-length")),
            (None, None)
        );
        assert_eq!(event["scrubbed"], 2);
    }
}

#[tokio::test]
async fn a_small_answer_that_is_long_when_it_is_decoded_streams() {
    let long: String = (0..200_000_u32).map(|nth| format!("{nth} ")).collect();
    assert!(long.len() > 1 << 20);
    let sent = long.clone();
    let builder = answering(move |key| {
        let body = body(encoded("gzip", format!("{sent}{key}").as_bytes()));
        labelled("gzip", body)
    });
    let (answer, token, event) = ask(builder, Protocol::H1).await;
    assert!(answer.text() == format!("{long}{token}"));
    assert_eq!((answer.header("content-length"), &event["scrubbed"]), (None, &json!(1)));
}

#[tokio::test]
async fn an_upstream_is_asked_for_what_both_can_read() {
    for (accepted, asked) in [
        (None, "identity"),
        (Some(""), "identity"),
        (Some("gzip, deflate, br, zstd"), "gzip, deflate, br, zstd"),
        (Some("gzip;q=1.0,  br;q=0.5"), "gzip;q=1.0,  br;q=0.5"),
        (Some("identity"), "identity"),
        (Some("GZIP, dcb, compress;q=0.4, *;q=0.1"), "GZIP"),
        (Some("dcz"), "identity"),
        (Some("*"), "identity"),
    ] {
        let upstream = Upstream::https("api.example.com").await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let mut request = Request::get(URL);
        if let Some(accepted) = accepted {
            request = request.header("accept-encoding", accepted);
        }
        tollgate.sandbox("sb-test").send(request.body(full("")).unwrap()).await;
        assert_eq!(upstream.request().header("accept-encoding").unwrap(), asked, "{accepted:?}");
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_its_connection_closed() {
    let upstream = Upstream::https("api.example.com")
        .h1_only()
        .handler(|request| async move {
            let coding = request.uri().path().trim_start_matches('/').replace('+', ", ");
            labelled(&coding, body("opaque"))
        })
        .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for (nth, coding) in ["compress", "gzip+gzip", "gzip+x-foo", "dcz", "gzip"].iter().enumerate() {
        let url = format!("{URL}{coding}");
        let answer = sandbox.get_with(&url, "x-key", sandbox.token("KEY")).await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"), "{coding}");
        assert!(!answer.text().contains("opaque"));
        if *coding != "gzip" {
            assert!(answer.json()["hint"].as_str().unwrap().contains("gzip, deflate, br, zstd"));
        }
        assert_eq!(upstream.connections(), nth + 1, "{coding}");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn a_bomb_is_refused_or_cut() {
    for coding in ["gzip", "br", "zstd"] {
        let bomb = encoded(coding, &vec![b'x'; 32 << 20]);
        let small = bomb.clone();
        let builder = answering(move |_| labelled(coding, body(small.clone())));
        let (answer, _, event) = ask(builder, Protocol::H1).await;
        assert_eq!((answer.status, answer.reason()), (502, "limit_exceeded"), "{coding}");
        assert!(answer.text().contains("decodedRatio"));
        assert_eq!((&event["reason"], &event["status"]), (&json!("limit_exceeded"), &json!(502)));

        let builder = answering(move |_| labelled(coding, in_pieces(&bomb)));
        let (answer, _, event) = ask(builder, Protocol::H2).await;
        assert!(
            answer.cut.is_some() && answer.body.len() < 4 << 20,
            "{coding}: {}",
            answer.body.len()
        );
        assert_eq!(event["reason"], "limit_exceeded");
    }
}

#[tokio::test]
async fn an_answer_longer_than_the_limit_is_cut() {
    let text: String = (0..100_000_u32).map(|nth| format!("{nth} ")).collect();
    let upstream =
        answering(move |_| labelled("gzip", in_pieces(&encoded("gzip", text.as_bytes())))).await;
    let limits = json!({ "limits": { "decodedBody": "64KiB" } });
    let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(limits).start().await;
    let sandbox = tollgate.sandbox("sb-test");
    let answer = sandbox.get_with(URL, "x-key", sandbox.token("KEY")).await;
    assert!(answer.cut.is_some() && answer.body.len() <= 64 << 10, "{answer:?}");
    let events = tollgate.finish().await;
    assert_eq!(events.last().unwrap()["reason"], "limit_exceeded", "{events:#?}");
}

#[tokio::test]
async fn an_encoded_answer_that_ends_early_is_not_taken_for_whole() {
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let text: String = (0..1000_u32).map(|nth| format!("{nth} ")).collect();
        let mut bytes = encoded(coding, text.as_bytes());
        bytes.truncate(bytes.len() - 3);
        let stream = bytes.clone();
        let upstream = answering(move |_| labelled(coding, in_pieces(&stream))).await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let mut connection = sandbox.open(URL, Protocol::H2).await.unwrap();
        let request = Request::get(URL).header("x-key", sandbox.token("KEY")).body(full(""));
        // A reset may overtake the head.
        if let Ok(answer) = connection.begin(request.unwrap()).await {
            assert!(connection.collect(answer).await.cut.is_some(), "{coding}");
        }
        let event = tollgate.finish().await.pop().unwrap();
        assert_eq!(event["reason"], "upstream_unreachable", "{coding}");
        let (answer, ..) =
            ask(answering(move |_| labelled(coding, body(bytes.clone()))), Protocol::H1).await;
        assert_eq!(answer.status, 502, "{coding}");
    }
}

#[tokio::test]
async fn a_head_alone_says_of_its_body_what_a_get_would_say() {
    let upstream = Upstream::https("api.example.com")
        .answering(
            200,
            &[("content-encoding", "gzip"), ("content-length", "1234"), ("etag", "\"1\"")],
            "",
        )
        .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let sandbox = tollgate.sandbox("sb-test");
        let request = Request::head(URL).header("x-key", sandbox.token("KEY")).body(full(""));
        let answer = sandbox.send_over(protocol, request.unwrap()).await;
        assert_eq!((answer.status, answer.header("etag")), (200, Some("W/\"1\"")));
        assert_eq!(
            (answer.header("content-encoding"), answer.header("content-length")),
            (None, None)
        );
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn an_encoded_answer_of_a_host_without_a_secret_passes_as_it_is() {
    let bytes = encoded("gzip", b"some text");
    let sent = bytes.clone();
    let upstream = Upstream::https("plain.example.com")
        .handler(move |_| {
            let answer = labelled("gzip, x-foo", body(sent.clone()));
            async move { answer }
        })
        .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let answer = tollgate.sandbox("sb-test").get("https://plain.example.com/").await;
    assert_eq!(answer.header("content-encoding"), Some("gzip, x-foo"));
    assert_eq!(answer.body, bytes);
    tollgate.finish().await;
}

/// A body whose pieces the test gives one by one.
fn held(pieces: mpsc::Receiver<Bytes>) -> Body {
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (Ok(Frame::data(piece)), pieces))
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

/// The next bytes of an answer, as many as are asked for.
async fn next(answer: &mut Incoming, length: usize) -> Bytes {
    let mut got = Vec::new();
    while got.len() < length {
        let frame = tokio::time::timeout(SOON, answer.frame()).await.expect("bytes at once");
        got.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
    }
    got.into()
}

#[tokio::test]
async fn an_event_arrives_before_the_next_is_sent() {
    for (coding, protocol) in [
        ("", Protocol::H1),
        ("", Protocol::H2),
        ("gzip", Protocol::H1),
        ("gzip", Protocol::H2),
        ("br", Protocol::H2),
        ("zstd", Protocol::H1),
    ] {
        let (sender, pieces) = mpsc::channel(1);
        let pieces = std::sync::Mutex::new(Some(pieces));
        let upstream = answering(move |_| {
            let mut answer = Response::builder().header("content-type", "text/event-stream");
            if !coding.is_empty() {
                answer = answer.header("content-encoding", coding);
            }
            answer.body(held(pieces.lock().unwrap().take().unwrap())).unwrap()
        })
        .await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let mut connection = sandbox.open(URL, protocol).await.unwrap();
        let (value, token) = (tollgate.value("KEY"), sandbox.token("KEY").to_owned());
        let request = Request::get(URL).header("x-key", &token).body(full("")).unwrap();
        let mut answer = connection.begin(request).await.unwrap().into_body();
        let mut flushing = Flushing::new(coding);
        for text in ["one", "a {} b", "sk-live-unfinished"] {
            let event = |key: &str| format!("data: {}\n\n", text.replace("{}", key));
            sender.send(flushing.event(event(&value).as_bytes())).await.unwrap();
            let expected = event(&token);
            assert_eq!(next(&mut answer, expected.len()).await, expected, "{coding}");
        }
        sender.send(flushing.end()).await.unwrap();
        drop(sender);
        let rest = tokio::time::timeout(SOON, answer.collect()).await.unwrap().unwrap();
        assert!(rest.to_bytes().is_empty());
        tollgate.finish().await;
    }
}

/// An encoder that flushes after each event.
enum Flushing {
    Not,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
}

impl Flushing {
    fn new(coding: &str) -> Self {
        match coding {
            "gzip" => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), Default::default())),
            "br" => Self::Brotli(Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22))),
            "zstd" => Self::Zstd(zstd::Encoder::new(Vec::new(), 3).unwrap()),
            _ => Self::Not,
        }
    }

    fn event(&mut self, event: &[u8]) -> Bytes {
        fn flushed(out: &mut impl std::io::Write, event: &[u8]) {
            out.write_all(event).and_then(|()| out.flush()).unwrap();
        }
        match self {
            Self::Not => return Bytes::copy_from_slice(event),
            Self::Gzip(out) => flushed(out, event),
            Self::Brotli(out) => flushed(out, event),
            Self::Zstd(out) => flushed(out, event),
        }
        self.taken()
    }

    fn taken(&mut self) -> Bytes {
        std::mem::take(match self {
            Self::Not => return Bytes::new(),
            Self::Gzip(out) => out.get_mut(),
            Self::Brotli(out) => out.get_mut(),
            Self::Zstd(out) => out.get_mut(),
        })
        .into()
    }

    fn end(self) -> Bytes {
        match self {
            Self::Not => Bytes::new(),
            Self::Gzip(out) => out.finish().unwrap().into(),
            Self::Brotli(out) => out.into_inner().into(),
            Self::Zstd(out) => out.finish().unwrap().into(),
        }
    }
}
