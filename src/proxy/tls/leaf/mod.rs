//! Leaves: one certificate for exactly the host that the client asked for and the policy allowed, and the configuration that serves it.
//!
//! Call only after the decision. A leaf lasts a day around its minting and is renewed at half time; all leaves of a process share one key,
//! which is not the authority's. Sessions resume only for the same sandbox and the same host: each pair has ticket keys of its own, random,
//! in memory, and rotated.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{Ticketer, sign::any_ecdsa_type};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};

use super::ca::{CertificateAuthority, Validity, random_serial, rcgen_time, unix_now};
use super::provider;
use crate::host::Host;
use crate::secret::SandboxId;

/// Mints leaves and keeps the recent ones.
pub struct LeafMint {
    ca: Arc<CertificateAuthority>,
    key: Arc<LeafKey>,
    leaves: Cache<Host, Leaf>,
}

/// The one key under all leaves of this process; it is on no disk.
struct LeafKey {
    pair: KeyPair,
    signing: Arc<dyn SigningKey>,
}

#[derive(Clone)]
struct Leaf {
    certified: Arc<CertifiedKey>,
    renew_at: i64,
}

impl LeafMint {
    /// A mint under `ca` that keeps at most about `capacity` leaves.
    pub fn new(ca: Arc<CertificateAuthority>, capacity: usize) -> Result<Self, LeafError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let signing = any_ecdsa_type(&der)?;
        let key = Arc::new(LeafKey { pair, signing });
        Ok(Self { ca, key, leaves: Cache::new(capacity) })
    }

    /// A mint with the same authority and key but its own cache: for answers to denied hosts, which must not push out the others.
    #[must_use]
    pub fn with_own_cache(&self, capacity: usize) -> Self {
        let (ca, key) = (Arc::clone(&self.ca), Arc::clone(&self.key));
        Self { ca, key, leaves: Cache::new(capacity) }
    }

    /// The leaf for `host`, minted if need be; concurrent callers for one host wait for the first.
    pub fn leaf(&self, host: &Host) -> Result<Arc<CertifiedKey>, LeafError> {
        self.leaf_at(host, unix_now())
    }

    fn leaf_at(&self, host: &Host, now: i64) -> Result<Arc<CertifiedKey>, LeafError> {
        if let Some(leaf) = self.leaves.get(host)
            && now < leaf.renew_at
        {
            return Ok(leaf.certified);
        }
        let found = self.leaves.entry(host, Some(MINT_WAIT), |_, leaf| {
            if now < leaf.renew_at {
                EntryAction::Retain(Arc::clone(&leaf.certified))
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        let guard = match found {
            EntryResult::Retained(certified) => return Ok(certified),
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => Some(guard),
            EntryResult::Removed(..) | EntryResult::Timeout => None,
        };
        let leaf = self.mint(host, now)?;
        if let Some(guard) = guard {
            // Refused only if the entry has been removed meanwhile; the leaf serves this connection all the same.
            drop(guard.insert(leaf.clone()));
        }
        Ok(leaf.certified)
    }

    fn mint(&self, host: &Host, now: i64) -> Result<Leaf, LeafError> {
        let validity = leaf_validity(self.ca.validity(), now)?;
        let params = leaf_params(host, validity)?;
        let leaf = params.signed_by(&self.key.pair, self.ca.issuer())?;
        let chain = vec![leaf.der().clone(), self.ca.der().clone()];
        let certified = Arc::new(CertifiedKey::new(chain, Arc::clone(&self.key.signing)));
        let renew_at = now.saturating_add(validity.not_after.saturating_sub(now) / 2);
        Ok(Leaf { certified, renew_at })
    }
}

impl fmt::Debug for LeafMint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafMint({:?}, {} leaves)", self.ca, self.leaves.len())
    }
}

