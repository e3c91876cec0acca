//! Step 1: listeners, connection limits, and the watch over every connection.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::seldom::seldom;
use super::{Proxy, serve_connection};

/// A bound listener of the explicit kind: CONNECT and absolute-form.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// Binds; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address as bound.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
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
        let activity = Arc::new(Activity::default());
        let client = Arc::new(Client {
            proxy: proxy.clone(),
            peer,
            name: peer.to_string().into(),
            shared_loopback: self.address.ip().is_loopback(),
            activity: activity.clone(),
        });
        let wire = Wire { tcp, activity };
        let counted = proxy.connections.accepted();
        let task = proxy.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = serve_connection(client.clone(), wire) => {}
                () = seldom(client.overdue()) => tracing::debug!(peer = %client.peer, "a connection was idle for too long"),
            }
            drop((slot, counted));
        });
        drop(task);
    }
}

const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

/// An accepted connection as the steps see it.
#[derive(Debug)]
pub struct Client {
    pub(super) proxy: Arc<Proxy>,
    pub(super) peer: SocketAddr,
    /// The same as text, for the events.
    pub(super) name: Arc<str>,
    /// Any process of the machine can reach the listener.
    pub(super) shared_loopback: bool,
    pub(super) activity: Arc<Activity>,
}

impl Client {
    /// Resolves once the connection has been quiet for too long: within a head, between requests, or within a body.
    async fn overdue(&self) {
        let limits = &self.proxy.limits;
        let tick = (limits.header_timeout / 2).max(Duration::from_millis(10));
        let mut seen = 0;
        let mut quiet = Duration::ZERO;
        let mut headless = Duration::ZERO;
        loop {
            tokio::time::sleep(tick).await;
            let moved = self.activity.moved.swap(false, Ordering::Relaxed);
            let requests = self.activity.requests.load(Ordering::Relaxed);
            let waiting = self.activity.open.load(Ordering::Relaxed) == 0 && requests == seen;
            quiet = if moved { Duration::ZERO } else { quiet + tick };
            // Bytes came, and still no request: somebody sends a head byte by byte. A first head is due at once.
            headless = if waiting && (moved || requests == 0 || headless > Duration::ZERO) {
                headless + tick
            } else {
                Duration::ZERO
            };
            seen = requests;
            let head_timeout = if self.activity.multiplexed.load(Ordering::Relaxed) {
                limits.idle_timeout
            } else {
                limits.header_timeout
            };
            if quiet >= limits.idle_timeout || headless >= head_timeout {
                return;
            }
        }
    }
}

/// What moved on a connection since the last look; cheap enough to note on every read.
#[derive(Debug, Default)]
pub(super) struct Activity {
    moved: AtomicBool,
    /// Requests begun.
    requests: AtomicU32,
    /// Requests begun and not yet answered to their end, and tunnels that carry something else than requests.
    open: AtomicU32,
    /// HTTP/2: pings move bytes without a request.
    multiplexed: AtomicBool,
}

impl Activity {
    pub(super) fn began(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }
}

/// The client's socket; notes that something moved.
#[derive(Debug)]
pub(super) struct Wire {
    tcp: TcpStream,
    activity: Arc<Activity>,
}

impl Wire {
    fn note<T>(&self, poll: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if matches!(poll, Poll::Ready(Ok(_))) {
            self.activity.moved.store(true, Ordering::Relaxed);
        }
        poll
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        self.note(read)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        // One TLS record is one piece, and `send` costs less than `writev`.
        let written = match bufs {
            [only] => Pin::new(&mut self.tcp).poll_write(cx, only),
            _ => Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs),
        };
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
