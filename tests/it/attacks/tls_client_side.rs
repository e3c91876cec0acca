//! The TLS of the sandbox's side: names that are none, hellos as no library sends them, leaves; and of the upstream's: what is verified there.
//!
//! Cases of transparent mode stand inside an explicit CONNECT: the ClientHello is read by the same code.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's set-up fails the test")]

use rcgen::{CertificateParams, GeneralSubtree, NameConstraints};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::harness::{Authority, Bed, Setup, hello};

const API: &str = "api.allowed.test";
const REQUEST: &str =
    "GET / HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer {{TOK_A}}\r\n\r\n";

const ALERT: u8 = 21;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const UNRECOGNIZED_NAME: u8 = 112;

/// A ClientHello for the host.
fn plain_hello(bed: &Bed) -> Vec<u8> {
    hello::record(bed.client_config(), API)
}

/// The hello inside a tunnel to the host is answered with one of these alerts, and the connection closed.
async fn alerts(bed: &Bed, hello: &[u8], alerts: &[u8]) {
    let mut talk = bed.open("api.allowed.test:443").await;
    talk.send(hello).await;
    let rest = talk.rest().await;
    assert_eq!((rest.len(), rest[0]), (7, ALERT), "{}", hello.escape_ascii());
    assert!(alerts.contains(&rest[6]), "alert {}", rest[6]);
}

/// Each is refused with an alert; nothing is dialled, and each refusal is audited.
async fn names_refused(contents: &[Vec<u8>]) {
    let bed = Bed::p0().await;
    let plain = plain_hello(&bed);
    for content in contents {
        let edited = hello::with_server_names(&plain, std::slice::from_ref(content));
        alerts(&bed, &edited, &[UNRECOGNIZED_NAME, ILLEGAL_PARAMETER, DECODE_ERROR]).await;
    }
    bed.nothing_left();
    let events = bed.ended(2 * contents.len()).await;
    assert_eq!(events.iter().filter(|event| event["verdict"] == "deny").count(), contents.len());
}

fn host_name(name: &[u8]) -> Vec<u8> {
    hello::names(&[(0, name)])
}

#[tokio::test]
async fn TLS_003_sni_is_an_address() {
    names_refused(&[host_name(b"203.0.113.10"), host_name(b"::1"), host_name(b"127.1")]).await;
}

/// Letter case and one trailing dot are the same host, as everywhere.
#[tokio::test]
async fn TLS_004_sni_is_no_host() {
    names_refused(&[
        host_name(b"evil.test\0.wild.test"),
        host_name(b"api.allowed.test\0.evil.test"),
        host_name(b"evil "),
        host_name(b"A/B"),
        host_name("ü.test".as_bytes()),
        host_name(b"api.allowed.test.."),
        host_name(b""),
        host_name(b"evil.test"),
        Vec::new(),
        b"\0\0".to_vec(),
    ])
    .await;
    let bed = Bed::p0().await;
    for name in [b"API.allowed.test".as_slice(), b"api.allowed.test."] {
        goes_on(&bed, &hello::with_server_names(&plain_hello(&bed), &[host_name(name)])).await;
    }
    drop(bed.ended(4).await);
}

/// The hello is answered with a ServerHello.
async fn goes_on(bed: &Bed, hello: &[u8]) {
    use tokio::io::AsyncReadExt as _;
    const HANDSHAKE: u8 = 22;
    let mut talk = bed.open("api.allowed.test:443").await;
    talk.send(hello).await;
    let mut head = [0; 6];
    assert_eq!(talk.io.read_exact(&mut head).await.unwrap(), 6);
    assert_eq!((head[0], head[5]), (HANDSHAKE, 2));
}

#[tokio::test]
async fn TLS_006_server_name_twice() {
    let bed = Bed::p0().await;
    for names in [[API, "evil.test"], ["evil.test", API], [API, API]] {
        let contents = names.map(|name| host_name(name.as_bytes()));
        let twice = hello::with_server_names(&plain_hello(&bed), &contents);
        alerts(&bed, &twice, &[ILLEGAL_PARAMETER, DECODE_ERROR]).await;
    }
    bed.nothing_left();
    drop(bed.ended(6).await);
}

/// Refused, as is more than one name: there is one parser, rustls's.
#[tokio::test]
async fn TLS_007_other_name_types() {
    let unknown = hello::names(&[(1, b"evil.test"), (0, API.as_bytes())]);
    let two = hello::names(&[(0, API.as_bytes()), (0, b"evil.test")]);
    names_refused(&[unknown, two]).await;
}

