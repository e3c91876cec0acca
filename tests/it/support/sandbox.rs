//! The sandbox's side: a client that knows its sealed tokens, the proxy and the authority, and nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tollgate::server::Server;

use super::SOON;
use super::recorded::{Copy, Recorded, Stream};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The body of a request.
pub(crate) type RequestBody = BoxBody<Bytes, std::io::Error>;

/// A body that is known whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A body that comes frame by frame.
pub(crate) fn streamed(
    frames: impl futures_util::Stream<Item = Frame<Bytes>> + Send + Sync + 'static,
) -> RequestBody {
    use futures_util::StreamExt as _;
    http_body_util::BodyExt::boxed(StreamBody::new(frames.map(Ok)))
}

/// What is spoken to the proxy inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    H2,
}

impl Protocol {
    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::H1 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }
}

/// The client's side of one sandbox.
#[derive(Clone)]
pub(crate) struct Sandbox {
    proxy: SocketAddr,
    source: IpAddr,
    credentials: String,
    show_credentials: bool,
    roots: Arc<RootCertStore>,
    tokens: BTreeMap<String, String>,
    seen: Copy,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
    /// Why the body was cut, if it was.
    pub(crate) cut: Option<String>,
    /// The CONNECT was refused; otherwise the answer came from inside.
    pub(crate) refused_connect: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The reason of a denial, or nothing.
    pub(crate) fn reason(&self) -> &str {
        self.header("x-deny-reason").unwrap_or_default()
    }
}

impl Sandbox {
    pub(super) fn new(server: &Server, id: &str, ca: &Path, seen: Copy) -> Self {
        let sandbox = server.proxy().registry.get(id).expect("a sandbox of the policy");
        let session = sandbox.session().unwrap();
        let token = |secret: &tollgate::session::SealedSecret| {
            (secret.bound.name.to_string(), secret.token.as_str().to_owned())
        };
        let sidecar = server.proxy().registry.recognise(tollgate::session::Caller {
            source: Some(LOCALHOST),
            listener: None,
            credentials: None,
        });
        Self {
            proxy: server.explicit()[0],
            source: LOCALHOST,
            credentials: format!("{id}:{}", session.proxy_token().reveal()),
            show_credentials: !sidecar.is_ok_and(|known| known.sandbox.id().as_str() == id),
            roots: trusting(ca),
            tokens: session.secrets().iter().map(token).collect(),
            seen,
        }
    }

    /// The only sandbox of a program in a process of its own.
    pub(crate) fn of_program(proxy: SocketAddr, ca: &Path) -> Self {
        Self {
            proxy,
            source: LOCALHOST,
            credentials: String::new(),
            show_credentials: false,
            roots: trusting(ca),
            tokens: BTreeMap::new(),
            seen: Copy::default(),
        }
    }

    /// The sealed token of a secret.
    #[track_caller]
    pub(crate) fn token(&self, name: &str) -> &str {
        self.tokens.get(name).unwrap_or_else(|| panic!("no secret {name}"))
    }

    pub(crate) fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// `id:password`, as in a proxy URL.
    pub(crate) fn credentials(&self) -> &str {
        &self.credentials
    }

    /// Shows its credentials, although a sidecar needs none (or shows none, although they are needed).
    pub(crate) fn showing_credentials(mut self, show: bool) -> Self {
        self.show_credentials = show;
        self
    }

    /// Is recognised by this address, and shows no credentials.
    pub(crate) fn dialling_from(self, source: IpAddr) -> Self {
        Self { source, show_credentials: false, ..self }
    }

    /// Through another listener.
    pub(crate) fn through(self, proxy: SocketAddr) -> Self {
        Self { proxy, ..self }
    }

    /// Trusts this as well, for what is not intercepted.
    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    /// GET over HTTP/1.1.
    pub(crate) async fn get(&self, url: &str) -> Answer {
        self.send(Request::get(url).body(full("")).unwrap()).await
    }

    /// GET over HTTP/1.1 with one header.
    pub(crate) async fn get_with(&self, url: &str, name: &str, value: &str) -> Answer {
        self.send(Request::get(url).header(name, value).body(full("")).unwrap()).await
    }

    /// Over HTTP/1.1 on a connection of its own.
    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Answer {
        self.send_over(Protocol::H1, request).await
    }

    /// Over HTTP/2 on a connection of its own.
    pub(crate) async fn send_h2(&self, request: Request<RequestBody>) -> Answer {
        self.send_over(Protocol::H2, request).await
    }

    pub(crate) async fn send_over(
        &self,
        protocol: Protocol,
        request: Request<RequestBody>,
    ) -> Answer {
        match self.open(&request.uri().to_string(), protocol).await {
            Ok(mut connection) => connection.send(request).await,
            Err(refused) => refused,
        }
    }

