//! The stage of the tour: a folder that is removed afterwards, an upstream, the proxy, and two sandboxes.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sandbox::Sandbox;
use super::upstream::Upstream;
use crate::cli::{Failure, serve};
use crate::config::{Config, Overrides};
use crate::server::Server;
use crate::session::Session;

/// The base's key.
pub(super) const BASE_KEY: &str = "sk-live-of-the-team-0000-3f9a";
/// The fork's key.
pub(super) const FORK_KEY: &str = "sk-fork-of-my-own-0000-77c1";

const POLICY: &str = "
secretStores:
  team-base:
    egressAllowlist: [models.example.com, git.example.com]
    secrets:
      MODEL_KEY: { from: { file: team-key }, allowedHosts: [models.example.com] }
  my-fork:
    egressAllowlist: [tools.example.com]
    secrets:
      MODEL_KEY: { from: { file: fork-key }, allowedHosts: [models.example.com] }
sandboxes:
  sb-team: { secretStores: [team-base] }
  sb-fork: { secretStores: [team-base, my-fork] }
";

pub(super) struct Stage {
    server: Server,
    upstream: Upstream,
    team: Sandbox,
    fork: Sandbox,
    _folder: Folder,
}

impl Stage {
    pub(super) async fn set() -> Result<Self, Failure> {
        let folder = Folder::make()?;
        let upstream = Upstream::start(&HOSTS).await?;
        let server = Server::start(&config(&folder.0, &upstream)?).await?;
        let proxy = *server.explicit().first().ok_or("the proxy does not listen")?;
        let sandbox = |id| -> Result<Sandbox, Failure> {
            Sandbox::new(proxy, session(&server, id)?, &server.proxy().introspection.ca_pem)
        };
        let (team, fork) = (sandbox("sb-team")?, sandbox("sb-fork")?);
        Ok(Self { server, upstream, team, fork, _folder: folder })
    }

    pub(super) const fn team(&self) -> &Sandbox {
        &self.team
    }

    pub(super) const fn fork(&self) -> &Sandbox {
        &self.fork
    }

    pub(super) const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub(super) fn proxy(&self) -> SocketAddr {
        self.server.explicit().first().copied().unwrap_or_else(|| ([127, 0, 0, 1], 0).into())
    }

    /// Stops everything; the folder goes with it.
    pub(super) async fn strike(self) {
        self.upstream.stop().await;
        self.server.shut_down().await;
    }
}

const HOSTS: [&str; 3] = ["models.example.com", "git.example.com", "tools.example.com"];

/// A configuration as an operator would write it.
fn config(folder: &Path, upstream: &Upstream) -> Result<Config, Failure> {
    let key = |name: &str| format!("file: {}", folder.join(name).display());
    let policy = POLICY
        .replace("file: team-key", &key("team-key"))
        .replace("file: fork-key", &key("fork-key"));
    let address = upstream.address();
    let connect_to: String =
        HOSTS.iter().map(|host| format!("    \"{host}:443\": \"{address}\"\n")).collect();
    let configuration = format!(
        "listen: {{ explicit: [\"127.0.0.1:0\"] }}\naudit: {{ file: audit.jsonl }}\n\
         egress: {{ allowPrivate: [127.0.0.0/8] }}\nlimits: {{ drainTimeout: 1s }}\n\
         upstream:\n  roots: [upstream.pem]\n  connectTo:\n{connect_to}"
    );
    std::fs::create_dir(folder.join("policies"))?;
    for (name, text) in [
        ("team-key", BASE_KEY),
        ("fork-key", FORK_KEY),
        ("upstream.pem", upstream.root_pem()),
        ("policies/demo.yaml", policy.as_str()),
        ("tollgate.yaml", configuration.as_str()),
    ] {
        let path = folder.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
    }
    Config::load(Some(&folder.join("tollgate.yaml")), &Overrides::default())
        .map_err(|errors| serve::failure(&errors))
}

fn session(server: &Server, id: &str) -> Result<Arc<Session>, Failure> {
    let sandbox = server.proxy().registry.get(id);
    let session = sandbox.and_then(|sandbox| sandbox.session().ok());
    session.ok_or_else(|| format!("there is no sandbox {id}").into())
}

/// A folder of our own below the temporary one, removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, Failure> {
        let mut name = [0; 8];
        aws_lc_rs::rand::fill(&mut name).map_err(|_error| "no randomness")?;
        let name = format!("tollgate-demo-{:016x}", u64::from_ne_bytes(name));
        let folder = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "the demo's folder is left behind");
        }
    }
}
