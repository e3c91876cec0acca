//! Questions in datagrams: one in, at most one out, to whoever sent it and nowhere else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::question::LONGEST;
use super::{Carrier, Responder};

/// A bound socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: tokio::net::UdpSocket,
}

impl UdpSocket {
    /// Binds; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { socket: tokio::net::UdpSocket::bind(address).await? })
    }

    /// Takes a socket that somebody else bound.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: tokio::net::UdpSocket::from_std(socket)? })
    }

    /// The address as bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Answers until shutdown begins. A failed receive is logged and the loop goes on.
    pub(super) async fn serve(self, responder: Arc<Responder>) {
        // One byte more than is read, so that a longer message is seen to be longer.
        let mut buffer = vec![0; LONGEST + 1];
        loop {
            let received = tokio::select! {
                received = self.socket.recv_from(&mut buffer) => received,
                () = responder.proxy.tasks.closed() => return,
            };
            match received {
                Ok((length, peer)) => {
                    let message = buffer.get(..length).unwrap_or_default();
                    self.answer(&responder, message, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "a DNS question could not be received");
                    tokio::time::sleep(AFTER_FAILED_RECEIVE).await;
                }
            }
        }
    }

    /// An answer that cannot be sent at once is dropped: its client asks again.
    fn answer(&self, responder: &Responder, message: &[u8], peer: SocketAddr) {
        if !is_answerable(peer) {
            return;
        }
        if let Some(answer) = responder.answer(message, peer, Carrier::Udp)
            && let Err(error) = self.socket.try_send_to(&answer, peer)
        {
            tracing::debug!(%error, %peer, "a DNS answer could not be sent");
        }
    }
}

const AFTER_FAILED_RECEIVE: Duration = Duration::from_millis(50);

/// Whether one host listens there.
fn is_answerable(peer: SocketAddr) -> bool {
    let one = match peer.ip().to_canonical() {
        IpAddr::V4(v4) => !(v4.is_broadcast() || v4.is_multicast() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified()),
    };
    one && peer.port() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_where_no_single_host_listens() {
        for peer in [
            "10.0.0.1:0",
            "255.255.255.255:53",
            "224.0.0.251:5353",
            "0.0.0.0:53",
            "[ff02::fb]:5353",
            "[::]:1",
            "[::ffff:224.0.0.1]:1",
        ] {
            assert!(!is_answerable(peer.parse().unwrap()), "{peer}");
        }
        assert!(is_answerable("10.0.0.1:1024".parse().unwrap()));
        assert!(is_answerable("[fd00::1]:53".parse().unwrap()));
    }
}
