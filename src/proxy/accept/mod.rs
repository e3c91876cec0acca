//! Step 1: listeners and connection limits. What a connection shows of itself before its first byte is taken down here.

mod balancer;
mod client;
mod original;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use super::seldom::seldom;
use super::{Proxy, serve_connection};
use crate::policy::{Denial, DenyReason};
use crate::secret::SandboxId;

use balancer::Behind;
pub use client::Client;
pub(super) use wire::Wire;

/// A bound listener.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    entrance: Arc<Entrance>,
}

/// What a listener is for.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// How connections come to it.
    pub kind: Kind,
    /// Who can be the one that connects.
    pub callers: Callers,
    /// The load balancers that say who the client is.
    pub balancers: Arc<[IpNet]>,
}

/// Who can be the one that connects to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Any sandbox; addresses and credentials tell them apart.
    Any,
    /// This sandbox, and whoever else can reach the address and must then be refused.
    Of(SandboxId),
    /// This sandbox and nobody else, such as in a network namespace of its own: addresses say nothing.
    Alone(SandboxId),
}

impl Callers {
    /// The sandbox to which all that comes in belongs, if it is one.
    #[must_use]
    pub const fn sandbox(&self) -> Option<&SandboxId> {
        match self {
            Self::Any => None,
            Self::Of(sandbox) | Self::Alone(sandbox) => Some(sandbox),
        }
    }

    const fn are_alone(&self) -> bool {
        matches!(self, Self::Alone(_))
    }
}

/// How connections come to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Clients mean it: CONNECT and absolute-form.
    Explicit,
    /// By a rule of the firewall that rewrites their destination (nftables `redirect`).
    Redirected,
    /// By a rule of the firewall that leaves their destination as it is (nftables `tproxy`).
    Tproxy,
}

impl Listening {
    /// Binds; port 0 takes a free one.
    pub async fn bind(address: SocketAddr, entrance: Entrance) -> std::io::Result<Self> {
        let listener = match entrance.kind {
            Kind::Explicit | Kind::Redirected => TcpListener::bind(address).await?,
            Kind::Tproxy => TcpListener::from_std(original::bind_tproxy(address)?)?,
        };
        Self::of(listener, entrance)
    }

    /// Takes over a listener that was bound elsewhere, such as in the network namespace of a sandbox.
    pub fn handed_over(
        listener: std::net::TcpListener,
        entrance: Entrance,
    ) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::of(TcpListener::from_std(listener)?, entrance)
    }

    fn of(listener: TcpListener, entrance: Entrance) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { listener, address, entrance: Arc::new(entrance) })
    }

    /// The address as bound.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How connections come to it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.entrance.kind
    }

    /// Serves until shutdown begins. Of the connections above the limit one waits here, without a byte of it read, and the others in the
    /// kernel's queue; a failed accept is logged and the loop goes on.
    pub async fn run(self, proxy: Arc<Proxy>) {
        let accept = async || {
            let accepted = self.listener.accept().await;
            // Afterwards: a listener to which nobody comes keeps no slot from the others.
            let slot = proxy.slots.clone().acquire_owned().await;
            (accepted, slot)
        };
        loop {
            let accepted = tokio::select! {
                accepted = accept() => accepted,
                () = proxy.tasks.closed() => return,
            };
            match accepted {
                (_, Err(_closed)) => return,
                (Ok((tcp, peer)), Ok(slot)) => self.take(tcp, peer, &proxy, slot),
                (Err(error), Ok(_)) => {
                    tracing::warn!(%error, listener = %self.address, "a connection could not be accepted");
                    tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
                }
            }
        }
    }

    fn take(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        proxy: &Arc<Proxy>,
        slot: OwnedSemaphorePermit,
    ) {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, %peer, "TCP_NODELAY is not set");
        }
        let arrived =
            Arrived { tcp, peer, listener: self.address, entrance: self.entrance.clone() };
        let counted = proxy.connections.accepted();
        let proxy = proxy.clone();
        let task = proxy.tasks.clone().spawn(async move {
            arrived.serve(&proxy).await;
            drop((slot, counted));
        });
        drop(task);
    }
}

/// A connection of which nothing was read.
struct Arrived {
    tcp: TcpStream,
    peer: SocketAddr,
    listener: SocketAddr,
    entrance: Arc<Entrance>,
}

impl Arrived {
    async fn serve(mut self, proxy: &Arc<Proxy>) {
        let (peer, meant) = match self.behind(proxy).await {
            None => (self.peer, None),
            Some(Ok(Behind::Client { source, destination })) => (source, Some(destination)),
            Some(Ok(Behind::Nobody)) => return,
            Some(Err(error)) => {
                tracing::debug!(%error, peer = %self.peer, "a load balancer does not say who the client is");
                let client = Client::arrived(proxy, self.peer, self.listener, &self.entrance, None);
                proxy.audit.admit().await;
                return client.refused(&unintroduced());
            }
        };
        let client = Client::arrived(proxy, peer, self.listener, &self.entrance, meant);
        let (client, wire) = (Arc::new(client), self.tcp);
        let wire = Wire::new(wire, client.activity.clone());
        tokio::select! {
            biased;
            () = serve_connection(client.clone(), wire) => {}
            why = seldom(client.cut()) => tracing::debug!(peer = %client.peer, "a connection is cut: {why}"),
        }
    }

    /// Who is behind a load balancer; none, if the peer is none.
    async fn behind(&mut self, proxy: &Proxy) -> Option<std::io::Result<Behind>> {
        let ip = self.peer.ip().to_canonical();
        if !self.entrance.balancers.iter().any(|balancer| balancer.contains(&ip)) {
            return None;
        }
        let limit = proxy.limits.handshake_timeout;
        let read = tokio::time::timeout(limit, balancer::read(&mut self.tcp)).await;
        Some(read.unwrap_or_else(|_elapsed| Err(std::io::ErrorKind::TimedOut.into())))
    }
}

fn unintroduced() -> Denial {
    Denial::new(
        DenyReason::ProtocolNotAllowed,
        "a load balancer sent no PROXY header of version 2 for a TCP client",
        "switch version 2 of the PROXY protocol on at the load balancer, or take it out of listen.proxyProtocol",
    )
}

const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);
