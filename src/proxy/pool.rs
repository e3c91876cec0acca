//! Step 9, continued: upstream connections that are used again. One [`Upstreams`] belongs to one sandbox: connections, TLS sessions and
//! HPACK state are never shared between two.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use foldhash::quality::RandomState;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower_service::Service as _;

use super::Proxy;
use super::h1::{ExpectedResponse, ResponseExpectations, ResponseGuard};
use super::substitute::OutgoingBody;
use crate::host::{Destination, Scheme};
use crate::policy::{Denial, DenyReason, PolicyDigest, RequestPermit};

/// The upstream side of one sandbox.
#[derive(Debug)]
pub struct Upstreams {
    any: Arc<ClientConfig>,
    http1_only: Arc<ClientConfig>,
    lanes: Mutex<Lanes>,
}

/// Connections are alike only for one destination under one policy: a grant that changed must not ride on an authenticated connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    scheme: Scheme,
    destination: Destination,
    policy: PolicyDigest,
}

impl Key {
    fn of(permit: &RequestPermit) -> Self {
        Self {
            scheme: permit.scheme(),
            destination: permit.destination().clone(),
            policy: permit.policy().digest(),
        }
    }
}

/// At most [`MOST_LANES`] of them stay.
type Lanes = HashMap<Key, Lane, RandomState>;

#[derive(Debug, Default)]
struct Lane {
    idle: Vec<(Http1, Instant)>,
    shared: Vec<Http2>,
    /// Held while the first connection is opened, which tells the others whether they can share it.
    first: Arc<tokio::sync::Mutex<()>>,
    /// Whether a connection was opened before.
    known: bool,
}

type Wire = MaybeHttpsStream<TokioIo<TcpStream>>;

/// An HTTP/1 connection: one request at a time.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: http1::SendRequest<OutgoingBody>,
    expectations: ResponseExpectations,
}

/// An HTTP/2 connection: many requests at a time.
#[derive(Debug)]
struct Http2 {
    sender: http2::SendRequest<OutgoingBody>,
    streams: Arc<AtomicUsize>,
}

/// A connection on loan for one request.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Connection,
    /// It was used before, so the upstream may have closed it meanwhile.
    pub(super) reused: bool,
    home: Weak<Upstreams>,
    key: Key,
}

#[derive(Debug)]
pub(super) enum Connection {
    Http1(Http1),
    Http2(Stream),
}

/// One request's share of an HTTP/2 connection; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    sender: http2::SendRequest<OutgoingBody>,
    streams: Arc<AtomicUsize>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that did not reach the upstream, or an answer that did not come.
pub(super) struct SendFailure {
    pub(super) error: hyper::Error,
    /// The request, if none of it was written: the only one that is safe to send again.
    pub(super) unsent: Option<Request<OutgoingBody>>,
}