    /// A connection for many requests to the URL's origin: a tunnel for https, the proxy itself for http.
    pub(crate) async fn open(&self, url: &str, protocol: Protocol) -> Result<Connection, Answer> {
        let uri: Uri = url.parse().unwrap();
        let tunnel = uri.scheme_str() == Some("https");
        let io = if tunnel {
            let target = format!("{}:{}", uri.host().unwrap(), uri.port_u16().unwrap_or(443));
            let stream = self.connect(&target).await?;
            self.tls_over(stream, uri.host().unwrap(), &[protocol.alpn()]).await.unwrap()
        } else {
            self.dial().await
        };
        let credentials = (!tunnel && self.show_credentials).then(|| self.proxy_authorization());
        Ok(Connection::over(io, protocol, tunnel, credentials, self.seen.clone()).await)
    }

    /// TCP to the proxy.
    pub(crate) async fn dial(&self) -> Stream {
        self.dial_at(self.proxy).await
    }

    /// TCP to any address, which a rule may redirect.
    pub(crate) async fn dial_at(&self, address: SocketAddr) -> Stream {
        let tcp = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let tcp = tcp.unwrap();
        if self.source.is_ipv4() == address.is_ipv4() {
            tcp.bind((self.source, 0).into()).unwrap();
        }
        let tcp = tcp.connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Recorded::new(tcp, self.seen.clone()).boxed()
    }

    /// A connection to an address that is redirected, for the URL's origin; the proxy is not known to the client.
    pub(crate) async fn open_at(
        &self,
        address: SocketAddr,
        url: &str,
        protocol: Protocol,
    ) -> std::io::Result<Connection> {
        let uri: Uri = url.parse().unwrap();
        let mut io = self.dial_at(address).await;
        if uri.scheme_str() == Some("https") {
            io = self.tls_over(io, uri.host().unwrap(), &[protocol.alpn()]).await?;
        }
        Ok(Connection::over(io, protocol, true, None, self.seen.clone()).await)
    }

    /// GET over HTTP/1.1 on a redirected connection of its own.
    pub(crate) async fn get_at(&self, address: SocketAddr, url: &str) -> Answer {
        let mut connection = self.open_at(address, url, Protocol::H1).await.unwrap();
        connection.send(Request::get(url).body(full("")).unwrap()).await
    }

    /// The raw stream behind an accepted CONNECT, or the refusal.
    pub(crate) async fn connect(&self, target: &str) -> Result<Stream, Answer> {
        let mut io = self.dial().await;
        let credentials = if self.show_credentials {
            format!("Proxy-Authorization: {}\r\n", self.proxy_authorization())
        } else {
            String::new()
        };
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        let answer =
            tokio::time::timeout(SOON, read_answer(&mut io)).await.expect("an answer to CONNECT");
        if answer.status == 200 { Ok(io) } else { Err(answer) }
    }

    /// TLS inside a tunnel to the host, with the host as SNI.
    pub(crate) async fn tls(&self, host: &str, protocol: Protocol) -> Stream {
        let io = self.connect(&format!("{host}:443")).await.unwrap();
        self.tls_over(io, host, &[protocol.alpn()]).await.unwrap()
    }

    /// TLS on a connection that the test has opened in another place.
    pub(crate) async fn tls_on(
        &self,
        tcp: std::net::TcpStream,
        sni: &str,
        alpn: &[&[u8]],
    ) -> std::io::Result<Stream> {
        tcp.set_nonblocking(true)?;
        let tcp = tokio::net::TcpStream::from_std(tcp)?;
        tcp.set_nodelay(true)?;
        self.tls_over(Recorded::new(tcp, self.seen.clone()).boxed(), sni, alpn).await
    }

    /// TLS over any stream with this SNI and these protocols.
    pub(crate) async fn tls_over(
        &self,
        io: Stream,
        sni: &str,
        alpn: &[&[u8]],
    ) -> std::io::Result<Stream> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        let tls =
            tokio::time::timeout(SOON, TlsConnector::from(Arc::new(config)).connect(name, io))
                .await??;
        Ok(Recorded::new(tls, self.seen.clone()).boxed())
    }

    /// Writes bytes to the proxy's port and reads to the end, or until nothing comes any more.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut io = self.dial().await;
        drop(io.write_all(bytes).await);
        let (read, _) = read_all(&mut io, Duration::from_millis(500)).await;
        String::from_utf8_lossy(&read).into_owned()
    }

    /// The value of `Proxy-Authorization`.
    pub(crate) fn proxy_authorization(&self) -> String {
        let encoded = base64::engine::general_purpose::STANDARD.encode(&self.credentials);
        format!("Basic {encoded}")
    }
}

fn trusting(ca: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    Arc::new(roots)
}

