//! Tollgate's own requests, to the token endpoints of secrets: decided, checked and verified as a sandbox's are.
//!
//! The policy file names the endpoint; the operator's `egress.deny` and `egress.allowPrivate` decide about it as about any other host. One
//! request, one connection, one bounded answer; redirects are not followed.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::Proxy;
use crate::host::{HostPattern, Scheme};
use crate::policy::{
    AllowRule, DenyReason, EffectivePolicy, OperatorRules, PolicyParts, RequestPermit, RuleName,
    decide_request,
};
use crate::secret::TokenUrl;
use crate::stores::{Fault, PostForm, Posting, TokenAnswer, TokenRequest};

/// Posts token requests through the proxy's dialler.
#[derive(Debug)]
pub struct TokenPost {
    /// Secrets hold this, and the proxy holds the secrets.
    proxy: Weak<Proxy>,
    tls: Arc<ClientConfig>,
    operator: OperatorRules,
}

impl TokenPost {
    /// With a TLS session cache of its own.
    #[must_use]
    pub fn new(proxy: &Arc<Proxy>, operator: OperatorRules) -> Self {
        let mut tls = (*proxy.upstream_tls.client_config()).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { proxy: Arc::downgrade(proxy), tls: Arc::new(tls), operator }
    }

    async fn send(&self, request: TokenRequest) -> Result<TokenAnswer, Fault> {
        let proxy = self.proxy.upgrade().ok_or(Fault::Offline)?;
        let permit = self.permit(&request.url)?;
        let destination = permit.destination();
        let tcp = proxy.connector.dial(&permit).await.map_err(|denial| {
            tracing::debug!(detail = %denial.detail, "a token endpoint cannot be reached");
            Fault::Unreachable(denial.reason.as_str())
        })?;
        let name = ServerName::try_from(destination.host.as_str().to_owned())
            .map_err(|error| failed(DenyReason::UpstreamTls, &error))?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await;
        let tls = tls.map_err(|error| failed(DenyReason::UpstreamTls, &error))?;
        let broken = |error: hyper::Error| failed(DenyReason::UpstreamUnreachable, &error);
        let handshake = http1::Builder::new()
            .max_headers(proxy.limits.fields as usize)
            .max_buf_size(proxy.limits.headers.get().max(LEAST_BUFFER))
            .handshake(TokioIo::new(tls));
        let (mut sender, connection) = handshake.await.map_err(broken)?;
        let form = written(request, &destination.authority(Scheme::Https))?;
        // In the caller's own task, so that a caller that gives up closes the connection.
        let exchange = async { read(sender.send_request(form).await.map_err(broken)?).await };
        tokio::pin!(exchange, connection);
        tokio::select! {
            answer = &mut exchange => answer,
            _ended = &mut connection => exchange.await,
        }
    }

    fn permit(&self, url: &TokenUrl) -> Result<RequestPermit, Fault> {
        let destination = url.destination();
        let pattern: HostPattern = destination
            .to_string()
            .parse()
            .map_err(|_error| Fault::Unreachable(DenyReason::HostNotAllowed.as_str()))?;
        let rule = AllowRule {
            pattern,
            schemes: vec![Scheme::Https],
            methods: vec![Method::POST],
            paths: Vec::new(),
            scrub: true,
            name: RuleName::operator("tokenUrl"),
        };
        let parts = PolicyParts { allow: Some(vec![rule]), ..PolicyParts::default() };
        let policy = Arc::new(EffectivePolicy::new(parts, &self.operator));
        decide_request(&policy, destination, Scheme::Https, &Method::POST, url.target())
            .permit()
            .map_err(|denial| Fault::Unreachable(denial.reason.as_str()))
    }
}

impl PostForm for TokenPost {
    fn post(&self, request: TokenRequest) -> Posting<'_> {
        Box::pin(self.send(request))
    }
}

/// hyper's own smallest buffer.
const LEAST_BUFFER: usize = 8192;

fn failed(reason: DenyReason, error: &dyn std::error::Error) -> Fault {
    tracing::debug!(%error, "a token endpoint cannot be asked");
    Fault::Unreachable(reason.as_str())
}

fn written(request: TokenRequest, authority: &str) -> Result<Request<Full<Bytes>>, Fault> {
    let mut form = Request::post(request.url.target())
        .header(HOST, authority)
        .header(USER_AGENT, "tollgate")
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    if let Some(authorization) = request.authorization {
        form = form.header(AUTHORIZATION, authorization);
    }
    form.body(Full::new(Bytes::from_owner(request.body)))
        .map_err(|error| failed(DenyReason::ProtocolNotAllowed, &error))
}

async fn read(answer: Response<Incoming>) -> Result<TokenAnswer, Fault> {
    let (head, mut incoming) = answer.into_parts();
    // Room for everything at once: a buffer that grows leaves copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(TokenAnswer::MOST));
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| failed(DenyReason::UpstreamUnreachable, &error))?;
        let Ok(data) = frame.into_data() else { continue };
        if body.len() + data.len() > TokenAnswer::MOST {
            return Err(Fault::LongAnswer);
        }
        body.extend_from_slice(&data);
    }
    Ok(TokenAnswer { status: head.status.as_u16(), body })
}
