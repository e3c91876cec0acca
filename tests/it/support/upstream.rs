//! A real server on loopback that records every accepted connection and every request.

use std::convert::Infallible;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::authority::{self, Leaf};
use super::recorded::{Copy, Recorded, Stream};

/// The body of an upstream's answer; an error cuts the connection.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A body that is known whole.
pub(crate) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// No body.
pub(crate) fn empty() -> Body {
    body("")
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Handler = Arc<dyn Fn(Request<Incoming>, Note) -> BoxFuture<Response<Body>> + Send + Sync>;
type Script = Arc<dyn Fn(Stream) -> BoxFuture<()> + Send + Sync>;

#[derive(Clone)]
enum Behaviour {
    Http(Handler),
    Raw(Script),
}

/// One request as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestRecord {
    /// The connection's number, from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    /// The target as sent (h1), or its path and query (h2).
    pub(crate) target: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub(crate) version: String,
    /// In the order of the wire for h1.
    pub(crate) headers: Vec<(String, String)>,
    /// The head's raw bytes (h1 only).
    pub(crate) head: String,
    pub(crate) body: Bytes,
    pub(crate) trailers: Vec<(String, String)>,
}

impl RequestRecord {
    /// The value of a header; several are joined by `|`.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let found: Vec<_> =
            self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).collect();
        (!found.is_empty())
            .then(|| found.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join("|"))
    }
}

#[derive(Debug)]
struct ConnectionRecord {
    sni: Option<String>,
    alpn: Option<String>,
    bytes: Copy,
}

struct Inner {
    names: Vec<String>,
    port: u16,
    address: SocketAddr,
    tls: Option<(Leaf, Vec<&'static [u8]>)>,
    config: OnceLock<Arc<ServerConfig>>,
    behaviour: Behaviour,
    connections: Mutex<Vec<ConnectionRecord>>,
    requests: Mutex<Vec<RequestRecord>>,
}

/// A running upstream; it ends with the test's runtime.
pub(crate) struct Upstream {
    inner: Arc<Inner>,
}

/// An upstream that is described and not yet started: `.await` starts it.
pub(crate) struct Builder {
    names: Vec<String>,
    port: u16,
    tls: Option<(Leaf, Vec<&'static [u8]>)>,
    behaviour: Behaviour,
    listener: Option<std::net::TcpListener>,
}

impl Upstream {
    /// HTTPS on (what clients call) port 443; h1 and h2; echoes.
    pub(crate) fn https(name: &str) -> Builder {
        let tls = Some((Leaf::Valid, vec![b"h2".as_slice(), b"http/1.1"]));
        let behaviour = Behaviour::Http(echo());
        Builder { names: vec![name.to_owned()], port: 443, tls, behaviour, listener: None }
    }

    /// Plain HTTP on (what clients call) port 80.
    pub(crate) fn http(name: &str) -> Builder {
        Builder { port: 80, tls: None, ..Self::https(name) }
    }

    /// TLS with ALPN http/1.1, inside which the test reads and writes bytes itself.
    pub(crate) fn raw<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        script: impl Fn(Stream) -> F + Send + Sync + 'static,
    ) -> Builder {
        let script: Script = Arc::new(move |io| Box::pin(script(io)));
        Builder { behaviour: Behaviour::Raw(script), ..Self::https(name).h1_only() }
    }

    /// Reads one request per connection (its body by Content-Length), writes these bytes, then waits for the other end to close.
    pub(crate) fn answers_raw(name: &str, answer: impl Into<Vec<u8>>) -> Builder {
        let answer = answer.into();
        Self::raw(name, move |mut io| {
            let answer = answer.clone();
            async move {
                read_request(&mut io).await;
                drop(io.write_all(&answer).await);
                drop(io.flush().await);
                drop(tokio::io::copy(&mut io, &mut tokio::io::sink()).await);
            }
        })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.inner.names
    }

    /// The port by which clients know it.
    pub(crate) fn port(&self) -> u16 {
        self.inner.port
    }

    /// Where it really listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// How many connections were accepted, whatever came of them.
    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.lock().unwrap().len()
    }

    /// All requests, in the order in which their bodies ended.
    pub(crate) fn requests(&self) -> Vec<RequestRecord> {
        self.inner.requests.lock().unwrap().clone()
    }

