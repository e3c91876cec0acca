//! Where a redirected connection wanted to go, as the kernel remembers it.
//!
//! A `redirect` rule rewrites the destination, and the connection tracking gives it back (SO_ORIGINAL_DST). A `tproxy` rule leaves it as it
//! is: it is the socket's own address then. Whether either can be believed is the next step's question.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

use super::Kind;

/// Asks for the original destination. An error means that nothing redirected the connection.
pub(super) fn of(tcp: &TcpStream, kind: Kind) -> io::Result<SocketAddr> {
    // A socket of both families has an IPv4 client under a mapped address.
    let local = canonical(tcp.local_addr()?);
    if kind == Kind::Tproxy {
        return Ok(local);
    }
    let socket = SockRef::from(tcp);
    let original =
        if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    elsewhere(original.as_socket(), local)
}

/// The original destination, unless it is where the connection is: then nothing has rewritten it.
fn elsewhere(original: Option<SocketAddr>, local: SocketAddr) -> io::Result<SocketAddr> {
    let original = original.map(canonical).filter(|original| *original != local);
    original.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Binds a listener that accepts connections to every address (IP_TRANSPARENT, for which CAP_NET_ADMIN is needed).
pub(super) fn bind_tproxy(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that wait in the kernel; as many as the other listeners have.
const BACKLOG: i32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_both_families_that_is_called_by_its_own_address_was_not_redirected_to() {
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        for (original, local) in [
            ("127.0.0.1:3129", "127.0.0.1:3129"),
            ("127.0.0.1:3129", "[::ffff:127.0.0.1]:3129"),
            ("[::1]:3129", "[::1]:3129"),
        ] {
            assert!(elsewhere(Some(at(original)), canonical(at(local))).is_err(), "{local}");
        }
        let (mapped, local) = (at("[::ffff:198.51.100.7]:443"), at("127.0.0.1:3129"));
        assert_eq!(elsewhere(Some(mapped), local).unwrap(), at("198.51.100.7:443"));
    }
}
