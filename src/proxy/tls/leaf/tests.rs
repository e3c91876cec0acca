use std::collections::BTreeSet;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

fn mint() -> (tempfile::TempDir, Arc<LeafMint>) {
    let root = tempfile::tempdir().unwrap();
    let ca = Arc::new(CertificateAuthority::create(root.path()).unwrap());
    (root, Arc::new(LeafMint::new(ca, 64).unwrap()))
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn parsed(der: &CertificateDer<'_>) -> X509Certificate<'static> {
    let der: &'static [u8] = der.to_vec().leak();
    X509Certificate::from_der(der).unwrap().1
}

#[test]
fn a_leaf_has_the_shape_that_strict_clients_want() {
    let (_root, mint) = mint();
    let certified = mint.leaf(&host("api.example.com")).unwrap();
    let [leaf, ca] = certified.cert.as_slice() else { panic!("not leaf and authority") };
    assert_eq!(ca, mint.ca.der());
    let (leaf, ca) = (parsed(leaf), parsed(ca));
    assert!(leaf.verify_signature(Some(ca.public_key())).is_ok());
    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(leaf.issuer(), ca.subject());
    assert_ne!(leaf.public_key().raw, ca.public_key().raw);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names, [GeneralName::DNSName("api.example.com")]);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert_eq!(usage.value.flags.count_ones(), 1);
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth && !extended.any);
    assert_eq!(key_ids(&leaf).0, key_ids(&ca).1);
    assert!(key_ids(&leaf).1.is_some() && key_ids(&leaf).0 != key_ids(&leaf).1);
}

/// Authority and subject key identifier.
fn key_ids(certificate: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut authority, mut subject) = (None, None);
    for extension in certificate.extensions() {
        if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
            authority = id.key_identifier.as_ref().map(|id| id.0.to_vec());
        }
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            subject = Some(id.0.to_vec());
        }
    }
    (authority, subject)
}

#[test]
fn an_address_gets_an_address_name() {
    let (_root, mint) = mint();
    for (text, octets) in [
        ("203.0.113.10", vec![203, 0, 113, 10]),
        ("2001:db8::1", [vec![0x20, 1, 0xd, 0xb8], vec![0; 11], vec![1]].concat()),
    ] {
        let certified = mint.leaf(&host(text)).unwrap();
        let leaf = parsed(&certified.cert[0]);
        let names = leaf.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names, [GeneralName::IPAddress(&octets)], "{text}");
    }
}

#[test]
fn the_longest_name_and_odd_labels_can_be_minted() {
    let (_root, mint) = mint();
    let longest = format!("{}a", "a.".repeat(126));
    for text in [longest.as_str(), "_acme.example.com", "xn--bcher-kva.test", "localhost"] {
        assert!(mint.leaf(&host(text)).is_ok(), "{text}");
    }
}

#[test]
fn serials_are_random_positive_and_long() {
    let (_root, mint) = mint();
    let serials: BTreeSet<Vec<u8>> = (0..50)
        .map(|_| {
            let leaf = mint.mint(&host("a.test"), unix_now()).unwrap();
            let leaf = parsed(&leaf.certified.cert[0]);
            assert_eq!(leaf.raw_serial().len(), 16);
            assert!(leaf.raw_serial()[0] < 0x80);
            leaf.raw_serial().to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 50);
}

#[test]
fn a_leaf_is_back_dated_but_stays_within_the_authoritys_time() {
    let (_root, mint) = mint();
    let ca = mint.ca.validity();
    let at = |now| leaf_validity(ca, now).unwrap();
    let noon = ca.not_before + 10 * BACK_DATED;
    assert_eq!(at(noon).not_before, noon - BACK_DATED);
    assert_eq!(at(noon).not_after, noon + LIFETIME);
    assert_eq!(at(ca.not_before + 5).not_before, ca.not_before);
    assert_eq!(at(ca.not_after - 5).not_after, ca.not_after);
    assert!(matches!(leaf_validity(ca, ca.not_after), Err(LeafError::AuthorityExpired)));
}

#[test]
fn a_leaf_is_kept_and_renewed_before_it_ends() {
    let (_root, mint) = mint();
    let (name, now) = (host("a.test"), unix_now());
    let first = mint.leaf_at(&name, now).unwrap();
    let same = mint.leaf_at(&name, now + LIFETIME / 2 - 1).unwrap();
    assert!(Arc::ptr_eq(&first, &same));
    let renewed = mint.leaf_at(&name, now + LIFETIME / 2 + 1).unwrap();
    assert!(!Arc::ptr_eq(&first, &renewed));
    let kept = mint.leaf_at(&name, now + LIFETIME / 2 + 2).unwrap();
    assert!(Arc::ptr_eq(&renewed, &kept));
}

#[test]
fn many_callers_at_once_get_one_leaf_and_the_cache_stays_bounded() {
    let (_root, mint) = mint();
    let leaves: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| mint.leaf(&host("a.test")).unwrap())).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert!(leaves.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
    for n in 0..500 {
        mint.leaf(&host(&format!("h{n}.test"))).unwrap();
    }
    assert!(mint.leaves.len() <= 64, "{}", mint.leaves.len());
}

