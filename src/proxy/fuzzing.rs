//! What the fuzz targets reach of the path: single steps without the connections around them. Compiled under `cfg(fuzzing)` only.
//!
//! Targets say what must hold; here is nothing but the way in. What goes wrong in the setting-up is the target's own mistake and panics.

#![expect(clippy::expect_used, reason = "a target that cannot set up must stop")]

use std::path::Path;
use std::sync::Arc;

use http::{Method, Request};
use tokio::io::AsyncRead;

use super::revoke::StillAllowed;
use super::scrub::Searched;
use super::substitute::{Counter, Messages};
use crate::host::{Authority, Scheme};
use crate::policy::{OperatorRules, PolicySet, RequestPermit, decide_request};
use crate::secret::{SealKey, SecretName, TokenFinder};
use crate::session::{Bounds, Recognised, Registry, SandboxSpec, Session};
use crate::shutdown::Tasks;
use crate::stores::{LiveSecret, TokenEndpoints};

/// How many tokens are counted in a body that comes in these pieces and goes on as it is.
pub fn count<'p>(finder: &Arc<TokenFinder>, pieces: impl IntoIterator<Item = &'p [u8]>) -> u64 {
    let mut counter = Counter::new(finder.clone());
    pieces.into_iter().map(|piece| counter.count(piece)).sum()
}

/// A sandbox that may open WebSockets to one host.
#[derive(Debug)]
pub struct Sandbox {
    registry: Registry,
    session: Arc<Session>,
    recognised: Recognised,
}

impl Sandbox {
    /// The sandbox of a policy with one store `s`, of which every value was fetched. Wants a runtime.
    pub async fn new(policy: &str) -> Self {
        let set = PolicySet::read(Path::new("fuzz.yaml"), policy).set.expect("a policy");
        let layers = ["s".parse().expect("a name")];
        let policy =
            set.effective(&layers, &OperatorRules::default()).expect("an effective policy");
        let (_trigger, tasks) = Tasks::new();
        let live = |store: &_, name: &SecretName| {
            let secret = set.secret(store, name)?;
            let (name, source) = (name.clone(), secret.source.clone());
            Some(LiveSecret::new(
                name,
                source,
                secret.bound.needs_header(),
                &TokenEndpoints::default(),
                tasks.clone(),
            ))
        };
        let id = "sb".parse().expect("an id");
        let session =
            Session::new(id, 0, Arc::new(policy), &SealKey::new(&[1; 32]), live, Vec::new());
        let session = session.expect("a session");
        for secret in session.secrets() {
            secret.live.value().await.expect("a value");
        }
        let registry = Registry::new(Bounds {
            connections: 10,
            exposed_hits: 10,
            dns_questions: 10,
            told_refusals: 10,
        });
        let spec = SandboxSpec { session, sources: Vec::new() };
        registry.apply(vec![spec], None).expect("a registry");
        let sandbox = registry.get("sb").expect("the sandbox");
        let session = sandbox.session().expect("its session");
        Self { registry, session, recognised: Recognised { sandbox, proven: true } }
    }

    /// Its session.
    #[must_use]
    pub const fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The permit to send something to `host`.
    #[must_use]
    pub fn permit(&self, method: &Method, host: &str) -> RequestPermit {
        let destination = Authority::parse(host).expect("a host").destination(Scheme::Https);
        let policy = self.session.policy();
        decide_request(policy, &destination, Scheme::Https, method, "/").permit().expect("allowed")
    }

    /// The client's side of a new WebSocket to `host`, with text messages of at most so many bytes.
    #[must_use]
    pub fn websocket(&self, host: &str, most: usize) -> ClientMessages {
        let permit = self.permit(&Method::GET, host);
        let request = Request::new(());
        let still_allowed =
            StillAllowed::request(self.registry.epoch(), &self.recognised, &permit, &request);
        let messages = Messages::of(&self.session, &permit, &still_allowed, Arc::default(), most);
        ClientMessages(messages.expect("a secret that is opted in"))
    }

    /// The upstream's side of a WebSocket, searched.
    pub fn searched<S: AsyncRead + Unpin>(&self, upstream: S) -> impl AsyncRead + Unpin + use<S> {
        Searched::new(upstream, Some(self.session.clone()), Arc::default())
    }
}

/// What a client sends in one WebSocket.
pub struct ClientMessages(Messages);

impl ClientMessages {
    /// Takes what comes next and appends what may leave, or gives the code with which the WebSocket ends.
    pub async fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), u16> {
        self.0.push(data, out).await.map_err(|violation| violation.code())
    }
}

impl std::fmt::Debug for ClientMessages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientMessages").finish_non_exhaustive()
    }
}
