//! What sandboxes trust, as files beside the authority: one PEM bundle, and the same as a Java trust store.
//!
//! Both hold the platform's roots and the authority's certificate, and nothing secret. They are written whole or not at all, readable by
//! everybody: a client in a sandbox often runs as another user.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use rustls::pki_types::CertificateDer;

use crate::proxy::tls::ca::CertificateAuthority;
use crate::proxy::tls::roots::PlatformRoots;

/// The name of the PEM bundle in the authority's folder.
pub const BUNDLE: &str = "ca-bundle.pem";
/// The name of the Java trust store in the authority's folder.
pub const JAVA: &str = "truststore.jks";
/// The password of the Java trust store. It is no secret: it only guards against damage, and Java's own stores have the same.
pub const JAVA_PASSWORD: &str = "changeit";

/// Writes both files into the authority's folder, and returns the PEM bundle.
pub fn write(
    folder: &Path,
    ca: &CertificateAuthority,
    roots: &PlatformRoots,
) -> Result<String, (PathBuf, io::Error)> {
    let bundle = ca.bundle(roots);
    let created = u64::try_from(ca.not_before().as_millisecond()).unwrap_or_default();
    let platform = roots.certificates().iter().filter(|&root| *root != *ca.der());
    let numbered = platform.zip(1..).map(|(root, nth)| (format!("root-{nth:04}"), root));
    let store = java_store(numbered.chain([("tollgate".to_owned(), ca.der())]), created);
    for (name, bytes) in [(BUNDLE, bundle.as_bytes()), (JAVA, &store)] {
        let path = folder.join(name);
        replace(&path, bytes).map_err(|error| (path, error))?;
    }
    Ok(bundle)
}

/// Writes a public file: under another name first, then in the place of the old one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut suffix = [0; 8];
    aws_lc_rs::rand::fill(&mut suffix).map_err(|_error| io::Error::other("no randomness"))?;
    let temporary = path.with_extension(format!("{:016x}", u64::from_ne_bytes(suffix)));
    let written = (|| {
        let mut file = File::create_new(&temporary)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Most likely it was never made.
        drop(std::fs::remove_file(&temporary));
    }
    written
}

/// A Java KeyStore, version 2, of trusted certificates; `created` is in milliseconds since 1970.
fn java_store<'a>(
    certificates: impl Iterator<Item = (String, &'a CertificateDer<'a>)>,
    created: u64,
) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count: u32 = 0;
    for (alias, certificate) in certificates {
        let (Ok(alias_len), Ok(len)) =
            (u16::try_from(alias.len()), u32::try_from(certificate.len()))
        else {
            continue;
        };
        entries.extend_from_slice(&TRUSTED_CERTIFICATE.to_be_bytes());
        entries.extend_from_slice(&alias_len.to_be_bytes());
        entries.extend_from_slice(alias.as_bytes());
        entries.extend_from_slice(&created.to_be_bytes());
        entries.extend_from_slice(b"\0\x05X.509");
        entries.extend_from_slice(&len.to_be_bytes());
        entries.extend_from_slice(certificate);
        count += 1;
    }
    let mut store = Vec::with_capacity(entries.len() + 32);
    store.extend_from_slice(&MAGIC.to_be_bytes());
    store.extend_from_slice(&VERSION.to_be_bytes());
    store.extend_from_slice(&count.to_be_bytes());
    store.extend_from_slice(&entries);
    let digest = integrity(&store);
    store.extend_from_slice(&digest);
    store
}

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;

/// SHA-1 over the password in UTF-16, a fixed phrase, and the store.
fn integrity(store: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    for unit in JAVA_PASSWORD.encode_utf16() {
        context.update(&unit.to_be_bytes());
    }
    context.update(b"Mighty Aphrodite");
    context.update(store);
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_replaced_whole_and_readable_by_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::open_or_create(folder.path()).unwrap();
        let before = std::fs::read_dir(folder.path()).unwrap().count();
        for _ in 0..2 {
            let bundle = write(folder.path(), &ca, &PlatformRoots::load()).unwrap();
            assert!(bundle.contains(&ca.pem()));
            assert_eq!(std::fs::read_to_string(folder.path().join(BUNDLE)).unwrap(), bundle);
        }
        for name in [BUNDLE, JAVA] {
            let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before + 2);
    }

    #[test]
    fn a_java_store_has_the_layout_that_java_reads() {
        let certificate = CertificateDer::from(vec![0x30; 3]);
        let store = java_store([("tollgate".to_owned(), &certificate)].into_iter(), 1);
        let head = b"\xfe\xed\xfe\xed\0\0\0\x02\0\0\0\x01\0\0\0\x02\0\x08tollgate\0\0\0\0\0\0\0\x01\0\x05X.509\0\0\0\x03\x30\x30\x30";
        assert_eq!(&store[..head.len()], head);
        assert_eq!(store.len(), head.len() + 20);
    }

    /// Runs where the real clients are set up.
    #[test]
    fn keytool_reads_the_java_store() {
        if std::env::var_os("TOLLGATE_TEST_CLIENTS").is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::open_or_create(folder.path()).unwrap();
        write(folder.path(), &ca, &PlatformRoots::load()).unwrap();
        let listed = std::process::Command::new("keytool")
            .args(["-list", "-storepass", JAVA_PASSWORD, "-alias", "tollgate", "-keystore"])
            .arg(folder.path().join(JAVA))
            .output();
        let Ok(listed) = listed else { return };
        let text = String::from_utf8_lossy(&listed.stdout);
        assert!(listed.status.success() && text.contains("trustedCertEntry"), "{text}");
    }
}
