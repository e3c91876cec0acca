//! TLS to the upstream: TLS 1.2 or later, verified against the platform's roots and the operator's, never against our own authority.
//!
//! There is no switch that turns verification off. Each sandbox gets a configuration of its own, so that no session ticket of one sandbox is
//! offered on behalf of another; within it the tickets are kept by server name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, Der};
use rustls::{ClientConfig, RootCertStore};

use super::provider;
use super::roots::PlatformRoots;

/// The trust anchors for upstreams, loaded once.
#[derive(Debug)]
pub struct UpstreamTls {
    template: ClientConfig,
    anchors: usize,
    fallback: bool,
}

impl UpstreamTls {
    /// Takes the platform's roots (Mozilla's, as built in, where the platform has none) and the certificates in the operator's PEM files.
    ///
    /// `own_ca` is never trusted: it is left out of the platform's roots, where an operator may have installed it for other programs, and
    /// naming it in a file is an error.
    pub fn new(
        platform: &PlatformRoots,
        extra_roots: &[PathBuf],
        own_ca: &CertificateDer<'_>,
    ) -> Result<Self, UpstreamTlsError> {
        let own_key = public_key(own_ca);
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(platform.certificates().iter().cloned());
        store.roots.retain(|anchor| Some(&anchor.subject_public_key_info) != own_key.as_ref());
        let fallback = store.is_empty();
        if fallback {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for path in extra_roots {
            add_file(&mut store, path, own_key.as_ref())?;
        }
        let anchors = store.len();
        let template = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self { template, anchors, fallback })
    }

    /// A configuration with a session cache of its own: one per sandbox, kept as long as the sandbox. ALPN is left to the connector.
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let mut config = self.template.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Arc::new(config)
    }

    /// How many trust anchors there are.
    #[must_use]
    pub const fn anchors(&self) -> usize {
        self.anchors
    }

    /// Whether the platform had no roots, so that the built-in ones serve; worth a warning.
    #[must_use]
    pub const fn uses_built_in_roots(&self) -> bool {
        self.fallback
    }
}

fn add_file(
    store: &mut RootCertStore,
    path: &Path,
    own_key: Option<&Der<'static>>,
) -> Result<(), UpstreamTlsError> {
    let unreadable = |source| UpstreamTlsError::Pem { path: path.to_owned(), source };
    let before = store.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        if own_key.is_some() && public_key(&certificate).as_ref() == own_key {
            return Err(UpstreamTlsError::OwnAuthority { path: path.to_owned() });
        }
        store.add(certificate).map_err(|source| UpstreamTlsError::Certificate {
            path: path.to_owned(),
            number: store.len() - before + 1,
            source,
        })?;
    }
    if store.len() == before {
        return Err(UpstreamTlsError::Empty { path: path.to_owned() });
    }
    Ok(())
}

/// The key of a certificate as verification would see it; another certificate for the same key is the same anchor.
fn public_key(certificate: &CertificateDer<'_>) -> Option<Der<'static>> {
    let mut store = RootCertStore::empty();
    store.add(certificate.clone().into_owned()).ok()?;
    store.roots.pop().map(|anchor| anchor.subject_public_key_info)
}

/// Why upstreams cannot be verified as configured.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// Missing, unreadable, or not PEM.
    #[error("cannot read the trust anchors in {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A certificate that cannot be a trust anchor.
    #[error("certificate {number} in {} cannot be a trust anchor", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which certificate, counted from 1.
        number: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// Nothing to trust in it.
    #[error("{} holds no certificate in PEM", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Whoever got hold of our key could pass for any upstream.
    #[error("{} holds Tollgate's own authority, which must not be trusted for upstreams; remove it from `upstream.roots`", path.display())]
    OwnAuthority {
        /// The file.
        path: PathBuf,
    },
    /// The TLS library refuses its own defaults.
    #[error("the TLS library cannot be set up")]
    Library(#[from] rustls::Error),
}

/// How many session tickets a sandbox's configuration keeps.
const SESSIONS: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::proxy::tls::ca::CertificateAuthority;

    fn authority() -> (tempfile::TempDir, CertificateAuthority) {
        let root = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(root.path()).unwrap();
        (root, ca)
    }

    #[test]
    fn our_own_authority_is_left_out_of_the_platforms_roots() {
        let (_root, own) = authority();
        let (_other_root, other) = authority();
        let platform = PlatformRoots::of(vec![own.der().clone(), other.der().clone()]);
        let tls = UpstreamTls::new(&platform, &[], own.der()).unwrap();
        assert_eq!((tls.anchors(), tls.uses_built_in_roots()), (1, false));
    }

    #[test]
    fn a_platform_with_nothing_but_our_authority_falls_back_to_the_built_in_roots() {
        let (_root, own) = authority();
        let platform = PlatformRoots::of(vec![own.der().clone()]);
        let tls = UpstreamTls::new(&platform, &[], own.der()).unwrap();
        assert!(tls.uses_built_in_roots());
        assert_eq!(tls.anchors(), webpki_roots::TLS_SERVER_ROOTS.len());
    }

    #[test]
    fn extra_roots_are_added_and_every_fault_names_the_file() {
        let (_root, own) = authority();
        let (other_root, other) = authority();
        let platform = PlatformRoots::of(vec![other.der().clone()]);
        let file = other_root.path().join("extra.pem");
        let with_file = |text: &str| {
            fs::write(&file, text).unwrap();
            UpstreamTls::new(&platform, std::slice::from_ref(&file), own.der())
        };
        let (_third_root, third) = authority();
        assert_eq!(with_file(&third.pem()).unwrap().anchors(), 2);
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let faults = [
            with_file("").unwrap_err(),
            with_file("-----BEGIN CERTIFICATE-----\n").unwrap_err(),
            with_file(junk).unwrap_err(),
            with_file(&own.pem()).unwrap_err(),
        ];
        for fault in &faults {
            assert!(fault.to_string().contains("extra.pem"), "{fault}");
        }
        assert!(matches!(faults[3], UpstreamTlsError::OwnAuthority { .. }));
        fs::remove_file(&file).unwrap();
        let missing = UpstreamTls::new(&platform, &[file], own.der()).unwrap_err();
        assert!(matches!(missing, UpstreamTlsError::Pem { .. }), "{missing}");
    }

    #[test]
    fn configurations_log_no_keys_send_no_early_data_and_leave_alpn_open() {
        let (_root, own) = authority();
        let tls = UpstreamTls::new(&PlatformRoots::of(Vec::new()), &[], own.der()).unwrap();
        let config = tls.client_config();
        assert!(!config.key_log.will_log("CLIENT_TRAFFIC_SECRET_0"));
        assert!(!config.enable_early_data && config.alpn_protocols.is_empty());
    }
}
