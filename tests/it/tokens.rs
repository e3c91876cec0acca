//! Access tokens that Tollgate fetches itself, from a real HTTPS endpoint; and what a sandbox gets that asks the endpoint itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::support::{
    Answer, Body, Builder, Protocol, Tollgate, Upstream, body, fresh_value, full, read_request,
};

const LOGIN: &str = "login.example.com";
const API: &str = "api.example.com";
const HOSTS: [&str; 2] = [API, LOGIN];

/// A policy whose KEY comes from the endpoint, and may go to the API and to the endpoint's own host.
fn policy(source: &str) -> String {
    format!(
        "secretStores:\n  keys:\n    egressAllowlist: [api.example.com, login.example.com]\n    secrets:\n      KEY: {{ from: {source}, allowedHosts: [api.example.com, login.example.com] }}\nsandboxes: {{ sb-test: {{ secretStores: [keys] }} }}\n"
    )
}

fn credentials() -> String {
    "{ oauth2ClientCredentials: { tokenUrl: \"https://login.example.com/token\", clientId: app, clientSecret: { value: $SECRET }, scopes: [read], timeout: 1s } }".to_owned()
}

fn granting(answer: impl Fn(u32) -> Value + Send + Sync + 'static) -> Builder {
    let times = AtomicU32::new(0);
    Upstream::https(LOGIN).handler(move |_request| {
        let answer = answer(times.fetch_add(1, Ordering::Relaxed)).to_string();
        async move { json_answer(200, &answer) }
    })
}

fn json_answer(status: u16, text: &str) -> Response<Body> {
    let answer = Response::builder().status(status).header("content-type", "application/json");
    answer.body(body(text.to_owned())).unwrap()
}

async fn call(tollgate: &Tollgate) -> Answer {
    let sandbox = tollgate.sandbox("sb-test");
    sandbox.get_with("https://api.example.com/", "x-key", sandbox.token("KEY")).await
}

fn sent(api: &Upstream) -> Vec<String> {
    api.requests().iter().map(|request| request.header("x-key").unwrap()).collect()
}