impl Upstreams {
    /// An empty pool with TLS sessions of its own.
    #[must_use]
    pub fn new(tls: &ClientConfig) -> Arc<Self> {
        let with = |alpn: &[&[u8]]| {
            let mut config = tls.clone();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Arc::new(Self {
            any: with(&[b"h2", b"http/1.1"]),
            http1_only: with(&[b"http/1.1"]),
            lanes: Mutex::default(),
        })
    }

    /// A connection for the permit's destination: an idle or shared one, or else a new one.
    ///
    /// Opening is rare and its future is large, so it has a box of its own: every request's future stays small.
    pub(super) async fn checkout(
        self: &Arc<Self>,
        proxy: &Proxy,
        permit: &RequestPermit,
    ) -> Result<Lease, Denial> {
        let key = Key::of(permit);
        if let Some(connection) = self.known(&key, proxy).await {
            return Ok(self.lease(connection, true, key));
        }
        let first = {
            let mut lanes = self.lanes();
            let lane = lanes.entry(key.clone()).or_default();
            (!lane.known || !lane.shared.is_empty()).then(|| lane.first.clone())
        };
        if let Some(first) = first {
            let _opening = first.lock().await;
            if let Some(connection) = self.known(&key, proxy).await {
                return Ok(self.lease(connection, true, key));
            }
            return Box::pin(self.open(proxy, permit, key)).await;
        }
        Box::pin(self.open(proxy, permit, key)).await
    }

    /// A new connection, whatever is idle.
    pub(super) async fn fresh(
        self: &Arc<Self>,
        proxy: &Proxy,
        permit: &RequestPermit,
    ) -> Result<Lease, Denial> {
        let key = Key::of(permit);
        Box::pin(self.open(proxy, permit, key)).await
    }

    /// A new HTTP/1 connection that is never pooled, for a protocol switch.
    pub(super) async fn http1(
        &self,
        proxy: &Proxy,
        permit: &RequestPermit,
    ) -> Result<Http1, Denial> {
        let wire = self.connect(proxy, permit, &self.http1_only).await?;
        handshake_h1(proxy, permit.destination(), wire).await
    }

    /// Drops what has been idle for too long or was closed, and lanes without connections.
    pub(super) fn prune(&self, proxy: &Proxy) {
        let now = Instant::now();
        let stale = |since: &Instant| now.duration_since(*since) > proxy.limits.pool_idle;
        self.lanes().retain(|_, lane| {
            lane.idle.retain(|(connection, since)| !stale(since) && !connection.sender.is_closed());
            lane.shared.retain(|connection| !connection.sender.is_closed());
            !(lane.idle.is_empty() && lane.shared.is_empty()) || Arc::strong_count(&lane.first) > 1
        });
    }

    async fn known(&self, key: &Key, proxy: &Proxy) -> Option<Connection> {
        loop {
            let mut candidate = {
                let mut lanes = self.lanes();
                let lane = lanes.get_mut(key)?;
                lane.shared.retain(|shared| !shared.sender.is_closed());
                if let Some(shared) = lane.shared.iter().find(|shared| shared.has_room()) {
                    return Some(Connection::Http2(shared.stream()));
                }
                let (idle, since) = lane.idle.pop()?;
                if since.elapsed() > proxy.limits.pool_idle { None } else { Some(idle) }
            };
            if let Some(idle) = &mut candidate
                && !idle.sender.is_closed()
                && idle.expectations.refusal().is_none()
                && idle.sender.ready().await.is_ok()
            {
                return candidate.map(Connection::Http1);
            }
        }
    }

    async fn open(
        self: &Arc<Self>,
        proxy: &Proxy,
        permit: &RequestPermit,
        key: Key,
    ) -> Result<Lease, Denial> {
        let wire = self.connect(proxy, permit, &self.any).await?;
        let connection = if is_h2(&wire) {
            let shared = handshake_h2(proxy, permit.destination(), wire).await?;
            let stream = shared.stream();
            self.lanes().entry(key.clone()).or_default().shared.push(shared);
            Connection::Http2(stream)
        } else {
            Connection::Http1(handshake_h1(proxy, permit.destination(), wire).await?)
        };
        self.lanes().entry(key.clone()).or_default().known = true;
        Ok(self.lease(connection, false, key))
    }

    async fn connect(
        &self,
        proxy: &Proxy,
        permit: &RequestPermit,
        tls: &Arc<ClientConfig>,
    ) -> Result<Wire, Denial> {
        let tcp = proxy.connector.dial(permit).await?;
        let destination = permit.destination();
        let uri = Uri::builder()
            .scheme(permit.scheme().as_str())
            .authority(destination.to_string())
            .path_and_query("/")
            .build();
        let uri = uri.map_err(|error| broken(destination, &error))?;
        let handshake =
            HttpsConnector::from((Dialled(Some(TokioIo::new(tcp))), tls.clone())).call(uri);
        match tokio::time::timeout(proxy.limits.connect_timeout, handshake).await {
            Ok(Ok(wire)) => Ok(wire),
            Ok(Err(error)) => Err(tls_denial(destination, error.as_ref())),
            Err(_elapsed) => Err(super::connect::timed_out(destination, "the TLS handshake")),
        }
    }

    fn lease(self: &Arc<Self>, connection: Connection, reused: bool, key: Key) -> Lease {
        Lease { connection, reused, home: Arc::downgrade(self), key }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Sends one request.
    pub(super) async fn send(
        &mut self,
        request: Request<OutgoingBody>,
        expected: ExpectedResponse,
    ) -> Result<Response<Incoming>, SendFailure> {
        match &mut self.connection {
            Connection::Http1(connection) => connection.send(request, expected).await,
            Connection::Http2(connection) => {
                connection.sender.try_send_request(request).await.map_err(|mut failure| {
                    SendFailure { unsent: failure.take_message(), error: failure.into_error() }
                })
            }
        }
    }

    /// Why the strict reading cut the connection, if it did.
    pub(super) fn refusal(&self) -> Option<super::h1::ResponseRefusal> {
        match &self.connection {
            Connection::Http1(connection) => connection.expectations.refusal(),
            Connection::Http2(_) => None,
        }
    }

    /// The answer has ended and the request was sent whole: the connection may serve another request.
    pub(super) fn give_back(self, most_idle: usize) {
        let (Some(home), Connection::Http1(connection)) = (self.home.upgrade(), self.connection)
        else {
            return;
        };
        if connection.sender.is_closed() {
            return;
        }
        let mut lanes = home.lanes();
        if lanes.len() > MOST_LANES {
            return;
        }
        let lane = lanes.entry(self.key).or_default();
        lane.idle.push((connection, Instant::now()));
        if lane.idle.len() > most_idle {
            lane.idle.remove(0);
        }
    }
}

impl Http1 {
    /// Sends one request and waits for the answer's head.
    pub(super) async fn send(
        &mut self,
        request: Request<OutgoingBody>,
        expected: ExpectedResponse,
    ) -> Result<Response<Incoming>, SendFailure> {
        self.expectations.push(expected);
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut failure| SendFailure {
            unsent: failure.take_message(),
            error: failure.into_error(),
        })
    }
}

impl Http2 {
    fn stream(&self) -> Stream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Stream { sender: self.sender.clone(), streams: self.streams.clone() }
    }

