//! A sandbox of the tour: a client with sealed tokens, and the URLs that it asks for.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::cli::Failure;
use crate::cli::loopback::{Answer, Client};
use crate::policy::{RequestLine, explain};
use crate::session::Session;

pub(super) struct Sandbox {
    session: Arc<Session>,
    client: Client,
}

/// A request that was not sent yet, or was.
pub(super) struct Request<'a> {
    sandbox: &'a Sandbox,
    url: &'static str,
    key: Option<String>,
}

impl Sandbox {
    pub(super) fn new(proxy: SocketAddr, session: Arc<Session>, ca: &str) -> Result<Self, Failure> {
        let client = Client::new(proxy, &session, ca)?;
        Ok(Self { session, client })
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
        let mut request = http::Request::get(self.url);
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        self.sandbox.client.send(request.body(Bytes::new())?).await
    }
}
