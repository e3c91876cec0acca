//! The places beside headers that a secret may be opted into: query, path and body, over HTTP/1.1 and HTTP/2.

use http::Request;

use crate::support::{Protocol, Tollgate, Upstream, full};

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

fn get(target: &str) -> Request<crate::support::RequestBody> {
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
async fn a_token_in_the_path_becomes_the_value_and_the_audit_keeps_the_path_as_sent() {
    for protocol in BOTH {
        let upstream = Upstream::https("api.example.com").answering(200, &[], "fine").await;
        let tollgate = Tollgate::with(URLS, &[&upstream]).await;
        let sandbox = tollgate.sandbox("sb-test");
        let target = |token: &str| format!("//bot{token}/send%20it?x=/../y");
        let answer = sandbox.send_over(protocol, get(&target(sandbox.token("PATH")))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(upstream.request().target, target(&tollgate.value("PATH")), "{protocol:?}");
        let sealed = format!("//bot{}/send%20it", sandbox.token("PATH"));
        let events = tollgate.finish().await;
        let event = events.iter().find(|event| event["method"] == "GET").unwrap();
        assert_eq!((&event["path"], &event["locations"][0]), (&sealed.into(), &"path".into()));
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
