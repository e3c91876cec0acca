//! Internal addresses are out of reach: every answer of the one look-up is checked, and only what was checked is dialled.

use serde_json::json;

use crate::support::{Tollgate, Upstream};

fn policy(allow: &str) -> String {
    format!(
        "secretStores: {{ keys: {{ egressAllowlist: [{allow}] }} }}\nsandboxes: {{ sb-test: {{ secretStores: [keys] }} }}\n"
    )
}

#[tokio::test]
async fn a_name_with_an_internal_address_is_refused() {
    let tollgate = Tollgate::describe(&policy("\"*.example.com\""), &[])
        .config(json!({ "egress": { "allowPrivate": [] } }))
        .start()
        .await;
    let sandbox = tollgate.sandbox("sb-test");
    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "192.0.2.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd00:ec2::254",
    ] {
        tollgate.dns().set("one.example.com", &[address]);
        let answer = sandbox.get("https://one.example.com/").await;
        assert_eq!((answer.status, answer.reason()), (403, "address_not_allowed"), "{address}");
        assert!(
            !answer.text().contains(address),
            "the address is nobody's business: {}",
            answer.text()
        );
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn one_internal_address_among_public_ones_refuses_all() {
    let tollgate = Tollgate::describe(&policy("mixed.example.com"), &[])
        .config(json!({ "egress": { "allowPrivate": [] } }))
        .start()
        .await;
    tollgate.dns().set("mixed.example.com", &["8.8.8.8", "10.0.0.1"]);
    let answer = tollgate.sandbox("sb-test").get("https://mixed.example.com/").await;
    assert_eq!(answer.reason(), "address_not_allowed");
    tollgate.finish().await;
}

#[tokio::test]
async fn a_name_is_resolved_once_and_the_checked_address_is_dialled() {
    let upstream = Upstream::https("named.example.com").await;
    let tollgate = Tollgate::with(&policy("\"named.example.com:*\""), &[]).await;
    tollgate.dns().set("named.example.com", &["127.0.0.1"]);
    upstream.tollgate_started(&tollgate.folder().join("authority"));
    let url = format!("https://named.example.com:{}/", upstream.address().port());
    assert_eq!(tollgate.sandbox("sb-test").get(&url).await.status, 200);
    let mut questions = tollgate.dns().questions();
    questions.sort();
    assert_eq!(questions, ["named.example.com 1", "named.example.com 28"], "A and AAAA, once");
    tollgate.finish().await;
}

#[tokio::test]
async fn an_answer_is_kept_as_long_as_it_is_good() {
    let upstream = Upstream::https("named.example.com")
        .answering(200, &[("connection", "close")], "")
        .h1_only()
        .await;
    let tollgate = Tollgate::with(&policy("\"named.example.com:*\""), &[]).await;
    upstream.tollgate_started(&tollgate.folder().join("authority"));
    let url = format!("https://named.example.com:{}/", upstream.address().port());
    tollgate.dns().set_for(60, "named.example.com", &["127.0.0.1"]);
    for _ in 0..3 {
        assert_eq!(tollgate.sandbox("sb-test").get(&url).await.status, 200);
    }
    assert_eq!(upstream.connections(), 3);
    assert_eq!(tollgate.dns().questions().len(), 2, "A and AAAA, once");
    tollgate.finish().await;
}

/// RFC 8305's delay is for an address that is slow, not for one that has failed.
#[tokio::test]
async fn addresses_that_refuse_cost_no_waiting() {
    let upstream = Upstream::https("named.example.com").await;
    let tollgate = Tollgate::with(&policy("\"named.example.com:*\""), &[]).await;
    let refusing = (2..16).map(|last| format!("127.83.0.{last}"));
    let addresses: Vec<_> = refusing.chain(["127.0.0.1".to_owned()]).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    tollgate.dns().set("named.example.com", &addresses);
    upstream.tollgate_started(&tollgate.folder().join("authority"));
    let url = format!("https://named.example.com:{}/", upstream.address().port());
    let began = tokio::time::Instant::now();
    assert_eq!(tollgate.sandbox("sb-test").get(&url).await.status, 200);
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    tollgate.finish().await;
}

#[tokio::test]
async fn nothing_is_resolved_for_a_name_that_is_not_listed() {
    let tollgate = Tollgate::with(&policy("api.example.com"), &[]).await;
    tollgate.sandbox("sb-test").get("https://data.evil.example.net/").await;
    assert_eq!(tollgate.dns().questions(), [""; 0]);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_name_without_an_address_says_so() {
    let tollgate = Tollgate::with(&policy("gone.example.com"), &[]).await;
    let answer = tollgate.sandbox("sb-test").get("https://gone.example.com/").await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unresolvable"));
    tollgate.finish().await;
}

#[tokio::test]
async fn a_bare_star_never_leads_to_an_internal_address() {
    let upstream = Upstream::https("any.example.com").await;
    let tollgate = Tollgate::with(&policy("\"*\""), &[&upstream]).await;
    let answer = tollgate.sandbox("sb-test").get("https://any.example.com/").await;
    assert_eq!(answer.reason(), "address_not_allowed");
    assert_eq!(upstream.connections(), 0);
    tollgate.finish().await;
}

#[tokio::test]
async fn an_ip_literal_is_reached_only_where_a_pattern_lists_it() {
    let upstream = Upstream::http("127.0.0.1").await;
    let port = upstream.address().port();
    let tollgate =
        Tollgate::with(&policy(&format!("\"127.0.0.1:{port}\", \"*.example.com:*\"")), &[]).await;
    let sandbox = tollgate.sandbox("sb-test");
    assert_eq!(sandbox.get(&format!("http://127.0.0.1:{port}/")).await.status, 200);
    assert_eq!(
        sandbox.get(&format!("http://127.0.0.2:{port}/")).await.reason(),
        "host_not_allowed"
    );
    for host in ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::ffff:127.0.0.1]"] {
        let request = format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        let answer = sandbox.raw(request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 403 "),
            "{host}: {answer}"
        );
    }
    assert_eq!(upstream.requests().len(), 1);
    tollgate.finish().await;
}

#[tokio::test]
async fn tollgates_own_sockets_are_never_dialled() {
    let tollgate = Tollgate::with(&policy("\"self.example.com:*\""), &[]).await;
    tollgate.dns().set("self.example.com", &["127.0.0.1"]);
    let sandbox = tollgate.sandbox("sb-test");
    let answer = sandbox.get(&format!("http://self.example.com:{}/", sandbox.proxy().port())).await;
    assert_eq!((answer.status, answer.reason()), (403, "address_not_allowed"));
    tollgate.finish().await;
}
