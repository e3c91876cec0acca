//! Many sandboxes at one Tollgate are told apart by address, listener and credentials, and never inherit from each other.

use std::net::IpAddr;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Answer, Sandbox, Tollgate, Upstream, read_all, read_answer};

const POLICY: &str = r#"
secretStores:
  a: { egressAllowlist: [a.example.com] }
  b: { egressAllowlist: [b.example.com] }
sandboxes:
  sb-a: { secretStores: [a], sources: [127.1.0.0/16] }
  sb-b: { secretStores: [b], sources: [127.1.0.5] }
  sb-c: { secretStores: [a] }
"#;

/// The same, with the addresses exchanged.
const MOVED: &str = r#"
secretStores:
  a: { egressAllowlist: [a.example.com] }
  b: { egressAllowlist: [b.example.com] }
sandboxes:
  sb-a: { secretStores: [a], sources: [127.1.0.5] }
  sb-b: { secretStores: [b], sources: [127.1.0.0/16] }
  sb-c: { secretStores: [a] }
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn upstream() -> Upstream {
    Upstream::https("a.example.com").await
}

#[tokio::test]
async fn of_nested_sources_the_narrower_one_decides() {
    let upstream = upstream().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let anybody = tollgate.sandbox("sb-a");
    for (source, status) in [("127.1.0.4", 200), ("127.1.0.5", 403), ("127.2.0.1", 407)] {
        let answer = anybody.clone().dialling_from(ip(source)).get("https://a.example.com/").await;
        assert_eq!(answer.status, status, "{source}: {answer:?}");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn address_and_credentials_must_name_the_same_sandbox() {
    let upstream = upstream().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    for (id, source, status) in [
        ("sb-a", "127.1.0.4", 200),
        ("sb-a", "127.1.0.5", 407),
        ("sb-a", "127.2.0.1", 407),
        ("sb-b", "127.1.0.4", 407),
        ("sb-c", "127.1.0.4", 407),
        ("sb-c", "127.2.0.1", 200),
    ] {
        let sandbox = tollgate.sandbox(id).dialling_from(ip(source)).showing_credentials(true);
        let answer = sandbox.get("https://a.example.com/").await;
        assert_eq!(answer.status, status, "{id} from {source}: {answer:?}");
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn a_listener_of_one_sandbox_serves_no_other() {
    let upstream = upstream().await;
    let listener = |id: &str| json!({ "address": "127.0.0.1:0", "sandbox": id });
    let config = json!({ "listen": { "explicit": [listener("sb-a"), listener("sb-c")] } });
    let tollgate = Tollgate::describe(POLICY, &[&upstream]).config(config).start().await;
    let listeners = tollgate.server().explicit();
    let (of_a, of_c) = (listeners[0], listeners[1]);
    for (listener, source, status) in [
        (of_a, "127.1.0.4", 200),
        (of_a, "127.1.0.5", 407),
        (of_a, "127.2.0.1", 407),
        (of_c, "127.2.0.1", 200),
        (of_c, "127.1.0.4", 407),
    ] {
        let anybody = tollgate.sandbox("sb-a").dialling_from(ip(source)).through(listener);
        let answer = anybody.get("https://a.example.com/").await;
        assert_eq!(answer.status, status, "{listener} from {source}: {answer:?}");
    }
    let other = tollgate.sandbox("sb-c").dialling_from(ip("127.1.0.4")).showing_credentials(true);
    assert_eq!(other.through(of_a).get("https://a.example.com/").await.status, 407);
    tollgate.finish().await;
}

#[tokio::test]
async fn an_address_that_moves_to_another_sandbox_takes_no_connection_along() {
    let upstream = upstream().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let a = tollgate.sandbox("sb-a").dialling_from(ip("127.1.0.4"));
    let mut tunnel = a.connect("a.example.com:443").await.unwrap();
    // Accepted before the next one, which is answered.
    let mut silent = a.dial().await;
    let mut idle = a.dial().await;
    idle.write_all(
        b"OPTIONS http://tollgate.internal/ HTTP/1.1\r\nHost: tollgate.internal\r\n\r\n",
    )
    .await
    .unwrap();
    let first = read_answer(&mut idle).await;
    assert_ne!(first.status, 407, "{first:?}");
    tollgate.reload(MOVED).unwrap();
    for io in [&mut tunnel, &mut idle, &mut silent] {
        let (_, ended) = read_all(io, crate::support::SOON).await;
        assert!(ended, "a connection outlives the owner of its address");
    }
    let answer = a.get("https://a.example.com/").await;
    assert_eq!((answer.status, answer.reason()), (403, "host_not_allowed"));
    assert!(answer.refused_connect);
    // An address that stays keeps its connections.
    let stays = tollgate.sandbox("sb-c").dialling_from(ip("127.2.0.1")).showing_credentials(true);
    let mut tunnel = stays.connect("a.example.com:443").await.unwrap();
    tollgate.reload(POLICY).unwrap();
    let (_, ended) = read_all(&mut tunnel, std::time::Duration::from_millis(300)).await;
    assert!(!ended);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_sandbox_that_is_given_sources_keeps_no_tunnel_from_elsewhere() {
    let upstream = upstream().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let c = tollgate.sandbox("sb-c");
    let elsewhere = c.dialling_from(ip("127.2.0.1")).showing_credentials(true);
    let mut moved = elsewhere.connect("a.example.com:443").await.unwrap();
    let given = "sb-c: { secretStores: [a], sources: [127.3.0.0/16] }";
    tollgate.reload(&POLICY.replace("sb-c: { secretStores: [a] }", given)).unwrap();
    assert!(read_all(&mut moved, crate::support::SOON).await.1, "it is at none of the sources");
    let answer = elsewhere.get("https://a.example.com/").await;
    assert_eq!((answer.status, answer.reason()), (407, "sandbox_unknown"));
    let events = tollgate.finish().await;
    let cut = events.iter().find(|event| event["event"] == "connection");
    assert_eq!(cut.expect("an event of the tunnel")["reason"], "sandbox_unknown", "{events:#?}");
}

/// Behind a load balancer at 127.0.0.1, which is the first of the addresses.
async fn balanced(upstream: &Upstream) -> Tollgate {
    let listen = json!({ "proxyProtocol": { "from": ["127.0.0.1", "127.9.0.0/16"] } });
    let limits = json!({ "handshakeTimeout": "1s" });
    let config = json!({ "listen": listen, "limits": limits });
    Tollgate::describe(POLICY, &[upstream]).config(config).start().await
}

fn header(command: u8, source: &str) -> Vec<u8> {
    let IpAddr::V4(source) = ip(source) else { panic!("IPv4") };
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, 0x11, 0, 12]);
    bytes.extend(source.octets());
    bytes.extend([127, 0, 0, 1, 0x90, 0, 0x0c, 0x38]);
    bytes
}

async fn first_answer(anybody: &Sandbox, bytes: &[u8]) -> Option<Answer> {
    let mut io = anybody.dial().await;
    io.write_all(bytes).await.unwrap();
    let request = b"GET http://a.example.com/ HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
    drop(io.write_all(request).await);
    let (read, _) = read_all(&mut io, std::time::Duration::from_millis(500)).await;
    let text = String::from_utf8_lossy(&read).into_owned();
    (!read.is_empty()).then(|| Answer {
        status: text[9..12].parse().unwrap(),
        version: http::Version::HTTP_11,
        headers: http::HeaderMap::new(),
        body: read.into(),
        trailers: http::HeaderMap::new(),
        cut: None,
        refused_connect: false,
    })
}

#[tokio::test]
async fn a_named_load_balancer_says_who_the_client_is_and_nobody_else_does() {
    let upstream = Upstream::http("a.example.com").answering(200, &[], "").await;
    let tollgate = balanced(&upstream).await;
    let balancer = tollgate.sandbox("sb-a").dialling_from(ip("127.0.0.1"));
    let status = async |from: &Sandbox, bytes: &[u8]| {
        first_answer(from, bytes).await.map(|answer| answer.status)
    };
    assert_eq!(status(&balancer, &header(0x21, "127.1.0.4")).await, Some(200));
    assert_eq!(status(&balancer, &header(0x21, "127.1.0.5")).await, Some(403));
    assert_eq!(status(&balancer, &header(0x21, "203.0.113.9")).await, Some(407));
    // The balancer's own look, and what is no header.
    assert_eq!(status(&balancer, &header(0x20, "127.1.0.4")).await, None);
    assert_eq!(status(&balancer, b"").await, None);
    assert_eq!(status(&balancer, b"PROXY TCP4 127.1.0.4 127.0.0.1 1 2\r\n").await, None);
    // A sandbox that sends a header is read as what it is: no HTTP.
    let a = tollgate.sandbox("sb-a").dialling_from(ip("127.1.0.4"));
    assert_eq!(status(&a, &header(0x21, "127.1.0.5")).await, Some(400));
    // Silence is bounded.
    let mut silent = balancer.dial().await;
    let (_, ended) = read_all(&mut silent, crate::support::SOON).await;
    assert!(ended);
    let events = tollgate.finish().await;
    let clients: Vec<_> = events.iter().map(|event| event["client"].as_str().unwrap()).collect();
    assert!(
        clients[0].starts_with("127.1.0.4:") && clients[1].starts_with("127.1.0.5:"),
        "{clients:?}"
    );
}

#[tokio::test]
async fn the_handshakes_of_one_sandbox_do_not_hold_up_another() {
    let upstream = upstream().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let hostile = tollgate.sandbox("sb-a").dialling_from(ip("127.1.0.4"));
    let other = tollgate.sandbox("sb-c").dialling_from(ip("127.2.0.1")).showing_credentials(true);
    let mut stalled: Vec<crate::support::Stream> = Vec::new();
    for _ in 0..200 {
        let mut io = hostile.connect("a.example.com:443").await.unwrap();
        io.write_all(&client_hello("a.example.com")).await.unwrap();
        stalled.push(io);
    }
    let began = tokio::time::Instant::now();
    assert_eq!(other.get("https://a.example.com/").await.status, 200);
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    drop(stalled);
    tollgate.finish().await;
}

/// A hello that nobody goes on with.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
