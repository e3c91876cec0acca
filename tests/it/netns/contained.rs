//! What must not leave, and who must not be reached.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::rig::{A, API, B, GATEWAY, OTHER, Said};
use super::{Rig, STORES, Way};
use crate::support::Upstream;

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// The address of a name that carries something out, as a question (RFC 1035 §4).
fn question() -> Vec<u8> {
    let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["data-to-carry-out", "evil", "example", "net"] {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

fn ask_over_udp(rig: &Rig, server: SocketAddr) -> Vec<u8> {
    let socket = rig.a.udp(at(if server.is_ipv4() { "0.0.0.0" } else { "::" }, 0));
    // Connected, so that the answer must come from whom was asked.
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send(&question()).unwrap();
    let mut answer = vec![0; 512];
    let length = socket.recv(&mut answer).unwrap_or_else(|error| panic!("{server}: {error}"));
    answer.truncate(length);
    answer
}

fn ask_over_tcp(rig: &Rig, server: SocketAddr) -> Vec<u8> {
    let mut tcp = rig.a.connect(server).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let question = question();
    let framed = [&u16::try_from(question.len()).unwrap().to_be_bytes()[..], &question].concat();
    tcp.write_all(&framed).unwrap();
    let mut length = [0; 2];
    tcp.read_exact(&mut length).unwrap_or_else(|error| panic!("{server}: {error}"));
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    tcp.read_exact(&mut answer).unwrap();
    answer
}

/// For both ways: raw UDP, QUIC, ICMP, and what they say at once.
async fn only_tcp_and_dns_reach_anything(way: Way) {
    let rig = Rig::with(way, STORES, json!({})).await;
    for family in 0..2 {
        let listening: Vec<_> =
            [443, 4433].map(|port| rig.internet.udp(at(API[family], port))).into();
        let local = if family == 0 { "0.0.0.0" } else { "::" };
        for (nth, receiver) in listening.iter().enumerate() {
            let port = receiver.local_addr().unwrap().port();
            let sender = rig.a.udp(at(local, 0));
            sender.connect(at(API[family], port)).unwrap();
            sender.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            sender.send(b"hello").unwrap();
            let answer = sender.recv(&mut [0; 8]).unwrap_err().kind();
            // QUIC is told to go away at once; the rest disappears.
            let refused = answer == std::io::ErrorKind::ConnectionRefused;
            assert_eq!(refused, nth == 0, "{family} {port}: {answer:?}");
            receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            assert!(receiver.recv(&mut [0; 8]).is_err(), "UDP to {port} arrived");
        }
        for target in [API[family], GATEWAY[family], B[family]] {
            let pinged = rig.a.command("ping").args(["-c1", "-W1", "-n", target]).output().unwrap();
            assert!(!pinged.status.success(), "{target} answers to ping");
        }
    }
    assert!(rig.counted("unmatched") >= 4);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tcp_and_dns_reach_anything_by_redirect() {
    if Rig::possible() {
        only_tcp_and_dns_reach_anything(Way::Redirect).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tcp_and_dns_reach_anything_by_tproxy() {
    if Rig::possible() {
        only_tcp_and_dns_reach_anything(Way::Tproxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_place_of_a_name_is_not_reached() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    let api = rig.api().await;
    for (url, insecure) in [
        (format!("https://{}/", API[0]), "-k"),
        (format!("http://{}/", API[0]), "-k"),
        (format!("https://[{}]/", API[1]), "-k"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "-k"),
        (format!("https://{}/", B[0]), "-k"),
    ] {
        let said = rig.curl("sb-a", &[insecure, "-f", &url]).await;
        assert!(!said.fine, "{url}: {said:?}");
    }
    // The address that a client dials says nothing of where its name leads: the name decides, and is resolved again.
    let resolve = format!("api.example.com:443:{}", OTHER[0]);
    let said = rig.curl("sb-a", &["--resolve", &resolve, "https://api.example.com/"]).await;
    assert!(said.fine, "{said:?}");
    let resolve = format!("evil.example.net:443:{}", API[0]);
    let said = rig.curl("sb-a", &["-f", "--resolve", &resolve, "https://evil.example.net/"]).await;
    assert!(!said.fine, "{said:?}");
    assert_eq!(api.requests().len(), 1);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_turns_internal_is_never_dialled() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    let inside = Upstream::https("rebound.example.com").at(rig.b.listen(at(B[0], 443))).await;
    let outside = Upstream::https("rebound.example.com").at(rig.listen(API[0], 443)).await;
    let ask = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %header{x-deny-reason}",
        "https://rebound.example.com/",
    ];
    rig.dns.set("rebound.example.com", &[API[0]]);
    assert_eq!(rig.curl("sb-a", &ask).await.out, "200 ");
    for turned in
        [B[0], GATEWAY[0], "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.60.2.2", B[1]]
    {
        rig.dns.set("rebound.example.com", &[turned]);
        // A new connection each time: what was dialled stays dialled.
        let told =
            rig.curl("sb-a", &[&["--http1.1", "-H", "connection: close"], &ask[..]].concat()).await;
        assert!(told.out == "403 address_not_allowed" || told.out == "200 ", "{turned}: {told:?}");
    }
    assert_eq!(inside.connections(), 0);
    drop(outside);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_by_the_gateway_whoever_is_asked() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    // The Internet's own name server never hears of it, over UDP or TCP.
    for server in [GATEWAY[0], "45.90.0.53", GATEWAY[1], API[1]] {
        for answer in [ask_over_udp(&rig, at(server, 53)), ask_over_tcp(&rig, at(server, 53))] {
            // An answer (QR) to our question, without an error, with an address.
            assert_eq!((&answer[..2], answer[2] & 0x80, answer[3] & 0x0f), (&[7, 7][..], 0x80, 0));
            assert!(u16::from_be_bytes([answer[6], answer[7]]) > 0, "{server}: {answer:?}");
        }
    }
    assert_eq!(rig.dns.questions(), Vec::<String>::new());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn name_servers_over_tls_and_https_are_hosts_like_others() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    let dot = Upstream::https("dns.example.net").at(rig.listen(OTHER[0], 853)).await;
    let doh = Upstream::https("dns.example.net").at(rig.listen(OTHER[0], 443)).await;
    rig.dns.set("dns.example.net", &[OTHER[0]]);
    for url in [
        "https://dns.example.net/dns-query",
        "https://dns.example.net:853/",
        &format!("https://{}:853/", OTHER[0]),
    ] {
        assert!(!rig.curl("sb-a", &["-f", "-k", url]).await.fine, "{url}");
    }
    assert_eq!((dot.connections(), doh.connections()), (0, 0));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_cannot_send_as_its_neighbour() {
    if !Rig::possible() {
        return;
    }
    for way in [Way::Redirect, Way::Tproxy] {
        let rig = Rig::with(way, STORES, json!({})).await;
        let other = Upstream::https("other.example.com").at(rig.listen(OTHER[0], 443)).await;
        rig.a.ip(&["addr", "add", &format!("{}/32", B[0]), "dev", "eth0"]);
        rig.a.ip(&["-6", "addr", "add", &format!("{}/128", B[1]), "dev", "eth0", "nodad"]);
        for source in [B[0], B[1]] {
            let arguments =
                ["--interface", source, "--connect-timeout", "2", "https://other.example.com/"];
            let said = rig.curl("sb-a", &arguments).await;
            assert!(!said.fine, "{way:?} as {source}: {said:?}");
        }
        assert!(rig.counted("spoofed") >= 2);
        assert_eq!(other.connections(), 0);
        rig.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_side_is_out_of_reach() {
    if !Rig::possible() {
        return;
    }
    for way in [Way::Redirect, Way::Tproxy] {
        // On every address, so that only the rules are in the way.
        let open = json!({ "listen": { "explicit": [] } });
        let rig = Rig::with(way, STORES, open).await;
        let ssh = rig.gateway.listen(at("0.0.0.0", 22));
        let from_api = |said: &Said| said.out.contains("sandboxID") && !said.out.contains("reason");
        for address in [GATEWAY[0], "10.60.2.1", "127.0.0.1"] {
            for (port, path) in
                [(3130, "/api/sandboxes/sb-a/allowed-hosts"), (9464, "/metrics"), (9464, "/readyz")]
            {
                let url = format!("http://{address}:{port}{path}");
                let said = rig.curl("sb-a", &["-f", "--max-time", "5", &url]).await;
                assert!(!said.fine && !from_api(&said), "{way:?} {url}: {said:?}");
            }
        }
        // The listener itself, and others that the gateway has: whoever answers is Tollgate, and it refuses.
        for port in [22, 3129, 3131] {
            let said = rig
                .curl("sb-a", &["-f", "--max-time", "5", &format!("http://{}:{port}/", GATEWAY[0])])
                .await;
            assert!(!said.fine, "{way:?} {port}: {said:?}");
        }
        assert!(ssh.accept().is_err(), "the gateway's own port was reached");
        rig.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_is_given_out_without_its_keys() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    let said = rig.curl("sb-a", &["-f", "http://tollgate.internal/ca.pem"]).await;
    assert_eq!(said.out, std::fs::read_to_string(rig.ca()).unwrap(), "{said:?}");
    for path in ["ca.key", "seal.key", "../ca.key", "%2e%2e/ca.key", "api/sandboxes"] {
        let url = format!("http://tollgate.internal/{path}");
        let said = rig.curl("sb-a", &["-f", "--path-as-is", &url]).await;
        assert!(!said.fine && !said.out.contains("PRIVATE"), "{path}: {said:?}");
    }
    let nobody = std::process::Command::new("sh")
        .args(["-c", "stat -c %a authority/ca.key authority/seal.key"])
        .current_dir(rig.folder())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&nobody.stdout), "600\n600\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_cannot_reach_each_other() {
    if !Rig::possible() {
        return;
    }
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    let listener = rig.b.listen(at("0.0.0.0", 8080));
    for target in [B[0], "10.60.2.2"] {
        // Tollgate accepts the connection, and lets it lead nowhere.
        drop(rig.a.connect(at(target, 8080)));
        let said = rig.curl("sb-a", &["-f", &format!("http://{target}:8080/")]).await;
        assert!(!said.fine, "{said:?}");
    }
    assert!(listener.accept().is_err());
    // Nor does anybody from outside reach one.
    let outside = rig.internet.connect(at(A[0], 8080));
    assert!(outside.is_err());
    assert!(rig.counted("forwarded to a sandbox") > 0);
    rig.finish().await;
}