#[tokio::test]
async fn a_token_is_fetched_by_tollgate_and_only_the_token_goes_to_the_api() {
    let token = fresh_value("access");
    let granted = token.clone();
    let login = granting(move |_| json!({ "access_token": granted, "expires_in": 3600 })).await;
    let api = Upstream::https(API).await;
    let tollgate = Tollgate::with(&policy(&credentials()), &[&login, &api]).await;
    tollgate.watch(&token, &[API]);
    tollgate.watch(&tollgate.value("SECRET"), &[LOGIN]);
    let secret = STANDARD.encode(format!("app:{}", tollgate.value("SECRET")));
    for _ in 0..3 {
        let answer = call(&tollgate).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(
            answer.text().contains(tollgate.sandbox("sb-test").token("KEY")),
            "the echo is sealed"
        );
    }
    assert_eq!(sent(&api), [token.as_str(); 3]);
    let asked = login.request();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/token"));
    assert_eq!(asked.version, "HTTP/1.1");
    assert_eq!(asked.header("host").unwrap(), LOGIN);
    assert_eq!(asked.header("content-type").unwrap(), "application/x-www-form-urlencoded");
    assert_eq!(asked.header("authorization").unwrap(), format!("Basic {secret}"));
    assert_eq!(asked.body, "grant_type=client_credentials&scope=read");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_short_token_is_replaced_before_it_expires_while_requests_go_on() {
    let tokens: Arc<Vec<String>> = Arc::new((0..64).map(|_| fresh_value("access")).collect());
    let granted = tokens.clone();
    let login =
        granting(move |nth| json!({ "access_token": granted[nth as usize], "expires_in": 3 }))
            .await;
    let api = Upstream::https(API).await;
    let tollgate = Tollgate::with(&policy(&credentials()), &[&login, &api]).await;
    for token in &*tokens {
        tollgate.watch(token, &[API]);
    }
    let start = tokio::time::Instant::now();
    while sent(&api).last() != Some(&tokens[2]) {
        assert_eq!(call(&tollgate).await.status, 200);
        assert!(start.elapsed() < Duration::from_secs(30), "no third token");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() > Duration::from_secs(3), "a token lives for a while");
    let mut seen = sent(&api);
    seen.dedup();
    assert_eq!(seen, tokens[..3], "one after the other, and none comes back");
    tollgate.finish().await;
}

#[tokio::test]
async fn twenty_requests_at_once_fetch_one_token() {
    let token = fresh_value("access");
    let granted = token.clone();
    let login = Upstream::https(LOGIN)
        .handler(move |_request| {
            let answer = json!({ "access_token": granted, "expires_in": 3600 }).to_string();
            async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                json_answer(200, &answer)
            }
        })
        .await;
    let api = Upstream::https(API).await;
    let tollgate = Tollgate::with(&policy(&credentials()), &[&login, &api]).await;
    tollgate.watch(&token, &[API]);
    let answers = futures_util::future::join_all((0..20).map(|_| call(&tollgate))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(sent(&api), vec![token; 20]);
    assert_eq!(login.connections(), 1);
    tollgate.finish().await;
}

/// No token can be had: 503, the reason is logged for the operator, and the API is not even connected to.
async fn assert_unavailable(login: Builder, config: Value, told: &str) {
    let login = login.await;
    let api = Upstream::https(API).await;
    let tollgate =
        Tollgate::describe(&policy(&credentials()), &[&login, &api]).config(config).start().await;
    tollgate.watch(&tollgate.value("SECRET"), &[LOGIN]);
    let answer = call(&tollgate).await;
    assert_eq!((answer.status, answer.reason()), (503, "secret_unavailable"), "{told}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("KEY"), "{detail}");
    assert!(tollgate.log().contains(told), "{told} in {}", tollgate.log());
    assert!(!answer.text().contains("in-the-answer"), "{}", answer.text());
    assert_eq!(api.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_503_with_the_code_that_it_gave() {
    let refusal = "{\"error\":\"invalid_client\",\"error_description\":\"in-the-answer\"}";
    let json = [("content-type", "application/json")];
    let login = || Upstream::https(LOGIN);
    assert_unavailable(login().answering(401, &json, refusal), json!({}), "401 (invalid_client)")
        .await;
    assert_unavailable(login().answering(500, &[], "in-the-answer"), json!({}), "500").await;
}

#[tokio::test]
async fn an_endpoint_that_redirects_is_not_followed() {
    let location = [("location", "https://api.example.com/steal")];
    assert_unavailable(Upstream::https(LOGIN).answering(307, &location, ""), json!({}), "307")
        .await;
}

#[tokio::test]
async fn an_endpoint_that_answers_with_something_else_or_too_much_is_503() {
    let login = || Upstream::https(LOGIN);
    assert_unavailable(login().answering(200, &[], "<p>in-the-answer"), json!({}), "not JSON")
        .await;
    let long = format!("{{\"in-the-answer\":\"{}\"}}", "x".repeat(200_000));
    assert_unavailable(login().answering(200, &[], &long), json!({}), "longer than 128 KiB").await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_503_after_its_timeout() {
    let silent = Upstream::raw(LOGIN, |mut io| async move {
        read_request(&mut io).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    assert_unavailable(silent, json!({}), "did not answer within 1s").await;
    let dripping = Upstream::raw(LOGIN, |mut io| async move {
        read_request(&mut io).await;
        drop(io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await);
        while io.write_all(b" ").await.is_ok() && io.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert_unavailable(dripping, json!({}), "did not answer within 1s").await;
}

#[tokio::test]
async fn an_endpoint_is_dialled_and_verified_as_any_upstream() {
    let closed = json!({ "egress": { "allowPrivate": [] } });
    assert_unavailable(Upstream::https(LOGIN), closed, "address_not_allowed").await;
    let denied = json!({ "egress": { "deny": ["*.example.com"] } });
    let login = Upstream::https(LOGIN).await;
    let tollgate =
        Tollgate::describe(&policy(&credentials()), &[&login]).config(denied).start().await;
    assert_eq!(call(&tollgate).await.reason(), "host_denied");
    assert_eq!(login.connections(), 0);
    tollgate.finish().await;
    assert_unavailable(Upstream::https(LOGIN).wrong_name(), json!({}), "upstream_tls").await;
    assert_unavailable(Upstream::https(LOGIN).self_signed(), json!({}), "upstream_tls").await;
}

#[tokio::test]
async fn a_rotated_refresh_token_is_used_and_never_shown() {
    let rotated: Arc<Vec<String>> = Arc::new((0..64).map(|_| fresh_value("refresh")).collect());
    let tokens: Arc<Vec<String>> = Arc::new((0..64).map(|_| fresh_value("access")).collect());
    let (refresh, access) = (rotated.clone(), tokens.clone());
    let login = granting(move |nth| {
        let nth = nth as usize;
        json!({ "access_token": access[nth], "refresh_token": refresh[nth], "expires_in": 1 })
    })
    .await;
    let shown = rotated.clone();
    // An API that knows the refresh tokens and prints them.
    let api = Upstream::https(API)
        .handler(move |request| {
            let text =
                if request.uri().path() == "/print" { shown[..2].join(" ") } else { String::new() };
            async move { Response::new(body(text)) }
        })
        .await;
    let source = "{ oauth2RefreshToken: { tokenUrl: \"https://login.example.com/token\", clientId: app, refreshToken: { value: $REFRESH } } }";
    let tollgate = Tollgate::with(&policy(source), &[&login, &api]).await;
    for token in tokens.iter().chain(&*rotated) {
        tollgate.watch(token, &HOSTS);
    }
    while login.requests().len() < 3 {
        let answer = call(&tollgate).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY");
    let printed = sandbox.get("https://api.example.com/print").await;
    assert_eq!(printed.text(), format!("{token} {token}"));
    let forms: Vec<_> = login.requests().iter().map(|request| request.body.clone()).collect();
    let form =
        |token: &str| format!("grant_type=refresh_token&refresh_token={token}&client_id=app");
    assert_eq!(forms[0], form(&tollgate.value("REFRESH")));
    assert_eq!(forms[1], form(&rotated[0]));
    assert_eq!(forms[2], form(&rotated[1]));
    tollgate.finish().await;
}

/// A sandbox that asks the endpoint itself, at this path.
async fn ask_endpoint(tollgate: &Tollgate, path: &str, protocol: Protocol) -> Answer {
    let request = Request::post(format!("https://login.example.com{path}"))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept-encoding", "gzip")
        .body(full("grant_type=client_credentials&client_id=app&client_secret=anything"))
        .unwrap();
    tollgate.sandbox("sb-test").send_over(protocol, request).await
}

#[tokio::test]
async fn what_the_endpoint_gives_a_sandbox_is_sealed_also_where_tollgate_never_saw_it() {
    let values: Vec<String> = (0..3).map(|_| fresh_value("unseen")).collect();
    let given = json!({
        "access_token": values[0], "refresh_token": values[1], "expires_in": 3600,
        "nested": [{ "id_token": values[2], "access_token": 7 }], "token_type": "bearer",
    });
    let login = granting(move |_| given.clone()).await;
    let tollgate = Tollgate::with(&policy(&credentials()), &[&login]).await;
    for value in &values {
        tollgate.watch(value, &[]);
    }
    let token = tollgate.sandbox("sb-test").token("KEY").to_owned();
    for (path, protocol) in [
        ("/token", Protocol::H1),
        ("/token", Protocol::H2),
        ("//x/../TOKEN/?a=b", Protocol::H1),
        ("/%74oken", Protocol::H1),
    ] {
        let answer = ask_endpoint(&tollgate, path, protocol).await;
        assert_eq!(answer.status, 200, "{path} {}", answer.text());
        let sealed = json!({
            "access_token": token, "refresh_token": token, "expires_in": 3600,
            "nested": [{ "id_token": token, "access_token": 7 }], "token_type": "bearer",
        });
        assert_eq!(answer.json(), sealed, "{path}");
        assert_eq!(answer.header("content-length").unwrap(), answer.body.len().to_string());
    }
    let events = tollgate.finish().await;
    let requests = events.iter().filter(|event| event["event"] == "request");
    assert_eq!(requests.filter(|event| event["scrubbed"] == 3).count(), 4, "{events:#?}");
}

#[tokio::test]
async fn a_token_that_a_sandbox_got_sealed_works_at_the_api() {
    let token = fresh_value("access");
    let granted = token.clone();
    let login = granting(move |_| json!({ "access_token": granted, "expires_in": 3600 })).await;
    let api = Upstream::https(API).await;
    let tollgate = Tollgate::with(&policy(&credentials()), &[&login, &api]).await;
    tollgate.watch(&token, &[API]);
    let got = ask_endpoint(&tollgate, "/token", Protocol::H1).await.json();
    let got = got["access_token"].as_str().unwrap().to_owned();
    let sandbox = tollgate.sandbox("sb-test");
    assert_eq!(sandbox.get_with("https://api.example.com/", "x-key", &got).await.status, 200);
    assert_eq!(sent(&api), [token]);
    tollgate.finish().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_sealed_does_not_reach_the_sandbox() {
    let value = fresh_value("unseen");
    let form = format!("access_token={value}&token_type=bearer");
    let long = json!({ "access_token": value, "pad": "x".repeat(1_100_000) }).to_string();
    for text in [&form, &long] {
        let login = Upstream::https(LOGIN).answering(200, &[], text).await;
        let tollgate = Tollgate::with(&policy(&credentials()), &[&login]).await;
        tollgate.watch(&value, &[]);
        let answer = ask_endpoint(&tollgate, "/token", Protocol::H1).await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"));
        assert!(answer.json()["detail"].as_str().unwrap().contains("token endpoint"));
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn an_encoded_answer_of_the_endpoint_is_sealed_and_a_refusal_is_passed_on() {
    use std::io::Write as _;
    let value = fresh_value("unseen");
    let text = json!({ "access_token": value }).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    let login = Upstream::https(LOGIN)
        .handler(move |request: Request<bytes::Bytes>| {
            let answer = if request.uri().path() == "/token" {
                Response::builder().header("content-encoding", "gzip").body(body(packed.clone()))
            } else {
                Response::builder().status(400).body(body("no such client"))
            };
            async move { answer.unwrap() }
        })
        .await;
    let tollgate = Tollgate::with(&policy(&credentials()), &[&login]).await;
    tollgate.watch(&value, &[]);
    let answer = ask_endpoint(&tollgate, "/token", Protocol::H1).await;
    assert_eq!(answer.json()["access_token"], tollgate.sandbox("sb-test").token("KEY"));
    assert_eq!(answer.header("content-encoding"), None);
    let answer = ask_endpoint(&tollgate, "/token/../x", Protocol::H1).await;
    assert_eq!((answer.status, answer.text().as_str()), (400, "no such client"));
    tollgate.finish().await;
}
