//! A client as it would run in a sandbox: it knows the proxy, its credentials there, the authority, and sealed tokens. No real value.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Response, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cli::Failure;
use crate::policy::{RequestLine, explain};
use crate::session::Session;

pub(super) struct Sandbox {
    proxy: SocketAddr,
    session: Arc<Session>,
    tls: TlsConnector,
}

/// A request that was not sent yet, or was.
pub(super) struct Request<'a> {
    sandbox: &'a Sandbox,
    url: &'static str,
    key: Option<String>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether it came through the tunnel, and not in place of it.
    pub(super) tunnel: bool,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

/// Nothing here is larger.
const BODY: usize = 64 * 1024;

impl Sandbox {
    pub(super) fn new(proxy: SocketAddr, session: Arc<Session>, ca: &str) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self { proxy, session, tls: TlsConnector::from(Arc::new(tls)) })
    }

    pub(super) const fn get(&self, url: &'static str) -> Request<'_> {
        Request { sandbox: self, url, key: None }
    }

    /// What stands for a secret here.
    pub(super) fn token(&self, secret: &str) -> Option<String> {
        let secrets = self.session.secrets();
        let found = secrets.iter().find(|sealed| sealed.bound.name.as_str() == secret);
        found.map(|sealed| sealed.token.as_str().to_owned())
    }

    fn credentials(&self) -> String {
        let (id, token) = (self.session.id(), self.session.proxy_token().reveal());
        format!("Basic {}", STANDARD.encode(format!("{id}:{token}")))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the demo's client dials the proxy, as a sandbox would"
    )]
    async fn dial(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.proxy).await
    }
}

impl Request<'_> {
    pub(super) fn with_key(mut self, secret: &str) -> Self {
        self.key = self.sandbox.token(secret);
        self
    }

    pub(super) const fn url(&self) -> &str {
        self.url
    }

    pub(super) fn key(&self) -> Option<String> {
        self.key.clone()
    }

    pub(super) fn sandbox(&self) -> &str {
        self.sandbox.session.id().as_str()
    }

    /// Which rule allows it, from the decision that the proxy takes.
    pub(super) fn why(&self) -> Result<String, Failure> {
        let found = explain(self.sandbox.session.policy(), &RequestLine::new("GET", self.url)?);
        let (rule, layer) = (found.rule.unwrap_or_default(), found.layer.unwrap_or_default());
        let secrets: Vec<_> = found.secrets.iter().map(ToString::to_string).collect();
        Ok(format!("rule {rule} of {layer}; opens {}", secrets.join(", ")))
    }

    pub(super) async fn send(&self) -> Result<Answer, Failure> {
        let url: Uri = self.url.parse()?;
        let host = url.host().ok_or("the URL names no host")?;
        let tcp = self.sandbox.dial().await?;
        if url.scheme_str() == Some("http") {
            let request = self.request(url.to_string(), host);
            return exchange(tcp, request.header(PROXY_AUTHORIZATION, self.sandbox.credentials()))
                .await;
        }
        let target = format!("{host}:443");
        let connect = http::Request::builder()
            .method(Method::CONNECT)
            .uri(&target)
            .header(HOST, &target)
            .header(PROXY_AUTHORIZATION, self.sandbox.credentials());
        let tunnel = match open_tunnel(tcp, connect).await? {
            Ok(tunnel) => tunnel,
            Err(refused) => return Ok(refused),
        };
        let name = ServerName::try_from(host.to_owned())?;
        let tls = self.sandbox.tls.connect(name, tunnel).await?;
        let answer = exchange(tls, self.request(url.path().to_owned(), host)).await?;
        Ok(Answer { tunnel: true, ..answer })
    }

    fn request(&self, target: String, host: &str) -> http::request::Builder {
        let request = http::Request::builder().uri(target).header(HOST, host);
        match &self.key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        }
    }
}

type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

/// The tunnel, or the answer that refuses it.
async fn open_tunnel(
    tcp: TcpStream,
    connect: http::request::Builder,
) -> Result<Result<Tunnel, Answer>, Failure> {
    let (sender, connection) = handshake(TokioIo::new(tcp)).await?;
    let asked = async {
        let answer = send(sender, connect).await?;
        Ok::<_, Failure>(if answer.status().is_success() {
            Ok(TokioIo::new(hyper::upgrade::on(answer).await?))
        } else {
            Err(read(answer).await?)
        })
    };
    let (asked, ended) = tokio::join!(asked, connection.with_upgrades());
    let tunnel = asked?;
    ended?;
    Ok(tunnel)
}

async fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: S,
    request: http::request::Builder,
) -> Result<Answer, Failure> {
    let (sender, connection) = handshake(TokioIo::new(io)).await?;
    let answered = async { read(send(sender, request).await?).await };
    // The connection ends once the sender is dropped; how, is of no interest behind the whole answer.
    tokio::join!(answered, connection).0
}

async fn send(
    mut sender: SendRequest<Empty<Bytes>>,
    request: http::request::Builder,
) -> Result<Response<Incoming>, Failure> {
    Ok(sender.send_request(request.body(Empty::new())?).await?)
}

async fn read(answer: Response<Incoming>) -> Result<Answer, Failure> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, BODY).collect().await?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status: head.status.as_u16(), tunnel: false, headers: head.headers, body })
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> String {
        let value = self.headers.get(name);
        value
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }

    /// Why Tollgate refused.
    pub(super) fn reason(&self) -> Option<String> {
        Some(self.header("x-deny-reason")).filter(|reason| !reason.is_empty())
    }

    pub(super) fn is_denied(&self, status: u16, reason: &str) -> bool {
        self.status == status && self.reason().as_deref() == Some(reason)
    }

    /// The sentence of the problem document.
    pub(super) fn detail(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        let detail = problem.get("detail").and_then(|detail| detail.as_str());
        detail.unwrap_or("(the answer does not say why)").to_owned()
    }

    pub(super) fn holds(&self, text: &str) -> bool {
        let in_header =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).contains(text);
        self.body.contains(text) || self.headers.values().any(in_header)
    }
}
