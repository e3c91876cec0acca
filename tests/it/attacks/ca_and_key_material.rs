//! Keys that lie about: none is taken from somebody else, none is made over another, none is shared, and none is written where others read.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, RootCertStore};
use tokio_rustls::TlsConnector;
use tollgate::proxy::tls::ca::CertificateAuthority;
use tollgate::proxy::tls::leaf::LeafMint;

use super::wire::{API, p0_with, start};
use crate::support::{Attack, P0, Sandbox, Upstream};

/// A folder that nothing is in, below one of the test's own.
fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let own = tempfile::tempdir().unwrap();
    let path = own.path().join("authority");
    (own, path)
}

/// A TLS connection of the sandbox to the host: what it presented, and how the handshake went.
async fn handshake(
    sandbox: &Sandbox,
    config: Arc<rustls::ClientConfig>,
) -> (Vec<u8>, HandshakeKind) {
    let io = sandbox.connect(API).await.unwrap();
    let name = ServerName::try_from("api.allowed.test").unwrap();
    let mut tls = TlsConnector::from(config).connect(name, io).await.unwrap();
    // The ticket comes after the handshake: one whole exchange makes sure that it was read.
    let get = b"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nConnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut tls, get).await.unwrap();
    let mut answer = Vec::new();
    drop(tokio::io::AsyncReadExt::read_to_end(&mut tls, &mut answer).await);
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let session = tls.get_ref().1;
    let leaf = session.peer_certificates().and_then(|chain| chain.first()).unwrap().to_vec();
    (leaf, session.handshake_kind().unwrap())
}

fn client(roots: Arc<RootCertStore>) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn public_key(der: &[u8]) -> Vec<u8> {
    x509_parser::parse_x509_certificate(der).unwrap().1.public_key().raw.to_vec()
}

fn ca_der(folder: &Path) -> Vec<u8> {
    CertificateAuthority::open(folder).unwrap().der().to_vec()
}

#[test]
fn KEY_003_a_folder_that_somebody_else_prepared() {
    let (own, path) = folder();
    let elsewhere = own.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(CertificateAuthority::open_or_create(&path).is_err(), "a link");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0, "nothing is made behind a link");
    // Only root may give a folder away; without root this part has nothing to show.
    if std::os::unix::fs::chown(&elsewhere, Some(12_345), None).is_ok() {
        assert!(CertificateAuthority::open_or_create(&elsewhere).is_err(), "another owner");
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}

