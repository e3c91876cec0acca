//! The mark on sockets towards upstreams and name servers, by which rules of the firewall tell Tollgate's own connections from those of
//! sandboxes: what is marked is never redirected.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// A mark (SO_MARK), or none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(Option<u32>);

impl Mark {
    /// A mark that can be set: for that CAP_NET_ADMIN or CAP_NET_RAW is needed.
    pub fn new(mark: Option<u32>) -> io::Result<Self> {
        let mark = Self(mark);
        mark.put_on(&Socket::new(Domain::IPV4, Type::DGRAM, None)?)?;
        Ok(mark)
    }

    /// Opens a TCP connection from a marked socket.
    pub(super) async fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        self.put_on(&socket)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "below the one dialler and the one resolver: the address is checked, or a name server's"
        )]
        socket.connect(address).await
    }

    fn put_on(self, socket: &impl AsFd) -> io::Result<()> {
        self.0.map_or(Ok(()), |mark| SockRef::from(socket).set_mark(mark))
    }
}

/// The resolver's sockets, marked.
#[derive(Clone)]
pub(super) struct MarkedSockets {
    tokio: TokioRuntimeProvider,
    mark: Mark,
}

impl MarkedSockets {
    pub(super) fn new(mark: Mark) -> Self {
        Self { tokio: TokioRuntimeProvider::default(), mark }
    }
}

impl RuntimeProvider for MarkedSockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server_addr: SocketAddr,
        _bind_addr: Option<SocketAddr>,
        wait_for: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let connecting = self.mark.connect(server_addr);
        let limit = wait_for.unwrap_or(CONNECT_TIMEOUT);
        Box::pin(async move {
            let tcp = tokio::time::timeout(limit, connecting).await;
            let tcp = tcp.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
            tcp.set_nodelay(true)?;
            Ok(AsyncIoTokioAsStd(tcp))
        })
    }

    fn bind_udp(
        &self,
        local_addr: SocketAddr,
        _server_addr: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let mark = self.mark;
        Box::pin(async move {
            let socket = UdpSocket::bind(local_addr).await?;
            mark.put_on(&socket)?;
            Ok(socket)
        })
    }
}

/// For a name server, where the resolver names no time of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
