//! An HTTPS server on loopback with certificates of its own, which answers as it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::socket;
use crate::cli::Failure;
use crate::shutdown::{Tasks, Trigger};

/// A running upstream.
pub(in crate::cli) struct Upstream {
    address: SocketAddr,
    root_pem: String,
    trigger: Trigger,
}

/// Answers a request: its head, and its body or what came over the WebSocket that it opened.
pub(in crate::cli) type Respond =
    Arc<dyn Fn(&Parts, &Bytes) -> Response<Full<Bytes>> + Send + Sync>;

impl Upstream {
    /// Serves these hosts.
    pub(in crate::cli) async fn start(hosts: &[&str], respond: Respond) -> Result<Self, Failure> {
        let (tls, root_pem) = certified(hosts)?;
        Self::serve(tls, root_pem, respond).await
    }

    /// With certificates that somebody else vouches for.
    pub(in crate::cli) async fn presenting(
        tls: ServerConfig,
        respond: Respond,
    ) -> Result<Self, Failure> {
        Self::serve(tls, String::new(), respond).await
    }

    async fn serve(tls: ServerConfig, root_pem: String, respond: Respond) -> Result<Self, Failure> {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (trigger, tasks) = Tasks::new();
        let serving = accept(listener, acceptor, respond, tasks.clone());
        drop(tasks.spawn(serving));
        Ok(Self { address, root_pem, trigger })
    }

    pub(in crate::cli) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its own root; empty if somebody else vouches for it.
    pub(in crate::cli) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    pub(in crate::cli) async fn stop(self) {
        self.trigger.drain(Duration::from_secs(1)).await;
    }
}

/// A root, and a server that it vouches for.
fn certified(hosts: &[&str]) -> Result<(ServerConfig, String), Failure> {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "an upstream of Tollgate's own");
    let root_key = KeyPair::generate()?;
    let root_pem = root.self_signed(&root_key)?.pem();
    let key = KeyPair::generate()?;
    let names: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
    let leaf = CertificateParams::new(names)?.signed_by(&key, &Issuer::new(root, root_key))?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let tls = ServerConfig::builder().with_no_client_auth();
    Ok((tls.with_single_cert(vec![leaf.der().clone()], key)?, root_pem))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, respond: Respond, tasks: Tasks) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.closed() => return,
        };
        let Ok((tcp, _)) = accepted else { return };
        let (acceptor, respond, until) = (acceptor.clone(), respond.clone(), tasks.clone());
        drop(tasks.spawn(async move {
            tokio::select! {
                () = connection(tcp, acceptor, respond, &until) => {}
                () = until.closed() => {}
            }
        }));
    }
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, respond: Respond, tasks: &Tasks) {
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let service = service_fn(|request| answer(request, &respond, tasks));
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service);
    if let Err(error) = served.with_upgrades().await {
        tracing::debug!(%error, "the upstream lost a connection");
    }
}

/// No request here has a longer body.
const BODY: usize = 1024 * 1024;

async fn answer(
    request: Request<Incoming>,
    respond: &Respond,
    tasks: &Tasks,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let mut request = request;
    if let Some(answer) = socket::switching(&request) {
        let upgrade = hyper::upgrade::on(&mut request);
        let serving = socket::serve(upgrade, request.into_parts().0, respond.clone());
        let until = tasks.clone();
        drop(tasks.spawn(async move {
            tokio::select! {
                served = serving => if let Err(error) = served {
                    tracing::debug!(%error, "the upstream lost a WebSocket");
                },
                () = until.closed() => {}
            }
        }));
        return Ok(answer);
    }
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY).collect().await?.to_bytes();
    Ok(respond(&head, &body))
}
