//! The certificate authority towards the sandboxes: `ca.pem` and `ca.key` in the key folder.
//!
//! Made once, on the first start or by `tollgate ca init`, and then only read: whatever is wrong with the files is an error that says what
//! to do. A silent new authority would break every sandbox that trusts the old one, and a foreign one would be trusted by us.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::key_dir::{Access, DirLock, KeyDir, KeyDirError};
use super::roots::{PlatformRoots, pem};

/// An authority whose certificate and key are checked to belong together and to be in force.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    subject: String,
    validity: Validity,
}

/// When a certificate holds, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl CertificateAuthority {
    /// Reads the authority in `dir`.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        match KeyDir::open(dir) {
            Ok(dir) => load(&dir, unix_now()),
            Err(KeyDirError::Missing { path }) => Err(CaError::Absent { dir: path }),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an authority in `dir`, and the folder if need be. One that is there, even half, stays and is an error.
    pub fn create(dir: &Path) -> Result<Self, CaError> {
        let dir = KeyDir::open_or_make(dir)?;
        let lock = dir.lock()?;
        for name in [CERTIFICATE, KEY] {
            if dir.has(name)? {
                return Err(KeyDirError::Exists { path: dir.file(name) }.into());
            }
        }
        make(&lock, unix_now())?;
        load(&dir, unix_now())
    }

    /// Reads the authority in `dir`, or makes one if `dir` has none. Several processes that start at once get the same.
    pub fn open_or_create(dir: &Path) -> Result<Self, CaError> {
        let dir = KeyDir::open_or_make(dir)?;
        match load(&dir, unix_now()) {
            // Half of it may be another process in the middle of making one: look again under the lock.
            Err(CaError::Absent { .. } | CaError::Half { .. }) => {}
            loaded => return loaded,
        }
        let lock = dir.lock()?;
        match load(&dir, unix_now()) {
            Err(CaError::Absent { .. }) => {}
            loaded => return loaded,
        }
        make(&lock, unix_now())?;
        load(&dir, unix_now())
    }

    /// The certificate as PEM: what a sandbox is made to trust.
    #[must_use]
    pub fn pem(&self) -> String {
        pem(&self.der)
    }

    /// The certificate as DER.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Who the certificate says it is.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// SHA-256 of the certificate as upper-case hex pairs with colons, as other tools print it.
    #[must_use]
    pub fn fingerprint_sha256(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.der);
        let pairs: Vec<String> = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        pairs.join(":")
    }

    /// From when on the certificate holds.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        timestamp(self.validity.not_before)
    }

    /// Until when the certificate holds.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        timestamp(self.validity.not_after)
    }

    /// The platform's roots and this authority as one PEM text, for variables that replace a client's roots.
    ///
    /// Without roots it holds this authority alone, which verifies every connection but passthrough ones: whoever writes it says so.
    #[must_use]
    pub fn bundle(&self, roots: &PlatformRoots) -> String {
        let platform = roots.certificates().iter().filter(|&root| *root != self.der);
        platform.chain([&self.der]).map(|der| pem(der)).collect()
    }

    pub(super) const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) const fn validity(&self) -> Validity {
        self.validity
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority({})", self.subject)
    }
}

fn load(dir: &KeyDir, now: i64) -> Result<CertificateAuthority, CaError> {
    // The certificate is written last, so where it is found the key is there too.
    let certificate = dir.read(CERTIFICATE, Access::Public)?;
    let key = dir.read(KEY, Access::Private)?;
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Err(CaError::Absent { dir: dir.file("") }),
        (Some(_), None) => {
            return Err(CaError::Half { present: dir.file(CERTIFICATE), missing: KEY });
        }
        (None, Some(_)) => {
            return Err(CaError::Half { present: dir.file(KEY), missing: CERTIFICATE });
        }
    };
    let der = read_certificate(&dir.file(CERTIFICATE), &certificate)?;
    let key = read_key(&dir.file(KEY), &key)?;
    check(dir, der, key, now)
}

