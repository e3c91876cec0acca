//! Names that are spelled, folded, cut or stretched so that a listed host is read where another is dialled, or the other way round.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::unreachable,
    reason = "a test's set-up fails the test"
)]

use std::time::Duration;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use tollgate::host::Authority;

use super::harness::{Bed, Setup, fields};

/// As [`Setup`], with every public host allowed and no secret.
const EVERYTHING: Setup =
    Setup { allow: &[], only: Some("\"*\""), deny: &[], inside: false, resolver: None, two: false };

/// A CONNECT with a Host field that says nothing.
fn connect(target: &[u8]) -> Vec<u8> {
    [b"CONNECT ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat()
}

/// Each is refused with 400 and a closed connection, and audited; nothing is dialled. So too if it comes in single bytes.
async fn malformed(setup: Setup, requests: &[Vec<u8>]) {
    let bed = Bed::with(setup).await;
    for (request, whole) in requests.iter().flat_map(|request| [(request, true), (request, false)])
    {
        let mut talk = if whole {
            bed.explicit_talk(request).await
        } else {
            let mut talk = bed.dial().await;
            talk.send_in_bytes(request).await;
            talk
        };
        let Some(answer) = talk.answer().await else {
            unreachable!("no answer to {}", request.escape_ascii())
        };
        assert_eq!(answer.status, 400, "{}: {answer:?}", request.escape_ascii());
        answer.is_denial(400, "protocol_not_allowed");
        assert!(talk.is_closed().await, "{}", request.escape_ascii());
    }
    bed.nothing_left();
    for event in bed.ended(2 * requests.len()).await {
        assert_eq!(event["reason"], "protocol_not_allowed");
    }
}

async fn malformed_targets(targets: &[&[u8]]) {
    let requests: Vec<_> = targets.iter().map(|target| connect(target)).collect();
    malformed(Setup::default(), &requests).await;
}

/// Each CONNECT is refused with 403 and this reason; nothing is dialled.
async fn denied(setup: Setup, targets: &[&str], reason: &str) {
    let bed = Bed::with(setup).await;
    for target in targets {
        bed.explicit(connect(target.as_bytes())).await.is_denial(403, reason);
    }
    bed.nothing_left();
    for event in bed.ended(targets.len()).await {
        assert_eq!((&event["verdict"], &event["reason"]), (&"deny".into(), &reason.into()));
    }
}

/// A request through a tunnel arrives, with the secret, under the canonical name everywhere.
async fn same_host(target: &str, host_field: &str) {
    let bed = Bed::p0().await;
    let mut talk = bed.tls(target, "api.allowed.test", &["http/1.1"]).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host_field}\r\nAuthorization: Bearer {{{{TOK_A}}}}\r\n\r\n"
    );
    talk.send(&bed.expand(request.as_bytes())).await;
    assert_eq!(talk.answer().await.unwrap().status, 200);
    drop(talk);
    let connections = bed.upstream.connections();
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].sni.as_deref(), Some("api.allowed.test"));
    assert!(bed.upstream.heard().contains("Bearer realvalueAAAA"), "{}", bed.upstream.heard());
    for event in bed.ended(2).await {
        assert_eq!(event["host"], "api.allowed.test");
    }
}

#[tokio::test]
async fn HOST_001_letter_case_does_not_matter() {
    same_host("API.Allowed.TEST:443", "API.Allowed.TEST").await;
}

/// One trailing dot is the same host, in CONNECT and in Host alike.
#[tokio::test]
async fn HOST_003_one_trailing_dot_is_the_same_host() {
    same_host("api.allowed.test.:443", "api.allowed.test.").await;
}

#[tokio::test]
async fn HOST_004_a_trailing_dot_does_not_escape_a_deny() {
    let setup = Setup { deny: &["secret.wild.test"], ..Setup::default() };
    denied(setup, &["secret.wild.test.:443", "SECRET.wild.test:443"], "host_denied").await;
}

#[tokio::test]
async fn HOST_005_two_trailing_dots() {
    let targets: [&[u8]; 2] = [b"evil.test..:443", b"api.allowed.test..:443"];
    malformed_targets(&targets).await;
    let setup = Setup { deny: &["evil.test"], ..EVERYTHING };
    malformed(setup, &targets.map(connect)).await;
}

