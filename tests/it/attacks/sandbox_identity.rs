//! One sandbox that would pass for another: by address, by credentials, by what it writes, and by what the other left behind.
#![expect(clippy::unwrap_used, reason = "a test's set-up fails the test")]

use std::net::IpAddr;

use serde_json::json;

use crate::support::{Tollgate, Upstream, namespace};

// not yet: ID-008 there is no listener on Unix sockets or vsock, where the kernel would name the peer
// not yet: ID-011 nothing looks for the owner of a port; an address, a listener or credentials identify

const POLICY: &str = r#"
secretStores:
  a: { egressAllowlist: [a.allowed.test] }
  b: { egressAllowlist: [b.allowed.test] }
sandboxes:
  sb-a: { secretStores: [a], sources: [127.1.0.1, "fd00:a::/64"] }
  sb-b: { secretStores: [b], sources: [127.1.0.2, "fd00:b::/64"] }
  sb-c: { secretStores: [b] }
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An address of the sandbox's own network is the sandbox; a link-local or another private one is nobody. Spoofed addresses are kept off by
/// the rules of the gateway.
#[test]
fn ID_004_addresses_that_a_sandbox_gives_itself() {
    namespace::run(async || {
        let upstream = Upstream::https("a.allowed.test").await;
        let listen = json!({ "listen": { "transparent": ["[::1]:0"] } });
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(listen).start().await;
        let port = tollgate.server().transparent()[0].port();
        namespace::redirect("ip6 daddr 2001:db8::/32", port);
        let somewhere = "[2001:db8::1]:443".parse().unwrap();
        let anybody = tollgate.sandbox("sb-a");
        for (source, status) in [("fd00:a::5", 200), ("fd00:a::6", 200), ("fd00:b::7", 403)] {
            let sandbox = anybody.clone().dialling_from(ip(source));
            let answer = sandbox.get_at(somewhere, "https://a.allowed.test/").await;
            assert_eq!(answer.status, status, "{source}");
        }
        let nobody = anybody.dialling_from(ip("::1"));
        let protocol = crate::support::Protocol::H1;
        assert!(nobody.open_at(somewhere, "https://a.allowed.test/", protocol).await.is_err());
        tollgate.finish().await;
    });
}

#[tokio::test]
async fn ID_006_a_forged_id() {
    let upstream = Upstream::https("b.allowed.test").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let c = tollgate.sandbox("sb-c").dialling_from(ip("127.2.0.1"));
    let credentials = c.credentials().to_owned();
    let (_, password) = credentials.split_once(':').unwrap();
    assert!(password.len() * 4 >= 128, "{} hex digits", password.len());
    for (user, password) in [
        ("sb-c", "guess"),
        ("sb-c", ""),
        ("sb-c", &password[1..]),
        ("SB-C", password),
        ("sb-b", password),
        ("", password),
        ("sb-unknown", password),
    ] {
        let field = basic(&format!("{user}:{password}"));
        let head = "CONNECT b.allowed.test:443 HTTP/1.1\r\nHost: b.allowed.test:443\r\n";
        let claims =
            "X-Sandbox-Id: sb-c\r\nX-Forwarded-For: 127.1.0.2\r\nForwarded: for=127.1.0.2\r\n";
        let answer =
            c.raw(format!("{head}Proxy-Authorization: {field}\r\n{claims}\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 407 "), "{user}: {answer}");
    }
    // The right ones from the address of another sandbox.
    let elsewhere = c.dialling_from(ip("127.1.0.1")).showing_credentials(true);
    assert_eq!(elsewhere.get("https://b.allowed.test/").await.status, 407);
    assert_eq!(upstream.requests().len(), 0);
    let events = tollgate.finish().await;
    assert!(events.iter().all(|event| event["reason"] == "sandbox_unknown"));
}

fn basic(credentials: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials))
}

#[tokio::test]
async fn ID_010_two_sandboxes_in_one_network_namespace() {
    let mut tollgate = Tollgate::with(POLICY, &[]).await;
    tollgate.expect_error("the policy files were refused");
    let twice = POLICY.replace("127.1.0.2", "127.1.0.1");
    let refused = tollgate.reload(&twice).unwrap_err().to_string();
    assert!(refused.contains("127.1.0.1/32 belongs to the sandbox `sb-a` too"), "{refused}");
    assert!(refused.contains("policy.yaml:"), "{refused}");
    tollgate.finish().await;
}

/// Sessions of TLS resume for the same sandbox only, so not even a shared client of two tells them apart by it; connections to upstreams
/// are never shared.
#[tokio::test]
async fn ID_012_nothing_is_kept_across_sandboxes() {
    let upstream = Upstream::https("a.allowed.test").await;
    let policy = POLICY.replace("[b.allowed.test]", "[a.allowed.test]");
    let tollgate = Tollgate::with(&policy, &[&upstream]).await;
    for (id, source) in [("sb-a", "127.1.0.1"), ("sb-b", "127.1.0.2"), ("sb-a", "127.1.0.1")] {
        let sandbox = tollgate.sandbox(id).dialling_from(ip(source));
        assert_eq!(sandbox.get("https://a.allowed.test/").await.status, 200);
    }
    assert_eq!(upstream.connections(), 2, "one for each sandbox, used again");
    tollgate.finish().await;
}

/// One authority signs for all: what a sandbox can read of it is the certificate, and nobody but Tollgate signs.
#[tokio::test]
async fn ID_013_the_authority_that_all_trust() {
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let sandbox = tollgate.sandbox("sb-a").dialling_from(ip("127.1.0.1"));
    for path in ["ca.pem", "ca-bundle.pem", "ca.key", "seal.key"] {
        let answer = sandbox.get(&format!("http://tollgate.internal/{path}")).await;
        assert!(!answer.text().contains("PRIVATE KEY"), "{path}");
        assert_eq!(answer.status == 200, path.ends_with(".pem"), "{path}");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn ID_014_events_name_who_it_was_and_not_who_it_says() {
    let upstream = Upstream::https("a.allowed.test").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let a = tollgate.sandbox("sb-a").dialling_from(ip("127.1.0.1"));
    a.get_with("https://a.allowed.test/", "x-sandbox-id", "sb-b").await;
    a.get_with("https://a.allowed.test/", "forwarded", "for=127.1.0.2").await;
    let head = "GET http://a.allowed.test/ HTTP/1.1\r\nHost: a.allowed.test\r\n";
    a.raw(format!("{head}Proxy-Authorization: {}\r\n\r\n", basic("sb-b:x")).as_bytes()).await;
    let events = tollgate.finish().await;
    for event in &events {
        assert!(event["client"].as_str().unwrap().starts_with("127.1.0.1:"), "{event}");
        assert_ne!(event["sandboxID"], "sb-b");
    }
    let refused = events.iter().find(|event| event["reason"] == "sandbox_unknown").unwrap();
    assert!(refused["sandboxID"].is_null());
}