/// Back-dated for guests whose clocks lag (after a resume from a snapshot, say), within the authority's own time.
fn leaf_validity(ca: Validity, now: i64) -> Result<Validity, LeafError> {
    let not_before = now.saturating_sub(BACK_DATED).max(ca.not_before);
    let not_after = now.saturating_add(LIFETIME).min(ca.not_after);
    if now >= not_after {
        return Err(LeafError::AuthorityExpired);
    }
    Ok(Validity { not_before, not_after })
}

/// What Python 3.13, Go, Node and the rest check: one name, AKI, SKI, keyUsage, EKU, CA:FALSE. The subject is empty, so that it cannot be
/// the authority's, and the name is critical (RFC 5280 §4.2.1.6).
fn leaf_params(host: &Host, validity: Validity) -> Result<CertificateParams, LeafError> {
    let mut params = CertificateParams::default();
    params.not_before = rcgen_time(validity.not_before)?;
    params.not_after = rcgen_time(validity.not_after)?;
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![match host.ip() {
        Some(ip) => SanType::IpAddress(ip),
        None => SanType::DnsName(Ia5String::try_from(host.as_str())?),
    }];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The server configurations of recent (sandbox, host) pairs; taking one is a look-up.
pub struct LeafConfigs {
    mint: Arc<LeafMint>,
    template: ServerConfig,
    configs: Cache<(SandboxId, Host), Arc<ServerConfig>>,
}

impl LeafConfigs {
    /// Configurations with leaves of `mint`, for at most about `capacity` pairs. A pair that is pushed out loses its tickets, no more.
    pub fn new(mint: Arc<LeafMint>, capacity: usize) -> Result<Self, LeafError> {
        let unused =
            Arc::new(OneHost { mint: Arc::clone(&mint), host: Host::from_ip([0; 4].into()) });
        let mut template = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(unused);
        template.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        template.max_early_data_size = 0;
        template.send_tls13_tickets = 1;
        template.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { mint, template, configs: Cache::new(capacity) })
    }

    /// The configuration for connections of `sandbox` to `host`, with the leaf minted. TLS 1.2 and 1.3, ALPN h2 and http/1.1.
    pub fn for_sandbox_host(
        &self,
        sandbox: &SandboxId,
        host: &Host,
    ) -> Result<Arc<ServerConfig>, LeafError> {
        let key = (sandbox.clone(), host.clone());
        self.configs.get_or_insert_with(&key, || self.build(host))
    }

    fn build(&self, host: &Host) -> Result<Arc<ServerConfig>, LeafError> {
        self.mint.leaf(host)?;
        let mut config = self.template.clone();
        config.ticketer = Ticketer::new()?;
        config.cert_resolver =
            Arc::new(OneHost { mint: Arc::clone(&self.mint), host: host.clone() });
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for LeafConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafConfigs({:?}, {} pairs)", self.mint, self.configs.len())
    }
}

/// Presents the leaf of one host whatever the SNI: the decision has settled which. Asks the mint each time, so that leaves are renewed
/// beneath configurations that live on.
struct OneHost {
    mint: Arc<LeafMint>,
    host: Host,
}

impl ResolvesServerCert for OneHost {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.mint.leaf(&self.host).ok()
    }
}

impl fmt::Debug for OneHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OneHost({})", self.host)
    }
}

/// Why there is no leaf.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The authority ran out while Tollgate was running.
    #[error(
        "the certificate authority has expired; make a new one with `tollgate ca init` in an empty folder"
    )]
    AuthorityExpired,
    /// Generating or signing failed.
    #[error("the leaf could not be made")]
    Make(#[from] rcgen::Error),
    /// The TLS library does not take the key or give ticket keys.
    #[error("the TLS library cannot be set up")]
    Library(#[from] rustls::Error),
}

const BACK_DATED: i64 = 24 * 60 * 60;
const LIFETIME: i64 = 24 * 60 * 60;
/// A mint takes microseconds; past this wait a second one is made rather than a connection held up.
const MINT_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
