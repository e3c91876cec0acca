//! Hosts that send a value back, by chance or on purpose: the sandbox gets its token, or a mask of equal length, or nothing.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Request};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Answer, Builder, Protocol, Stream, Tollgate, Upstream, full, read_request};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [echo.example.com, other.example.com]
    secrets:
      KEY: { from: { value: $KEY }, allowedHosts: [echo.example.com] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

const URL: &str = "https://echo.example.com/";

/// An upstream that writes bytes made of the value that it got, then closes.
fn writing(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Builder {
    let answer = std::sync::Arc::new(answer);
    Upstream::raw("echo.example.com", move |mut io: Stream| {
        let answer = answer.clone();
        async move {
            let request = String::from_utf8(read_request(&mut io).await).unwrap();
            let value =
                request.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
            drop(io.write_all(&answer(value.unwrap_or_default())).await);
            drop(io.shutdown().await);
        }
    })
}

struct Reflected {
    answer: Answer,
    token: String,
    value: String,
    event: Value,
}

impl Reflected {
    fn sealed(&self, text: &str) -> String {
        text.replace("{}", &self.token)
    }
}

/// Asks with the token in `Authorization`. That no value reaches the sandbox is asserted at the end of every test.
async fn asked(upstream: Builder, protocol: Protocol) -> Reflected {
    let upstream = upstream.await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY").to_owned();
    let request = Request::get(URL).header("authorization", format!("Bearer {token}"));
    let answer = sandbox.send_over(protocol, request.body(full("")).unwrap()).await;
    let value = tollgate.value("KEY");
    let event = tollgate.finish().await.pop().unwrap();
    Reflected { answer, token, value, event }
}

/// An answer of HTTP/1.1 with these fields and this body, of stated length.
fn answer(fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn chunked(pieces: impl IntoIterator<Item = String>) -> Vec<u8> {
    let chunk = |piece: String| format!("{:x}\r\n{piece}\r\n", piece.len());
    let chunks: String = pieces.into_iter().map(chunk).collect();
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn REF_002_header_value() {
    for protocol in [Protocol::H1, Protocol::H2] {
        let upstream = writing(|value| {
            answer(&format!("X-Echo: Bearer {value}\r\nSet-Cookie: k={value}; Path=/\r\n"), "")
        });
        let reflected = asked(upstream, protocol).await;
        let header = |name| reflected.answer.header(name).unwrap().to_owned();
        assert_eq!(header("x-echo"), reflected.sealed("Bearer {}"));
        assert_eq!(header("set-cookie"), reflected.sealed("k={}; Path=/"));
        assert_eq!(reflected.event["scrubbed"], 2);
    }
}

#[tokio::test]
async fn REF_003_header_name() {
    let upstream = writing(|value| answer(&format!("X-{value}-x: 1\r\nX-Other: 2\r\n"), ""));
    let reflected = asked(upstream, Protocol::H1).await;
    let names: Vec<_> = reflected.answer.headers.keys().map(|name| name.as_str()).collect();
    assert!(!names.concat().contains(&reflected.value.to_ascii_lowercase()), "{names:?}");
    assert_eq!(reflected.answer.header("x-other"), Some("2"));
    assert_eq!(reflected.event["scrubbed"], 1);
}

#[tokio::test]
async fn REF_004_reason_phrase() {
    let upstream = writing(|value| {
        format!("HTTP/1.1 401 bad key {value}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    let reflected = asked(upstream, Protocol::H1).await;
    assert_eq!(reflected.answer.status, 401);
}

#[tokio::test]
async fn REF_006_every_encoding_in_head_and_body() {
    let upstream = writing(|value| {
        let percent: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let escaped: String = value.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        let hex: String = value.bytes().map(|byte| format!("{byte:02X}")).collect();
        let fields = format!("Location: /?k={percent}\r\nX-B: {}\r\n", STANDARD.encode(value));
        let url = URL_SAFE_NO_PAD.encode(format!("a:{value}"));
        answer(
            &fields,
            &format!("{{\"k\":\"{value}\",\"e\":\"{escaped}\",\"h\":\"{hex}\",\"u\":\"{url}\"}}"),
        )
    });
    let reflected = asked(upstream, Protocol::H2).await;
    assert_eq!(reflected.answer.header("location").unwrap(), reflected.sealed("/?k={}"));
    let json = reflected.answer.json();
    assert_eq!(
        (json["k"].as_str(), json["e"].as_str()),
        (Some(&*reflected.token), Some(&*reflected.token))
    );
    assert!(json["h"].as_str().unwrap().chars().all(|c| c == '*'));
    assert!(json["u"].as_str().unwrap().contains("********"));
    assert_eq!(reflected.event["scrubbed"], 6);
}

#[tokio::test]
async fn REF_007_basic_credentials_with_any_user() {
    for user in ["", "u", "us", "use", "x-access-token"] {
        let upstream = writing(move |value| {
            answer(&format!("X-Echo: Basic {}\r\n", STANDARD.encode(format!("{user}:{value}"))), "")
        });
        let reflected = asked(upstream, Protocol::H1).await;
        assert_eq!(reflected.event["scrubbed"], 1, "{user:?}: {:?}", reflected.answer);
    }
}

#[tokio::test]
async fn REF_008_every_byte_in_its_own_chunk() {
    let upstream = writing(|value| {
        chunked(format!("<{value}> and <{value}{value}>").chars().map(String::from))
    });
    let reflected = asked(upstream, Protocol::H1).await;
    assert_eq!(reflected.answer.text(), reflected.sealed("<{}> and <{}{}>"));
    assert_eq!(reflected.event["scrubbed"], 3);
}

#[tokio::test]
async fn REF_010_split_over_h2_frames_with_empty_ones() {
    let upstream = Upstream::https("echo.example.com").h2_only().handler(|request| async move {
        let value = request.headers()["authorization"].to_str().unwrap().split_at(7).1.to_owned();
        let (front, back) = value.split_at(1);
        let pieces = [format!("a {front}"), String::new(), format!("{back} b")];
        let frames = pieces.map(|piece| Ok(hyper::body::Frame::data(piece.into())));
        let frames = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        http::Response::new(http_body_util::BodyExt::boxed(frames))
    });
    let reflected = asked(upstream, Protocol::H2).await;
    assert_eq!(reflected.answer.text(), reflected.sealed("a {} b"));
}

/// A part of a value is not hidden: if it were, a sandbox could guess the value letter by letter by what is hidden of its guesses.
#[tokio::test]
async fn REF_012_a_prefix_at_the_end_is_not_told_from_a_wrong_guess() {
    let upstream = writing(|value| chunked([value[..value.len() - 1].to_owned()]));
    let reflected = asked(upstream, Protocol::H1).await;
    assert_eq!(reflected.answer.text(), reflected.value[..reflected.value.len() - 1]);
    assert_eq!(reflected.answer.cut, None);
}

#[tokio::test]
async fn REF_013_what_is_held_back_is_dropped_with_a_cut_answer() {
    for length in ["Transfer-Encoding: chunked\r\n\r\n100\r\n", "Content-Length: 3000000\r\n\r\n"] {
        let upstream = writing(move |value| {
            format!("HTTP/1.1 200 OK\r\n{length}some text {}", &value[..20]).into_bytes()
        });
        let reflected = asked(upstream, Protocol::H1).await;
        assert!(reflected.answer.cut.is_some());
        assert_eq!(reflected.answer.text(), "some text ");
    }
}

#[tokio::test]
async fn REF_014_across_the_limit_of_what_is_held_whole() {
    for before in [(1 << 20) - 5, (1 << 20) + 5] {
        let upstream = writing(move |value| chunked(["a".repeat(before), format!("{value} b")]));
        let reflected = asked(upstream, Protocol::H1).await;
        assert!(reflected.answer.text().ends_with(&reflected.sealed("a{} b")));
        let upstream = writing(move |value| answer("", &("a".repeat(before) + value + " b")));
        let reflected = asked(upstream, Protocol::H1).await;
        assert_eq!(reflected.event["scrubbed"], 1);
        assert!(reflected.answer.text().ends_with(" b"));
    }
}

#[tokio::test]
async fn REF_016_a_secret_that_begins_like_another() {
    let policy = POLICY.replace(
        "KEY: {",
        "LONG: { from: { value: ${KEY}-and-more }, allowedHosts: [echo.example.com] }\n      KEY: {",
    );
    let policy = policy.replace("${KEY}", "$KEY");
    let upstream = writing(|value| answer("", &format!("{value}-and-more {value} {value}-and")));
    let upstream = upstream.await;
    let tollgate = Tollgate::with(&policy, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let (short, long) = (sandbox.token("KEY").to_owned(), sandbox.token("LONG").to_owned());
    let both = Request::get(URL)
        .header("x-long", &long)
        .header("authorization", format!("Bearer {short}"))
        .body(full(""));
    let answer = sandbox.send(both.unwrap()).await;
    assert_eq!(answer.text(), format!("{long} {short} {short}-and"));
    tollgate.finish().await;
}

#[tokio::test]
async fn REF_017_a_value_that_overlaps_itself() {
    let value = "abababababababab";
    let policy = POLICY.replace("$KEY", value);
    let upstream =
        writing(|value| chunked(format!("{}{value}c", &value[..8]).chars().map(String::from)));
    let upstream = upstream.await;
    let tollgate = Tollgate::with(&policy, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = format!("Bearer {}", sandbox.token("KEY"));
    let answer = sandbox.get_with(URL, "authorization", &token).await;
    assert!(!answer.text().contains(value), "{}", answer.text());
    tollgate.finish().await;
}

/// An answer of this coding, made of these bytes.
fn coded(coding: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn brotli(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(text).unwrap();
    out
}

fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 3).unwrap()
}

#[tokio::test]
async fn REF_018_an_encoding_that_was_not_asked_for() {
    let upstream = writing(|value| coded("gzip", &gzip(format!("a {value} b").as_bytes())));
    let reflected = asked(upstream, Protocol::H1).await;
    assert_eq!(reflected.answer.text(), reflected.sealed("a {} b"));
    assert_eq!(reflected.answer.header("content-encoding"), None);
}

#[tokio::test]
async fn REF_019_encodings_known_unknown_and_stacked() {
    let known: [(&str, fn(&[u8]) -> Vec<u8>); 4] =
        [("br", brotli), ("zstd", zstd), ("GZIP", gzip), ("identity, gzip", gzip)];
    for (coding, encode) in known {
        let upstream =
            writing(move |value| coded(coding, &encode(format!("a {value} b").as_bytes())));
        let reflected = asked(upstream, Protocol::H1).await;
        assert_eq!(reflected.answer.text(), reflected.sealed("a {} b"), "{coding}");
    }
    for coding in ["gzip, gzip", "gzip, br", "x-foo", "dcz", "compress"] {
        let upstream = writing(move |value| coded(coding, &gzip(&gzip(value.as_bytes()))));
        assert_eq!(asked(upstream, Protocol::H1).await.answer.status, 502, "{coding}");
    }
}

/// What an archive or an image holds is not unpacked: it passes as it is, value included. Bind secrets to hosts that do not publish what they
/// get (README, limits). This pins that nothing else happens to it.
#[tokio::test]
async fn REF_020_an_archive_is_opaque() {
    let archive = gzip(b"a backup");
    let sent = archive.clone();
    let upstream = writing(move |_| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\nContent-Length: {}\r\n\r\n",
            sent.len()
        );
        [head.as_bytes(), &sent].concat()
    });
    let reflected = asked(upstream, Protocol::H1).await;
    assert_eq!(reflected.answer.body, archive);
    assert_eq!(reflected.event.get("scrubbed"), None);
    let upstream = writing(|value| {
        let archive = gzip(format!("a backup of {value}").as_bytes());
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\nContent-Length: {}\r\n\r\n",
            archive.len()
        );
        [head.as_bytes(), &archive].concat()
    });
    let reflected = asked(upstream, Protocol::H1).await;
    let mut unpacked = String::new();
    let mut reader = flate2::read::GzDecoder::new(&*reflected.answer.body);
    std::io::Read::read_to_string(&mut reader, &mut unpacked).unwrap();
    assert_eq!(unpacked, format!("a backup of {}", reflected.value));
}

#[tokio::test]
async fn REF_022_bombs() {
    let zeros = vec![0; 64 << 20];
    let members = gzip(&zeros[..1 << 20]).repeat(64);
    let bombs =
        [("gzip", gzip(&zeros)), ("gzip", members), ("br", brotli(&zeros)), ("zstd", zstd(&zeros))];
    for (coding, bomb) in bombs {
        let upstream = writing(move |_| coded(coding, &bomb));
        let reflected = asked(upstream, Protocol::H1).await;
        let denied = (reflected.answer.status, reflected.answer.reason());
        assert_eq!(denied, (502, "limit_exceeded"), "{coding}");
    }
}

#[tokio::test]
async fn REF_021_a_transfer_coding_beside_chunked() {
    let upstream = writing(|value| {
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\n{}\r\n0\r\n\r\n",
            &value[..5]
        )
        .into_bytes()
    });
    assert_eq!(asked(upstream, Protocol::H1).await.answer.status, 502);
}

#[tokio::test]
async fn REF_025_informational_answers() {
    let upstream = writing(|value| {
        let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: </{value}>\r\n\r\n");
        [hints.into_bytes(), answer("", "ok")].concat()
    });
    let reflected = asked(upstream, Protocol::H1).await;
    assert_eq!((reflected.answer.status, reflected.answer.text().as_str()), (200, "ok"));
}

#[tokio::test]
async fn REF_026_a_part_that_was_not_asked_for() {
    let upstream = writing(|value| {
        let part = &value[..10];
        format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/100\r\nContent-Length: 10\r\n\r\n{part}").into_bytes()
    });
    assert_eq!(asked(upstream, Protocol::H1).await.answer.status, 502);
}

#[tokio::test]
async fn REF_027_chunk_extensions() {
    let upstream = writing(|value| {
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;k={value}\r\nhello\r\n0\r\n\r\n"
        )
        .into_bytes()
    });
    let upstream = upstream.await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut connection = sandbox.open(URL, Protocol::H1).await.unwrap();
    let bearer = format!("Bearer {}", sandbox.token("KEY"));
    let request = Request::get(URL).header("authorization", bearer).body(full(""));
    // The cut may overtake the head.
    if let Ok(answer) = connection.begin(request.unwrap()).await {
        assert!(connection.collect(answer).await.cut.is_some());
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn REF_032_the_head_of_a_websocket() {
    let upstream = Upstream::raw("echo.example.com", |mut io: Stream| async move {
        let request = String::from_utf8(read_request(&mut io).await).unwrap();
        let field = |name: &str| {
            let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
            line.unwrap().split_at(name.len()).1.trim().to_owned()
        };
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(
            field("sec-websocket-key:").as_bytes(),
        );
        let value = field("authorization: bearer");
        let head = format!("HTTP/1.1 101 {value}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {value}\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        drop(tokio::io::copy(&mut io, &mut tokio::io::sink()).await);
    })
    .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut connection = sandbox.open(URL, Protocol::H1).await.unwrap();
    let request = Request::get(URL)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("authorization", format!("Bearer {}", sandbox.token("KEY")))
        .body(full(""));
    let answer = connection.begin(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-protocol"], sandbox.token("KEY"));
    tollgate.sandbox_saw(format!("{:?}", answer.headers()).as_bytes());
    drop((answer, connection));
    tollgate.finish().await;
}

#[tokio::test]
async fn REF_037_unrelated_bytes_arrive_as_they_are() {
    let mut state = 1_u32;
    let mut drawn = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let bytes: Vec<u8> = (0..6 << 20).map(|_| drawn()).collect();
    for protocol in [Protocol::H1, Protocol::H2] {
        let sent = bytes.clone();
        let upstream = writing(move |_| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len());
            [head.as_bytes(), &sent].concat()
        });
        let reflected = asked(upstream, protocol).await;
        assert!(reflected.answer.body == bytes);
        assert_eq!(reflected.event["bytesIn"], bytes.len());
    }
}

#[tokio::test]
async fn a_trailer_of_either_protocol_holds_the_token() {
    let upstream = writing(|value| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-check\r\n\r\n2\r\nok\r\n0\r\nx-check: {value}\r\n\r\n").into_bytes()
    });
    let reflected = asked(upstream, Protocol::H2).await;
    assert_eq!(reflected.answer.trailers["x-check"], reflected.token.as_str());
    let upstream = Upstream::https("echo.example.com").h2_only().handler(|request| async move {
        let value = request.headers()["authorization"].to_str().unwrap().split_at(7).1.to_owned();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-check", value.parse().unwrap());
        let frames =
            [Ok(hyper::body::Frame::data("ok".into())), Ok(hyper::body::Frame::trailers(trailers))];
        let frames = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        http::Response::builder()
            .header("content-length", "2")
            .body(http_body_util::BodyExt::boxed(frames))
            .unwrap()
    });
    let reflected = asked(upstream, Protocol::H2).await;
    assert_eq!(
        (reflected.answer.text().as_str(), &reflected.event["scrubbed"]),
        ("ok", &Value::from(1))
    );
    assert_eq!(reflected.answer.trailers["x-check"], reflected.token.as_str());
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_the_token_at_most() {
    let upstream = writing(|value| {
        format!("HTTP/1.1 302 Found\r\nLocation: https://other.example.com/?k={value}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    })
    .await;
    let other = Upstream::https("other.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY").to_owned();
    let bearer = format!("Bearer {token}");
    let answer = sandbox.get_with(URL, "authorization", &bearer).await;
    let location = answer.header("location").unwrap();
    assert_eq!(location, format!("https://other.example.com/?k={token}"));
    let followed = sandbox.get(location).await;
    assert_eq!((followed.status, followed.reason()), (403, "secret_misdirected"));
    let kept = sandbox.get_with("https://other.example.com/", "authorization", &bearer).await;
    assert_eq!((kept.status, kept.reason()), (403, "secret_misdirected"));
    assert_eq!(other.connections(), 0);
    tollgate.finish().await;
}
