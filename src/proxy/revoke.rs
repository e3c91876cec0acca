//! Between the steps: live tunnels and streams are decided again when the policies change, and cut if they are denied now.

use std::sync::Arc;

use http::{Method, Request};
use tokio::sync::watch;

use crate::host::{Destination, Scheme};
use crate::introspect;
use crate::policy::{Denial, DenyReason, RequestPermit, decide_connect, decide_request};
use crate::session::{Recognised, Registry, Sandbox, Session};

/// What was decided once and must still hold.
#[derive(Clone, Debug)]
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

    /// What may be done now: the sandbox's session, and the permit that its policy gives the request today.
    pub(super) fn permit(&self) -> Result<(Arc<Session>, RequestPermit), Denial> {
        let session = self.sandbox.session()?;
        let Some((scheme, method, path)) = &self.request else {
            return Err(self.resting());
        };
        let permit = decide_request(session.policy(), &self.destination, *scheme, method, path);
        let permit = permit.permit()?;
        if self.sandbox.exposure().is_exhausted() {
            Err(self.resting())
        } else {
            Ok((session, permit))
        }
    }

    fn resting(&self) -> Denial {
        let detail = format!("the secrets of {} rest", self.sandbox.id());
        Denial::new(
            DenyReason::SecretUnavailable,
            detail,
            "an operator should replace the values that leaked",
        )
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
