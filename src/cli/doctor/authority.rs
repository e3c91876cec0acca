//! The authority and its keys on disk, and the clock by which certificates are judged.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};

use super::finding::Finding;
use crate::proxy::tls::ca::CertificateAuthority;
use crate::trust;

const AUTHORITY: &str = "authority";
const CLOCK: &str = "clock";
/// A sandbox's image is built less often than that.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Judges what is in the folder; gives the authority if there is a usable one.
pub(super) fn examine(
    folder: &Path,
    findings: &mut Vec<Finding>,
) -> Option<Arc<CertificateAuthority>> {
    let ca = match CertificateAuthority::open(folder) {
        Ok(ca) => Arc::new(ca),
        Err(error) => {
            let mend = format!(
                "tollgate ca init --dir {}, or start `tollgate serve` once",
                folder.display()
            );
            findings.push(Finding::failure(AUTHORITY, error.to_string(), mend));
            return None;
        }
    };
    findings.push(Finding::fine(AUTHORITY, format!("{}, in {}", ca.subject(), folder.display())));
    findings.extend(keys(folder));
    findings.extend(clock(&ca, folder, Timestamp::now()));
    Some(ca)
}

fn keys(folder: &Path) -> Vec<Finding> {
    let open = |name: &&str| {
        let mode = folder.join(name).metadata().ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then(|| {
            let path = folder.join(name);
            let what = format!("{} can be read by others (mode {mode:o})", path.display());
            Finding::failure(AUTHORITY, what, format!("chmod 600 {}", path.display()))
        })
    };
    ["ca.key", "seal.key"].iter().filter_map(open).collect()
}

fn clock(ca: &CertificateAuthority, folder: &Path, now: Timestamp) -> Vec<Finding> {
    if now < ca.not_before() {
        let what = format!("it is {now} here, before the authority was made");
        return vec![Finding::failure(
            CLOCK,
            what,
            "set the clock, for instance with `chronyc makestep`",
        )];
    }
    if now >= ca.not_after() {
        let mend = "make a new authority with `tollgate ca init` in an empty folder, and give its ca.pem to every image; or set the clock";
        return vec![Finding::failure(AUTHORITY, format!("it ended at {}", ca.not_after()), mend)];
    }
    let mut findings = Vec::new();
    if ca.not_after().duration_since(now) < SOON {
        let mend = "make a new authority in time, and give its ca.pem to every image";
        findings.push(Finding::warning(AUTHORITY, format!("it ends at {}", ca.not_after()), mend));
    }
    let written =
        [trust::BUNDLE, "ca.pem"].iter().filter_map(|name| folder.join(name).metadata().ok());
    let latest = written.filter_map(|metadata| metadata.modified().ok()).max();
    findings.push(match latest {
        Some(latest) if latest > SystemTime::now() => {
            let mend = "set the clock, for instance with `chronyc makestep`";
            Finding::failure(CLOCK, format!("it is {now} here, and files are from later"), mend)
        }
        _ => Finding::fine(CLOCK, format!("{now:.0}")),
    });
    findings
}