fn read_certificate(path: &Path, text: &[u8]) -> Result<CertificateDer<'static>, CaError> {
    let mut found = CertificateDer::pem_slice_iter(text);
    match (found.next(), found.next()) {
        (Some(Ok(der)), None) => Ok(der),
        _ => Err(CaError::NotOneCertificate { path: path.to_owned() }),
    }
}

fn read_key(path: &Path, text: &[u8]) -> Result<KeyPair, CaError> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| KeyPair::from_pem(text).ok())
        .ok_or_else(|| CaError::BadKey { path: path.to_owned() })
}

fn check(
    dir: &KeyDir,
    der: CertificateDer<'static>,
    key: KeyPair,
    now: i64,
) -> Result<CertificateAuthority, CaError> {
    let path = dir.file(CERTIFICATE);
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
        return Err(CaError::NotOneCertificate { path });
    };
    let may_sign =
        matches!(certificate.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign());
    if !certificate.is_ca() || !may_sign {
        return Err(CaError::NotAnAuthority { path });
    }
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(CaError::Mismatch { certificate: path, key: dir.file(KEY) });
    }
    let validity = Validity {
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    };
    if now < validity.not_before {
        return Err(CaError::NotYetValid { path, from: timestamp(validity.not_before) });
    }
    if now >= validity.not_after {
        return Err(CaError::Expired { path, since: timestamp(validity.not_after) });
    }
    let subject = certificate.subject().to_string();
    let issuer = Issuer::from_ca_cert_der(&der, key)?;
    Ok(CertificateAuthority { issuer, der, subject, validity })
}

/// The key first, so that a certificate without its key never exists.
fn make(lock: &DirLock<'_>, now: i64) -> Result<(), CaError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = authority_params(&key, now)?.self_signed(&key)?;
    let key = Zeroizing::new(key.serialize_pem());
    lock.create(KEY, Access::Private, key.as_bytes())?;
    lock.create(CERTIFICATE, Access::Public, certificate.pem().as_bytes())?;
    Ok(())
}

fn authority_params(key: &KeyPair, now: i64) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.not_before = rcgen_time(now.saturating_sub(BACK_DATED))?;
    params.not_after = rcgen_time(now.saturating_add(LIFETIME))?;
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = authority_name(key);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The name holds a piece of the key's hash, so that two authorities in one trust store can be told apart.
fn authority_name(key: &KeyPair) -> DistinguishedName {
    let hash = digest::digest(&digest::SHA256, &key.subject_public_key_info());
    let piece: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Tollgate");
    name.push(DnType::CommonName, format!("Tollgate CA {piece}"));
    name
}

/// 126 random bits, positive and of constant length (RFC 5280 §4.1.2.2).
pub(super) fn random_serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| rcgen::Error::RingUnspecified)?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

pub(super) fn rcgen_time(seconds: i64) -> Result<OffsetDateTime, rcgen::Error> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_range| rcgen::Error::Time)
}

