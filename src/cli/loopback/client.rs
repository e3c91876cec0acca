//! A client as it would run in a sandbox: it knows the proxy, its credentials there, and the authority. No real value.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::socket;
use crate::cli::Failure;
use crate::session::Session;

/// The client's side of one sandbox.
pub(in crate::cli) struct Client {
    proxy: SocketAddr,
    credentials: HeaderValue,
    tls: TlsConnector,
}

/// What came back.
pub(in crate::cli) struct Answer {
    pub(in crate::cli) status: u16,
    /// Whether it came through the tunnel, and not in place of it.
    pub(in crate::cli) tunnel: bool,
    pub(in crate::cli) headers: HeaderMap,
    pub(in crate::cli) body: String,
}

/// Nothing here is larger.
const BODY: usize = 1024 * 1024;

impl Client {
    pub(in crate::cli) fn new(
        proxy: SocketAddr,
        session: &Session,
        ca: &str,
    ) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let (id, token) = (session.id(), session.proxy_token().reveal());
        let credentials = format!("Basic {}", STANDARD.encode(format!("{id}:{token}")));
        Ok(Self {
            proxy,
            credentials: credentials.parse()?,
            tls: TlsConnector::from(Arc::new(tls)),
        })
    }

    /// Opens a WebSocket at an `https` URL and sends a message over it; the body of the answer is the message that came back.
    pub(in crate::cli) async fn converse(
        &self,
        request: Request<Bytes>,
        message: &[u8],
    ) -> Result<Answer, Failure> {
        let (mut head, body) = request.into_parts();
        let url = std::mem::take(&mut head.uri);
        let authority = url.authority().ok_or("the URL names no host")?.as_str();
        head.headers.insert(HOST, authority.parse()?);
        let tls = match self.inside(self.dial().await?, &url).await? {
            Ok(tls) => tls,
            Err(refused) => return Ok(refused),
        };
        head.uri = url.path_and_query().map_or_else(Uri::default, |target| target.clone().into());
        match switched(tls, Request::from_parts(head, body)).await? {
            Ok((status, headers, mut io)) => {
                let answer = socket::converse(&mut io, message).await?;
                let body = String::from_utf8_lossy(&answer).into_owned();
                Ok(Answer { status, tunnel: true, headers, body })
            }
            Err(refused) => Ok(Answer { tunnel: true, ..refused }),
        }
    }

    /// Sends a request for an absolute URL: in a tunnel, or to the proxy itself for `http`.
    pub(in crate::cli) async fn send(&self, request: Request<Bytes>) -> Result<Answer, Failure> {
        let (mut head, body) = request.into_parts();
        let url = std::mem::take(&mut head.uri);
        let authority = url.authority().ok_or("the URL names no host")?.as_str();
        head.headers.insert(HOST, authority.parse()?);
        let tcp = self.dial().await?;
        if url.scheme_str() == Some("http") {
            head.uri = url;
            head.headers.insert(PROXY_AUTHORIZATION, self.credentials.clone());
            return exchange(tcp, Request::from_parts(head, body)).await;
        }
        let tls = match self.inside(tcp, &url).await? {
            Ok(tls) => tls,
            Err(refused) => return Ok(refused),
        };
        head.uri = url.path_and_query().map_or_else(Uri::default, |target| target.clone().into());
        let answer = exchange(tls, Request::from_parts(head, body)).await?;
        Ok(Answer { tunnel: true, ..answer })
    }

    /// TLS in a tunnel to the URL's host, or the answer that refuses it.
    async fn inside(
        &self,
        tcp: TcpStream,
        url: &Uri,
    ) -> Result<Result<TlsStream<Switched>, Answer>, Failure> {
        let host = url.host().ok_or("the URL names no host")?;
        let target = format!("{host}:{}", url.port_u16().unwrap_or(443));
        let connect = Request::builder()
            .method(Method::CONNECT)
            .uri(&target)
            .header(HOST, &target)
            .header(PROXY_AUTHORIZATION, &self.credentials)
            .body(Bytes::new())?;
        let tunnel = match switched(tcp, connect).await? {
            Ok((_, _, tunnel)) => tunnel,
            Err(refused) => return Ok(Err(refused)),
        };
        let name = ServerName::try_from(host.to_owned())?;
        Ok(Ok(self.tls.connect(name, tunnel).await?))
    }

    #[expect(clippy::disallowed_methods, reason = "the client dials the proxy, as a sandbox would")]
    async fn dial(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.proxy).await
    }
}

type Switched = TokioIo<hyper::upgrade::Upgraded>;

/// The tunnel or WebSocket with the status and the fields that opened it, or the answer that refuses it.
async fn switched<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: S,
    request: Request<Bytes>,
) -> Result<Result<(u16, HeaderMap, Switched), Answer>, Failure> {
    let opens = match *request.method() {
        Method::CONNECT => StatusCode::OK,
        _ => StatusCode::SWITCHING_PROTOCOLS,
    };
    let (sender, connection) = handshake(TokioIo::new(io)).await?;
    let asked = async {
        let answer = send(sender, request).await?;
        Ok::<_, Failure>(if answer.status() == opens {
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Ok((status, headers, TokioIo::new(hyper::upgrade::on(answer).await?)))
        } else {
            Err(read(answer).await?)
        })
    };
    let (asked, ended) = tokio::join!(asked, connection.with_upgrades());
    let opened = asked?;
    ended?;
    Ok(opened)
}

async fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: S,
    request: Request<Bytes>,
) -> Result<Answer, Failure> {
    let (sender, connection) = handshake(TokioIo::new(io)).await?;
    let answered = async { read(send(sender, request).await?).await };
    // The connection ends once the sender is dropped; how, is of no interest behind the whole answer.
    tokio::join!(answered, connection).0
}

async fn send(
    mut sender: SendRequest<Full<Bytes>>,
    request: Request<Bytes>,
) -> Result<Response<Incoming>, Failure> {
    Ok(sender.send_request(request.map(Full::new)).await?)
}

async fn read(answer: Response<Incoming>) -> Result<Answer, Failure> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, BODY).collect().await?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status: head.status.as_u16(), tunnel: false, headers: head.headers, body })
}

impl Answer {
    pub(in crate::cli) fn header(&self, name: &str) -> String {
        let value = self.headers.get(name);
        value
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }

    /// Why Tollgate refused.
    pub(in crate::cli) fn reason(&self) -> Option<String> {
        Some(self.header("x-deny-reason")).filter(|reason| !reason.is_empty())
    }

    pub(in crate::cli) fn is_denied(&self, status: u16, reason: &str) -> bool {
        self.status == status && self.reason().as_deref() == Some(reason)
    }

    /// The sentence of the problem document.
    pub(in crate::cli) fn detail(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        let detail = problem.get("detail").and_then(|detail| detail.as_str());
        detail.unwrap_or("(the answer does not say why)").to_owned()
    }

    pub(in crate::cli) fn holds(&self, text: &str) -> bool {
        let in_header =
            |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).contains(text);
        self.body.contains(text) || self.headers.values().any(in_header)
    }
}
