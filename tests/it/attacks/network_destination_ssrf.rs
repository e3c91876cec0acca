//! Names that lead where nobody outside may go: every address of the one look-up is judged before any is dialled.
//!
//! `internal.allowed.test` is listed by name, so only its addresses stand between a sandbox and the host's networks.
#![expect(clippy::unwrap_used, reason = "a test's set-up fails the test")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tollgate::host::address::{Reach, reach};

use super::dns_responder::{answer_to, liar};
use crate::support::{Attack, P0, SOON, Upstream, namespace};

const INTERNAL: &str = "internal.allowed.test";
const URL: &str = "https://internal.allowed.test/";

async fn p0(allow_private: Value) -> Attack {
    Attack::with(P0, json!({ "egress": { "allowPrivate": allow_private } })).await
}

async fn get(attack: &Attack, url: &str) -> (u16, String) {
    let sandbox = &attack.sandbox;
    let answer = sandbox.get_with(url, "authorization", "Bearer none").await;
    (answer.status, answer.reason().to_owned())
}

/// Each set of addresses refuses the name: nothing is dialled, the sandbox is not told the address, the audit is.
async fn refused(sets: &[&[&str]]) {
    let attack = p0(json!([])).await;
    for addresses in sets {
        attack.tollgate.dns().set(INTERNAL, addresses);
        let answer = attack.sandbox.get(URL).await;
        assert_eq!((answer.status, answer.reason()), (403, "address_not_allowed"), "{addresses:?}");
        assert!(
            !addresses.iter().any(|address| answer.text().contains(address)),
            "{}",
            answer.text()
        );
    }
    assert_eq!(attack.upstream_connections(), 0);
    // A tunnel each, and the request inside it.
    let events = attack.tollgate.events(2 * sets.len()).await;
    let denied: Vec<_> = events.iter().filter(|event| event["verdict"] == "deny").collect();
    assert_eq!(denied.len(), sets.len());
    for (event, addresses) in denied.into_iter().zip(sets) {
        assert_eq!(event["host"], INTERNAL);
        let told: IpAddr = event["address"].as_str().unwrap().parse().unwrap();
        assert!(addresses.iter().any(|address| address.parse() == Ok(told)), "{event:#}");
    }
    attack.tollgate.finish().await;
}