    /// The only request.
    #[track_caller]
    pub(crate) fn request(&self) -> RequestRecord {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// What was received inside TLS, of all connections.
    pub(crate) fn received(&self) -> Vec<u8> {
        self.inner.connections.lock().unwrap().iter().flat_map(|one| one.bytes.bytes()).collect()
    }

    /// What was negotiated with each connection.
    pub(crate) fn alpn(&self) -> Vec<Option<String>> {
        self.inner.connections.lock().unwrap().iter().map(|one| one.alpn.clone()).collect()
    }

    /// The SNI of each connection with all that came over it, requests of h2 decoded too.
    pub(crate) fn by_sni(&self) -> Vec<(Option<String>, Vec<u8>)> {
        let requests = self.requests();
        let connections = self.inner.connections.lock().unwrap();
        let with_requests = |(nth, one): (usize, &ConnectionRecord)| {
            let mut all = one.bytes.bytes();
            for request in requests.iter().filter(|request| request.connection == nth) {
                all.extend_from_slice(format!("\n{request:?}\n").as_bytes());
                all.extend_from_slice(&request.body);
            }
            (one.sni.clone(), all)
        };
        connections.iter().enumerate().map(with_requests).collect()
    }

    /// Serves on one more listener, such as one of the other family.
    pub(crate) fn also_at(&self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        self.accept(TcpListener::from_std(listener).unwrap());
    }

    fn accept(&self, listener: TcpListener) {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(inner.clone().serve(tcp));
            }
        });
    }

    /// The same upstream, for those who look at it later.
    pub(super) fn share(&self) -> Self {
        Self { inner: self.inner.clone() }
    }

    /// Called once Tollgate's authority exists.
    pub(crate) fn tollgate_started(&self, ca_dir: &Path) {
        if let Some((leaf, alpn)) = &self.inner.tls {
            self.inner
                .config
                .get_or_init(|| authority::server(*leaf, &self.inner.names, alpn, Some(ca_dir)));
        }
    }
}

impl Builder {
    /// Another name, served from the same address.
    pub(crate) fn also(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// The port by which clients know it.
    pub(crate) fn on_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// On a listener that the test has bound, elsewhere than on loopback.
    pub(crate) fn at(self, listener: std::net::TcpListener) -> Self {
        Self { listener: Some(listener), ..self }
    }

    pub(crate) fn h1_only(self) -> Self {
        self.alpn(vec![b"http/1.1"])
    }

    pub(crate) fn h2_only(self) -> Self {
        self.alpn(vec![b"h2"])
    }

    pub(crate) fn expired(self) -> Self {
        self.leaf(Leaf::Expired)
    }

    pub(crate) fn self_signed(self) -> Self {
        self.leaf(Leaf::SelfSigned)
    }

    pub(crate) fn wrong_name(self) -> Self {
        self.leaf(Leaf::WrongName)
    }

    pub(crate) fn signed_by_tollgate(self) -> Self {
        self.leaf(Leaf::SignedByTollgate)
    }

    /// Always this answer.
    pub(crate) fn answering(self, status: u16, headers: &[(&str, &str)], text: &str) -> Self {
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let text = text.to_owned();
        self.handler(move |_request| {
            let mut answer = Response::builder().status(status);
            for (name, value) in &headers {
                answer = answer.header(name, value);
            }
            let answer = answer.body(body(text.clone())).unwrap();
            async move { answer }
        })
    }

    /// The test answers; the request's body is read and recorded first.
    pub(crate) fn handler<F: Future<Output = Response<Body>> + Send + 'static>(
        self,
        handler: impl Fn(Request<Bytes>) -> F + Send + Sync + 'static,
    ) -> Self {
        let handler = Arc::new(handler);
        self.behaves(move |request, note| {
            let handler = handler.clone();
            Box::pin(async move {
                let request = note.whole(request).await;
                handler(request).await
            })
        })
    }

    /// The test answers and reads the body itself; the head is recorded first.
    pub(crate) fn streaming<F: Future<Output = Response<Body>> + Send + 'static>(
        self,
        handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self {
        let handler = Arc::new(handler);
        self.behaves(move |request, note| {
            note.head(&request);
            let handler = handler.clone();
            Box::pin(async move { handler(request).await })
        })
    }

    fn behaves(
        self,
        handler: impl Fn(Request<Incoming>, Note) -> BoxFuture<Response<Body>> + Send + Sync + 'static,
    ) -> Self {
        Self { behaviour: Behaviour::Http(Arc::new(handler)), ..self }
    }

    fn alpn(self, alpn: Vec<&'static [u8]>) -> Self {
        Self { tls: self.tls.map(|(leaf, _)| (leaf, alpn)), ..self }
    }

    fn leaf(self, leaf: Leaf) -> Self {
        Self { tls: self.tls.map(|(_, alpn)| (leaf, alpn)), ..self }
    }

    async fn start(self) -> Upstream {
        let listener = match self.listener {
            Some(bound) => {
                bound.set_nonblocking(true).unwrap();
                TcpListener::from_std(bound).unwrap()
            }
            None => TcpListener::bind(("127.0.0.1", 0)).await.unwrap(),
        };
        let inner = Arc::new(Inner {
            names: self.names,
            port: self.port,
            address: listener.local_addr().unwrap(),
            tls: self.tls,
            config: OnceLock::new(),
            behaviour: self.behaviour,
            connections: Mutex::default(),
            requests: Mutex::default(),
        });
        let upstream = Upstream { inner };
        upstream.accept(listener);
        upstream
    }
}

