//! What all connections of a process share.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::Semaphore;

use super::connect::Connector;
use super::h1::HeadLimits;
use super::pool::Upstreams;
use super::tls::leaf::LeafConfigs;
use super::tls::upstream::UpstreamTls;
use crate::audit::Audit;
use crate::config::{Denials, Limits};
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
    /// What is left of [`Limits::connections`], for all listeners together.
    pub slots: Arc<Semaphore>,
    /// Where tasks are spawned.
    pub tasks: Tasks,
    /// Whether a refused CONNECT is answered inside its tunnel.
    pub denials: Denials,
    /// What `tollgate.internal` tells.
    pub introspection: Introspection,
    /// How many clients came, and how many are here.
    pub connections: crate::metrics::Connections,
    /// What DNS questions were answered with.
    pub questions: crate::metrics::Questions,
    /// The upstream side of each sandbox.
    pub upstreams: DashMap<SandboxId, Arc<Upstreams>, RandomState>,
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

    /// The bounds of a head, as the strict reading wants them.
    pub(super) fn heads(&self) -> HeadLimits {
        let Limits { headers, target, fields, .. } = &self.limits;
        HeadLimits {
            head_bytes: headers.get(),
            target_bytes: target.get(),
            fields: *fields as usize,
        }
    }

    pub(super) fn denies_inside(&self) -> bool {
        self.denials == Denials::Inside
    }

    /// Drops idle upstream connections, and those of sandboxes that have ended. Runs until shutdown begins.
    pub async fn tidy(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.limits.pool_idle / 3) => {}
                () = self.tasks.closed() => return,
            }
            self.upstreams.retain(|id, upstreams| {
                upstreams.prune(self);
                self.registry.contains(id)
            });
        }
    }
}
