//! `tollgate ca`: makes the certificate authority, shows it, and prints it together with the platform's roots.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Failure, Format, Terminal};
use crate::proxy::tls::ca::CertificateAuthority;
use crate::proxy::tls::roots::PlatformRoots;
use crate::proxy::tls::seal_key;

/// The arguments of `tollgate ca`.
#[derive(Debug, Args)]
pub(super) struct Ca {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a certificate authority and a seal key, where there is no authority yet.
    #[command(
        after_help = "Examples:\n  tollgate ca init\n  tollgate ca init --dir /var/lib/tollgate/certs"
    )]
    Init {
        #[command(flatten)]
        dir: Dir,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show the authority's name, fingerprint and validity.
    #[command(
        after_help = "Examples:\n  tollgate ca show\n  tollgate ca show --format json | jq -r .fingerprintSHA256"
    )]
    Show {
        #[command(flatten)]
        dir: Dir,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print the platform's roots and the authority as one PEM text, for variables that replace a client's roots.
    #[command(
        after_help = "Examples:\n  tollgate ca bundle > bundle.pem\n  SSL_CERT_FILE=/etc/ssl/cert.pem tollgate ca bundle --dir /var/lib/tollgate/certs"
    )]
    Bundle {
        #[command(flatten)]
        dir: Dir,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

#[derive(Debug, Args)]
struct Dir {
    /// The folder with ca.pem, ca.key and seal.key.
    #[arg(long, env = "TOLLGATE_CA_DIR", default_value = "certs")]
    dir: PathBuf,
}

impl Ca {
    pub(super) fn run(self, terminal: &mut Terminal) -> Result<(), Failure> {
        match self.action {
            Action::Init { dir, format } => {
                let ca = CertificateAuthority::create(&dir.dir)?;
                seal_key::open_or_create(&dir.dir)?;
                terminal
                    .note(format_args!("made a certificate authority in {}", dir.dir.display()));
                terminal.print(&facts(&ca, &dir.dir, format))
            }
            Action::Show { dir, format } => {
                let ca = CertificateAuthority::open(&dir.dir)?;
                terminal.print(&facts(&ca, &dir.dir, format))
            }
            Action::Bundle { dir, format } => {
                let ca = CertificateAuthority::open(&dir.dir)?;
                let text = bundle(&ca, terminal);
                terminal.print(&match format {
                    Format::Human => text,
                    Format::Json => json(&serde_json::json!({ "pem": text })),
                })
            }
        }
    }
}

fn facts(ca: &CertificateAuthority, dir: &Path, format: Format) -> String {
    let certificate = dir.join("ca.pem");
    match format {
        Format::Human => format!(
            "certificate  {}\nsubject      {}\nSHA-256      {}\nvalid        {} to {}\n",
            certificate.display(),
            ca.subject(),
            ca.fingerprint_sha256(),
            ca.not_before(),
            ca.not_after(),
        ),
        Format::Json => json(&serde_json::json!({
            "certificate": certificate.display().to_string(),
            "subject": ca.subject(),
            "fingerprintSHA256": ca.fingerprint_sha256(),
            "notBefore": ca.not_before().to_string(),
            "notAfter": ca.not_after().to_string(),
            "pem": ca.pem(),
        })),
    }
}

fn json(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn bundle(ca: &CertificateAuthority, terminal: &mut Terminal) -> String {
    let roots = PlatformRoots::load();
    for problem in roots.problems() {
        terminal.note(format_args!("tollgate: warning: {problem}"));
    }
    if roots.certificates().is_empty() {
        terminal.note(
            "tollgate: warning: this machine has no root certificates, so the bundle holds Tollgate's authority alone and passthrough \
             hosts will not verify; install the platform's CA certificates or set SSL_CERT_FILE",
        );
    }
    ca.bundle(&roots)
}
