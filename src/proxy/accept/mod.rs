//! Step 1: listeners and connection limits. What a connection shows of itself before its first byte is taken down here.

mod client;
mod original;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::seldom::seldom;
use super::{Proxy, serve_connection};
use crate::secret::SandboxId;

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
    /// The sandbox to which all that comes in belongs, if it is one alone.
    pub sandbox: Option<SandboxId>,
    /// Nobody but that sandbox can reach it, such as in a network namespace of its own.
    pub exclusive: bool,
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

    /// Serves until shutdown begins. A connection above the limit waits in the kernel's queue; a failed accept is logged and the loop goes on.
    pub async fn run(self, proxy: Arc<Proxy>) {
        let slots = Arc::new(Semaphore::new(proxy.limits.connections as usize));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = proxy.tasks.closed() => return,
            };
            match accepted {
                Ok((tcp, peer)) => self.take(tcp, peer, &proxy, slot),
                Err(error) => {
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
        slot: tokio::sync::OwnedSemaphorePermit,
    ) {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, %peer, "TCP_NODELAY is not set");
        }
        let client = Arc::new(Client::arrived(proxy, peer, self.address, &self.entrance));
        let wire = Wire::new(tcp, client.activity.clone());
        let counted = proxy.connections.accepted();
        let task = proxy.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = serve_connection(client.clone(), wire) => {}
                why = seldom(client.cut()) => tracing::debug!(peer = %client.peer, "a connection is cut: {why}"),
            }
            drop((slot, counted));
        });
        drop(task);
    }
}

const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);
