//! The certificates of a run and the TLS configurations of its parts.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::Fault;
use crate::workload::{BOUND_HOST, PLAIN_HOST};

pub(crate) const H2: &[u8] = b"h2";
pub(crate) const HTTP_1_1: &[u8] = b"http/1.1";

const ROOT: &str = "upstream-ca.pem";
const LEAF: &str = "leaf.pem";
const LEAF_KEY: &str = "leaf-key.pem";

/// Makes a root and one leaf for both hosts; upstream and TLS relay present the same leaf.
pub(crate) fn create(dir: &Path) -> Result<(), Fault> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "e2e bench root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(dir.join(ROOT), root.self_signed(&root_key)?.pem())?;

    let leaf_key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![BOUND_HOST.to_owned(), PLAIN_HOST.to_owned()])?;
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(root, root_key))?;
    fs::write(dir.join(LEAF), leaf.pem())?;
    fs::write(dir.join(LEAF_KEY), leaf_key.serialize_pem())?;
    Ok(())
}

pub(crate) fn root_file(dir: &Path) -> std::path::PathBuf {
    dir.join(ROOT)
}

/// Trust anchors from a PEM file.
pub(crate) fn roots(file: &Path) -> Result<Arc<RootCertStore>, Fault> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        store.add(certificate?)?;
    }
    Ok(Arc::new(store))
}

/// A server with the leaf of the run that resumes sessions from its own tickets.
pub(crate) fn server(
    dir: &Path,
    provider: CryptoProvider,
    alpn: &[&[u8]],
) -> Result<ServerConfig, Fault> {
    let chain = CertificateDer::pem_file_iter(dir.join(LEAF))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(dir.join(LEAF_KEY))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

/// A client that offers exactly one protocol and resumes sessions.
pub(crate) fn client(
    roots: &Arc<RootCertStore>,
    provider: CryptoProvider,
    alpn: &[u8],
) -> Result<ClientConfig, Fault> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// The same client, making a full handshake each time.
pub(crate) fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

/// What a relay uses, and Tollgate too: the library's own preferences.
pub(crate) fn proxy_provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// What load generator and upstream use: X25519 alone, as most peers have it.
pub(crate) fn peer_provider() -> CryptoProvider {
    CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..proxy_provider() }
}
