//! The tour's upstream: an HTTPS server on loopback with certificates of its own, which remembers the key that it was sent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::cli::Failure;
use crate::shutdown::{Tasks, Trigger};

pub(super) struct Upstream {
    address: SocketAddr,
    root_pem: String,
    key: Arc<Mutex<Option<String>>>,
    trigger: Trigger,
}

impl Upstream {
    /// Serves these hosts.
    pub(super) async fn start(hosts: &[&str]) -> Result<Self, Failure> {
        let (tls, root_pem) = certified(hosts)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let key = Arc::new(Mutex::new(None));
        let (trigger, tasks) = Tasks::new();
        let serving = accept(listener, acceptor, key.clone(), tasks.clone());
        drop(tasks.spawn(serving));
        Ok(Self { address, root_pem, key, trigger })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The `x-api-key` of the last request, if there was a request since the last look.
    pub(super) fn take_key(&self) -> Option<String> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) async fn stop(self) {
        self.trigger.drain(Duration::from_secs(1)).await;
    }
}

/// A root, and a server that it vouches for.
fn certified(hosts: &[&str]) -> Result<(ServerConfig, String), Failure> {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "the demo's upstream");
    let root_key = KeyPair::generate()?;
    let root_pem = root.self_signed(&root_key)?.pem();
    let key = KeyPair::generate()?;
    let names: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
    let leaf = CertificateParams::new(names)?.signed_by(&key, &Issuer::new(root, root_key))?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let tls = ServerConfig::builder().with_no_client_auth();
    Ok((tls.with_single_cert(vec![leaf.der().clone()], key)?, root_pem))
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    key: Arc<Mutex<Option<String>>>,
    tasks: Tasks,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.closed() => return,
        };
        let Ok((tcp, _)) = accepted else { return };
        let (acceptor, key, until) = (acceptor.clone(), key.clone(), tasks.clone());
        drop(tasks.spawn(async move {
            tokio::select! {
                () = connection(tcp, acceptor, key) => {}
                () = until.closed() => {}
            }
        }));
    }
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, key: Arc<Mutex<Option<String>>>) {
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let service = service_fn(|request| std::future::ready(answer(&request, &key)));
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "the demo's upstream lost a connection");
    }
}

fn answer(
    request: &Request<Incoming>,
    seen: &Mutex<Option<String>>,
) -> Result<Response<String>, Infallible> {
    let key = request.headers().get("x-api-key").cloned();
    let key = key.unwrap_or_else(|| HeaderValue::from_static("(none)"));
    let text = String::from_utf8_lossy(key.as_bytes()).into_owned();
    let mut answer = Response::new(String::from("ok"));
    if request.uri().path() == "/echo" {
        *answer.body_mut() = format!("you are {text}");
        answer.headers_mut().insert("x-echo", key);
    }
    *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    Ok(answer)
}
