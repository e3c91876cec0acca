//! An accepted connection as the steps see it, and the watch over what moves on it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::Entrance;
use crate::proxy::Proxy;
use crate::session::{Caller, Sandbox};

/// An accepted connection as the steps see it.
#[derive(Debug)]
pub struct Client {
    pub(in crate::proxy) proxy: Arc<Proxy>,
    pub(in crate::proxy) peer: SocketAddr,
    /// The same as text, for the events.
    pub(in crate::proxy) name: Arc<str>,
    pub(in crate::proxy) entrance: Arc<Entrance>,
    /// Any process of the machine could have opened it.
    pub(in crate::proxy) shared_loopback: bool,
    pub(in crate::proxy) activity: Arc<Activity>,
    /// The address, where it says something.
    source: Option<IpAddr>,
    /// Where it wanted to go, as a load balancer says.
    pub(in crate::proxy) meant: Option<SocketAddr>,
    /// Whose the address was when the connection came.
    owner: Option<Arc<Sandbox>>,
}

impl Client {
    pub(super) fn arrived(
        proxy: &Arc<Proxy>,
        peer: SocketAddr,
        listener: SocketAddr,
        entrance: &Arc<Entrance>,
        meant: Option<SocketAddr>,
    ) -> Self {
        // A listener of both families shows an IPv4 client under a mapped address.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let exclusive = entrance.callers.are_alone();
        let source = (!exclusive).then(|| peer.ip());
        let by_loopback = listener.ip().to_canonical().is_loopback() || peer.ip().is_loopback();
        Self {
            proxy: proxy.clone(),
            peer,
            name: peer.to_string().into(),
            entrance: entrance.clone(),
            shared_loopback: by_loopback && !exclusive,
            activity: Arc::default(),
            owner: proxy.registry.owner(source, entrance.callers.sandbox()),
            source,
            meant,
        }
    }

    /// The sandbox of the address or the listener.
    pub(in crate::proxy) const fn owner(&self) -> Option<&Arc<Sandbox>> {
        self.owner.as_ref()
    }

    /// What the connection shows of itself, with the credentials that a request adds to it.
    pub(in crate::proxy) fn caller<'a>(
        &'a self,
        credentials: Option<(&'a str, &'a [u8])>,
    ) -> Caller<'a> {
        Caller { source: self.source, listener: self.entrance.callers.sandbox(), credentials }
    }

    /// Whether the address belongs to another sandbox than when the connection came: then it is nobody's.
    pub(in crate::proxy) fn has_moved(&self) -> bool {
        let owner = self.proxy.registry.owner(self.source, self.entrance.callers.sandbox());
        match (&self.owner, &owner) {
            (None, None) => false,
            (Some(then), Some(now)) => !Arc::ptr_eq(then, now),
            (None, Some(_)) | (Some(_), None) => true,
        }
    }

    /// Whether a sandbox that was recognised on this connection may still be where it comes from.
    pub(in crate::proxy) fn may_be(&self, sandbox: &Arc<Sandbox>) -> bool {
        self.proxy.registry.may_be_at(sandbox, self.source, self.entrance.callers.sandbox())
    }

    /// Resolves once the connection must end, whatever it does.
    pub(super) async fn cut(&self) -> &'static str {
        tokio::select! {
            () = self.overdue() => "it was idle for too long",
            () = self.moved() => "its address belongs to another sandbox",
        }
    }

    async fn moved(&self) {
        let mut epoch = self.proxy.registry.epoch();
        while !self.has_moved() {
            if epoch.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

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
pub(in crate::proxy) struct Activity {
    pub(super) moved: AtomicBool,
    /// Requests begun.
    requests: AtomicU32,
    /// Requests begun and not yet answered to their end, and tunnels that carry something else than requests.
    open: AtomicU32,
    /// HTTP/2: pings move bytes without a request.
    multiplexed: AtomicBool,
}

impl Activity {
    pub(in crate::proxy) fn began(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::proxy) fn ended(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many requests have begun.
    pub(in crate::proxy) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(in crate::proxy) fn multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }
}
