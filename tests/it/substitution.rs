//! Sealed tokens become values: in which headers, for which hosts, and what happens to those that may not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;

use crate::support::{Tollgate, Upstream, full};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com]
    secrets:
      KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] }
      SECOND: { from: { value: $SECOND }, allowedHosts: [api.example.com] }
      NARROW: { from: { value: $NARROW }, allowedHosts: [api.example.com], headers: [x-api-key, user-agent] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

const TWO: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes:
  sb-one: { secretStores: [keys] }
  sb-two: { secretStores: [keys] }
"#;

#[tokio::test]
async fn a_bearer_token_becomes_the_value() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let bearer = format!("Bearer {}", sandbox.token("KEY"));
    let answer = sandbox.get_with("https://api.example.com/v1", "authorization", &bearer).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "fine"));
    let expected = format!("Bearer {}", tollgate.value("KEY"));
    assert_eq!(upstream.request().header("authorization").unwrap(), expected);
    let events = tollgate.finish().await;
    let request = events.iter().find(|event| event["method"] == "GET").unwrap();
    assert_eq!(request["secrets"][0], "KEY");
    assert_eq!(request["locations"][0], "header:authorization");
}

#[tokio::test]
async fn a_token_inside_basic_credentials_becomes_the_value() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let basic =
        |secret: &str| format!("Basic {}", STANDARD.encode(format!("x-access-token:{secret}")));
    let sealed = basic(sandbox.token("KEY"));
    let answer =
        sandbox.get_with("https://api.example.com/repo.git", "authorization", &sealed).await;
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.request().header("authorization").unwrap(), basic(&tollgate.value("KEY")));
    tollgate.finish().await;
}

#[tokio::test]
async fn every_token_of_a_request_becomes_its_own_value_in_one_pass() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let (one, two) = (sandbox.token("KEY"), sandbox.token("SECOND"));
    let request = Request::get("https://api.example.com/")
        .header("x-first", format!("a={one};b={two};c={one}"))
        .header("cookie", format!("session={two}"))
        .body(full(""))
        .unwrap();
    assert_eq!(sandbox.send(request).await.status, 200);
    let (one, two) = (tollgate.value("KEY"), tollgate.value("SECOND"));
    assert_eq!(upstream.request().header("x-first").unwrap(), format!("a={one};b={two};c={one}"));
    assert_eq!(upstream.request().header("cookie").unwrap(), format!("session={two}"));
    tollgate.finish().await;
}

#[tokio::test]
async fn headers_that_servers_echo_never_carry_a_value() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for header in [
        "user-agent",
        "referer",
        "origin",
        "x-request-id",
        "traceparent",
        "accept",
        "content-type",
        "x-forwarded-for",
    ] {
        let answer =
            sandbox.get_with("https://api.example.com/", header, sandbox.token("KEY")).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"), "{header}");
    }
    assert_eq!(upstream.connections(), 0);
    let events = tollgate.finish().await;
    assert_eq!(events.iter().filter(|event| event["event"] == "alert").count(), 8);
}

#[tokio::test]
async fn a_headers_rule_opens_the_token_there_and_nowhere_else() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("NARROW").to_owned();
    for header in ["x-api-key", "user-agent"] {
        assert_eq!(sandbox.get_with("https://api.example.com/", header, &token).await.status, 200);
    }
    let answer = sandbox.get_with("https://api.example.com/", "authorization", &token).await;
    assert_eq!(answer.reason(), "secret_misdirected");
    assert!(answer.json()["detail"].as_str().unwrap().contains("NARROW"), "{}", answer.text());
    assert_eq!(upstream.requests().len(), 2);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_token_for_another_host_ends_the_request() {
    let api = Upstream::https("api.example.com").await;
    let other = Upstream::https("other.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&api, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let bearer = format!("Bearer {}", sandbox.token("KEY"));
    let answer = sandbox.get_with("https://other.example.com/", "authorization", &bearer).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    assert_eq!(other.connections(), 0);
    let events = tollgate.finish().await;
    let alert = events.iter().find(|event| event["event"] == "alert").unwrap();
    assert_eq!(
        (&alert["reason"], &alert["host"]),
        (&"secret_misdirected".into(), &"other.example.com".into())
    );
}

#[tokio::test]
async fn an_unknown_token_ends_the_request() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let unknown = format!("osb_sealed_{}", "0123456789abcdef".repeat(2));
    let answer =
        tollgate.sandbox("sb-test").get_with("https://api.example.com/", "x-key", &unknown).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn another_sandboxs_token_is_worth_nothing() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(TWO, &[&upstream]).await;
    let (one, two) = (tollgate.sandbox("sb-one"), tollgate.sandbox("sb-two"));
    assert_ne!(one.token("KEY"), two.token("KEY"));
    let answer = one.get_with("https://api.example.com/", "authorization", two.token("KEY")).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_token_in_a_url_ends_the_request() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY").to_owned();
    let hidden: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for path in [format!("/{token}"), format!("/?key={token}"), format!("/?key={hidden}")] {
        let answer = sandbox.get(&format!("https://api.example.com{path}")).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"), "{path}");
    }
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn over_plain_http_a_token_is_never_opened() {
    let upstream = Upstream::http("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let answer =
        sandbox.get_with("http://api.example.com/", "authorization", sandbox.token("KEY")).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_requires_tls"));
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_token_in_a_body_goes_on_as_it_is() {
    let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let text = format!("my environment: KEY={}", sandbox.token("KEY"));
    let request = Request::post("https://api.example.com/").body(full(text.clone())).unwrap();
    assert_eq!(sandbox.send(request).await.status, 200);
    assert_eq!(upstream.request().body, text);
    tollgate.finish().await;
}

#[tokio::test]
async fn basic_base64_that_only_a_lenient_reader_takes_hides_no_token() {
    let upstream = Upstream::https("other.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let encoded = STANDARD.encode(format!("u:{}", sandbox.token("KEY")));
    let variants = [
        encoded.trim_end_matches('=').to_owned() + "===",
        encoded.replacen('b', "b ", 1),
        format!("{encoded}="),
    ];
    for variant in variants {
        let answer = sandbox
            .get_with("https://other.example.com/", "authorization", &format!("Basic {variant}"))
            .await;
        assert_eq!(answer.reason(), "secret_misdirected", "{variant}");
    }
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}
