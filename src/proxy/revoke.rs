//! Between the steps: live tunnels and streams are decided again when the policies change, and cut if they are denied now.

use std::sync::Arc;

use http::{Method, Request};
use tokio::sync::watch;

use crate::host::{Destination, Scheme};
use crate::introspect;
use crate::policy::{Denial, RequestPermit, decide_connect, decide_request};
use crate::session::{Recognised, Registry, Sandbox};

/// What was decided once and must still hold.
#[derive(Debug)]
pub(super) struct StillAllowed {
    epoch: watch::Receiver<u64>,
    sandbox: Arc<Sandbox>,
    destination: Destination,
    request: Option<(Scheme, Method, String)>,
}

impl StillAllowed {
    /// For a tunnel.
    pub(super) fn tunnel(
        registry: &Registry,
        recognised: &Recognised,
        destination: &Destination,
    ) -> Self {
        Self {
            epoch: registry.epoch(),
            sandbox: recognised.sandbox.clone(),
            destination: destination.clone(),
            request: None,
        }
    }

    /// For one request and its answer.
    pub(super) fn request<B>(
        registry: &Registry,
        recognised: &Recognised,
        permit: &RequestPermit,
        request: &Request<B>,
    ) -> Self {
        let path = request.uri().path().to_owned();
        let request = Some((permit.scheme(), request.method().clone(), path));
        Self { request, ..Self::tunnel(registry, recognised, permit.destination()) }
    }

    /// The denial, if the policies changed since the last look and do not allow this any more.
    pub(super) fn check(&mut self) -> Option<Denial> {
        if !self.epoch.has_changed().unwrap_or(false) {
            return None;
        }
        self.epoch.mark_unchanged();
        self.decide().err()
    }

    /// Resolves once this is denied.
    pub(super) async fn denied(&mut self) -> Denial {
        loop {
            if self.epoch.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Err(denial) = self.decide() {
                return denial;
            }
        }
    }

    fn decide(&self) -> Result<(), Denial> {
        let session = self.sandbox.session()?;
        if introspect::is_ours(&self.destination.host) {
            return Ok(());
        }
        match &self.request {
            Some((scheme, method, path)) => {
                decide_request(session.policy(), &self.destination, *scheme, method, path)
                    .permit()
                    .map(drop)
            }
            None => decide_connect(session.policy(), &self.destination).permit().map(drop),
        }
    }
}
