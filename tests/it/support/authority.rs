//! The tests' own certificate authority, made once per process, and the leaves that upstreams present.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What is wrong with an upstream's certificate, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    Valid,
    Expired,
    SelfSigned,
    WrongName,
    SignedByTollgate,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "root of the tests' upstreams");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
});

/// The authority's certificate.
pub(crate) fn pem() -> &'static str {
    &AUTHORITY.pem
}

/// A server's TLS for these names. `tollgate` is the folder of Tollgate's authority, which only [`Leaf::SignedByTollgate`] needs.
pub(crate) fn server(
    leaf: Leaf,
    names: &[String],
    alpn: &[&[u8]],
    tollgate: Option<&Path>,
) -> Arc<ServerConfig> {
    let (chain, key) = chain(leaf, names, tollgate);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Chain and key as PEM files' contents, for servers that are other programs.
pub(crate) fn pem_files(names: &[String]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names.to_vec()).unwrap();
    (params.signed_by(&key, &AUTHORITY.issuer).unwrap().pem(), key.serialize_pem())
}

fn chain(
    leaf: Leaf,
    names: &[String],
    tollgate: Option<&Path>,
) -> (Vec<CertificateDer<'static>>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let names =
        if leaf == Leaf::WrongName { vec!["other.example".to_owned()] } else { names.to_vec() };
    let mut params = CertificateParams::new(names).unwrap();
    if leaf == Leaf::Expired {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    }
    let certificate = match leaf {
        Leaf::Valid | Leaf::Expired | Leaf::WrongName => params.signed_by(&key, &AUTHORITY.issuer),
        Leaf::SelfSigned => params.self_signed(&key),
        Leaf::SignedByTollgate => params.signed_by(&key, &issuer_in(tollgate.unwrap())),
    };
    (vec![certificate.unwrap().der().clone()], key)
}

fn issuer_in(folder: &Path) -> Issuer<'static, KeyPair> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let key = KeyPair::from_pem(&read("ca.key")).unwrap();
    Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap()
}
