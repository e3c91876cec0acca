//! Between the steps: live tunnels and streams are decided again when the policies change, and cut if they are denied now, or if their
//! sandbox may not be where they come from any more.
//!
//! Who decides takes the epoch first: a change that comes while it decides is then seen as one that came after.

use std::sync::Arc;

use http::{Method, Request};
use tokio::sync::watch;

use crate::host::{Destination, Scheme};
use crate::introspect;
use crate::policy::{Denial, DenyReason, RequestPermit, decide_connect, decide_request};
use crate::session::{Recognised, Sandbox, Session};

use super::{Client, Tunnel, Via, identify};

/// What was decided once and must still hold.
#[derive(Clone, Debug)]
pub(super) struct StillAllowed {
    epoch: watch::Receiver<u64>,
    sandbox: Arc<Sandbox>,
    destination: Destination,
    /// The connection, where nothing around this asks whether the sandbox may still be there.
    client: Option<Arc<Client>>,
    request: Option<(Scheme, Method, String)>,
}

impl StillAllowed {
    /// For a tunnel.
    pub(super) fn tunnel(tunnel: &Tunnel) -> Self {
        Self {
            epoch: tunnel.epoch.clone(),
            sandbox: tunnel.recognised.sandbox.clone(),
            destination: tunnel.destination.clone(),
            client: Some(tunnel.client.clone()),
            request: None,
        }
    }

    /// For one request and its answer. `epoch` was taken before it was decided.
    pub(super) fn request<B>(
        epoch: watch::Receiver<u64>,
        recognised: &Recognised,
        permit: &RequestPermit,
        request: &Request<B>,
    ) -> Self {
        let path = request.uri().path().to_owned();
        Self {
            epoch,
            sandbox: recognised.sandbox.clone(),
            destination: permit.destination().clone(),
            client: None,
            request: Some((permit.scheme(), request.method().clone(), path)),
        }
    }

    /// A tunnel ends by itself; a request outside of one asks on its own where it comes from.
    pub(super) fn on(self, via: &Via) -> Self {
        Self { client: via.recognised.is_none().then(|| via.client.clone()), ..self }
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
        if self.client.as_ref().is_some_and(|client| !client.may_be(&self.sandbox)) {
            return Err(identify::moved());
        }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::Authority;
    use crate::policy::{OperatorRules, PolicySet};
    use crate::secret::SealKey;
    use crate::session::{Bounds, Registry, SandboxSpec};

    /// Puts a policy into force under which the sandbox `sb` reaches this host.
    fn allow(registry: &Registry, host: &str) {
        let text = format!("secretStores: {{ s: {{ egressAllowlist: [{host}] }} }}");
        let set = PolicySet::read(Path::new("test.yaml"), &text).set.unwrap();
        let policy = set.effective(&["s".parse().unwrap()], &OperatorRules::default()).unwrap();
        let (id, key) = ("sb".parse().unwrap(), SealKey::new(&[1; 32]));
        let session = Session::new(id, 0, policy.into(), &key, |_, _| None, Vec::new()).unwrap();
        let sources = Vec::new();
        registry.apply(vec![SandboxSpec { session, sources }], None).unwrap();
    }

    fn decided(sandbox: &Sandbox, host: &str) -> RequestPermit {
        let destination = Authority::parse(host).unwrap().destination(Scheme::Https);
        let session = sandbox.session().unwrap();
        let policy = session.policy();
        decide_request(policy, &destination, Scheme::Https, &Method::GET, "/").permit().unwrap()
    }

    #[tokio::test]
    async fn a_change_between_the_decision_and_the_first_look_is_seen() {
        let registry = Registry::new(Bounds {
            connections: 1,
            exposed_hits: 1,
            dns_questions: 1,
            told_refusals: 1,
        });
        allow(&registry, "api.example.com");
        let epoch = registry.epoch();
        let sandbox = registry.get("sb").unwrap();
        let permit = decided(&sandbox, "api.example.com");
        let recognised = Recognised { sandbox, proven: true };
        let request = Request::new(());
        let undisturbed = StillAllowed::request(epoch.clone(), &recognised, &permit, &request);
        assert_eq!(undisturbed.clone().check(), None);
        allow(&registry, "other.example.com");
        let mut still_allowed = StillAllowed::request(epoch, &recognised, &permit, &request);
        let denial = still_allowed.clone().check().expect("a denial");
        assert_eq!(denial.reason, DenyReason::HostNotAllowed);
        assert_eq!(still_allowed.denied().await.reason, DenyReason::HostNotAllowed);
    }
}
