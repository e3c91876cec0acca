//! Sealed tokens in places, forms and neighbourhoods of every kind: a value reaches its own host in its own places, or nothing does.

use std::collections::HashSet;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tollgate::secret::{SandboxId, SealKey, SecretName};

use super::wire::{API, api_h1, holds, p0_with};
use crate::support::{Attack, P0, Tollgate, Upstream, eventually, read_answer};

/// P0 in which the places of `KEY_A` are these, and its value.
fn p0_of_key_a(value: &str, places: &str) -> String {
    let replaced = P0.replace(
        "KEY_A: { from: { value: $KEY_A }, allowedHosts: [api.allowed.test],  headers: [authorization, x-api-key] }",
        &format!("KEY_A: {{ from: {{ value: {value} }}, allowedHosts: [api.allowed.test], {places} }}"),
    );
    assert_ne!(replaced, P0);
    replaced
}

const ANYWHERE: &str =
    "locations: [header, query, path, body], headers: [authorization, x-api-key]";

/// GET of `/` with these fields.
fn get(host: &str, fields: &str) -> String {
    format!(r"GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!(
        r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\n{fields}Content-Length: {{{{len}}}}\r\n\r\n{body}"
    )
}

/// Each is refused as misuse of a credential before any upstream is dialled; the alert names secrets, and holds no token.
async fn misdirected(policy: &str, variants: &[(&str, String)]) {
    let attack = Attack::with(policy, json!({})).await;
    for (target, text) in variants {
        let outcome = attack.tunnel(target, text).await;
        let told = (outcome.status, outcome.reason.as_deref());
        assert_eq!(told, (Some(403), Some("secret_misdirected")), "{text}: {outcome:?}");
    }
    assert_eq!(attack.upstream_connections(), 0);
    let tokens = ["A", "B", "E"].map(|key| attack.sandbox.token(&format!("KEY_{key}")).to_owned());
    let events = attack.finish().await;
    let alerts: Vec<_> = events.iter().filter(|event| event["event"] == "alert").collect();
    assert_eq!(alerts.len(), variants.len(), "{events:#?}");
    for alert in alerts {
        assert_eq!(alert["reason"], "secret_misdirected");
        assert!(!tokens.iter().any(|token| alert.to_string().contains(token)), "{alert:#}");
    }
}

/// Each is forwarded to `api`; the heads (and bodies) that arrived.
async fn arrived(attack: &Attack, variants: &[String]) -> Vec<String> {
    let mut arrived = Vec::new();
    for (nth, text) in variants.iter().enumerate() {
        let outcome = attack.tunnel(API, text).await;
        assert_eq!(outcome.status, Some(200), "{text}: {outcome:?}");
        let request = eventually("the request", || attack.api.requests().get(nth).cloned()).await;
        arrived.push(format!("{}{}", request.head, String::from_utf8_lossy(&request.body)));
    }
    arrived
}

#[tokio::test]
async fn SUB_001_a_token_in_a_granted_header_is_opened_once() {
    let attack = p0_with(api_h1().await).await;
    let text = get("api.allowed.test", "Authorization: Bearer {{TOK_A}}");
    let value = attack.tollgate.value("KEY_A");
    let heads = arrived(&attack, &[text]).await;
    assert_eq!(heads[0].matches(&value).count(), 1);
    assert!(holds(heads[0].as_bytes(), &format!("Authorization: Bearer {value}\r\n")));
    let events = attack.finish().await;
    let event = events.iter().find(|event| event["status"] == 200 && event["method"] == "GET");
    assert_eq!(event.unwrap()["secrets"], json!(["KEY_A"]));
}

#[tokio::test]
async fn SUB_002_a_token_of_another_host() {
    misdirected(P0, &[(API, get("api.allowed.test", "Authorization: Bearer {{TOK_B}}"))]).await;
}