pub(super) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Why there is no authority to work with.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file or its folder.
    #[error(transparent)]
    File(#[from] KeyDirError),
    /// Neither certificate nor key.
    #[error("there is no certificate authority in {}; `tollgate ca init` makes one", dir.display())]
    Absent {
        /// The folder.
        dir: PathBuf,
    },
    /// A lost file, or a first start that was cut off.
    #[error("{} is there but {missing} beside it is not; restore {missing}, or move {} away to get a new authority, which every sandbox then has to trust", present.display(), present.display())]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The name of the other.
        missing: &'static str,
    },
    /// Not PEM, not X.509, or a whole chain.
    #[error("{} does not hold exactly one certificate in PEM; keep the authority's own certificate alone there", path.display())]
    NotOneCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Encrypted, of an unknown kind, or not a key.
    #[error("{} does not hold an unencrypted private key in PEM that can sign; restore it", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate that clients would not accept as an issuer.
    #[error("{} is not an authority's certificate: it needs basicConstraints CA:TRUE and keyUsage keyCertSign", path.display())]
    NotAnAuthority {
        /// The file.
        path: PathBuf,
    },
    /// One of the two was replaced.
    #[error("{} and {} do not belong together; restore the one that was replaced", certificate.display(), key.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Past its time.
    #[error("{} has expired on {since}; move it and its key away and run `tollgate ca init`, then let the sandboxes trust the new one", path.display())]
    Expired {
        /// The certificate.
        path: PathBuf,
        /// When it ended.
        since: Timestamp,
    },
    /// The clock of this machine or of the one that made it is wrong.
    #[error("{} is valid only from {from} on; check the clock", path.display())]
    NotYetValid {
        /// The certificate.
        path: PathBuf,
        /// When it begins.
        from: Timestamp,
    },
    /// Generating or signing failed.
    #[error("the certificate could not be made")]
    Make(#[from] rcgen::Error),
}

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
/// A guest's clock may lag behind ours by a day and still accept the authority.
const BACK_DATED: i64 = 24 * 60 * 60;
/// Ten years: a new authority has to be carried into every image, and the key never leaves the folder.
const LIFETIME: i64 = 3650 * 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn fresh() -> (tempfile::TempDir, CertificateAuthority) {
        let root = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(root.path()).unwrap();
        (root, ca)
    }

    fn write_certificate(dir: &Path, params: &CertificateParams) {
        let key = KeyPair::from_pem(&fs::read_to_string(dir.join(KEY)).unwrap()).unwrap();
        fs::write(dir.join(CERTIFICATE), params.self_signed(&key).unwrap().pem()).unwrap();
    }

    #[test]
    fn the_authority_has_the_shape_that_strict_clients_want() {
        let (_root, ca) = fresh();
        let (_, certificate) = X509Certificate::from_der(ca.der()).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert_eq!(usage.value.flags.count_ones(), 2);
        let ids: Vec<String> =
            certificate.extensions().iter().map(|e| e.oid.to_id_string()).collect();
        assert!(ids.contains(&"2.5.29.14".to_owned()), "no subject key identifier: {ids:?}");
        assert!(certificate.subject().to_string().contains("CN=Tollgate CA "), "{ca:?}");
        assert!(certificate.verify_signature(None).is_ok());
        let days = (ca.validity.not_after - ca.validity.not_before) / 86_400;
        assert_eq!(days, 3651);
        assert!(unix_now() - ca.validity.not_before >= BACK_DATED);
        assert_eq!(ca.fingerprint_sha256().len(), 95);
    }

    #[test]
    fn the_files_have_their_modes_and_opening_again_gives_the_same() {
        let (root, ca) = fresh();
        let mode = |name| fs::metadata(root.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode(CERTIFICATE), mode(KEY)), (0o644, 0o600));
        let again = CertificateAuthority::open_or_create(root.path()).unwrap();
        assert_eq!(again.der(), ca.der());
        assert_eq!(fs::read_to_string(root.path().join(CERTIFICATE)).unwrap(), ca.pem());
        assert_eq!(CertificateAuthority::open(root.path()).unwrap().der(), ca.der());
    }

    #[test]
    fn many_first_starts_at_once_agree_on_one_authority() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("certs");
        let ders: Vec<CertificateDer<'static>> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| CertificateAuthority::open_or_create(&dir)))
                .collect();
            starts.into_iter().map(|start| start.join().unwrap().unwrap().der).collect()
        });
        assert!(ders.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn nothing_is_made_where_something_lies() {
        let (root, ca) = fresh();
        let again = CertificateAuthority::create(root.path());
        assert!(matches!(again, Err(CaError::File(KeyDirError::Exists { .. }))), "{again:?}");
        for (lost, kept) in [(KEY, CERTIFICATE), (CERTIFICATE, KEY)] {
            let lost = root.path().join(lost);
            let aside = root.path().join("aside");
            fs::rename(&lost, &aside).unwrap();
            for opened in [
                CertificateAuthority::open(root.path()),
                CertificateAuthority::open_or_create(root.path()),
            ] {
                assert!(matches!(opened, Err(CaError::Half { .. })), "{opened:?}");
            }
            let made = CertificateAuthority::create(root.path());
            assert!(matches!(made, Err(CaError::File(KeyDirError::Exists { .. }))), "{made:?}");
            assert!(!lost.exists() && root.path().join(kept).exists());
            fs::rename(&aside, &lost).unwrap();
        }
        assert_eq!(CertificateAuthority::open(root.path()).unwrap().der(), ca.der());
    }

    #[test]
    fn an_empty_or_missing_folder_holds_no_authority() {
        let root = tempfile::tempdir().unwrap();
        for dir in [root.path().to_owned(), root.path().join("missing")] {
            let opened = CertificateAuthority::open(&dir);
            assert!(matches!(opened, Err(CaError::Absent { .. })), "{opened:?}");
        }
        assert!(!root.path().join("missing").exists());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (root, _ca) = fresh();
        fs::set_permissions(root.path().join(KEY), Permissions::from_mode(0o644)).unwrap();
        let opened = CertificateAuthority::open_or_create(root.path());
        assert!(matches!(opened, Err(CaError::File(KeyDirError::Exposed { .. }))), "{opened:?}");
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let (root, _ca) = fresh();
        let (_other_root, other) = fresh();
        fs::write(root.path().join(CERTIFICATE), other.pem()).unwrap();
        let opened = CertificateAuthority::open_or_create(root.path());
        assert!(matches!(opened, Err(CaError::Mismatch { .. })), "{opened:?}");
    }

    #[test]
    fn an_authority_out_of_its_time_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = KeyDir::open(root.path()).unwrap();
        make(&dir.lock().unwrap(), unix_now() - LIFETIME - 1).unwrap();
        let opened = CertificateAuthority::open_or_create(root.path());
        assert!(matches!(opened, Err(CaError::Expired { .. })), "{opened:?}");
        let early = load(&dir, unix_now() - LIFETIME - 2 * BACK_DATED);
        assert!(matches!(early, Err(CaError::NotYetValid { .. })), "{early:?}");
    }

    #[test]
    fn a_certificate_that_is_no_authority_is_refused() {
        let (root, _ca) = fresh();
        let key = KeyPair::from_pem(&fs::read_to_string(root.path().join(KEY)).unwrap()).unwrap();
        let mut leaf = authority_params(&key, unix_now()).unwrap();
        leaf.is_ca = IsCa::ExplicitNoCa;
        let mut unusable = authority_params(&key, unix_now()).unwrap();
        unusable.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for params in [leaf, unusable] {
            write_certificate(root.path(), &params);
            let opened = CertificateAuthority::open_or_create(root.path());
            assert!(matches!(opened, Err(CaError::NotAnAuthority { .. })), "{opened:?}");
        }
    }

    #[test]
    fn files_that_hold_something_else_are_refused() {
        let (root, ca) = fresh();
        let certificate = root.path().join(CERTIFICATE);
        for text in [String::new(), "hello".to_owned(), ca.pem() + &ca.pem()] {
            fs::write(&certificate, &text).unwrap();
            let opened = CertificateAuthority::open_or_create(root.path());
            assert!(matches!(opened, Err(CaError::NotOneCertificate { .. })), "{opened:?}");
        }
        fs::write(&certificate, ca.pem()).unwrap();
        fs::write(root.path().join(KEY), "hello").unwrap();
        let opened = CertificateAuthority::open_or_create(root.path());
        assert!(matches!(opened, Err(CaError::BadKey { .. })), "{opened:?}");
    }

    #[test]
    fn the_bundle_holds_the_roots_and_the_authority_once() {
        let (_root, ca) = fresh();
        let (_other_root, other) = fresh();
        let roots = PlatformRoots::of(vec![other.der().clone(), ca.der().clone()]);
        assert_eq!(ca.bundle(&roots), other.pem() + &ca.pem());
    }
}