impl IntoFuture for Builder {
    type Output = Upstream;
    type IntoFuture = BoxFuture<Upstream>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

impl Inner {
    async fn serve(self: Arc<Self>, tcp: TcpStream) {
        drop(tcp.set_nodelay(true));
        let copy = Copy::default();
        let nth = {
            let mut connections = self.connections.lock().unwrap();
            connections.push(ConnectionRecord { sni: None, alpn: None, bytes: copy.clone() });
            connections.len() - 1
        };
        let Some((leaf, alpn)) = &self.tls else {
            return self.speak(Recorded::new(tcp, copy.clone()).boxed(), copy, nth, false).await;
        };
        let config =
            self.config.get_or_init(|| authority::server(*leaf, &self.names, alpn, None)).clone();
        let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
        let h2 = {
            let session = tls.get_ref().1;
            let mut connections = self.connections.lock().unwrap();
            connections[nth].sni = session.server_name().map(str::to_owned);
            connections[nth].alpn =
                session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
            session.alpn_protocol() == Some(b"h2")
        };
        self.speak(Recorded::new(tls, copy.clone()).boxed(), copy, nth, h2).await;
    }

    async fn speak(self: Arc<Self>, io: Stream, copy: Copy, nth: usize, h2: bool) {
        let handler = match &self.behaviour {
            Behaviour::Raw(script) => return script(io).await,
            Behaviour::Http(handler) => handler.clone(),
        };
        let done = Arc::new(Mutex::new(0));
        let service = service_fn(move |request: Request<Incoming>| {
            let note = Note { inner: self.clone(), copy: copy.clone(), done: done.clone(), nth };
            let answer = handler(request, note);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        if h2 {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(io), service).await);
        } else {
            let mut server = hyper::server::conn::http1::Builder::new();
            server
                .preserve_header_case(true)
                .auto_date_header(false)
                .max_headers(20_000)
                .max_buf_size(4 << 20);
            drop(server.serve_connection(TokioIo::new(io), service).with_upgrades().await);
        }
    }
}

/// Writes a request into the record.
struct Note {
    inner: Arc<Inner>,
    copy: Copy,
    /// How many of the connection's bytes belong to earlier requests.
    done: Arc<Mutex<usize>>,
    nth: usize,
}

impl Note {
    fn head(&self, request: &Request<Incoming>) {
        let record = self.of_head(request);
        self.inner.requests.lock().unwrap().push(record);
    }

    async fn whole(&self, request: Request<Incoming>) -> Request<Bytes> {
        let mut record = self.of_head(&request);
        let (parts, incoming) = request.into_parts();
        let Ok(collected) = incoming.collect().await else {
            return Request::from_parts(parts, Bytes::new());
        };
        record.trailers = collected.trailers().map(pairs).unwrap_or_default();
        record.body = collected.to_bytes();
        *self.done.lock().unwrap() = self.copy.len();
        let body = record.body.clone();
        self.inner.requests.lock().unwrap().push(record);
        Request::from_parts(parts, body)
    }

    fn of_head(&self, request: &Request<Incoming>) -> RequestRecord {
        let mut record = RequestRecord {
            connection: self.nth,
            method: request.method().to_string(),
            target: request
                .uri()
                .path_and_query()
                .map_or_else(|| request.uri().to_string(), ToString::to_string),
            version: format!("{:?}", request.version()),
            headers: pairs(request.headers()),
            ..RequestRecord::default()
        };
        if request.version() == Version::HTTP_2 {
            if let Some(authority) = request.uri().authority() {
                record.headers.insert(0, (":authority".to_owned(), authority.to_string()));
            }
            return record;
        }
        let all = self.copy.bytes();
        let from = &all[(*self.done.lock().unwrap()).min(all.len())..];
        let text = String::from_utf8_lossy(from).into_owned();
        let head = text.split_inclusive("\r\n\r\n").next().unwrap_or_default();
        let mut lines = head.trim_end().split("\r\n");
        if let Some(target) = lines.next().and_then(|line| line.split(' ').nth(1)) {
            record.target = target.to_owned();
        }
        record.headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(n, v)| (n.into(), v.into()))
            .collect();
        record.head = head.to_owned();
        record
    }
}

/// Header fields as text.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Answers JSON of what arrived: method, target, version, headers, body.
fn echo() -> Handler {
    Arc::new(|request, note| {
        Box::pin(async move {
            let record = note.of_head(&request);
            let request = note.whole(request).await;
            let text = json!({
                "method": record.method,
                "target": record.target,
                "version": record.version,
                "headers": record.headers,
                "body": String::from_utf8_lossy(request.body()),
            });
            Response::builder()
                .header("content-type", "application/json")
                .body(body(text.to_string()))
                .unwrap()
        })
    })
}

/// Reads a head and the body that its Content-Length announces.
pub(crate) async fn read_request(io: &mut Stream) -> Vec<u8> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            if read.len() >= end + 4 + length.unwrap_or(0) {
                return read;
            }
        }
        if io.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return read;
        }
    }
}