#[tokio::test]
async fn SUB_003_a_token_to_a_host_without_a_grant() {
    let text = r"GET /?q={{TOK_A}} HTTP/1.1\r\nHost: open.allowed.test\r\n\r\n".to_owned();
    let field = get("open.allowed.test", "X-Note: {{TOK_A}}");
    misdirected(P0, &[("open.allowed.test:443", text), ("open.allowed.test:443", field)]).await;
}

#[tokio::test]
async fn SUB_004_a_token_of_another_sandbox() {
    let attack = Attack::p0().await;
    let foreign = attack.tollgate.sandbox("sb-b").token("KEY_A").to_owned();
    assert_ne!(foreign, attack.sandbox.token("KEY_A"));
    let text = get("api.allowed.test", &format!("Authorization: Bearer {foreign}"));
    let outcome = attack.tunnel(API, &text).await;
    let told = (outcome.status, outcome.reason.as_deref());
    assert_eq!(told, (Some(403), Some("secret_misdirected")), "{outcome:?}");
    assert!(!outcome.body.contains("KEY_A"), "{outcome:?}");
    assert_eq!(attack.upstream_connections(), 0);
    attack.finish().await;
}

#[tokio::test]
async fn SUB_007_a_token_in_path_query_and_fragment() {
    let target =
        |target: &str| (API, format!(r"GET {target} HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n"));
    let targets = [
        "/v1/{{TOK_A}}/x",
        "/?key={{TOK_A}}",
        "/?{{TOK_A}}",
        "/{{TOK_A}}?{{TOK_A}}",
        "/{{pct:TOK_A}}",
        "/?k={{pct:TOK_A}}",
    ];
    misdirected(P0, &targets.map(target)).await;
    let attack = Attack::p0().await;
    let outcome = attack.tunnel(API, &target("/x#{{TOK_A}}").1).await;
    assert_eq!(outcome.status, Some(400), "{outcome:?}");
    assert_eq!(attack.upstream_connections(), 0);
    attack.finish().await;
}

#[tokio::test]
async fn SUB_009_a_token_in_an_authority() {
    let attack = Attack::p0().await;
    let explicit = [
        (
            r"CONNECT {{TOK_A}}.evil.test:443 HTTP/1.1\r\nHost: {{TOK_A}}.evil.test:443\r\n\r\n",
            "host_not_allowed",
        ),
        (
            r"CONNECT {{TOK_A}}.wild.test:443 HTTP/1.1\r\nHost: {{TOK_A}}.wild.test:443\r\n\r\n",
            "secret_misdirected",
        ),
        (
            r"GET http://{{TOK_A}}.wild.test/ HTTP/1.1\r\nHost: {{TOK_A}}.wild.test\r\n\r\n",
            "port_not_allowed",
        ),
    ];
    for (text, reason) in explicit {
        let outcome = attack.explicit(text).await;
        assert_eq!(outcome.reason.as_deref(), Some(reason), "{text}: {outcome:?}");
    }
    let inside = r"GET / HTTP/1.1\r\nHost: {{TOK_A}}.api.allowed.test\r\n\r\n";
    assert_eq!(attack.tunnel(API, inside).await.status, Some(421));
    assert_eq!(attack.upstream_connections(), 0);
    let token = attack.sandbox.token("KEY_A").to_owned();
    for event in attack.finish().await {
        assert!(!event.to_string().contains(&token), "{event:#}");
    }
}

#[tokio::test]
async fn SUB_012_a_token_in_fields_of_the_connection() {
    let attack = p0_with(api_h1().await).await;
    let connect = r"CONNECT api.allowed.test:443 HTTP/1.1\r\nHost: api.allowed.test:443\r\nProxy-Authorization: Bearer {{TOK_A}}\r\n\r\n";
    attack.explicit(connect).await;
    let mut variants = Vec::new();
    for name in ["Connection", "TE", "Keep-Alive", "Proxy-Authorization", "Proxy-X", "Upgrade"] {
        variants.push(get("api.allowed.test", &format!("{name}: {{{{TOK_A}}}}")));
    }
    for text in &variants {
        attack.tunnel(API, text).await;
    }
    let heard = attack.api.received();
    assert!(!holds(&heard, attack.sandbox.token("KEY_A")));
    assert!(!holds(&heard, &attack.tollgate.value("KEY_A")));
    attack.finish().await;
}

