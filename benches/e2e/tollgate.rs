//! The Tollgate arm: its configuration, its start, and what a sandbox learns from it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use serde_json::json;
use tokio::time::Instant;

use crate::lab::{Lab, Process};
use crate::workload::{BOUND_HOST, PLAIN_HOST};
use crate::{Fault, LOAD_CORE, PROXY_CORE, account, tls};

const SANDBOX: &str = "sb-bench";
const SECRET: &str = "BENCH_KEY";
const START_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_micros(200);
/// How much of its log is shown when it does not start.
const LOG_TAIL: usize = 2000;

/// What the sandbox holds: the sealed token, and the authority that it trusts.
#[derive(Clone)]
pub(crate) struct Sealed {
    pub(crate) token: String,
    pub(crate) roots: Arc<RootCertStore>,
}

/// Starts Tollgate on a free port; the first start in a lab makes its authority.
pub(crate) fn start(lab: &Lab) -> Result<(Process, SocketAddr), Fault> {
    let files = Files::write(lab)?;
    let log = File::create(&files.log)?;
    let mut command = Command::new(binary());
    command.arg("serve").arg("--config").arg(&files.config).args(["--sandbox", SANDBOX]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut process = Process::start(PROXY_CORE, &mut command)?;
    wait_until_it_listens(&mut process, files.listen).map_err(|fault| {
        let log = fs::read_to_string(&files.log).unwrap_or_default();
        format!("tollgate {fault}; the end of its log: {}", tail(&log))
    })?;
    if lab.sealed.get().is_none() {
        drop(lab.sealed.set(learn(&files)?));
    }
    Ok((process, files.listen))
}

/// Asks the binary for the environment of the sandbox, and reads the authority from its folder.
fn learn(files: &Files) -> Result<Sealed, Fault> {
    // Not in the way of the proxy whose start may be timed.
    account::pin_to(LOAD_CORE)?;
    let mut command = Command::new(binary());
    command.arg("env").arg("--config").arg(&files.config);
    let output = command.args(["--sandbox", SANDBOX, "--format", "json"]).output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("`tollgate env` failed: {}", tail(&message)).into());
    }
    let names: BTreeMap<String, String> =
        serde_json::from_slice(&output.stdout).map_err(|error| {
            format!("`tollgate env --format json` is no object of strings: {error}")
        })?;
    let token = names.get(SECRET).ok_or("`tollgate env` does not name the secret")?.clone();
    Ok(Sealed { token, roots: tls::roots(&files.authority.join("ca.pem"))? })
}

fn wait_until_it_listens(process: &mut Process, listen: SocketAddr) -> Result<(), Fault> {
    let started = Instant::now();
    while started.elapsed() < START_LIMIT {
        if TcpStream::connect(listen).is_ok() {
            return Ok(());
        }
        if process.has_ended() {
            return Err("ended before it listened".into());
        }
        std::thread::sleep(POLL);
    }
    Err("does not listen".into())
}

fn binary() -> PathBuf {
    std::env::var_os("TOLLGATE_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tollgate")), PathBuf::from)
}

struct Files {
    config: PathBuf,
    authority: PathBuf,
    log: PathBuf,
    listen: SocketAddr,
}

impl Files {
    /// Writes `tollgate.yaml` and its policy; JSON is YAML.
    fn write(lab: &Lab) -> Result<Self, Fault> {
        let dir = lab.dir();
        let policies = dir.join("policies");
        fs::create_dir_all(&policies)?;
        fs::write(policies.join("bench.yaml"), policy(lab.credential()))?;
        let files = Self {
            config: dir.join("tollgate.yaml"),
            authority: dir.join("authority"),
            log: dir.join("tollgate.log"),
            listen: free_port()?,
        };
        fs::write(&files.config, config(lab, &files, &policies))?;
        Ok(files)
    }
}

fn config(lab: &Lab, files: &Files, policies: &Path) -> String {
    let upstream = lab.upstream().to_string();
    let config = json!({
        "policies": [policies],
        "listen": { "explicit": [files.listen.to_string()] },
        "ca": { "dir": files.authority },
        "egress": { "allowPrivate": ["127.0.0.0/8"] },
        "upstream": {
            "roots": [tls::root_file(lab.dir())],
            "connectTo": {
                (format!("{BOUND_HOST}:443")): upstream,
                (format!("{PLAIN_HOST}:443")): upstream,
            },
        },
        "audit": { "file": lab.dir().join("audit.jsonl") },
    });
    format!("{config:#}\n")
}

fn policy(credential: &str) -> String {
    let policy = json!({
        "secretStores": { "bench": {
            "egressAllowlist": [BOUND_HOST, PLAIN_HOST],
            "secrets": { SECRET: {
                "from": { "value": credential },
                "allowedHosts": [BOUND_HOST],
            } },
        } },
        "sandboxes": { SANDBOX: { "secretStores": ["bench"] } },
    });
    format!("{policy:#}\n")
}

fn free_port() -> Result<SocketAddr, Fault> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn tail(log: &str) -> &str {
    let start = log.len().saturating_sub(LOG_TAIL);
    log.char_indices()
        .find(|(at, _)| *at >= start)
        .map_or("", |(at, _)| log.get(at..).unwrap_or_default())
}
