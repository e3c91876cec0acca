//! The set-up that all arms share: a temporary folder, certificates, the credential, the upstream.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::tollgate::Sealed;
use crate::{Fault, LOAD_CORE, Offer, PROXY_CORE, account, tls};

/// Bytes of the credential that the upstream asks for.
const CREDENTIAL_LENGTH: usize = 40;

/// Everything that lives as long as the run; dropping it ends the upstream and removes the files.
pub(crate) struct Lab {
    dir: TempDir,
    credential: String,
    upstream: SocketAddr,
    /// What Tollgate gave out on its first start.
    pub(crate) sealed: OnceLock<Sealed>,
    _upstream: Process,
}

impl Lab {
    pub(crate) fn open(offer: Offer) -> Result<Self, Fault> {
        let dir = tempfile::Builder::new().prefix("tollgate-e2e-").tempdir()?;
        tls::create(dir.path())?;
        let credential = random_text()?;
        fs::write(dir.path().join("credential"), &credential)?;
        let alpn = if offer == Offer::H1 { "h1" } else { "both" };
        let (process, upstream) =
            Process::role(dir.path(), LOAD_CORE, &["upstream", "--alpn", alpn])?;
        Ok(Self { dir, credential, upstream, sealed: OnceLock::new(), _upstream: process })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// The real value, which only the upstream and the arms without Tollgate are given.
    pub(crate) fn credential(&self) -> &str {
        &self.credential
    }

    /// Starts a relay in front of the upstream.
    pub(crate) fn relay(&self, role: &str) -> Result<(Process, SocketAddr), Fault> {
        let upstream = self.upstream.to_string();
        Process::role(self.dir(), PROXY_CORE, &[role, "--upstream", &upstream])
    }
}

/// A child process that does not outlive this value.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a command on one core.
    pub(crate) fn start(core: usize, command: &mut Command) -> Result<Self, Fault> {
        account::pin_to(core)?;
        let child = command.spawn();
        account::pin_to(LOAD_CORE)?;
        let program = command.get_program().to_string_lossy().into_owned();
        Ok(Self(child.map_err(|error| format!("cannot start `{program}`: {error}"))?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Starts this binary again in a role, which says on its first line where it listens.
    fn role(dir: &Path, core: usize, role: &[&str]) -> Result<(Self, SocketAddr), Fault> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("role").args(role).arg("--dir").arg(dir);
        // The pipe to its stdin is how a role notices that the harness is gone.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Self::start(core, &mut command)?;
        let stdout = process.0.stdout.take().ok_or("a role without stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse();
        let address =
            address.map_err(|error| format!("role {role:?} does not say where: {error}"))?;
        Ok((process, address))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn random_text() -> Result<String, Fault> {
    let mut bytes = [0_u8; CREDENTIAL_LENGTH / 2];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