#[tokio::test]
async fn SUB_014_variants_of_basic_credentials() {
    let attack = p0_with(api_h1().await).await;
    let opened = [
        "Authorization: basic {{b64:u:{{TOK_A}}}}",
        "Authorization: BASIC {{b64:user:{{TOK_A}}}}",
        "Authorization: bAsIc {{b64:{{TOK_A}}:}}",
        "Authorization: Basic\\t{{b64:u:{{TOK_A}}}}",
    ];
    let texts = opened.map(|field| get("api.allowed.test", field));
    let heads = arrived(&attack, &texts).await;
    let expected = [
        "basic {{b64:u:{{S_A}}}}",
        "BASIC {{b64:user:{{S_A}}}}",
        "bAsIc {{b64:{{S_A}}:}}",
        "Basic\\t{{b64:u:{{S_A}}}}",
    ];
    for (head, expected) in heads.iter().zip(expected) {
        let expected = String::from_utf8(attack.expand(expected)).unwrap();
        assert!(holds(head.as_bytes(), &format!("Authorization: {expected}\r\n")), "{head}");
    }
    attack.finish().await;
    let odd = [
        "Authorization: BASIC  {{b64:u:{{TOK_A}}}}",
        "Authorization: Basic {{b64url-nopad:us:{{TOK_A}}}}",
        "Authorization: Basic {{b64:u:{{TOK_A}}}}=",
        "Authorization: Basic {{b64:us:{{TOK_A}}}}=",
    ];
    misdirected(P0, &odd.map(|field| (API, get("api.allowed.test", field)))).await;
    let attack = Attack::p0().await;
    let folded = get("api.allowed.test", r"Authorization: Basic {{b64:u:}}\r\n {{b64:{{TOK_A}}}}");
    assert_eq!(attack.tunnel(API, &folded).await.status, Some(400));
    assert_eq!(attack.upstream_connections(), 0);
    attack.finish().await;
}

/// A token is worth nothing outside, so other encodings of it go on as they are: raw and Basic are what is looked through.
#[tokio::test]
async fn SUB_015_other_encodings_of_a_token_are_not_opened() {
    let attack = p0_with(api_h1().await).await;
    let texts = [
        post("", "{{b64:x{{TOK_B}}}}"),
        get("api.allowed.test", "X: {{hex:TOK_B}}"),
        get("api.allowed.test", "Authorization: Bearer {{b64:TOK_A}}"),
        get("api.allowed.test", "Authorization: Basic {{b64:{{b64:u:{{TOK_A}}}}}}"),
    ];
    let arrived = arrived(&attack, &texts).await;
    let expected =
        ["{{b64:x{{TOK_B}}}}", "{{hex:TOK_B}}", "{{b64:TOK_A}}", "{{b64:{{b64:u:{{TOK_A}}}}}}"];
    for (arrived, expected) in arrived.iter().zip(expected) {
        let expected = String::from_utf8(attack.expand(expected)).unwrap();
        assert!(arrived.contains(&expected), "{arrived}");
    }
    attack.finish().await;
}

#[tokio::test]
async fn SUB_016_a_percent_encoded_token() {
    let policy = p0_of_key_a("'a value with: & +/é%41'", "locations: [query, body]");
    let attack = Attack::with(&policy, json!({})).await;
    let token = attack.sandbox.token("KEY_A");
    let begun = token.replacen('o', "%6f", 1);
    let twice = token.replacen('o', "%256f", 1);
    let form = "Content-Type: application/x-www-form-urlencoded\\r\\n";
    let target = |target: &str| format!(r"GET {target} HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n");
    let texts = [
        target(&format!("/?key={begun}&x=%20+")),
        target(&format!("/?key={twice}")),
        post(form, "k={{pct:TOK_A}}&x=%20+"),
        post(form, &format!("k={twice}")),
    ];
    for text in &texts {
        assert_eq!(attack.tunnel(API, text).await.status, Some(200), "{text}");
    }
    let requests = attack.api.requests();
    let written = "a%20value%20with%3A%20%26%20%2B%2F%C3%A9%2541";
    assert_eq!(requests[0].target, format!("/?key={written}&x=%20+"));
    assert_eq!(requests[1].target, format!("/?key={twice}"));
    assert_eq!(requests[2].body, format!("k={written}&x=%20+"));
    assert_eq!(requests[3].body, format!("k={twice}"));
    attack.finish().await;
}