#[tokio::test]
async fn HOST_007_a_leading_dot() {
    malformed_targets(&[b".wild.test:443"]).await;
}

#[tokio::test]
async fn HOST_008_an_empty_label() {
    malformed_targets(&[b"a..wild.test:443"]).await;
}

#[tokio::test]
async fn HOST_010_an_allowed_name_in_front_of_another() {
    denied(Setup::default(), &["api.allowed.test.evil.test:443"], "host_not_allowed").await;
}

#[tokio::test]
async fn HOST_011_a_dot_is_a_dot() {
    denied(Setup::default(), &["apixallowed.test:443"], "host_not_allowed").await;
}

#[tokio::test]
async fn HOST_012_a_wildcard_is_not_its_apex() {
    let bed = Bed::p0().await;
    bed.explicit(connect(b"wild.test:443")).await.is_denial(403, "host_not_allowed");
    let told = told(&bed, "https://wild.test/").await;
    assert_eq!((&told["verdict"], &told["reason"]), (&"deny".into(), &"host_not_allowed".into()));
    bed.nothing_left();
    drop(bed.ended(2).await);
}

/// What introspection says of a URL.
async fn told(bed: &Bed, url: &str) -> serde_json::Value {
    let request = format!(
        "GET http://tollgate.internal/check?url={url} HTTP/1.1\r\nHost: tollgate.internal\r\n\r\n"
    );
    serde_json::from_str(&bed.explicit(request).await.body).unwrap()
}

/// Any depth below. DNS has no part in it: its answers never depend on the host.
#[tokio::test]
async fn HOST_013_a_wildcard_has_any_depth_everywhere() {
    let bed = Bed::p0().await;
    let answer = bed.tunnel("a.b.wild.test", "GET / HTTP/1.1\r\nHost: a.b.wild.test\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    assert_eq!(told(&bed, "https://a.b.wild.test/").await["verdict"], "allow");
    drop(bed.ended(3).await);
}

/// SOCKS is not offered.
#[tokio::test]
async fn HOST_015_socks_is_closed() {
    let bed = Bed::p0().await;
    let mut talk = bed
        .explicit_talk(b"\x05\x01\x00\x05\x01\x00\x03\x14evil.test\0.wild.test\x01\xbb\r\n\r\n")
        .await;
    let rest = talk.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"), "{}", rest.escape_ascii());
    bed.nothing_left();
    drop(bed.ended(1).await);
}

#[tokio::test]
async fn HOST_019_userinfo() {
    let bed = Bed::p0().await;
    for host in ["x@api.allowed.test", "api.allowed.test@evil.test"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        bed.tunnel("api.allowed.test", request).await.is_denial(400, "protocol_not_allowed");
    }
    let block = fields(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "api.allowed.test@evil.test"),
    ]);
    bed.h2("api.allowed.test", &[block]).await[0].is_malformed();
    bed.nothing_left();
    drop(bed.ended(6).await);
}

#[tokio::test]
async fn HOST_020_a_backslash() {
    let requests = [
        b"GET http://evil.test\\.wild.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n".to_vec(),
        b"GET http://api.allowed.test\\@evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n".to_vec(),
    ];
    malformed(Setup::default(), &requests).await;
}

#[tokio::test]
async fn HOST_021_delimiters() {
    malformed_targets(&[
        b"evil.test#.wild.test:443",
        b"evil.test?.wild.test:443",
        b"evil.test/.wild.test:443",
        b"evil.test;.wild.test:443",
    ])
    .await;
}

#[tokio::test]
async fn HOST_022_white_space_and_controls() {
    malformed_targets(&[
        b"evil.test .wild.test:443",
        b"evil.test\t.wild.test:443",
        b"evil.test\x0b.wild.test:443",
        b"evil.test\x7f.wild.test:443",
    ])
    .await;
}

