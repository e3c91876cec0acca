//! What clients in there trust, and whom they ask for names: the system's own files show Tollgate's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use super::mounts::{self, named};
use super::network::NAME_SERVER;
use super::plan::Plan;
use super::view;
use crate::trust;

/// The authority's certificate, as the command sees it.
pub const CA: &str = "/run/tollgate/ca.pem";
/// The platform's roots and the authority's certificate.
pub const BUNDLE: &str = "/run/tollgate/ca-bundle.pem";
/// The same as a Java trust store.
pub const JAVA: &str = "/run/tollgate/truststore.jks";

const OURS: &str = "/run/tollgate";
const NSS: &str = "/run/tollgate-nss";
const RESOLVER: &str = "/run/tollgate/resolv.conf";
/// An empty file.
pub(super) const EMPTY: &str = "/run/tollgate/nothing";

/// Files that clients trust, and where they look for them.
pub(super) struct Trust {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Which file is shown where.
    places: BTreeMap<PathBuf, &'static str>,
    /// Where the user's NSS database is, or would be.
    nss: Option<PathBuf>,
}

const CERTUTIL: &str = "/usr/bin/certutil";

fn certutil(arguments: &[&str]) -> io::Result<()> {
    let mut command = Command::new(CERTUTIL);
    command.args(arguments).arg("-d").arg(format!("sql:{NSS}")).env_clear();
    let ended =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if ended.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{CERTUTIL} cannot add the authority to the NSS database: {ended}"
    )))
}

/// Where distributions keep their roots in one file.
const BUNDLES: [&str; 9] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// Where they keep Java's.
const JAVA_STORES: [&str; 4] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
    "/var/lib/ca-certificates/java-cacerts",
];

impl Trust {
    pub(super) fn find(plan: &Plan) -> io::Result<Self> {
        let read = |name: &str| {
            let path = plan.authority.join(name);
            fs::read(&path).map_err(|error| named(&path, error))
        };
        let resolver = format!("nameserver {NAME_SERVER}\noptions edns0\n");
        let files = BTreeMap::from([
            (CA, read("ca.pem")?),
            (BUNDLE, read(trust::BUNDLE)?),
            (JAVA, read(trust::JAVA)?),
            (RESOLVER, resolver.into_bytes()),
            (EMPTY, Vec::new()),
        ]);
        let mut places = BTreeMap::new();
        let mut place = |path: &Path, file| {
            let found = fs::canonicalize(path).ok().filter(|path| path.is_file());
            // A link into a folder that is about to be the command's own may dangle.
            let linked = || fs::read_link(path).ok().filter(|path| view::is_private(path));
            if let Some(path) = found.or_else(linked) {
                places.insert(path, file);
            }
        };
        for bundle in BUNDLES {
            place(Path::new(bundle), BUNDLE);
        }
        for store in JAVA_STORES.map(PathBuf::from).into_iter().chain(java_installations(plan)) {
            place(&store, JAVA);
        }
        place(Path::new("/etc/resolv.conf"), RESOLVER);
        let nss = plan.variable("HOME").map(|home| Path::new(home).join(".pki/nssdb"));
        Ok(Self { files, places, nss })
    }

    pub(super) fn show(&self) -> io::Result<()> {
        for (path, bytes) in &self.files {
            mounts::write(Path::new(path), bytes)?;
        }
        for (at, file) in &self.places {
            if view::is_private(at) {
                mounts::write(at, b"")?;
            }
            mounts::show(Path::new(file), at)?;
        }
        mounts::show(Path::new(OURS), Path::new(OURS))?;
        self.show_nss()
    }

    /// Chromium and others trust what this database in the home folder says: a copy of it, with the authority.
    fn show_nss(&self) -> io::Result<()> {
        let Some(database) = self.nss.as_ref().filter(|_| Path::new(CERTUTIL).exists()) else {
            return Ok(());
        };
        fs::create_dir_all(NSS).map_err(|error| named(NSS.as_ref(), error))?;
        fs::create_dir_all(database).map_err(|error| named(database, error))?;
        for entry in fs::read_dir(database)?.flatten() {
            fs::copy(entry.path(), Path::new(NSS).join(entry.file_name()))?;
        }
        if !Path::new(NSS).join("cert9.db").exists() {
            certutil(&["-N", "--empty-password"])?;
        }
        certutil(&["-A", "-n", "Tollgate", "-t", "C,,", "-i", CA])?;
        rustix::mount::mount_bind(NSS, database).map_err(|error| named(database, error))
    }
}

/// The trust stores of the Javas that are installed.
fn java_installations(plan: &Plan) -> Vec<PathBuf> {
    let mut homes: Vec<PathBuf> = Vec::new();
    if let Ok(entries) = fs::read_dir("/usr/lib/jvm") {
        homes.extend(entries.flatten().map(|entry| entry.path()));
    }
    homes.extend(plan.variable("JAVA_HOME").map(PathBuf::from));
    for folder in plan.variable("PATH").into_iter().flat_map(std::env::split_paths) {
        let java = fs::canonicalize(folder.join("java"));
        homes.extend(java.ok().and_then(|java| Some(java.parent()?.parent()?.to_owned())));
    }
    let stores = ["lib/security/cacerts", "jre/lib/security/cacerts"];
    homes.iter().flat_map(|home| stores.map(|store| home.join(store))).collect()
}
