//! What systemd and Tollgate tell each other: sockets that were opened beforehand, and that Tollgate is ready.
//!
//! The configuration says where Tollgate listens, with or without systemd. A socket that was handed over is used for the address that it is
//! bound to, so that a restart refuses no connection and no capability is needed for a low port. One that no `listen` names is an error: it
//! would take connections that nobody serves.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// Sockets that systemd has opened, by the address that they are bound to.
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<(SocketAddr, TcpListener)>,
    udp: Vec<(SocketAddr, UdpSocket)>,
}

impl Inherited {
    /// Takes what this process was handed (LISTEN_FDS). Called once, while there is one thread: the variables are taken away.
    pub fn from_environment() -> Result<Self, ActivationError> {
        let mut handed = ListenFd::from_env();
        let mut inherited = Self::default();
        for nth in 0..handed.len() {
            if let Ok(Some(udp)) = handed.take_udp_socket(nth) {
                udp.set_nonblocking(true).map_err(ActivationError::Unusable)?;
                let address = udp.local_addr().map_err(ActivationError::Unusable)?;
                inherited.udp.push((address, udp));
                continue;
            }
            let tcp = handed.take_tcp_listener(nth).map_err(ActivationError::Unusable)?;
            let Some(tcp) = tcp else { continue };
            tcp.set_nonblocking(true).map_err(ActivationError::Unusable)?;
            let address = tcp.local_addr().map_err(ActivationError::Unusable)?;
            inherited.tcp.push((address, tcp));
        }
        Ok(inherited)
    }

    /// The listener of this address, if one was handed over.
    pub fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take(&mut self.tcp, address)
    }

    /// The datagram socket of this address, if one was handed over.
    pub fn udp(&mut self, address: SocketAddr) -> Option<UdpSocket> {
        take(&mut self.udp, address)
    }

    /// All of them must have been asked for.
    pub fn all_used(&self) -> Result<(), ActivationError> {
        let tcp = self.tcp.iter().map(|(address, _)| ("stream", address));
        let udp = self.udp.iter().map(|(address, _)| ("datagram", address));
        match tcp.chain(udp).next() {
            None => Ok(()),
            Some((kind, address)) => Err(ActivationError::Unused { kind, address: *address }),
        }
    }
}

/// Tells systemd that everything listens and the policies are in force. Without systemd it does nothing.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells systemd that Tollgate drains.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told the state");
    }
}

fn take<S>(sockets: &mut Vec<(SocketAddr, S)>, wanted: SocketAddr) -> Option<S> {
    let nth = sockets.iter().position(|(address, _)| *address == wanted)?;
    Some(sockets.swap_remove(nth).1)
}

/// Why sockets that were handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// Not a TCP listener or UDP socket.
    #[error(
        "a socket that was handed over cannot be used: {0}; only TCP and UDP sockets can, see ListenStream= and ListenDatagram="
    )]
    Unusable(std::io::Error),
    /// No `listen` key names its address.
    #[error(
        "a {kind} socket for {address} was handed over, and no `listen` key names that address; name it there or remove it from the socket unit"
    )]
    Unused {
        /// `stream` or `datagram`.
        kind: &'static str,
        /// What it is bound to.
        address: SocketAddr,
    },
}
