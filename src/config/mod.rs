//! The server's configuration: `tollgate.yaml`, flags and `TOLLGATE_…` variables → one checked [`Config`].
//!
//! Every key is optional; nothing starts with a configuration that holds a mistake. Unknown and duplicate keys, numbers without their unit,
//! zero as "unlimited", an API without a key, and listeners that reach further than somebody said are refused, each with its place and a
//! hint. Keys themselves are never written down here, only where they come from.

mod compile;
mod dns;
mod error;
mod limits;
mod overrides;
mod quantity;
mod read;
mod written;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::host::{Destination, HostPattern};
use crate::policy::{OperatorRules, PrivateAccess};
use crate::secret::{SandboxId, SourceSpec};

pub use dns::Dns;
pub use error::{ConfigError, Origin};
pub use limits::{LimitRow, Limits, TABLE as LIMITS, markdown as limits_table};
pub use overrides::{ConfigArgs, Overrides};
pub use quantity::{ByteSize, QuantityError};

/// The file that is read if none is named.
pub const DEFAULT_FILE: &str = "tollgate.yaml";

/// The configuration as meant.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Policy files or folders; by default `policies`.
    pub policies: Vec<PathBuf>,
    /// The one sandbox to which all that reaches the listeners belongs (`--sandbox`).
    pub sandbox: Option<SandboxId>,
    /// Where Tollgate listens.
    pub listen: Listen,
    /// The folder of the authority and the seal key.
    pub ca_dir: PathBuf,
    /// Where the sandbox sees the authority's public files, if not in `ca_dir`.
    pub trust_seen_in: Option<PathBuf>,
    /// Where the seal key comes from; `seal.key` in `ca_dir`, if `None`.
    pub seal_key: Option<SourceSpec>,
    /// What the operator allows and denies to every sandbox.
    pub egress: Egress,
    /// What the DNS responder answers.
    pub dns: Dns,
    /// How upstreams are found and trusted.
    pub upstream: Upstream,
    /// The API's keys; never empty if `listen.api` is given.
    pub api_keys: Vec<SourceSpec>,
    /// Where audit lines go.
    pub audit: AuditSink,
    /// Where a refused CONNECT gets its answer.
    pub denials: Denials,
    /// The bounds.
    pub limits: Limits,
}

/// Where Tollgate listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// CONNECT and absolute-form.
    pub explicit: Vec<Listener>,
    /// What nftables redirects.
    pub transparent: Vec<Listener>,
    /// What nftables hands over with `tproxy`.
    pub tproxy: Vec<Listener>,
    /// The load balancers that say who the client is, by version 2 of the PROXY protocol.
    pub balancers: Vec<IpNet>,
    /// The DNS responder, UDP and TCP on each.
    pub dns: Vec<Listener>,
    /// The operator's API, on loopback; none without a key.
    pub api: Option<SocketAddr>,
    /// `/metrics`, `/healthz` and `/readyz`, on loopback.
    pub metrics: Option<SocketAddr>,
}

impl Listen {
    /// One explicit listener on a free port of loopback, and nothing for operators.
    #[must_use]
    pub fn on_loopback() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { explicit: vec![Listener::at(address)], ..Self::default() }
    }
}

/// One listener for sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// The sandbox to which all that comes in belongs, if it is one alone.
    pub sandbox: Option<SandboxId>,
}

impl Listener {
    /// For whoever comes.
    #[must_use]
    pub const fn at(address: SocketAddr) -> Self {
        Self { address, sandbox: None }
    }
}

/// What the operator allows and denies to every sandbox.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// `default: deny`.
    pub closed: bool,
    /// The operator's deny patterns.
    pub deny: Vec<HostPattern>,
    /// The internal networks that may be dialled.
    pub private: Arc<PrivateAccess>,
}

/// How upstreams are found and trusted.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// PEM files of trust anchors, beside the platform's.
    pub roots: Vec<PathBuf>,
    /// Where to connect in place of a host and port.
    pub connect_to: BTreeMap<Destination, SocketAddr>,
    /// Who resolves names.
    pub resolver: Resolver,
    /// The mark of Tollgate's own sockets, for rules of the firewall.
    pub mark: Option<u32>,
    /// The corporate proxy through which upstreams are reached.
    pub proxy: Option<UpstreamProxy>,
}

/// A corporate proxy.
#[derive(Clone, Debug)]
pub struct UpstreamProxy {
    /// Where it listens.
    pub address: Destination,
    /// Where its `user:password` comes from.
    pub credentials: Option<SourceSpec>,
    /// The hosts that are reached without it.
    pub direct: Vec<HostPattern>,
}

/// Who resolves names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// As the machine is set up.
    #[default]
    System,
    /// These name servers.
    Servers(Vec<SocketAddr>),
}

/// Where audit lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
    /// Nowhere: `tollgate run` without a file, where standard output is the command's.
    Nowhere,
}

/// Where a refused CONNECT gets its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denials {
    /// In place of the tunnel.
    Connect,
    /// Inside the tunnel.
    Inside,
}

impl Config {
    /// Reads the named file, or [`DEFAULT_FILE`] if it exists, or takes the defaults; then applies the overrides.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, Vec<ConfigError>> {
        let default = Path::new(DEFAULT_FILE);
        // A dangling link in the default's place is an error and not an absent file.
        let file = file.or_else(|| default.symlink_metadata().is_ok().then_some(default));
        let written = match file {
            Some(path) => read::read(path).map_err(|error| vec![error])?,
            None => written::WrittenFile::default(),
        };
        compile::compile(&written, overrides)
    }

    /// What the policy compiler needs of it.
    #[must_use]
    pub fn operator_rules(&self) -> OperatorRules {
        OperatorRules {
            closed: self.egress.closed,
            deny: self.egress.deny.clone(),
            private: self.egress.private.clone(),
        }
    }
}

/// The JSON Schema of `tollgate.yaml`.
#[must_use]
pub fn schema() -> serde_json::Value {
    written::schema()
}

#[cfg(test)]
mod tests;
