//! The places beside headers that a secret may be opted into: query, path and body, over HTTP/1.1 and HTTP/2.

use http::Request;
use http_body::Frame;
use serde_json::Value;

use crate::support::{Protocol, RequestBody, Sandbox, Tollgate, Upstream, full, streamed};

const URLS: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com]
    secrets:
      QUERY: { from: { value: $QUERY }, allowedHosts: [api.example.com], locations: [query] }
      PATH: { from: { value: $PATH }, allowedHosts: [api.example.com], locations: [path, header] }
      ODD: { from: { value: "odd+value /?&=%é..end" }, allowedHosts: [api.example.com], locations: [query, path] }
      CLIMBER: { from: { value: "../../../admin" }, allowedHosts: [api.example.com], locations: [path] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

const BOTH: [Protocol; 2] = [Protocol::H1, Protocol::H2];

fn get(target: &str) -> Request<RequestBody> {
    Request::get(format!("https://api.example.com{target}")).body(full("")).unwrap()
}

#[tokio::test]
async fn a_token_in_the_query_becomes_the_value_and_nothing_beside_it_moves() {
    for protocol in BOTH {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(URLS, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let token = sandbox.token("QUERY");
        let hidden = token.replacen('o', "%6F", 1).replacen('s', "%73", 1);
        let target =
            |key: &str, other: &str| format!("/a%2Fb/./c?b=%20+&&key={key}&a=1&again={other};&c");
        let answer = sandbox.send_over(protocol, get(&target(token, &hidden))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let value = tollgate.value("QUERY");
        assert_eq!(upstream.request().target, target(&value, &value), "{protocol:?}");
        let events = tollgate.finish().await;
        let event = events.iter().find(|event| event["method"] == "GET").unwrap();
        assert_eq!(event["secrets"], serde_json::json!(["QUERY"]));
        assert_eq!(event["locations"], serde_json::json!(["query", "query"]));
    }
}

#[tokio::test]
async fn a_token_in_the_path_becomes_the_value_and_the_audit_names_its_secret() {
    for protocol in BOTH {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(URLS, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let target = |token: &str| format!("//bot{token}/send%20it?x=/../y");
        let answer = sandbox.send_over(protocol, get(&target(sandbox.token("PATH")))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(upstream.request().target, target(&tollgate.value("PATH")), "{protocol:?}");
        let events = tollgate.finish().await;
        let event = events.iter().find(|event| event["method"] == "GET").unwrap();
        let told = ("//bottok:PATH/send%20it".into(), "path".into());
        assert_eq!((&event["path"], &event["locations"][0]), (&told.0, &told.1));
    }
}

#[tokio::test]
async fn a_value_is_percent_encoded_for_the_url() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(URLS, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("ODD");
    assert_eq!(sandbox.send(get(&format!("/{token}/x?k={token}"))).await.status, 200);
    let odd = "odd%2Bvalue%20%2F%3F%26%3D%25%C3%A9..end";
    assert_eq!(upstream.request().target, format!("/{odd}/x?k={odd}"));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_value_never_climbs_out_of_its_segment() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(URLS, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let answer = sandbox.send(get(&format!("/files/{}", sandbox.token("CLIMBER")))).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    assert!(answer.json()["hint"].as_str().unwrap().contains("slashes"), "{}", answer.text());
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_token_stays_out_of_every_place_that_its_secret_is_not_opted_into() {
    let upstream = Upstream::https("api.example.com").await;
    let other = Upstream::https("other.example.com").await;
    let tollgate = Tollgate::with(URLS, &[&upstream, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let (query, path) = (sandbox.token("QUERY").to_owned(), sandbox.token("PATH").to_owned());
    for url in [
        format!("https://api.example.com/{query}"),
        format!("https://api.example.com/?k={path}"),
        format!("https://other.example.com/?k={query}"),
        format!("https://other.example.com/{path}"),
    ] {
        let answer = sandbox.get(&url).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"), "{url}");
    }
    let answer = sandbox.get_with("https://api.example.com/", "x-key", &query).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    assert_eq!((upstream.connections(), other.connections()), (0, 0));
    tollgate.finish().await;
}

#[tokio::test]
async fn path_rules_decide_on_the_path_as_sent() {
    let policy = r#"
secretStores:
  keys:
    egressAllowlist: [{ host: api.example.com, paths: ["/bot*/send"] }]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com], locations: [path] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(policy, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY");
    assert_eq!(sandbox.send(get(&format!("/bot{token}/send"))).await.status, 200);
    assert_eq!(sandbox.send(get(&format!("/{token}/send"))).await.reason(), "path_not_allowed");
    assert_eq!(upstream.request().target, format!("/bot{}/send", tollgate.value("KEY")));
    tollgate.finish().await;
}

const BODIES: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com]
    secrets:
      BODY: { from: { value: $BODY }, allowedHosts: [api.example.com], locations: [body] }
      ODD: { from: { value: "odd \"value\" &=é" }, allowedHosts: [api.example.com], locations: [body] }
      HEADER: { from: { value: $HEADER }, allowedHosts: [api.example.com] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

fn post(content_type: &str, body: impl Into<bytes::Bytes>) -> Request<RequestBody> {
    Request::post("https://api.example.com/v1")
        .header("content-type", content_type)
        .body(full(body))
        .unwrap()
}

/// A body of no stated length that comes in these pieces.
fn pieces(content_type: &str, pieces: Vec<Vec<u8>>) -> Request<RequestBody> {
    let frames = pieces.into_iter().map(|piece| Frame::data(piece.into()));
    Request::post("https://api.example.com/v1")
        .header("content-type", content_type)
        .body(streamed(futures_util::stream::iter(frames)))
        .unwrap()
}

/// Every kind of body with a token in it, and what must arrive.
fn kinds(sandbox: &Sandbox, tollgate: &Tollgate) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let (body, odd, header) =
        (sandbox.token("BODY"), sandbox.token("ODD"), sandbox.token("HEADER"));
    let value = tollgate.value("BODY");
    let hidden = body.replacen('o', "\\u006f", 1);
    let percent = body.replacen('o', "%6f", 1);
    let grpc = |message: &str| {
        [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], message.as_bytes()].concat()
    };
    // A message in field 2 of a message, with a text in field 1.
    let protobuf = |text: &str| {
        let length = |text: &str| char::from(u8::try_from(text.len()).unwrap()).to_string();
        let inner = format!("\n{}{text}", length(text));
        format!("\u{8}\u{7}\u{12}{}{inner}", length(&inner))
    };
    vec![
        (
            "text/plain",
            format!("{body}, {odd} {header} {hidden}").into(),
            format!("{value}, odd \"value\" &=é {header} {hidden}").into(),
        ),
        (
            "application/json",
            format!(r#"{{"a": "{body}", "b": "{hidden}\\{odd}", "c": "{header}"}}"#).into(),
            format!(r#"{{"a": "{value}", "b": "{value}\\odd \"value\" &=é", "c": "{header}"}}"#)
                .into(),
        ),
        (
            "application/x-www-form-urlencoded",
            format!("a={percent}&b=+{odd}&c={header}").into(),
            format!("a={value}&b=+odd%20%22value%22%20%26%3D%C3%A9&c={header}").into(),
        ),
        (
            "multipart/form-data; boundary=x",
            format!("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{odd}\r\n--x--\r\n")
                .into(),
            "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nodd \"value\" &=é\r\n--x--\r\n"
                .into(),
        ),
        (
            "multipart/related; boundary=\"x y\"",
            format!("--x y\r\nContent-Type: application/json; charset=utf-8\r\n\r\n{{\"a\": \"{odd}\", \"b\": \"{hidden}\"}}\r\n--x y\r\nContent-Type: text/plain\r\n\r\n{odd} {hidden}\r\n--x y\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\na={odd}&b={percent}\r\n--x y--\r\n").into(),
            format!("--x y\r\nContent-Type: application/json; charset=utf-8\r\n\r\n{{\"a\": \"odd \\\"value\\\" &=é\", \"b\": \"{value}\"}}\r\n--x y\r\nContent-Type: text/plain\r\n\r\nodd \"value\" &=é {hidden}\r\n--x y\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\na=odd%20%22value%22%20%26%3D%C3%A9&b={value}\r\n--x y--\r\n").into(),
        ),
        (
            "application/grpc",
            [grpc(&protobuf(body)), grpc("plain"), vec![1, 0, 0, 0, 43], body.into()].concat(),
            [grpc(&protobuf(&value)), grpc("plain"), vec![1, 0, 0, 0, 43], body.into()].concat(),
        ),
    ]
}

#[tokio::test]
async fn a_small_body_is_rewritten_and_its_length_is_exact() {
    for protocol in BOTH {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(BODIES, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let kinds = kinds(&sandbox, &tollgate);
        for (content_type, sent, _) in &kinds {
            let answer = sandbox.send_over(protocol, post(content_type, sent.clone())).await;
            assert_eq!(answer.status, 200, "{content_type}: {}", answer.text());
        }
        for (request, (content_type, _, expected)) in upstream.requests().iter().zip(&kinds) {
            assert_eq!(request.body, expected.clone(), "{protocol:?} {content_type}");
            assert_eq!(request.header("content-length").unwrap(), expected.len().to_string());
            assert_eq!(request.header("transfer-encoding"), None);
        }
        let events = tollgate.finish().await;
        let event = events.iter().find(|event| event["method"] == "POST").unwrap();
        assert_eq!(event["secrets"], serde_json::json!(["BODY", "ODD"]));
        assert_eq!(event["locations"], serde_json::json!(["body", "body"]));
        assert_eq!(event["tokensInBody"], 1);
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_rewritten_while_it_streams() {
    for protocol in BOTH {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(BODIES, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let kinds = kinds(&sandbox, &tollgate);
        for (content_type, sent, _) in &kinds {
            let split = sent.chunks(5).map(<[u8]>::to_vec).collect();
            let answer = sandbox.send_over(protocol, pieces(content_type, split)).await;
            assert_eq!(answer.status, 200, "{content_type}: {}", answer.text());
        }
        for (request, (content_type, _, expected)) in upstream.requests().iter().zip(&kinds) {
            assert_eq!(request.body, expected.clone(), "{protocol:?} {content_type}");
            assert_eq!(request.header("content-length"), None);
        }
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_large_body_streams_without_the_length_that_the_client_stated() {
    for (h2_only, framing) in [(false, Some("chunked".to_owned())), (true, None)] {
        for protocol in BOTH {
            let upstream = Upstream::https("api.example.com").answering(200, &[], "fine");
            let upstream = if h2_only { upstream.h2_only() } else { upstream.h1_only() }.await;
            let tollgate = small_bodies(&upstream).await;
            let sandbox = tollgate.sandbox("sb-test");
            let padding = "x".repeat(300_000);
            let sent = format!("{padding}{}{padding}", sandbox.token("BODY"));
            let request = Request::post("https://api.example.com/v1")
                .header("b-first", "1")
                .header("content-length", sent.len())
                .header("a-last", "2")
                .body(full(sent))
                .unwrap();
            let answer = sandbox.send_over(protocol, request).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let request = upstream.request();
            let expected = format!("{padding}{}{padding}", tollgate.value("BODY"));
            assert!(request.body == expected, "{protocol:?}: {} bytes", request.body.len());
            assert_eq!(request.header("content-length"), None);
            assert_eq!(request.header("transfer-encoding"), framing);
            tollgate.finish().await;
        }
    }
}

async fn small_bodies(upstream: &Upstream) -> Tollgate {
    let limits = serde_json::json!({ "limits": { "bufferedBody": "1KiB" } });
    Tollgate::describe(BODIES, &[upstream]).config(limits).start().await
}

#[tokio::test]
async fn an_upstream_that_wants_a_length_gets_none_and_the_client_learns_why() {
    let upstream = Upstream::https("api.example.com").answering(411, &[], "length!").await;
    let tollgate = small_bodies(&upstream).await;
    let sandbox = tollgate.sandbox("sb-test");
    let answer = sandbox.send(post("text/plain", "x".repeat(2000))).await;
    assert_eq!((answer.status, answer.reason()), (413, "limit_exceeded"));
    assert!(answer.json()["hint"].as_str().unwrap().contains("bufferedBody"), "{}", answer.text());
    let answer = sandbox.send(post("text/plain", "x".repeat(1000))).await;
    assert_eq!((answer.status, answer.text().as_str()), (411, "length!"));
    tollgate.finish().await;
}

#[tokio::test]
async fn trailers_follow_a_body_that_was_rewritten() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(BODIES, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let trailers = [("x-sum".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    let frames = [Frame::data(sandbox.token("BODY").to_owned().into()), Frame::trailers(trailers)];
    let request = Request::post("https://api.example.com/v1")
        .header("te", "trailers")
        .body(streamed(futures_util::stream::iter(frames)))
        .unwrap();
    assert_eq!(sandbox.send_h2(request).await.status, 200);
    let request = upstream.request();
    assert_eq!(request.body, tollgate.value("BODY"));
    assert_eq!(request.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_body_in_which_nothing_is_opened_leaves_as_it_came() {
    let upstream = Upstream::https("api.example.com").h1_only().answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(BODIES, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let body = format!(r#"{{"a": "\u006f {}"}}"#, sandbox.token("HEADER"));
    assert_eq!(sandbox.send(post("application/json", body.clone())).await.status, 200);
    let encoded = Request::post("https://api.example.com/v1")
        .header("content-encoding", "gzip")
        .body(full(sandbox.token("BODY").to_owned()))
        .unwrap();
    assert_eq!(sandbox.send(encoded).await.status, 200);
    let requests = upstream.requests();
    assert_eq!(requests[0].body, body);
    assert_eq!(requests[0].header("content-length").unwrap(), body.len().to_string());
    assert_eq!(requests[1].body, sandbox.token("BODY"));
    tollgate.finish().await;
}

#[tokio::test]
async fn tokens_in_bodies_that_may_not_be_opened_are_counted() {
    let api = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let other = Upstream::https("other.example.com").answering(200, &[], "fine").await;
    let plain = Upstream::http("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(BODIES, &[&api, &other, &plain]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let body = format!("{0}{0} {1}", sandbox.token("BODY"), sandbox.token("HEADER"));
    for url in ["https://other.example.com/", "http://api.example.com/"] {
        let request = Request::post(url).body(full(body.clone())).unwrap();
        assert_eq!(sandbox.send(request).await.status, 200, "{url}");
    }
    assert_eq!(
        (&other.request().body, &plain.request().body),
        (&body.clone().into(), &body.into())
    );
    let events = tollgate.finish().await;
    let counts: Vec<_> = events
        .iter()
        .filter(|event| event["method"] == "POST")
        .map(|event| (event["tokensInBody"].clone(), event["secrets"].clone()))
        .collect();
    assert_eq!(counts, [(3.into(), Value::Null), (3.into(), Value::Null)]);
}

#[tokio::test]
async fn a_value_that_cannot_be_fetched_is_never_replaced_by_its_token() {
    let policy = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { GONE: { from: { file: gone }, allowedHosts: [api.example.com], locations: [body] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(policy, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let body = format!("key: {}", sandbox.token("GONE"));
    let answer = sandbox.send(post("text/plain", body.clone())).await;
    assert_eq!((answer.status, answer.reason()), (503, "secret_unavailable"));
    let answer = sandbox.send(pieces("text/plain", vec![body.into_bytes()])).await;
    assert_eq!((answer.status, answer.reason()), (503, "secret_unavailable"));
    assert_eq!(upstream.connections(), 0);
    // A small body without the token needs no value.
    assert_eq!(sandbox.send(post("text/plain", "nothing")).await.status, 200);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_value_that_is_no_text_cannot_stand_in_json() {
    let policy = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { BINARY: { from: { file: binary }, allowedHosts: [api.example.com], locations: [body] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::describe(policy, &[&upstream]).start().await;
    let value = b"\xff\xfe binary value".to_vec();
    std::fs::write(tollgate.policy_file().with_file_name("binary"), &value).unwrap();
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("BINARY").to_owned();
    for request in [
        post("application/json", format!("\"{token}\"")),
        pieces("application/json", vec![format!("\"{token}\"").into_bytes()]),
    ] {
        let answer = sandbox.send(request).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_unavailable"));
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(sandbox.send(post("application/octet-stream", token)).await.status, 200);
    assert_eq!(upstream.request().body, value);
    tollgate.finish().await;
}