    fn has_room(&self) -> bool {
        self.streams.load(Ordering::Relaxed) < MOST_STREAMS
    }
}

/// So many destinations of one sandbox have idle connections; beyond it connections are not kept.
const MOST_LANES: usize = 1024;
/// So many requests share one HTTP/2 connection.
const MOST_STREAMS: usize = 100;

/// Hands hyper-rustls the socket that was dialled.
struct Dialled(Option<TokioIo<TcpStream>>);

impl tower_service::Service<Uri> for Dialled {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _destination: Uri) -> Self::Future {
        std::future::ready(
            self.0.take().ok_or_else(|| std::io::Error::other("a dialled socket is used once")),
        )
    }
}

fn is_h2(wire: &Wire) -> bool {
    match wire {
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().1.alpn_protocol() == Some(b"h2"),
        MaybeHttpsStream::Http(_) => false,
    }
}

async fn handshake_h1(
    proxy: &Proxy,
    destination: &Destination,
    wire: Wire,
) -> Result<Http1, Denial> {
    let (guard, expectations) = ResponseGuard::new(TokioIo::new(wire), proxy.heads());
    let handshake = http1::Builder::new()
        .preserve_header_case(true)
        .max_headers(proxy.limits.fields as usize)
        .max_buf_size(READ_BUFFER.max(proxy.limits.headers.get() + 8192))
        .handshake(TokioIo::new(guard));
    let (sender, connection) = handshake.await.map_err(|error| broken(destination, &error))?;
    let task = proxy.tasks.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    drop(task);
    Ok(Http1 { sender, expectations })
}

async fn handshake_h2(
    proxy: &Proxy,
    destination: &Destination,
    wire: Wire,
) -> Result<Http2, Denial> {
    // hyper spawns a task per request that has room for the whole connection: in a box it is small.
    let wire = Box::new(wire);
    let handshake = http2::Builder::new(proxy.tasks.clone())
        .timer(hyper_util::rt::TokioTimer::new())
        .max_header_list_size(u32::try_from(proxy.limits.headers.get()).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .handshake(wire);
    let (sender, connection) = handshake.await.map_err(|error| broken(destination, &error))?;
    let task = proxy.tasks.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    drop(task);
    Ok(Http2 { sender, streams: Arc::default() })
}

/// hyper's buffer for one connection: bodies are read in pieces of at most this size.
const READ_BUFFER: usize = 128 * 1024;
/// What an upstream may send ahead on one stream, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What an upstream may send ahead on all streams of one connection, in bytes.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// What one stream may have waiting towards an upstream that does not read, in bytes.
const SEND_BUFFER: usize = 256 * 1024;

/// A failed handshake: the upstream's certificate or TLS, or a socket that broke.
fn tls_denial(destination: &Destination, error: &(dyn std::error::Error + 'static)) -> Denial {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Denial::new(
                DenyReason::UpstreamTls,
                format!("the TLS handshake with {destination} failed: {tls}"),
                "the upstream's certificate must be valid for its name under the platform's roots or upstream.roots; it is never skipped",
            );
        }
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    broken(destination, error)
}

fn broken(destination: &Destination, error: &dyn std::error::Error) -> Denial {
    tracing::debug!(%error, %destination, "an upstream connection could not be set up");
    Denial::new(
        DenyReason::UpstreamUnreachable,
        format!("{destination} closed the connection before it could be used"),
        "the policy allows it; check that the upstream is up, then try again",
    )
}
