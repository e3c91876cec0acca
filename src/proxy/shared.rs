//! What all connections of a process share.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;

use super::connect::Connector;
use super::h1::HeadLimits;
use super::pool::Upstreams;
use super::tls::leaf::LeafConfigs;
use super::tls::upstream::UpstreamTls;
use crate::audit::Audit;
use crate::introspect::Introspection;
use crate::secret::SandboxId;
use crate::session::{Registry, Session};
use crate::shutdown::Tasks;

/// The proxy of a process. The parts are public so that whoever starts it can put them together; nothing changes afterwards but through them.
#[derive(Debug)]
pub struct Proxy {
    /// Who exists.
    pub registry: Arc<Registry>,
    /// Where events go.
    pub audit: Audit,
    /// Leaves for permitted hosts.
    pub leaves: LeafConfigs,
    /// Leaves for refusals inside TLS: their own small cache, so that a sandbox cannot push out the others'.
    pub refusal_leaves: LeafConfigs,
    /// Trust in upstreams.
    pub upstream_tls: UpstreamTls,
    /// The dialler.
    pub connector: Connector,
    /// What is bounded, and by how much.
    pub limits: Limits,
    /// Where tasks are spawned.
    pub tasks: Tasks,
    /// Whether a refused CONNECT is answered inside its tunnel.
    pub denials: Denials,
    /// What `tollgate.internal` tells.
    pub introspection: Introspection,
    /// The upstream side of each sandbox.
    pub upstreams: DashMap<SandboxId, Arc<Upstreams>>,
}

/// Where a CONNECT is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denials {
    /// By the answer to the CONNECT.
    #[default]
    Connect,
    /// By the answer to every request inside the tunnel, for clients that hide the other.
    Inside,
}

/// Every bound of the data path.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's or answer's head.
    pub headers: usize,
    /// Bytes of a request target.
    pub target: usize,
    /// Fields of a head.
    pub fields: usize,
    /// Bytes of a body that is searched whole.
    pub buffered_body: u64,
    /// Connections of all clients.
    pub connections: usize,
    /// Streams of one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// From the first byte of a tunnel to the end of its handshake; also of an upstream's.
    pub handshake_timeout: Duration,
    /// For a whole head to arrive.
    pub header_timeout: Duration,
    /// Without a byte in either direction.
    pub idle_timeout: Duration,
    /// For an upstream's answer to begin.
    pub response_timeout: Duration,
    /// How long an unused upstream connection is kept.
    pub pool_idle: Duration,
    /// Unused upstream connections per sandbox and destination.
    pub pool_per_host: usize,
}

impl Limits {
    pub(super) fn heads(&self) -> HeadLimits {
        HeadLimits { head_bytes: self.headers, target_bytes: self.target, fields: self.fields }
    }
}

impl Proxy {
    /// The upstream side of a session's sandbox.
    pub(super) fn upstreams(&self, session: &Session) -> Arc<Upstreams> {
        if let Some(known) = self.upstreams.get(session.id()) {
            return known.clone();
        }
        self.upstreams
            .entry(session.id().clone())
            .or_insert_with(|| Upstreams::new(&self.upstream_tls.client_config()))
            .clone()
    }

    pub(super) fn denies_inside(&self) -> bool {
        self.denials == Denials::Inside
    }

    /// Drops idle upstream connections, and those of sandboxes that have ended. Runs until it is dropped.
    pub async fn tidy(&self) {
        loop {
            tokio::time::sleep(self.limits.pool_idle / 3).await;
            self.upstreams.retain(|id, upstreams| {
                upstreams.prune(self);
                self.registry.contains(id)
            });
        }
    }
}