#[tokio::test]
async fn SUB_017_a_json_escaped_token() {
    let attack = Attack::with(&p0_of_key_a("$KEY_A", ANYWHERE), json!({})).await;
    let token = attack.sandbox.token("KEY_A");
    let hidden = token.replacen('o', r"\\u006F", 1).replacen("sealed", r"\\u0073ealed", 1);
    let text = post("Content-Type: application/json\\r\\n", &format!(r#"{{"k":"{hidden}"}}"#));
    assert_eq!(attack.tunnel(API, &text).await.status, Some(200));
    let body: Value = serde_json::from_slice(&attack.api.request().body).unwrap();
    assert_eq!(body, json!({ "k": attack.tollgate.value("KEY_A") }));
    attack.finish().await;
}

#[tokio::test]
async fn SUB_018_a_value_with_quotes_in_a_json_body() {
    let value = r#"a"b\c}",{"x":"1 é"#;
    let policy = p0_of_key_a(&format!("'{value}'"), ANYWHERE);
    let attack = Attack::with(&policy, json!({})).await;
    let text = post(
        "Content-Type: application/json\\r\\n",
        r#"{"a":[1,{"k":"{{TOK_A}}"}],"b":"\\"{{TOK_A}}"}"#,
    );
    assert_eq!(attack.tunnel(API, &text).await.status, Some(200));
    let body: Value = serde_json::from_slice(&attack.api.request().body).unwrap();
    assert_eq!(body, json!({ "a": [1, { "k": value }], "b": format!("\"{value}") }));
    attack.finish().await;
}

/// `body` means all of the body (DESIGN.md, Seals); the boundary of a multipart body stands in the head, in a field that no default opens.
#[tokio::test]
async fn SUB_020_forms_and_multipart_bodies() {
    let policy = p0_of_key_a("$KEY_A", ANYWHERE);
    let boundary = post(
        "Content-Type: multipart/form-data; boundary={{TOK_A}}\\r\\n",
        r"--{{TOK_A}}\r\n\r\nx\r\n--{{TOK_A}}--\r\n",
    );
    misdirected(&policy, &[(API, boundary)]).await;
    let attack = Attack::with(&policy, json!({})).await;
    let part = r#"--x\r\nContent-Disposition: form-data; name="f"; filename="{{TOK_A}}"\r\n\r\n{{TOK_A}}\r\n--x--\r\n"#;
    let texts = [
        post("Content-Type: application/x-www-form-urlencoded\\r\\n", "k={{TOK_A}}&x=1"),
        post("Content-Type: multipart/form-data; boundary=x\\r\\n", part),
    ];
    for text in &texts {
        assert_eq!(attack.tunnel(API, text).await.status, Some(200), "{text}");
    }
    let value = attack.tollgate.value("KEY_A");
    let [form, multipart] = [0, 1].map(|nth| attack.api.requests()[nth].clone());
    assert_eq!(form.body, format!("k={value}&x=1"));
    let expected = attack.expand(&part.replace("TOK_A", "S_A"));
    assert_eq!(multipart.body, expected);
    assert_eq!(multipart.header("content-length").unwrap(), expected.len().to_string());
    attack.finish().await;
}

/// Every cut of a request that is carried; those that are refused are cut by the support code.
#[tokio::test]
async fn SUB_022_a_token_in_two_pieces() {
    let api = api_h1().await;
    let policy = p0_of_key_a("$KEY_A", ANYWHERE);
    let tollgate = Tollgate::describe(&policy, &[&api]).sidecar("sb-a").start().await;
    let sandbox = tollgate.sandbox("sb-a");
    let (token, value) = (sandbox.token("KEY_A"), tollgate.value("KEY_A"));
    let body = format!("k={token}");
    let request = format!(
        "POST /?q={token} HTTP/1.1\r\nHost: api.allowed.test\r\nX-Api-Key: {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut io = sandbox.tls("api.allowed.test", crate::support::Protocol::H1).await;
    for cut in 1..request.len() {
        let (first, rest) = request.as_bytes().split_at(cut);
        io.write_all(first).await.unwrap();
        io.flush().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        io.write_all(rest).await.unwrap();
        io.flush().await.unwrap();
        let answer = read_answer(&mut io).await;
        assert_eq!(answer.status, 200, "cut at {cut}");
        let mut body = vec![0; answer.header("content-length").unwrap().parse().unwrap()];
        io.read_exact(&mut body).await.unwrap();
    }
    let requests = api.requests();
    assert_eq!(requests.len(), request.len() - 1);
    for (nth, request) in requests.iter().enumerate() {
        let seen = (request.target.as_str(), request.header("x-api-key").unwrap());
        assert_eq!(seen, (&*format!("/?q={value}"), value.clone()), "cut at {}", nth + 1);
        assert_eq!(request.body, format!("k={value}"), "cut at {}", nth + 1);
    }
    drop(io);
    tollgate.finish().await;
}

#[tokio::test]
async fn SUB_025_a_token_in_chunk_extensions_and_trailers() {
    let variants = [
        r"1;x={{TOK_A}}\r\nX\r\n0\r\n\r\n",
        r"1\r\nX\r\n0;x={{TOK_A}}\r\n\r\n",
        r"1\r\nX\r\n0\r\nX-T: {{TOK_A}}\r\n\r\n",
        r"1;x={{TOK_A}}\r\nX\r\n0\r\nX-Api-Key: {{TOK_A}}\r\n\r\n",
    ];
    for policy in [P0, &p0_of_key_a("$KEY_A", ANYWHERE)] {
        let attack = Attack::with(policy, json!({})).await;
        for body in variants {
            let text = format!(
                r"POST / HTTP/1.1\r\nHost: api.allowed.test\r\nTrailer: X-T, X-Api-Key\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            );
            attack.tunnel(API, &text).await;
        }
        let heard = attack.api.received();
        assert!(!holds(&heard, attack.sandbox.token("KEY_A")));
        assert!(!holds(&heard, &attack.tollgate.value("KEY_A")));
        attack.finish().await;
    }
}

/// Any value of a granted field is searched (DESIGN.md, Seals): schemes beside `Bearer`, lists and prefixes are clients' own business. What an
/// upstream echoes of it comes back sealed, which the support code asserts.
#[tokio::test]
async fn SUB_027_a_token_with_text_around_it() {
    let attack = p0_with(api_h1().await).await;
    let fields = [
        "Authorization: Bearer x{{TOK_A}}",
        "Authorization: Digest {{TOK_A}}",
        "X-Api-Key: {{TOK_A}},extra",
    ];
    let heads = arrived(&attack, &fields.map(|field| get("api.allowed.test", field))).await;
    for (head, field) in heads.iter().zip(fields) {
        let expected = attack.expand(&field.replace("TOK_A", "S_A"));
        assert!(holds(head.as_bytes(), &String::from_utf8(expected).unwrap()), "{head}");
    }
    attack.finish().await;
}

/// Tokens in a shape of their own are looked at when the session is made: one that holds another is refused, see `secret::finder`.
#[tokio::test]
async fn SUB_029_names_that_begin_alike() {
    let policy = P0.replace(
        "KEY_A: {",
        "KEY: { from: { value: $KEY }, allowedHosts: [api.allowed.test] }\n      KEY2: { from: { value: $KEY2 }, allowedHosts: [api.allowed.test] }\n      KEY_A: {",
    );
    let attack = Attack::with(&policy, json!({})).await;
    let (one, two) =
        (attack.sandbox.token("KEY").to_owned(), attack.sandbox.token("KEY2").to_owned());
    assert_eq!(one.len(), two.len());
    let text =
        get("api.allowed.test", &format!("Authorization: Bearer {one} / {two} / {one}{two}"));
    assert_eq!(attack.tunnel(API, &text).await.status, Some(200));
    let (one, two) = (attack.tollgate.value("KEY"), attack.tollgate.value("KEY2"));
    let expected = format!("Bearer {one} / {two} / {one}{two}");
    assert_eq!(attack.api.request().header("authorization").unwrap(), expected);
    attack.finish().await;
}

/// P0 with a value for `KEY_A` that is made of `KEY_B`'s token, which is known only once Tollgate runs.
async fn with_value_of_token(
    value: impl Fn(&str) -> String,
    fields: &str,
) -> (Attack, String, String) {
    let attack = Attack::p0().await;
    let value = value(attack.sandbox.token("KEY_B"));
    attack
        .tollgate
        .reload(&p0_of_key_a(&format!("'{value}'"), "headers: [authorization, x-api-key]"))
        .unwrap();
    let outcome = attack.tunnel(API, &get("api.allowed.test", fields)).await;
    assert_eq!(outcome.status, Some(200), "{outcome:?}");
    let request = attack.api.request();
    let arrived = request.header("authorization").or_else(|| request.header("x-api-key")).unwrap();
    (attack, value, arrived)
}

#[tokio::test]
async fn SUB_030_a_value_that_holds_another_token() {
    let field = "Authorization: Bearer {{TOK_A}}";
    let (attack, value, arrived) = with_value_of_token(|token| format!("xx{token}yy"), field).await;
    assert_eq!(arrived, format!("Bearer {value}"));
    attack.finish().await;
}

#[tokio::test]
async fn SUB_031_a_value_that_makes_a_token_with_its_neighbours() {
    let field = "X-Api-Key: osb_sea{{TOK_A}}";
    let (attack, value, arrived) = with_value_of_token(|token| token[7..].to_owned(), field).await;
    assert_eq!(arrived, format!("osb_sea{value}"));
    assert_eq!(arrived, attack.sandbox.token("KEY_B"));
    attack.finish().await;
}

#[tokio::test]
async fn SUB_035_credentials_beside_those_of_the_sandbox() {
    let attack = p0_with(api_h1().await).await;
    let fields = r"Authorization: Bearer attacker-own\r\nX-Api-Key: {{TOK_A}}";
    let heads = arrived(&attack, &[get("api.allowed.test", fields)]).await;
    let value = attack.tollgate.value("KEY_A");
    assert!(
        heads[0].contains(&format!("Authorization: Bearer attacker-own\r\nX-Api-Key: {value}\r\n"))
    );
    attack.finish().await;
    let attack = injecting("").await;
    for own in ["Authorization: mine", "authorization: mine\\r\\nAuthorization: and mine"] {
        attack.tunnel(API, &get("api.allowed.test", own)).await;
        let seen = attack.api.requests().pop().unwrap().header("authorization").unwrap();
        assert_eq!(seen, format!("Bearer {}", attack.tollgate.value("KEY_A")));
    }
    attack.finish().await;
}

/// P0 in which the proxy adds `KEY_A` itself.
async fn injecting(limits: &str) -> Attack {
    let inject = format!("inject: {{ header: authorization, format: 'Bearer {{value}}'{limits} }}");
    let mut attack = Attack::with(&p0_of_key_a("$KEY_A", &inject), json!({})).await;
    // Every process of this machine reaches the listener, so a caller must show who it is.
    attack.sandbox = attack.sandbox.showing_credentials(true);
    attack
}

#[tokio::test]
async fn SUB_036_a_confused_deputy_adds_nothing_beyond_its_methods_and_paths() {
    let attack = injecting(", methods: [GET], paths: ['/v1/**']").await;
    for (method, path) in [("DELETE", "/account"), ("DELETE", "/v1/account"), ("GET", "/account")] {
        let text = format!(r"{method} {path} HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n");
        assert_eq!(attack.tunnel(API, &text).await.status, Some(200), "{text}");
    }
    assert!(attack.api.requests().iter().all(|request| request.header("authorization").is_none()));
    let events = attack.finish().await;
    assert_eq!(events.iter().filter(|event| event["host"] == "api.allowed.test").count(), 6);
}

/// A body is forwarded as it is unless it is opted into (DESIGN.md, Seals): what the host stores is the token.
#[tokio::test]
async fn SUB_038_a_host_that_stores_what_it_is_sent() {
    let attack = p0_with(api_h1().await).await;
    let text = post("Authorization: Bearer {{TOK_A}}\\r\\n", "{{TOK_A}}");
    let arrived = arrived(&attack, &[text]).await;
    let (token, value) = (attack.sandbox.token("KEY_A"), attack.tollgate.value("KEY_A"));
    assert!(arrived[0].ends_with(&format!("\r\n\r\n{token}")), "{}", arrived[0]);
    assert_eq!(arrived[0].matches(&value).count(), 1);
    let events = attack.finish().await;
    assert!(events.iter().any(|event| event["tokensInBody"] == 1), "{events:#?}");
}

#[tokio::test]
async fn SUB_039_a_redirect_is_never_followed() {
    let location = [("Location", "https://evil.test/")];
    let api = Upstream::https("api.allowed.test").h1_only().also("evil.test");
    let attack = p0_with(api.answering(302, &location, "").await).await;
    let text = get("api.allowed.test", "Authorization: Bearer {{TOK_A}}");
    let outcome = attack.tunnel(API, &text).await;
    assert_eq!(outcome.status, Some(302));
    assert_eq!(attack.upstream_requests(), 1);
    attack.finish().await;
}

/// Without a signer a scheme of signatures is text like any other: the upstream gets the value where the token stood, and nobody else does.
#[tokio::test]
async fn SUB_040_schemes_of_signatures() {
    let attack = p0_with(api_h1().await).await;
    // A signature that cannot be made here is refused, with its sealed key id.
    let signed = "Authorization: AWS4-HMAC-SHA256 Credential={{TOK_A}}/20260101/eu/s3/aws4_request, Signature=00";
    let outcome = attack.tunnel(API, &get("api.allowed.test", signed)).await;
    let told = (outcome.status, outcome.reason.as_deref());
    assert_eq!(told, (Some(403), Some("secret_misdirected")), "{outcome:?}");
    // A scheme that nobody knows is text like any other.
    let field = "Authorization: OAuth oauth_consumer_key=\"{{TOK_A}}\"";
    let heads = arrived(&attack, &[get("api.allowed.test", field)]).await;
    let expected = attack.expand(&field.replace("TOK_A", "S_A"));
    assert!(holds(heads[0].as_bytes(), &String::from_utf8(expected).unwrap()), "{}", heads[0]);
    attack.finish().await;
}

#[tokio::test]
async fn SUB_043_nothing_that_is_denied_opens_a_connection() {
    let attack = Attack::p0().await;
    let denied = [
        ("evil.test:443", get("evil.test", "X: 1"), "host_not_allowed"),
        ("api.allowed.test:8443", get("api.allowed.test", "X: 1"), "port_not_allowed"),
        (API, get("evil.test", "X: 1"), "host_mismatch"),
        (API, get("api.allowed.test", "X-Api-Key: {{TOK_B}}"), "secret_misdirected"),
        (API, get("api.allowed.test", "Cookie: {{TOK_A}}"), "secret_misdirected"),
        ("open.allowed.test:443", get("open.allowed.test", "X: {{TOK_A}}"), "secret_misdirected"),
    ];
    for (target, text, reason) in &denied {
        let outcome = attack.tunnel(target, text).await;
        assert_eq!(outcome.reason.as_deref(), Some(*reason), "{text}: {outcome:?}");
        assert_eq!(attack.upstream_connections(), 0, "{text}");
    }
    attack.finish().await;
}

#[test]
fn SUB_044_tokens_cannot_be_guessed_or_linked() {
    let key = SealKey::new(&[7; 32]);
    let name: SecretName = "KEY_A".parse().unwrap();
    let mut seen = HashSet::new();
    let mut ones = [0_u32; 128];
    const COUNT: u32 = 100_000;
    for nth in 0..COUNT {
        let sandbox: SandboxId = format!("sb-{nth}").parse().unwrap();
        let token = key.seal(&sandbox, 0, &name);
        let digits = token.as_str().strip_prefix("osb_sealed_").unwrap();
        assert_eq!(digits.len(), 32);
        assert!(digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        let number = u128::from_str_radix(digits, 16).unwrap();
        (0..128).for_each(|bit| ones[bit] += u32::try_from(number >> bit & 1).unwrap());
        assert!(seen.insert(number), "twice: {nth}");
    }
    // Five standard deviations of a fair coin.
    assert!(ones.iter().all(|&ones| ones.abs_diff(COUNT / 2) < 800), "{ones:?}");
    let other = SealKey::new(&[8; 32]);
    let sandbox: SandboxId = "sb-1".parse().unwrap();
    assert_ne!(other.seal(&sandbox, 0, &name).as_str(), key.seal(&sandbox, 0, &name).as_str());
    assert_ne!(key.seal(&sandbox, 1, &name).as_str(), key.seal(&sandbox, 0, &name).as_str());
}

#[tokio::test]
async fn SUB_045_a_token_tells_nothing_of_its_value() {
    let attack = Attack::p0().await;
    let before = attack.sandbox.token("KEY_A").to_owned();
    for value in ["short-but-fine-20byt".to_owned(), "x".repeat(2048)] {
        let policy = p0_of_key_a(&value, "headers: [authorization]");
        attack.tollgate.reload(&policy).unwrap();
        assert_eq!(attack.tollgate.sandbox("sb-a").token("KEY_A"), before);
    }
    attack.finish().await;
}

#[tokio::test]
async fn SUB_050_ranges_and_conditions_beside_a_secret() {
    let attack = p0_with(api_h1().await).await;
    let fields = r#"Authorization: Bearer {{TOK_A}}\r\nRange: bytes=10-12\r\nIf-Range: "x"\r\nIf-None-Match: "x""#;
    let heads = arrived(&attack, &[get("api.allowed.test", fields)]).await;
    let head = heads[0].to_ascii_lowercase();
    assert!(!head.contains("\r\nrange:") && !head.contains("\r\nif-range:"), "{head}");
    assert!(head.contains("\r\nif-none-match: \"x\"\r\n"), "{head}");
    attack.finish().await;
}

#[tokio::test]
async fn SUB_055_text_that_only_folding_would_make_a_token() {
    let attack = p0_with(api_h1().await).await;
    let fields = [
        "Authorization: Bearer {{fullwidth:TOK_A}}",
        "Authorization: Bearer {{upper:TOK_A}}",
        "Authorization: Bearer {{TOK_A[0:20]}}\\xc2\\xad{{TOK_A[20:]}}",
    ];
    let heads = arrived(&attack, &fields.map(|field| get("api.allowed.test", field))).await;
    for (head, field) in heads.iter().zip(fields) {
        let expected = String::from_utf8(attack.expand(field)).unwrap();
        assert!(head.contains(&expected), "{head}");
    }
    attack.finish().await;
}

/// The self-test opens a token in every place at every host; all of it goes where the policy says, and nobody else is called.
#[test]
fn SUB_041_a_proxy_in_the_environment_is_never_asked() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("policy.yaml"),
        p0_of_key_a("any-value-0123456789", ANYWHERE),
    )
    .unwrap();
    let evil = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    evil.set_nonblocking(true).unwrap();
    let url = format!("http://{}", evil.local_addr().unwrap());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["selftest", "--policies", "policy.yaml", "--fake-values"]);
    command.current_dir(folder.path()).env("TMPDIR", folder.path()).env("NO_PROXY", "");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env(name, &url);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let called = evil.accept().map(|(_, caller)| caller);
    assert_eq!(called.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