#[test]
fn a_mint_for_denied_hosts_shares_the_key_but_not_the_cache() {
    let (_root, mint) = mint();
    let denied = mint.with_own_cache(4);
    let (ours, theirs) =
        (mint.leaf(&host("a.test")).unwrap(), denied.leaf(&host("b.test")).unwrap());
    assert_eq!(parsed(&ours.cert[0]).public_key().raw, parsed(&theirs.cert[0]).public_key().raw);
    assert_eq!((mint.leaves.len(), denied.leaves.len()), (1, 1));
}

struct Client {
    config: ClientConfig,
}

impl Client {
    fn new(mint: &LeafMint, versions: &[&'static rustls::SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(mint.ca.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(16);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { config }
    }

    /// A whole handshake and one byte each way, so that the tickets arrive.
    async fn connect(
        &self,
        name: &str,
        server: Arc<ServerConfig>,
    ) -> std::io::Result<(HandshakeKind, ProtocolVersion, Option<Vec<u8>>)> {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = TlsConnector::from(Arc::new(self.config.clone())).connect(name, near);
        let (client, server) = tokio::join!(client, TlsAcceptor::from(server).accept(far));
        let (mut client, mut server) = (client?, server?);
        server.write_all(b"x").await?;
        client.read_exact(&mut [0]).await?;
        let (_, session) = client.get_ref();
        Ok((
            session.handshake_kind().unwrap(),
            session.protocol_version().unwrap(),
            session.alpn_protocol().map(<[u8]>::to_vec),
        ))
    }
}

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

fn configs(mint: &Arc<LeafMint>) -> LeafConfigs {
    LeafConfigs::new(Arc::clone(mint), 64).unwrap()
}

#[tokio::test]
async fn sessions_resume_for_the_same_sandbox_and_host() {
    let (_root, mint) = mint();
    let (configs, sandbox) = (configs(&mint), "sb-1".parse().unwrap());
    for version in VERSIONS {
        let client = Client::new(&mint, &[version]);
        let server = || configs.for_sandbox_host(&sandbox, &host("a.test")).unwrap();
        let (first, spoken, alpn) = client.connect("a.test", server()).await.unwrap();
        assert_eq!(spoken, version.version);
        assert_eq!(alpn.as_deref(), Some(b"h2".as_slice()));
        assert!(matches!(first, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest));
        let (second, ..) = client.connect("a.test", server()).await.unwrap();
        assert_eq!(second, HandshakeKind::Resumed, "{spoken:?}");
    }
}

/// The client is made to offer its ticket for the same name, so only the server's keys can refuse it.
#[tokio::test]
async fn a_ticket_never_crosses_hosts_or_sandboxes() {
    let (_root, mint) = mint();
    let configs = configs(&mint);
    let config = |sandbox: &str, name: &str| {
        configs.for_sandbox_host(&sandbox.parse().unwrap(), &host(name)).unwrap()
    };
    for version in VERSIONS {
        let client = Client::new(&mint, &[version]);
        client.connect("a.test", config("sb-1", "a.test")).await.unwrap();
        let (other_sandbox, ..) = client.connect("a.test", config("sb-2", "a.test")).await.unwrap();
        assert_eq!(other_sandbox, HandshakeKind::Full, "{version:?}");

        let client = Client::new(&mint, &[version]);
        client.connect("a.test", config("sb-1", "a.test")).await.unwrap();
        // A resumed session would pass; a full handshake fails on the certificate of the other host.
        let other_host = client.connect("a.test", config("sb-1", "b.test")).await;
        assert!(other_host.is_err(), "{version:?}");
    }
}

#[tokio::test]
async fn an_address_without_sni_is_served_and_resumes_only_for_itself() {
    let (_root, mint) = mint();
    let (configs, sandbox) = (configs(&mint), "sb-1".parse().unwrap());
    let client = Client::new(&mint, &[&rustls::version::TLS13]);
    let server = |ip: &str| configs.for_sandbox_host(&sandbox, &host(ip)).unwrap();
    client.connect("203.0.113.10", server("203.0.113.10")).await.unwrap();
    assert!(client.connect("203.0.113.10", server("203.0.113.11")).await.is_err());
}

#[tokio::test]
async fn protocols_that_we_do_not_speak_get_an_alert() {
    let (_root, mint) = mint();
    let configs = configs(&mint);
    let mut client = Client::new(&mint, &VERSIONS);
    for offers in [vec!["acme-tls/1"], vec!["h3", "smb", "ssh"]] {
        client.config.alpn_protocols = offers.iter().map(|o| o.as_bytes().to_vec()).collect();
        let server = configs.for_sandbox_host(&"sb-1".parse().unwrap(), &host("a.test")).unwrap();
        let refused = client.connect("a.test", server).await.unwrap_err();
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    }
}

#[test]
fn configurations_are_kept_per_pair_and_log_no_keys() {
    let (_root, mint) = mint();
    let configs = configs(&mint);
    let take = |sandbox: &str, name: &str| {
        configs.for_sandbox_host(&sandbox.parse().unwrap(), &host(name)).unwrap()
    };
    assert!(Arc::ptr_eq(&take("sb-1", "a.test"), &take("sb-1", "a.test")));
    assert!(!Arc::ptr_eq(&take("sb-1", "a.test"), &take("sb-2", "a.test")));
    let config = take("sb-1", "a.test");
    assert!(!config.key_log.will_log("CLIENT_TRAFFIC_SECRET_0"));
    assert_eq!(config.max_early_data_size, 0);
}