async fn each_refused(addresses: &[&str]) {
    refused(&addresses.iter().map(std::slice::from_ref).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn NET_001_loopback() {
    each_refused(&["127.0.0.1", "127.255.255.254", "127.0.0.53", "::1"]).await;
}

#[tokio::test]
async fn NET_002_this_network() {
    each_refused(&["0.0.0.0", "0.1.2.3", "::"]).await;
}

#[tokio::test]
async fn NET_005_carrier_grade_nat() {
    each_refused(&["100.64.0.1", "100.127.255.255", "100.100.100.200"]).await;
}

#[tokio::test]
async fn NET_006_benchmarks_documentation_and_reserved() {
    each_refused(&[
        "198.18.0.1",
        "198.19.255.255",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.88.99.1",
        "168.63.129.16",
    ])
    .await;
}

#[tokio::test]
async fn NET_007_multicast() {
    each_refused(&["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"]).await;
}

#[tokio::test]
async fn NET_009_networks_of_ipv6_that_are_not_global() {
    each_refused(&[
        "fc00::1",
        "fd12::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fec0::1",
        "fe80::1",
        "2001:db8::1",
        "3fff::1",
        "100::1",
        "5f00::1",
        "4000::1",
    ])
    .await;
}

#[tokio::test]
async fn NET_010_mapped_and_compatible() {
    each_refused(&[
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "::10.0.0.1",
        "::ffff:0:127.0.0.1",
    ])
    .await;
}

#[tokio::test]
async fn NET_012_the_well_known_prefix_of_nat64() {
    each_refused(&[
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::10.0.0.1",
        "64:ff9b::8.8.8.8",
    ])
    .await;
}

#[tokio::test]
async fn NET_013_the_local_prefix_of_nat64() {
    each_refused(&["64:ff9b:1:a9fe:a9:fe00:808:808", "64:ff9b:1::808:808", "64:ff9b:1:ffff::1"])
        .await;
}

/// Where the operator names the prefix of the network's own NAT64, the embedded address is judged, at its own place.
#[tokio::test]
async fn NET_013_a_prefix_of_the_networks_own_nat64() {
    let attack = Attack::with(
        P0,
        json!({ "egress": { "allowPrivate": ["10.1.0.0/16"], "nat64": ["2606:4700:64::/96", "2606:4700:48::/48"] } }),
    )
    .await;
    for address in
        ["2606:4700:64::a9fe:a9fe", "2606:4700:64::127.0.0.1", "2606:4700:48:a9fe:a9:fe00:808:808"]
    {
        attack.tollgate.dns().set(INTERNAL, &[address]);
        assert_eq!(get(&attack, URL).await, (403, "address_not_allowed".to_owned()), "{address}");
    }
    attack.tollgate.finish().await;
}

#[tokio::test]
async fn NET_015_six_to_four() {
    each_refused(&["2002:7f00:1::", "2002:a9fe:a9fe::", "2002:0a00:0001::", "2002:808:808::1"])
        .await;
}

#[tokio::test]
async fn NET_016_teredo_and_isatap() {
    each_refused(&[
        "2001:0:cb00:710a:0:ffff:80ff:fffe",
        "2606:4700::5efe:7f00:1",
        "2606:4700:1:2:200:5efe:a00:1",
    ])
    .await;
}

#[test]
fn NET_017_a_public_address_that_looks_like_a_mapped_one_is_public() {
    for address in
        ["2606:4700:1404:c8:0:ffff:ac19:c80e", "2606:4700::7f00:1", "2a00:1450::ffff:10.0.0.1"]
    {
        assert_eq!(reach(address.parse().unwrap()), Reach::Public, "{address}");
    }
}

/// The whole name is refused, whatever else it has, and wherever the bad address stands.
#[tokio::test]
async fn NET_019_one_bad_address_among_good_ones() {
    refused(&[
        &["8.8.8.8", "127.0.0.1"],
        &["127.0.0.1", "8.8.8.8"],
        &["8.8.8.8", "1.1.1.1", "10.0.0.1"],
    ])
    .await;
}

#[tokio::test]
async fn NET_020_public_a_and_private_aaaa() {
    refused(&[&["8.8.8.8", "::1"], &["10.0.0.1", "2606:4700::1111"]]).await;
}

/// A CNAME to another name, and that name's address, in one answer.
fn alias(asked: &[u8], target: &[u8], address: [u8; 4]) -> Vec<u8> {
    let length = u8::try_from(target.len()).unwrap();
    let mut records = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x00\x00".to_vec();
    records.push(length);
    records.extend_from_slice(target);
    records.extend_from_slice(target);
    records.extend_from_slice(b"\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04");
    records.extend_from_slice(&address);
    answer_to(asked, &records, (2, 0))
}

/// To a name that is not listed it is allowed: the name of the request decides, and TLS proves it.
#[tokio::test]
async fn NET_021_aliases_are_judged_by_where_they_lead() {
    let metadata = liar(|asked| {
        vec![alias(asked, b"\x08metadata\x06google\x08internal\x00", [169, 254, 169, 254])]
    });
    let elsewhere = liar(|asked| vec![alias(asked, b"\x04evil\x04test\x00", [127, 0, 0, 1])]);
    for (resolver, private, expected) in [
        (metadata.await, json!([]), (403, "address_not_allowed")),
        (elsewhere.await, json!(["127.0.0.0/8"]), (502, "upstream_unreachable")),
    ] {
        let attack = Attack::with(
            P0,
            json!({ "egress": { "allowPrivate": private }, "upstream": { "resolver": [resolver.to_string()] } }),
        )
        .await;
        let (status, reason) = get(&attack, URL).await;
        assert_eq!((status, reason.as_str()), expected);
        attack.tollgate.finish().await;
    }
}

/// An upstream at 127.0.0.1, which alone is allowed; everything else of loopback is as private as ever.
async fn rebinding(upstream: &Upstream) -> (Attack, String) {
    let attack = Attack::with(
        &P0.replace("internal.allowed.test:443", "\"internal.allowed.test:*\""),
        json!({ "egress": { "allowPrivate": ["127.0.0.1/32"] } }),
    )
    .await;
    upstream.tollgate_started(&attack.tollgate.folder().join("authority"));
    attack.tollgate.dns().set(INTERNAL, &["127.0.0.1"]);
    (attack, format!("https://{INTERNAL}:{}/", upstream.address().port()))
}

#[tokio::test]
async fn NET_022_a_name_is_resolved_once_per_dial_and_judged_each_time() {
    let upstream =
        Upstream::https(INTERNAL).answering(200, &[("connection", "close")], "").h1_only().await;
    let (attack, url) = rebinding(&upstream).await;
    assert_eq!(get(&attack, &url).await.0, 200);
    assert_eq!(attack.tollgate.dns().questions().len(), 2, "A and AAAA, once");
    attack.tollgate.dns().set(INTERNAL, &["127.0.0.2"]);
    assert_eq!(get(&attack, &url).await, (403, "address_not_allowed".to_owned()));
    assert_eq!((upstream.connections(), attack.tollgate.dns().questions().len()), (1, 4));
    attack.tollgate.finish().await;
}

#[tokio::test]
async fn NET_023_a_failed_dial_is_not_resolved_again_and_a_reconnect_is_judged_again() {
    let upstream =
        Upstream::https(INTERNAL).answering(200, &[("connection", "close")], "").h1_only().await;
    let (attack, url) = rebinding(&upstream).await;
    // Nobody listens at port 1: refused, and that is the end.
    let closed = format!("https://{INTERNAL}:1/");
    assert_eq!(get(&attack, &closed).await, (502, "upstream_unreachable".to_owned()));
    assert_eq!(attack.tollgate.dns().questions().len(), 2, "one look-up for all attempts");
    for (address, status) in
        [("127.0.0.1", 200), ("10.0.0.1", 403), ("127.0.0.1", 200), ("::1", 403)]
    {
        attack.tollgate.dns().set(INTERNAL, &[address]);
        assert_eq!(get(&attack, &url).await.0, status, "{address}");
    }
    assert_eq!(upstream.connections(), 2);
    attack.tollgate.finish().await;
}

/// SERVFAIL, silence, and no address: an error each; the original destination, another resolver and an unchecked dial are no way out.
#[tokio::test]
async fn NET_024_a_resolver_that_fails() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let servfail = liar(|asked| {
        let mut answer = answer_to(asked, b"", (0, 0));
        if let Some(code) = answer.get_mut(3) {
            *code = 0x82;
        }
        vec![answer]
    });
    let silent = liar(|_| {
        ASKED.fetch_add(1, Ordering::Relaxed);
        Vec::new()
    });
    let empty = liar(|asked| vec![answer_to(asked, b"", (0, 0))]);
    for (what, resolver, expected) in [
        ("SERVFAIL", servfail.await, [(502, "upstream_unresolvable"), (504, "upstream_timeout")]),
        ("silence", silent.await, [(502, "upstream_unresolvable"), (504, "upstream_timeout")]),
        ("no address", empty.await, [(502, "upstream_unresolvable"); 2]),
    ] {
        let attack = Attack::with(
            P0,
            json!({
                "upstream": { "resolver": [resolver.to_string()] },
                "limits": { "connectTimeout": "2s" },
            }),
        )
        .await;
        let (status, reason) = get(&attack, URL).await;
        assert!(expected.contains(&(status, reason.as_str())), "{what}: {status} {reason}");
        assert_eq!(attack.tollgate.dns().questions(), [""; 0], "{what}: nobody else is asked");
        attack.tollgate.finish().await;
    }
    assert!(ASKED.load(Ordering::Relaxed) > 0);
}

/// Even where loopback is allowed: the explicit listener, metrics, the responder.
#[tokio::test]
async fn NET_026_tollgates_own_sockets() {
    let policy =
        P0.replace("internal.allowed.test:443", "\"internal.allowed.test:*\", \"127.0.0.1:*\"");
    let attack = Attack::with(
        &policy,
        json!({
            "listen": { "metrics": "127.0.0.1:0", "dns": ["127.0.0.1:0"] },
            "egress": { "allowPrivate": ["127.0.0.0/8", "::ffff:0:0/96"] },
        }),
    )
    .await;
    let server = attack.tollgate.server();
    let mut own = vec![server.metrics().unwrap(), server.dns().first().copied().unwrap()];
    own.push(attack.sandbox.proxy());
    for socket in own {
        for address in ["127.0.0.1", "::ffff:127.0.0.1"] {
            attack.tollgate.dns().set(INTERNAL, &[address]);
            let url = format!("http://{INTERNAL}:{}/", socket.port());
            let refused = get(&attack, &url).await;
            assert_eq!(refused, (403, "address_not_allowed".to_owned()), "{socket} as {address}");
        }
        let literal = get(&attack, &format!("http://{socket}/")).await;
        assert_eq!(literal, (403, "address_not_allowed".to_owned()), "{socket}");
    }
    attack.tollgate.finish().await;
}

/// A listener on the unspecified address has all of the machine's, private and public ones.
#[test]
fn NET_026_tollgates_own_sockets_at_every_address_of_the_machine() {
    namespace::run(async || {
        namespace::address("8.8.8.8/32");
        namespace::address("2606:4700::1111/128");
        let policy = P0.replace("internal.allowed.test:443", "\"internal.allowed.test:*\"");
        let attack = Attack::with(
            &policy,
            json!({
                "listen": { "explicit": ["0.0.0.0:0", "[::]:0"], "nonLocal": true },
                "egress": { "allowPrivate": ["10.0.0.0/8", "127.0.0.0/8", "fd00::/8", "::1/128"] },
            }),
        )
        .await;
        let listeners = attack.tollgate.server().explicit();
        let (v4, v6) = (listeners.first().unwrap(), listeners.last().unwrap());
        for (address, port) in [
            ("127.0.0.1", v4.port()),
            ("127.83.0.9", v4.port()),
            ("10.0.0.5", v4.port()),
            ("8.8.8.8", v4.port()),
            ("::1", v6.port()),
            ("fd00:a::5", v6.port()),
            ("2606:4700::1111", v6.port()),
        ] {
            attack.tollgate.dns().set(INTERNAL, &[address]);
            let refused = attack.sandbox.get(&format!("http://{INTERNAL}:{port}/")).await;
            let told = (refused.status, refused.reason());
            assert_eq!(told, (403, "address_not_allowed"), "{address}: {}", refused.text());
        }
        // As many connections as the test itself opened: no one came from Tollgate.
        assert_eq!(attack.tollgate.events(7).await.len(), 7);
        attack.tollgate.finish().await;
    });
}

#[tokio::test]
async fn NET_027_neighbours_and_the_gateway() {
    each_refused(&[
        "10.20.0.1",
        "10.20.0.6",
        "172.16.0.1",
        "192.168.1.1",
        "fd00::1",
        "169.254.1.1",
    ])
    .await;
}

#[tokio::test]
async fn NET_028_an_exception_holds_for_its_network_and_its_hosts_alone() {
    let upstream = Upstream::https(INTERNAL).also("www.wild.test").await;
    let policy = P0.replace(
        "internal.allowed.test:443, \"*.wild.test:443\"",
        "\"internal.allowed.test:*\", \"*.wild.test:*\"",
    );
    let exception = json!([{ "cidr": "127.0.0.1/32", "hosts": ["internal.allowed.test:*"] }]);
    let attack = Attack::with(&policy, json!({ "egress": { "allowPrivate": exception } })).await;
    upstream.tollgate_started(&attack.tollgate.folder().join("authority"));
    let at = |host: &str| format!("https://{host}:{}/", upstream.address().port());
    for (host, address, status) in [
        (INTERNAL, "127.0.0.1", 200),
        (INTERNAL, "127.0.0.2", 403),
        (INTERNAL, "10.1.3.1", 403),
        (INTERNAL, "169.254.169.254", 403),
        (INTERNAL, "::1", 403),
        ("y.wild.test", "127.0.0.1", 403),
    ] {
        attack.tollgate.dns().set(host, &[address]);
        assert_eq!(get(&attack, &at(host)).await.0, status, "{host} at {address}");
        attack.tollgate.server().proxy().upstreams.clear();
    }
    attack.tollgate.finish().await;
}

#[tokio::test]
async fn NET_030_redirects_are_not_followed() {
    let location = "http://169.254.169.254/latest/meta-data/";
    let upstream = Upstream::https(INTERNAL).answering(302, &[("location", location)], "").await;
    let (attack, url) = rebinding(&upstream).await;
    let answer = attack.sandbox.get(&url).await;
    assert_eq!((answer.status, answer.header("location")), (302, Some(location)));
    let (status, reason) = get(&attack, location).await;
    assert_eq!((status, reason.as_str()), (403, "host_not_allowed"));
    assert_eq!((upstream.requests().len(), upstream.connections()), (1, 1));
    attack.tollgate.finish().await;
}

/// The address of an allowed host is not that host.
#[tokio::test]
async fn NET_032_the_address_of_an_allowed_host() {
    let attack = Attack::p0().await;
    attack.tollgate.dns().set("api.allowed.test", &["203.0.113.10"]);
    for target in ["203.0.113.10:443", "127.0.0.1:443", "[2606:4700::1111]:443"] {
        let outcome = attack
            .explicit(&format!("CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n"))
            .await;
        assert_eq!(
            (outcome.status, outcome.reason.as_deref()),
            (Some(403), Some("host_not_allowed"))
        );
    }
    assert_eq!(attack.upstream_connections(), 0);
    attack.finish().await;
}

/// With TLS, with plain HTTP, and with an own listener in the Host field: there is no destination to take the port from, and none is made up.
#[tokio::test]
async fn NET_034_a_connection_that_nothing_redirected() {
    let attack =
        Attack::with(P0, json!({ "listen": { "transparent": ["127.0.0.1:0", "[::1]:0"] } })).await;
    let listeners = attack.tollgate.server().transparent().to_vec();
    for listener in &listeners {
        let own = format!("GET / HTTP/1.1\r\nHost: {listener}\r\n\r\n");
        let named = "GET / HTTP/1.1\r\nHost: api.allowed.test\r\n\r\n".to_owned();
        for bytes in [own.as_bytes(), named.as_bytes(), b"\x16\x03\x01\x00\x05hello"] {
            let mut stream = TcpStream::connect(listener).await.unwrap();
            drop(stream.write_all(bytes).await);
            let mut answer = Vec::new();
            drop(tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap());
            assert_eq!(answer, b"", "{listener}: {}", bytes.escape_ascii());
        }
    }
    let events = attack.tollgate.events(3 * listeners.len()).await;
    assert!(events.iter().all(|event| event["reason"] == "address_not_allowed"), "{events:#?}");
    assert_eq!(attack.upstream_connections(), 0);
    attack.tollgate.finish().await;
}