#[test]
fn KEY_004_files_that_were_replaced() {
    let (_own, path) = folder();
    CertificateAuthority::create(&path).unwrap();
    let (_foreign, foreign) = folder();
    CertificateAuthority::create(&foreign).unwrap();
    let before = std::fs::read(path.join("ca.pem")).unwrap();
    std::fs::copy(foreign.join("ca.pem"), path.join("ca.pem")).unwrap();
    assert!(CertificateAuthority::open_or_create(&path).is_err(), "a foreign certificate");
    std::fs::write(path.join("ca.pem"), &before).unwrap();
    std::fs::remove_file(path.join("ca.key")).unwrap();
    assert!(CertificateAuthority::open_or_create(&path).is_err(), "half an authority");
    assert_eq!(std::fs::read(path.join("ca.pem")).unwrap(), before, "nothing is made over it");
    // An authority whose time is over.
    let (_own, path) = folder();
    CertificateAuthority::create(&path).unwrap();
    let key =
        rcgen::KeyPair::from_pem(&std::fs::read_to_string(path.join("ca.key")).unwrap()).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    std::fs::write(path.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let error = CertificateAuthority::open_or_create(&path).unwrap_err();
    assert!(matches!(error, tollgate::proxy::tls::ca::CaError::Expired { .. }), "{error}");
}

#[tokio::test]
async fn KEY_005_the_leaf_has_another_key_than_the_authority() {
    let attack = Attack::p0().await;
    let (leaf, _) = handshake(&attack.sandbox, client(attack.sandbox.roots())).await;
    let ca = ca_der(&attack.tollgate.folder().join("authority"));
    assert_ne!(public_key(&leaf), public_key(&ca));
    attack.finish().await;
}

#[tokio::test]
async fn KEY_008_our_own_authority_vouches_for_no_upstream() {
    let attack = p0_with(Upstream::https("api.allowed.test").signed_by_tollgate().await).await;
    let outcome = attack
        .tunnel(
            API,
            r"GET / HTTP/1.1\r\nHost: api.allowed.test\r\nAuthorization: Bearer {{TOK_A}}\r\n\r\n",
        )
        .await;
    assert_eq!(outcome.status, Some(502), "{outcome:?}");
    assert_eq!(outcome.reason.as_deref(), Some("upstream_tls"));
    assert!(attack.api.received().is_empty());
    attack.finish().await;
}

#[test]
fn KEY_010_every_installation_and_every_start_has_keys_of_its_own() {
    let mint = |path: &Path| {
        let ca = Arc::new(CertificateAuthority::open_or_create(path).unwrap());
        let host = tollgate::host::Host::parse("api.allowed.test").unwrap();
        let leaf = LeafMint::new(ca.clone(), 16).unwrap().leaf(&host).unwrap();
        (public_key(ca.der()), public_key(&leaf.cert[0]))
    };
    let ((_one, one), (_two, two)) = (folder(), folder());
    let (first, again, other) = (mint(&one), mint(&one), mint(&two));
    assert_eq!(first.0, again.0, "an installation keeps its authority");
    assert_ne!(first.1, again.1, "the leaf key lives as long as the process");
    assert_ne!(first.0, other.0);
    assert_ne!(first.1, other.1);
}

#[tokio::test]
async fn KEY_011_tickets_are_good_for_one_sandbox_and_one_process() {
    // Both show credentials, so that the listener knows them apart.
    let policy = P0;
    let attack =
        start(policy, Upstream::https("api.allowed.test").await, serde_json::json!({})).await;
    let config = client(attack.sandbox.roots());
    let kind = |seen: (Vec<u8>, HandshakeKind)| seen.1;
    assert_eq!(kind(handshake(&attack.sandbox, config.clone()).await), HandshakeKind::Full);
    assert_eq!(kind(handshake(&attack.sandbox, config.clone()).await), HandshakeKind::Resumed);
    let id = |text: &str| text.parse::<tollgate::secret::SandboxId>().unwrap();
    let host = tollgate::host::Host::parse("api.allowed.test").unwrap();
    let leaves = &attack.tollgate.server().proxy().leaves;
    let of = |sandbox: &str| leaves.for_sandbox_host(&id(sandbox), &host).unwrap();
    let ticket = of("sb-a").ticketer.encrypt(b"a session").unwrap();
    assert!(of("sb-a").ticketer.decrypt(&ticket).is_some());
    assert!(of("sb-b").ticketer.decrypt(&ticket).is_none(), "another sandbox's keys");
    assert!(of("sb-a").ticketer.lifetime() <= 24 * 60 * 60);
    // Another process has other keys, and none of them lies on the disk.
    let other = Attack::p0().await;
    let theirs =
        other.tollgate.server().proxy().leaves.for_sandbox_host(&id("sb-a"), &host).unwrap();
    assert!(theirs.ticketer.decrypt(&ticket).is_none());
    other.finish().await;
    let mut files: Vec<_> = std::fs::read_dir(attack.tollgate.folder().join("authority"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    files.sort();
    assert_eq!(files, ["ca-bundle.pem", "ca.key", "ca.pem", "seal.key", "truststore.jks"]);
    attack.finish().await;
}

#[tokio::test]
async fn KEY_012_no_session_key_is_ever_logged() {
    let attack = Attack::p0().await;
    let proxy = attack.tollgate.server().proxy();
    let host = tollgate::host::Host::parse("api.allowed.test").unwrap();
    let id = "sb-a".parse().unwrap();
    let server = proxy.leaves.for_sandbox_host(&id, &host).unwrap();
    let client = proxy.upstream_tls.client_config();
    // `SSLKEYLOGFILE` is read by `KeyLogFile` alone, whatever the variable holds when this runs.
    for log in [format!("{:?}", server.key_log), format!("{:?}", client.key_log)] {
        assert_eq!(log, "NoKeyLog");
    }
    attack.finish().await;
}
