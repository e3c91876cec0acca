//! Request bodies with a content coding are decoded where a token may be opened in them; trailers are opened where they are named.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Frame;
use serde_json::json;

use crate::encodings::{CODINGS, encoded};
use crate::support::{Protocol, RequestBody, Tollgate, Upstream, full, streamed};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com]
    secrets:
      BODY: { from: { value: $BODY }, allowedHosts: [api.example.com], locations: [body] }
      SUM: { from: { value: $SUM }, allowedHosts: [api.example.com], headers: [x-sum] }
      HEADER: { from: { value: $HEADER }, allowedHosts: [api.example.com] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

const BOTH: [Protocol; 2] = [Protocol::H1, Protocol::H2];

fn post(host: &str, coding: &str, body: RequestBody) -> Request<RequestBody> {
    Request::post(format!("https://{host}/v1"))
        .header("content-type", "application/json")
        .header("content-encoding", coding)
        .header("content-md5", "of the encoded bytes")
        .body(body)
        .unwrap()
}

fn in_pieces(bytes: &[u8]) -> RequestBody {
    let pieces: Vec<_> = bytes.chunks(1021).map(Bytes::copy_from_slice).map(Frame::data).collect();
    streamed(futures_util::stream::iter(pieces))
}

#[tokio::test]
async fn a_token_in_an_encoded_body_is_opened_and_the_body_leaves_decoded() {
    for protocol in BOTH {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let text = |key: &str| format!(r#"{{"key": "{key}", "pad": "{}"}}"#, "ab".repeat(5000));
        let (token, value) = (sandbox.token("BODY").to_owned(), tollgate.value("BODY"));
        for coding in CODINGS {
            let sent = encoded(coding, text(&token).as_bytes());
            for body in [full(sent.clone()), in_pieces(&sent)] {
                let answer = sandbox.send_over(protocol, post("api.example.com", coding, body));
                let answer = answer.await;
                assert_eq!(answer.status, 200, "{coding}: {}", answer.text());
            }
        }
        let requests = upstream.requests();
        assert_eq!(requests.len(), 2 * CODINGS.len());
        for (nth, request) in requests.iter().enumerate() {
            assert!(request.body == text(&value), "{protocol:?} {nth}: {:?}", request.headers);
            assert_eq!(request.header("content-encoding"), None);
            assert_eq!(request.header("content-md5"), None);
            let length = (nth % 2 == 0).then(|| text(&value).len().to_string());
            assert_eq!(request.header("content-length"), length);
        }
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn an_encoded_body_that_opens_nothing_leaves_as_it_came() {
    let api = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let other = Upstream::https("other.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(POLICY, &[&api, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let bound = encoded("gzip", sandbox.token("BODY").as_bytes());
    let unbound = encoded("gzip", sandbox.token("HEADER").as_bytes());
    let cut = bound[..bound.len() - 9].to_vec();
    let cases = [
        ("other.example.com", "gzip", bound.clone()),
        ("api.example.com", "gzip", unbound),
        ("api.example.com", "gzip, br", bound.clone()),
        ("api.example.com", "x-foo", bound.clone()),
        ("api.example.com", "gzip", cut),
    ];
    for (host, coding, sent) in &cases {
        let answer = sandbox.send(post(host, coding, full(sent.clone()))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let arrived = other.requests().into_iter().chain(api.requests());
    for (request, (_, coding, sent)) in arrived.zip(&cases) {
        assert!(request.body == *sent, "{coding}");
        assert_eq!(request.header("content-encoding").unwrap(), *coding);
        assert_eq!(request.header("content-length").unwrap(), sent.len().to_string());
        assert!(request.header("content-md5").is_some());
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn a_bomb_is_refused_and_never_taken_for_whole() {
    for coding in ["gzip", "br", "zstd"] {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let limits = json!({ "limits": { "bufferedBody": "64KiB" } });
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(limits).start().await;
        let sandbox = tollgate.sandbox("sb-test");
        let bomb = encoded(coding, &vec![b'x'; 32 << 20]);
        for body in [full(bomb.clone()), in_pieces(&bomb)] {
            let answer = sandbox.send(post("api.example.com", coding, body)).await;
            assert_eq!((answer.status, answer.reason()), (413, "limit_exceeded"), "{coding}");
            assert!(answer.text().contains("limits.decodedRatio"), "{}", answer.text());
        }
        assert!(upstream.requests().is_empty(), "{coding}");
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn an_encoded_body_that_is_long_when_it_is_decoded_streams() {
    for protocol in BOTH {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let limits = json!({ "limits": { "bufferedBody": "4KiB" } });
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(limits).start().await;
        let sandbox = tollgate.sandbox("sb-test");
        let padding = "0123456789".repeat(5000);
        let text = |key: &str| format!("{padding}{key}{padding}{key}");
        let sent = encoded("gzip", text(sandbox.token("BODY")).as_bytes());
        assert!(sent.len() < 4096);
        let answer = sandbox.send_over(protocol, post("api.example.com", "gzip", full(sent))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let request = upstream.request();
        assert!(request.body == text(&tollgate.value("BODY")), "{} bytes", request.body.len());
        assert_eq!(request.header("content-encoding"), None);
        assert_eq!(request.header("content-length"), None);
        tollgate.finish().await;
    }
}

fn with_trailer(host: &str, announced: &str, name: &str, value: &str) -> Request<RequestBody> {
    let trailers: HeaderMap =
        [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect();
    let frames = [Frame::data("body".into()), Frame::trailers(trailers)];
    Request::post(format!("https://{host}/v1"))
        .header("te", "trailers")
        .header("trailer", announced)
        .body(streamed(futures_util::stream::iter(frames)))
        .unwrap()
}

#[tokio::test]
async fn a_trailer_is_opened_where_the_secret_names_it() {
    for protocol in BOTH {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let token = sandbox.token("SUM");
        let value = format!("a {token} b");
        let request = with_trailer("api.example.com", "x-other, X-Sum", "x-sum", &value);
        let answer = sandbox.send_over(protocol, request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let expected = format!("a {} b", tollgate.value("SUM"));
        assert_eq!(upstream.request().trailers, [("x-sum".to_owned(), expected)]);
        let events = tollgate.finish().await;
        let event = events.iter().find(|event| event["method"] == "POST").unwrap();
        assert_eq!(event["locations"], json!(["trailer:x-sum"]));
    }
}

#[tokio::test]
async fn a_token_in_any_other_trailer_ends_the_request() {
    for protocol in BOTH {
        let api = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let other = Upstream::https("other.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(POLICY, &[&api, &other]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let (sum, header) = (sandbox.token("SUM").to_owned(), sandbox.token("HEADER").to_owned());
        for (host, name, value) in [
            ("other.example.com", "x-sum", &sum),
            ("api.example.com", "x-other", &sum),
            ("api.example.com", "x-sum", &header),
        ] {
            let answer = sandbox.send_over(protocol, with_trailer(host, name, name, value)).await;
            assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"), "{name}");
        }
        for upstream in [&api, &other] {
            let received = String::from_utf8_lossy(&upstream.received()).into_owned();
            assert!(!received.contains(&sum) && !received.contains(&header));
        }
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_real_value_in_a_trailer_goes_to_its_own_host_and_ends_a_request_to_any_other() {
    for protocol in BOTH {
        let api = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let other = Upstream::https("other.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(POLICY, &[&api, &other]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let token = sandbox.token("HEADER").to_owned();
        // The value is held from here on.
        sandbox.get_with("https://api.example.com/", "x-key", &token).await;
        let value = tollgate.value("HEADER");
        let trailer = |host, value: &str| with_trailer(host, "x-sum", "x-sum", value);
        let own = sandbox.send_over(protocol, trailer("api.example.com", &value)).await;
        assert_eq!(own.status, 200, "{}", own.text());
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        let basic = format!("a {value} b");
        for value in [&value, &hex, &basic] {
            let answer = sandbox.send_over(protocol, trailer("other.example.com", value)).await;
            assert_eq!((answer.status, answer.reason()), (403, "secret_exposed"), "{value}");
        }
        let received = String::from_utf8_lossy(&other.received()).into_owned();
        assert!(!received.contains(&value) && !received.contains(&hex), "{received}");
        let events = tollgate.finish().await;
        let alerts: Vec<_> = events.iter().filter(|event| event["event"] == "alert").collect();
        assert_eq!(alerts.len(), 3);
        assert!(alerts.iter().all(|alert| alert["reason"] == "secret_exposed"));
    }
}