#[tokio::test]
async fn TLS_008_a_hello_in_single_bytes() {
    let bed = Bed::p0().await;
    goes_on(&bed, &hello::in_single_bytes(&plain_hello(&bed))).await;
    let mut talk = bed.open("api.allowed.test:443").await;
    talk.send(&hello::in_single_bytes(&hello::record(bed.client_config(), "evil.test"))).await;
    let rest = talk.rest().await;
    assert!(rest.is_empty() || rest[0] == ALERT, "{}", rest.escape_ascii());
    bed.nothing_left();
    // One that never ends is bounded in bytes.
    let mut talk = bed.open("api.allowed.test:443").await;
    let endless = [b"\x16\x03\x01\x40\0\x01\xff\xff\xff".to_vec(), vec![0; 0x4000 - 4]].concat();
    talk.send(&endless).await;
    let rest = talk.rest().await;
    assert!(rest.is_empty() || rest[0] == ALERT, "{}", rest.escape_ascii());
    let events = bed.ended(6).await;
    assert_eq!(events.iter().filter(|event| event["verdict"] == "deny").count(), 3);
}

/// Tollgate has no ECH keys, so the outer name is the name: a decoy opens the decoy, and GREASE changes nothing.
#[tokio::test]
async fn TLS_012_encrypted_client_hello() {
    // outer, HKDF-SHA256 with AES-128-GCM, config 7, an empty key and some payload.
    let ech = b"\0\0\x01\0\x01\x07\0\0\0\x10aaaabbbbccccdddd";
    let bed = Bed::p0().await;
    goes_on(&bed, &hello::with_extension(&plain_hello(&bed), 0xfe0d, ech)).await;
    let decoy = hello::record(bed.client_config(), "open.allowed.test");
    alerts(&bed, &hello::with_extension(&decoy, 0xfe0d, ech), &[UNRECOGNIZED_NAME]).await;
    bed.nothing_left();
    drop(bed.ended(4).await);
}

#[tokio::test]
async fn TLS_014_other_alpn() {
    let bed = Bed::p0().await;
    for offer in
        [&["h3"][..], &["smb"], &["acme-tls/1"], &["ssh"], &["h3", "smb", "acme-tls/1", "ssh"]]
    {
        let error = bed.tls("api.allowed.test:443", API, offer).await.err().unwrap();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    }
    bed.nothing_left();
    drop(bed.ended(10).await);
}

/// In a tunnel to port 443, plain HTTP names port 80, which is another destination; port 80 is not listed.
#[tokio::test]
async fn TLS_018_plain_text_where_tls_is_due() {
    let bed = Bed::p0().await;
    let mut talk = bed.open("open.allowed.test:443").await;
    talk.send(b"GET / HTTP/1.1\r\nHost: open.allowed.test\r\n\r\n").await;
    talk.answer().await.unwrap().is_denial(421, "host_mismatch");
    assert!(talk.is_closed().await);
    let answer = bed.explicit("CONNECT api.allowed.test:80 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    answer.is_denial(403, "port_not_allowed");
    bed.nothing_left();
    drop(bed.ended(3).await);
}

/// The TLS 1.2 half, a renegotiation, has no client here that could ask for one; rustls has no renegotiation.
#[tokio::test]
async fn TLS_021_a_flood_of_key_updates() {
    use tokio::io::AsyncWriteExt as _;
    let bed = Bed::p0().await;
    // Once the proxy itself has answered, the handshake is over on its side too: a flood within it would be one more refusal.
    let asked = "OPTIONS / HTTP/1.1\r\nHost: api.allowed.test\r\nMax-Forwards: 0\r\n\r\n";
    let mut talk = bed.inside(API, asked).await;
    assert_eq!(talk.answer().await.unwrap().status, 200);
    for _ in 0..1000 {
        talk.io.get_mut().1.refresh_traffic_keys().unwrap();
    }
    // The proxy may hang up before all of it is written.
    let sent = async {
        talk.io.write_all(REQUEST.as_bytes()).await?;
        talk.io.flush().await
    };
    let sent = sent.await;
    assert!(sent.is_err() || talk.rest().await.is_empty());
    bed.nothing_left();
    drop(talk);
    drop(bed.ended(2).await);
}

/// A leaf is good for a day; back-dated by a day, not an hour, for guests whose clocks lag.
#[tokio::test]
async fn TLS_022_the_content_of_a_leaf() {
    let bed = Bed::p0().await;
    let mut serials = Vec::new();
    let authority = std::fs::read(bed.folder().join("certs/ca.pem")).unwrap();
    let (_, authority) = x509_parser::pem::parse_x509_pem(&authority).unwrap();
    let authority = authority.parse_x509().unwrap();
    for host in [API, "b.allowed.test"] {
        let talk = bed.tls(&format!("{host}:443"), host, &["http/1.1"]).await.unwrap();
        let leaf: CertificateDer<'static> =
            talk.io.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::DNSName(host)]);
        assert_eq!(leaf.subject().iter_common_name().count(), 0);
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
        assert!(leaf.raw_serial().len() >= 8);
        serials.push(leaf.raw_serial().to_vec());
        assert_ne!(leaf.public_key().raw, authority.public_key().raw);
        assert!(leaf.validity().not_before >= authority.validity().not_before);
        assert!(leaf.validity().time_to_expiration().unwrap() <= time::Duration::days(1));
    }
    assert_ne!(serials[0], serials[1]);
    // Two tunnels closed without a request.
    let events = bed.ended(2).await;
    assert!(events.iter().all(|event| event["verdict"] == "allow"));
}

