//! The platform's own trust anchors, as certificates: what the upstream is verified against and what a sandbox's bundle starts with.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;

/// The certificates that this machine trusts, found once at the start.
#[derive(Debug)]
pub struct PlatformRoots {
    certificates: Vec<CertificateDer<'static>>,
    problems: Vec<String>,
}

impl PlatformRoots {
    /// Loads them: from the operator's `SSL_CERT_FILE` and `SSL_CERT_DIR` if set, otherwise from where the platform keeps them.
    #[must_use]
    pub fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let problems = found.errors.iter().map(ToString::to_string).collect();
        Self { certificates: found.certs, problems }
    }

    /// The certificates; none at all on a minimal image.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// What could not be read, to be shown to the operator.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    #[cfg(test)]
    pub(super) const fn of(certificates: Vec<CertificateDer<'static>>) -> Self {
        Self { certificates, problems: Vec::new() }
    }
}

/// A certificate in the textual encoding of RFC 7468 §5.
pub(super) fn pem(der: &CertificateDer<'_>) -> String {
    let body = STANDARD.encode(der);
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 64);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn pem_is_read_back_as_it_was_whatever_the_length() {
        for len in [1, 47, 48, 49, 96, 500] {
            let der = CertificateDer::from(vec![0x5a; len]);
            let text = pem(&der);
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap(), der, "{text}");
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
        }
    }
}