#[tokio::test]
async fn HOST_023_a_u_label_on_the_wire() {
    let setup = Setup { allow: &["xn--bcher-kva.test"], ..Setup::default() };
    malformed(setup, &[connect("bücher.wild.test:443".as_bytes())]).await;
}

#[tokio::test]
async fn HOST_024_fullwidth_letters() {
    malformed_targets(&["ａpi.allowed.test:443".as_bytes()]).await;
}

#[tokio::test]
async fn HOST_025_other_full_stops() {
    malformed_targets(&["evil。test:443".as_bytes(), "evil.test．wild.test:443".as_bytes()]).await;
}

#[tokio::test]
async fn HOST_026_invisible_characters() {
    malformed_targets(&[
        "api\u{ad}.allowed.test:443".as_bytes(),
        "api\u{200b}.allowed.test:443".as_bytes(),
        "api\u{200d}.allowed.test:443".as_bytes(),
    ])
    .await;
}

#[tokio::test]
async fn HOST_028_deviation_characters_are_two_names() {
    let setup = Setup { only: Some("fass.test"), ..Setup::default() };
    denied(setup, &["xn--fa-hia.test:443"], "host_not_allowed").await;
    // The other way round: the U-label in a policy is its own A-label, and not "fass".
    let setup = Setup { only: Some("faß.test"), ..Setup::default() };
    denied(setup, &["fass.test:443"], "host_not_allowed").await;
}

#[tokio::test]
async fn HOST_031_lengths() {
    let long_label = format!("{}.wild.test:443", "a".repeat(64));
    let long_name = format!("{}wild.test:443", "a.".repeat(125));
    malformed_targets(&[long_label.as_bytes(), long_name.as_bytes()]).await;
    // 63 and 253 octets are hosts, have a leaf, and are looked up: here nobody answers.
    let bed = Bed::p0().await;
    for host in
        [format!("{}.wild.test", "a".repeat(63)), format!("{}a.wild.test", "a.".repeat(121))]
    {
        assert!(host.len() <= 253);
        let mut talk = bed.tls(&format!("{host}:443"), &host, &["http/1.1"]).await.unwrap();
        talk.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        assert!(matches!(talk.answer().await.unwrap().status, 502 | 504));
    }
    drop(bed.ended(4).await);
}

#[tokio::test]
async fn HOST_033_a_port_with_leading_zeros() {
    malformed_targets(&[b"api.allowed.test:0443", b"api.allowed.test:+443"]).await;
}

#[tokio::test]
async fn HOST_034_no_port() {
    malformed_targets(&[
        b"api.allowed.test:",
        b"api.allowed.test",
        b"api.allowed.test:0",
        b"api.allowed.test:65979",
    ])
    .await;
}

#[tokio::test]
async fn HOST_037_an_address_matches_no_name() {
    denied(Setup::default(), &["203.0.113.10:443"], "host_not_allowed").await;
    denied(EVERYTHING, &["203.0.113.10:443", "127.0.0.1:443"], "host_not_allowed").await;
}

#[tokio::test]
async fn HOST_038_other_spellings_of_ipv4() {
    let targets: [&[u8]; 7] = [
        b"2130706433:443",
        b"0177.0.0.1:443",
        b"0x7f.0.0.1:443",
        b"0x7f000001:443",
        b"127.1:443",
        b"127.0.1:443",
        b"0:443",
    ];
    malformed_targets(&targets).await;
    malformed(EVERYTHING, &targets.map(connect)).await;
}

/// Canonical spellings are literals that no pattern lists; the others are malformed.
#[tokio::test]
async fn HOST_042_ipv6_loopback() {
    denied(EVERYTHING, &["[::1]:443", "[::]:443"], "host_not_allowed").await;
    malformed(EVERYTHING, &[b"[0:0:0:0:0:0:0:1]:443".as_slice(), b"[::0001]:443"].map(connect))
        .await;
}

/// Forms that embed IPv4 are malformed, whatever they embed.
#[tokio::test]
async fn HOST_043_ipv4_within_ipv6() {
    let targets: [&[u8]; 4] = [
        b"[::ffff:127.0.0.1]:443",
        b"[::ffff:a9fe:a9fe]:80",
        b"[::127.0.0.1]:443",
        b"[::ffff:0:127.0.0.1]:443",
    ];
    malformed(EVERYTHING, &targets.map(connect)).await;
}