/// With `denials: inside` the leaf comes from the small cache of refusals.
#[tokio::test]
async fn TLS_023_no_leaf_for_a_denied_host() {
    let bed = Bed::p0().await;
    let answer =
        bed.explicit("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n").await;
    answer.is_denial(403, "host_not_allowed");
    bed.nothing_left();
    drop(bed.ended(1).await);

    let bed = Bed::with(Setup { inside: true, ..Setup::default() }).await;
    let answer = bed
        .tunnel(
            "evil.test",
            "GET / HTTP/1.1\r\nHost: evil.test\r\nAuthorization: Bearer {{TOK_A}}\r\n\r\n",
        )
        .await;
    answer.is_denial(403, "host_not_allowed");
    bed.nothing_left();
    drop(bed.ended(2).await);
}

/// What only an old library could offer stands as what its server answers: `protocol_version`, `handshake_failure`. Stapled revocation is
/// not looked at: as with webpki everywhere, no revocation is.
#[tokio::test]
async fn TLS_024_upstream_parameters() {
    let bed = Bed::p0().await;
    let trusted = bed.upstream.authority.clone();
    let constrained = |params: &mut CertificateParams| {
        let other = GeneralSubtree::DnsName("other.test".to_owned());
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![other],
            excluded_subtrees: Vec::new(),
        });
    };
    for certificate in [
        trusted.leaf(API, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)),
        trusted.leaf(API, |params| params.not_before = rcgen::date_time_ymd(2100, 1, 1)),
        trusted.leaf("*.test", |_| {}),
        Authority::new(constrained).leaf(API, |_| {}),
    ] {
        bed.upstream.present(certificate);
        bed.tunnel(API, REQUEST).await.is_denial(502, "upstream_tls");
    }
    for said in [b"\x15\x03\x01\0\x02\x02\x46", b"\x15\x03\x03\0\x02\x02\x28"] {
        bed.upstream.say_instead_of_tls(said);
        bed.tunnel(API, REQUEST).await.is_denial(502, "upstream_tls");
    }
    assert_eq!(bed.upstream.heard(), "");
    drop(bed.ended(12).await);
}

#[tokio::test]
async fn TLS_026_upstream_tickets_are_kept_by_name() {
    let bed = Bed::p0().await;
    bed.upstream.answer(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
    for host in [API, API, "b.allowed.test"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(bed.tunnel(host, request).await.status, 200);
    }
    let resumed: Vec<_> = bed.upstream.connections().iter().map(|one| one.resumed).collect();
    assert_eq!(resumed, [false, true, false]);
    drop(bed.ended(6).await);
}

#[tokio::test]
async fn TLS_030_a_request_that_ends_early() {
    use tokio::io::AsyncWriteExt as _;
    let bed = Bed::p0().await;
    // Closed within the body; and reset there.
    for reset in [false, true] {
        let head = "POST / HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer {{TOK_A}}\r\nContent-Length: 100\r\n\r\n0123456789";
        let mut talk = bed.inside(API, head).await;
        if reset {
            talk.io.get_ref().0.set_zero_linger().unwrap();
        } else {
            talk.io.shutdown().await.unwrap();
        }
        drop(talk);
    }
    let events = bed.events(4).await;
    assert!(
        events.iter().all(|event| event["status"] != 200 || event["method"] == "CONNECT"),
        "{events:#?}"
    );
    assert_eq!(bed.tunnel(API, REQUEST).await.status, 200);
    bed.upstream.ended(bed.upstream.connections().len() - 1).await;
    let connections = bed.upstream.connections();
    let (last, early) = connections.split_last().unwrap();
    assert!(last.bytes.starts_with(b"GET / HTTP/1.1\r\n"), "a broken connection was used again");
    for one in early {
        let text = String::from_utf8_lossy(&one.bytes);
        assert!(one.ended, "{text}");
        assert!(
            text.is_empty()
                || (text.contains("Content-Length: 100\r\n") && text.ends_with("0123456789"))
                || text.ends_with("\r\n\r\n"),
            "{text}"
        );
    }
    drop(bed.ended(6).await);
}