/// Reads until the end (`true`) or until nothing came for so long.
pub(crate) async fn read_all(io: &mut Stream, quiet: Duration) -> (Vec<u8>, bool) {
    let mut read = Vec::new();
    loop {
        match tokio::time::timeout(quiet, io.read_buf(&mut read)).await {
            Err(_) => return (read, false),
            Ok(Ok(0) | Err(_)) => return (read, true),
            Ok(Ok(_)) => {}
        }
    }
}

/// Reads one answer with a Content-Length, byte by byte so that nothing behind it is taken.
pub(crate) async fn read_answer(io: &mut Stream) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = io.read_u8().await.unwrap_or_else(|error| {
            panic!("the head ended early ({error}): {:?}", String::from_utf8_lossy(&head))
        });
        head.push(byte);
    }
    let text = String::from_utf8_lossy(&head);
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(": ")) {
        headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    let length =
        headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    let mut body = vec![0; if status == 200 { 0 } else { length }];
    io.read_exact(&mut body).await.unwrap();
    Answer {
        status,
        version: Version::HTTP_11,
        headers,
        body: body.into(),
        trailers: HeaderMap::new(),
        cut: None,
        refused_connect: true,
    }
}

/// A client connection for many requests.
pub(crate) struct Connection {
    sender: Sender,
    inside: bool,
    credentials: Option<String>,
    seen: Copy,
}

enum Sender {
    H1(hyper::client::conn::http1::SendRequest<RequestBody>),
    H2(hyper::client::conn::http2::SendRequest<RequestBody>),
}

impl Connection {
    async fn over(
        io: Stream,
        protocol: Protocol,
        inside: bool,
        credentials: Option<String>,
        seen: Copy,
    ) -> Self {
        let io = TokioIo::new(io);
        let sender = match protocol {
            Protocol::H1 => {
                let mut client = hyper::client::conn::http1::Builder::new();
                let client = client.preserve_header_case(true).max_headers(2000);
                let (sender, connection) = client.handshake(io).await.unwrap();
                tokio::spawn(connection.with_upgrades());
                Sender::H1(sender)
            }
            Protocol::H2 => {
                let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
                let (sender, connection) = client.handshake(io).await.unwrap();
                tokio::spawn(connection);
                Sender::H2(sender)
            }
        };
        Self { sender, inside, credentials, seen }
    }

    /// The same HTTP/2 connection, for requests that run at once.
    pub(crate) fn shared(&self) -> Self {
        let Sender::H2(sender) = &self.sender else { panic!("HTTP/1 has one request at a time") };
        Self {
            sender: Sender::H2(sender.clone()),
            credentials: None,
            seen: self.seen.clone(),
            ..*self
        }
    }

    /// Sends one request and reads the answer to its end.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Answer {
        let answer = tokio::time::timeout(SOON, self.begin(request))
            .await
            .expect("an answer")
            .expect("an answer");
        self.collect(answer).await
    }

    /// Sends one request; the answer's body is the test's to read.
    pub(crate) async fn begin(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> hyper::Result<http::Response<Incoming>> {
        match &mut self.sender {
            Sender::H2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::H1(sender) => {
                let uri = request.uri().clone();
                if !request.headers().contains_key("host") {
                    let host = uri.authority().unwrap().as_str().parse().unwrap();
                    request.headers_mut().insert("host", host);
                }
                if let Some(credentials) = &self.credentials {
                    request
                        .headers_mut()
                        .insert("proxy-authorization", credentials.parse().unwrap());
                }
                if self.inside {
                    *request.uri_mut() =
                        uri.path_and_query().map_or("/", |path| path.as_str()).parse().unwrap();
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Reads an answer to its end.
    pub(crate) async fn collect(&self, answer: http::Response<Incoming>) -> Answer {
        let (parts, mut incoming) = answer.into_parts();
        let (mut body, mut trailers, mut cut) = (Vec::new(), HeaderMap::new(), None);
        while let Some(frame) =
            tokio::time::timeout(SOON, incoming.frame()).await.expect("the rest of the body")
        {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
                Err(error) => {
                    cut = Some(error.to_string());
                    break;
                }
            }
        }
        let answer = Answer {
            status: parts.status.as_u16(),
            version: parts.version,
            headers: parts.headers,
            body: body.into(),
            trailers,
            cut,
            refused_connect: false,
        };
        // Header fields of h2 are compressed on the wire, so they are looked at here.
        self.seen.add(format!("{:?}{:?}", answer.headers, answer.trailers).as_bytes());
        self.seen.add(&answer.body);
        answer
    }

    /// Takes the raw stream of an upgraded connection.
    pub(crate) async fn upgraded(
        answer: http::Response<Incoming>,
    ) -> TokioIo<hyper::upgrade::Upgraded> {
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
    }
}