#[tokio::test]
async fn HOST_044_zone_ids() {
    let targets: [&[u8]; 3] = [b"[::1%25lo]:443", b"[::1%lo]:443", b"[fe80::1%25.wild.test]:443"];
    malformed_targets(&targets).await;
    malformed(EVERYTHING, &targets.map(connect)).await;
}

#[tokio::test]
async fn HOST_045_brackets() {
    malformed_targets(&[
        b"[api.allowed.test]:443",
        b"[v1.api]:443",
        b"[::1:443",
        b"::1]:443",
        b"[::1].wild.test:443",
    ])
    .await;
}

#[tokio::test]
async fn HOST_046_ipv6_without_brackets() {
    malformed_targets(&[b"::1:443", b"2001:db8::1"]).await;
}

#[tokio::test]
async fn HOST_047_single_labels_and_the_search_list() {
    let targets = ["localhost:443", "metadata:80", "kubernetes:443"];
    denied(Setup::default(), &targets, "host_not_allowed").await;
    // Where such a name is allowed, the look-up is for that one label and no other name.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = Some(socket.local_addr().unwrap());
    let bed = Bed::with(Setup { only: Some("kubernetes"), resolver, ..Setup::default() }).await;
    let mut talk = bed.inside("kubernetes", "GET / HTTP/1.1\r\nHost: kubernetes\r\n\r\n").await;
    let mut buffer = [0; 512];
    for _ in 0..2 {
        let asked =
            tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await;
        let (length, peer) = asked.unwrap().unwrap();
        let mut answer = buffer[..length].to_vec();
        assert_eq!(&answer[12..24], b"\x0akubernetes\0");
        // NXDOMAIN.
        (answer[2], answer[3]) = (0x81, 0x83);
        assert_eq!(socket.send_to(&answer, peer).await.unwrap(), length);
    }
    talk.answer().await.unwrap().is_denial(502, "upstream_unresolvable");
    let more =
        tokio::time::timeout(Duration::from_millis(100), socket.recv_from(&mut buffer)).await;
    assert!(more.is_err(), "another name was looked up");
    drop(talk);
    drop(bed.ended(2).await);
}

#[tokio::test]
async fn HOST_049_a_list_in_host() {
    let bed = Bed::p0().await;
    let request = "GET / HTTP/1.1\r\nHost: api.allowed.test, evil.test\r\n\r\n";
    let mut talk = bed.inside("api.allowed.test", request).await;
    talk.answer().await.unwrap().is_denial(400, "protocol_not_allowed");
    assert!(talk.is_closed().await);
    bed.nothing_left();
    drop(bed.ended(2).await);
}

#[tokio::test]
async fn HOST_050_a_literal_star() {
    malformed_targets(&[b"*:443", b"*.wild.test:443"]).await;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// There is no second parser on the path to disagree with; these are the libraries' own.
    #[test]
    fn HOST_054_what_is_accepted_is_read_alike(text in "[a-zA-Z0-9.:_@%\\-\\[\\]]{1,24}|[0-9a-fx.]{1,16}:[0-9]{1,5}|\\[[0-9a-f:.]{2,20}\\](:[0-9]{0,5})?") {
        let Ok(ours) = Authority::parse(&text) else { return Ok(()) };
        let theirs: http::uri::Authority = text.parse().unwrap();
        let host = theirs.host().trim_start_matches('[').trim_end_matches(']');
        prop_assert_eq!(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(), ours.host.as_str());
        prop_assert_eq!(theirs.port_u16(), ours.port.map(tollgate::host::Port::get));
        let name = ServerName::try_from(ours.host.as_str().to_owned()).unwrap();
        prop_assert_eq!(name.to_str(), ours.host.as_str());
        prop_assert_eq!(matches!(name, ServerName::IpAddress(_)), ours.host.ip().is_some());
        prop_assert_eq!(ours.host.as_str().parse::<std::net::IpAddr>().ok(), ours.host.ip());
    }
}
