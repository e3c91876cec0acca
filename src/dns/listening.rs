//! The responder's own sockets, UDP and TCP on each address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Responder, TcpSocket, UdpSocket, Whose};
use crate::activation::Inherited;
use crate::config::{Dns, Listener};
use crate::proxy::Proxy;
use crate::secret::SandboxId;

/// What is bound and not yet served.
#[derive(Debug, Default)]
pub struct Sockets {
    pairs: Vec<Pair>,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Pair {
    udp: UdpSocket,
    tcp: TcpSocket,
    sandbox: Option<SandboxId>,
}

/// How often a free port is looked for that is free for both.
const TRIES: u32 = 8;

impl Sockets {
    /// Binds all that was not opened beforehand; port 0 takes a free one. On an error, it names the address.
    pub async fn bind(
        listeners: &[Listener],
        inherited: &mut Inherited,
    ) -> Result<Self, (SocketAddr, io::Error)> {
        let mut sockets = Self::default();
        for Listener { address, sandbox } in listeners {
            let (udp, tcp) = bound(*address, inherited).await.map_err(|error| (*address, error))?;
            sockets.addresses.push(udp.address().map_err(|error| (*address, error))?);
            sockets.pairs.push(Pair { udp, tcp, sandbox: sandbox.clone() });
        }
        Ok(sockets)
    }

    /// The addresses as bound.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves them, each by a responder of its own, since each may be a sink of its own.
    pub fn serve(self, proxy: &Arc<Proxy>, dns: Dns) {
        for (Pair { udp, tcp, sandbox }, address) in self.pairs.into_iter().zip(self.addresses) {
            let settings = dns.settings(address.ip());
            Responder::new(proxy, settings, Whose::Sender(sandbox)).serve(vec![udp], vec![tcp]);
        }
    }
}

async fn bound(
    address: SocketAddr,
    inherited: &mut Inherited,
) -> io::Result<(UdpSocket, TcpSocket)> {
    match (inherited.udp(address), inherited.tcp(address)) {
        (None, None) => bind_both(address).await,
        (Some(udp), Some(tcp)) => Ok((UdpSocket::from_std(udp)?, TcpSocket::from_std(tcp)?)),
        (Some(udp), None) => Ok((UdpSocket::from_std(udp)?, TcpSocket::bind(address).await?)),
        (None, Some(tcp)) => Ok((UdpSocket::bind(address).await?, TcpSocket::from_std(tcp)?)),
    }
}

/// UDP takes the port that TCP got.
async fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpSocket)> {
    let mut tries = 0;
    loop {
        let tcp = TcpSocket::bind(address).await?;
        match UdpSocket::bind(tcp.address()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(_taken) if address.port() == 0 && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
