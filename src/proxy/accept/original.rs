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
    let local = tcp.local_addr()?;
    let original = match kind {
        Kind::Tproxy => local,
        Kind::Explicit | Kind::Redirected => redirected(tcp, local)?,
    };
    if kind == Kind::Redirected && original == local {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    Ok(SocketAddr::new(original.ip().to_canonical(), original.port()))
}

fn redirected(tcp: &TcpStream, local: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(tcp);
    // A socket of both families has an IPv4 client under a mapped address.
    let original = if local.ip().to_canonical().is_ipv4() {
        socket.original_dst_v4()?
    } else {
        socket.original_dst_v6()?
    };
    original.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
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
