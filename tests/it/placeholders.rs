//! Sealed tokens in the shape that clients expect: opened, refused and written back like every other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;

use crate::support::{Protocol, Tollgate, Upstream, full};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com]
    secrets:
      GITHUB_TOKEN:
        from: { value: $GITHUB_TOKEN }
        allowedHosts: [api.example.com]
        placeholder: "ghp_{sealed:36}"
        locations: [header, query, path, body]
      ACCESS_KEY: { from: { value: $ACCESS_KEY }, allowedHosts: [api.example.com], placeholder: "AKIA{sealed:16:A-Z2-7}" }
      PLAIN: { from: { value: $PLAIN }, allowedHosts: [api.example.com], locations: [body] }
sandboxes: { sb-test: { secretStores: [keys] }, sb-else: { secretStores: [keys] } }
"#;

#[tokio::test]
async fn a_token_has_the_shape_that_its_secret_states() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let (one, other) = (tollgate.sandbox("sb-test"), tollgate.sandbox("sb-else"));
    let github = one.token("GITHUB_TOKEN").strip_prefix("ghp_").unwrap();
    assert!(github.len() == 36 && github.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let access = one.token("ACCESS_KEY").strip_prefix("AKIA").unwrap();
    assert!(access.len() == 16);
    assert!(access.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7')), "{access}");
    assert_ne!(one.token("GITHUB_TOKEN"), other.token("GITHUB_TOKEN"));
    let answer = one.get("http://tollgate.internal/env").await;
    let line = format!("export GITHUB_TOKEN='{}'\n", one.token("GITHUB_TOKEN"));
    assert!(answer.text().contains(&line), "{}", answer.text());
    tollgate.finish().await;
}

#[tokio::test]
async fn a_shaped_token_is_opened_in_every_place() {
    for protocol in [Protocol::H1, Protocol::H2] {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let (github, access, plain) =
            (sandbox.token("GITHUB_TOKEN"), sandbox.token("ACCESS_KEY"), sandbox.token("PLAIN"));
        let basic =
            |github: &str| format!("Basic {}", STANDARD.encode(format!("x-access-token:{github}")));
        let body = |github: &str, plain: &str, access: &str| {
            format!(r#"{{"a": "{github}{plain}", "b": "{plain}{github}", "c": "{access}"}}"#)
        };
        let request = Request::post(format!("https://api.example.com/{github}?key={github}"))
            .header("authorization", basic(github))
            .header("x-pair", format!("{access}/{github}"))
            .header("content-type", "application/json")
            .body(full(body(github, plain, access)))
            .unwrap();
        let answer = sandbox.send_over(protocol, request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let request = upstream.request();
        let value = tollgate.value("GITHUB_TOKEN");
        assert_eq!(request.target, format!("/{value}?key={value}"), "{protocol:?}");
        assert_eq!(request.header("authorization").unwrap(), basic(&value));
        let pair = format!("{}/{value}", tollgate.value("ACCESS_KEY"));
        assert_eq!(request.header("x-pair").unwrap(), pair);
        assert_eq!(request.body, body(&value, &tollgate.value("PLAIN"), access));
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_shaped_token_for_another_host_or_place_ends_the_request() {
    let api = Upstream::https("api.example.com").await;
    let other = Upstream::https("other.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&api, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let (github, access) =
        (sandbox.token("GITHUB_TOKEN").to_owned(), sandbox.token("ACCESS_KEY").to_owned());
    let bearer = format!("token {github}");
    let answer = sandbox.get_with("https://other.example.com/", "authorization", &bearer).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    let hidden = access.replacen('A', "%41", 1);
    let answer = sandbox.get(&format!("https://api.example.com/?key={hidden}")).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_misdirected"));
    assert_eq!((api.connections(), other.connections()), (0, 0));
    tollgate.finish().await;
}

#[tokio::test]
async fn an_echoed_value_becomes_its_placeholder_again() {
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let github = sandbox.token("GITHUB_TOKEN").to_owned();
    let answer = sandbox.get_with("https://api.example.com/", "x-key", &github).await;
    assert_eq!(answer.status, 200);
    assert!(upstream.request().header("x-key").unwrap() == tollgate.value("GITHUB_TOKEN"));
    assert!(answer.text().contains(&github), "{}", answer.text());
    tollgate.finish().await;
}
