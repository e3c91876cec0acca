//! Which sandboxes exist, and which of them a connection belongs to. Never "some" sandbox: who cannot be told apart is unknown.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{Exposure, Pace, Questions, Session};
use crate::policy::{Denial, DenyReason};
use crate::secret::SandboxId;

/// All live sandboxes; replaced as a whole by [`Registry::apply`].
#[derive(Debug)]
pub struct Registry {
    index: ArcSwap<Index>,
    bounds: Bounds,
    epoch: watch::Sender<u64>,
}

/// What each sandbox may have and do.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// Exposures of real values within an hour.
    pub exposed_hits: usize,
    /// DNS questions in a second.
    pub dns_questions: u32,
    /// Refusals that are told inside TLS, within a minute.
    pub told_refusals: u32,
}

/// A sandbox as the registry is told of it.
#[derive(Debug)]
pub struct SandboxSpec {
    /// Its session under the new policy.
    pub session: Session,
    /// The addresses that recognise it; none: by credentials, or as the only sandbox.
    pub sources: Vec<IpNet>,
}

/// A registered sandbox. It outlives reloads, so that what hangs on it (connections, pools) stays its own.
#[derive(Debug)]
pub struct Sandbox {
    id: SandboxId,
    session: ArcSwapOption<Session>,
    connections: Arc<Semaphore>,
    exposure: Exposure,
    questions: Questions,
    told: Pace,
    beyond: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl Sandbox {
    /// The id.
    #[must_use]
    pub const fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The snapshot that holds now, or the denial for a sandbox that has ended.
    pub fn session(&self) -> Result<Arc<Session>, Denial> {
        self.session.load_full().ok_or_else(|| {
            let detail = format!("the sandbox {} has ended", self.id);
            Denial::new(
                DenyReason::SessionExpired,
                detail,
                "an operator would register it again; a retry will not help",
            )
        })
    }

    /// How often it showed a real value where it is not bound.
    #[must_use]
    pub const fn exposure(&self) -> &Exposure {
        &self.exposure
    }

    /// What it may ask of the DNS responder.
    #[must_use]
    pub const fn questions(&self) -> &Questions {
        &self.questions
    }

    /// Whether one more refusal may be told inside TLS, for which a leaf is minted.
    pub fn may_be_told(&self) -> bool {
        self.told.admits()
    }

    /// Takes one of the few places beyond its connection slots, where a request is heard and refused.
    #[must_use]
    pub fn hear_beyond(&self) -> Option<OwnedSemaphorePermit> {
        self.beyond.clone().try_acquire_owned().ok()
    }

    /// Waits for its turn in the handshakes, which take more time of the processor than all else: those of one sandbox never stand in line
    /// before another's by the hundred.
    pub async fn handshake(&self) -> Option<OwnedSemaphorePermit> {
        self.handshakes.clone().acquire_owned().await.ok()
    }

    /// Takes one of its connection slots, until the permit is dropped.
    pub fn connect(&self) -> Result<OwnedSemaphorePermit, Denial> {
        self.connections.clone().try_acquire_owned().map_err(|_error| {
            Denial::new(
                DenyReason::LimitExceeded,
                format!("the sandbox {} has as many connections open as it may have", self.id),
                "close some, or have an operator raise limits.connectionsPerSandbox",
            )
        })
    }
}

/// Connections beyond the limit of one sandbox that are heard, so that they can be told.
const BEYOND: usize = 32;
/// TLS handshakes of one sandbox at once.
const HANDSHAKES: usize = 32;

#[derive(Debug, Default)]
struct Index {
    by_id: HashMap<SandboxId, Arc<Sandbox>>,
    /// By prefix length, longest first, so that the look-up does not grow with the number of sandboxes.
    by_source: Vec<(u8, HashMap<IpNet, Arc<Sandbox>>)>,
    sources: HashMap<SandboxId, Vec<IpNet>>,
    only: Option<Arc<Sandbox>>,
}

/// What a connection shows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The peer's address; none where it says nothing, since nobody but the listener's sandbox can be the peer.
    pub source: Option<IpAddr>,
    /// The sandbox of the listener, if it has one of its own.
    pub listener: Option<&'a SandboxId>,
    /// User and password of `Proxy-Authorization: Basic`.
    pub credentials: Option<(&'a str, &'a [u8])>,
}

/// A caller's sandbox, and by what it was recognised.
#[derive(Clone, Debug)]
pub struct Recognised {
    /// The sandbox.
    pub sandbox: Arc<Sandbox>,
    /// By its own address or credentials, not merely as the only sandbox of a listener that others on the machine may reach too.
    pub proven: bool,
}

impl Registry {
    /// An empty registry: everybody is unknown.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { index: ArcSwap::default(), bounds, epoch: watch::Sender::new(0) }
    }

    /// Replaces all sandboxes at once. `only` names the single sandbox of a sidecar.
    pub fn apply(
        &self,
        specs: Vec<SandboxSpec>,
        only: Option<&SandboxId>,
    ) -> Result<(), RegistryError> {
        let old = self.index.load_full();
        let mut index = Index::default();
        let mut sessions = Vec::with_capacity(specs.len());
        for SandboxSpec { session, sources } in specs {
            let id = session.id().clone();
            let sandbox = old.by_id.get(&id).cloned().unwrap_or_else(|| self.register(&id));
            for source in &sources {
                index.add_source(*source, &sandbox)?;
            }
            sessions.push((sandbox.clone(), Arc::new(session)));
            index.sources.insert(id.clone(), sources);
            index.by_id.insert(id, sandbox);
        }
        if let Some(id) = only {
            index.only = Some(
                index.by_id.get(id).cloned().ok_or_else(|| RegistryError::Missing(id.clone()))?,
            );
        }
        for (sandbox, session) in sessions {
            sandbox.session.store(Some(session));
        }
        for gone in old.by_id.values().filter(|sandbox| !index.by_id.contains_key(&sandbox.id)) {
            gone.session.store(None);
        }
        self.index.store(Arc::new(index));
        self.epoch.send_modify(|epoch| *epoch += 1);
        Ok(())
    }

    /// Changes with every [`Registry::apply`]: long-lived streams then ask for their decision again.
    #[must_use]
    pub fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// The sandbox of an id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Sandbox>> {
        let id: SandboxId = id.parse().ok()?;
        self.index.load().by_id.get(&id).cloned()
    }

    /// Whether a sandbox is registered.
    #[must_use]
    pub fn contains(&self, id: &SandboxId) -> bool {
        self.index.load().by_id.contains_key(id)
    }

    /// Recognises a caller. Of its address, its listener and its credentials, all that are given must name the same sandbox.
    pub fn recognise(&self, caller: Caller<'_>) -> Result<Recognised, Denial> {
        let index = self.index.load();
        let Some((user, password)) = caller.credentials else {
            return index.place(caller.source, caller.listener)?.ok_or_else(unknown);
        };
        let sandbox =
            user.parse().ok().and_then(|id: SandboxId| index.by_id.get(&id)).ok_or_else(unknown)?;
        let right_password = sandbox
            .session
            .load()
            .as_ref()
            .is_some_and(|session| session.proxy_token().matches(password));
        let right_place = index.may_be_at(sandbox, caller.source, caller.listener)
            && index.is_at_its_source(sandbox, caller.source);
        let right_sidecar = index.only.as_ref().is_none_or(|only| Arc::ptr_eq(only, sandbox));
        if right_password && right_place && right_sidecar {
            Ok(Recognised { sandbox: sandbox.clone(), proven: true })
        } else {
            Err(unknown())
        }
    }

    /// Whether a sandbox that was recognised may still be at a place.
    #[must_use]
    pub fn may_be_at(
        &self,
        sandbox: &Arc<Sandbox>,
        source: Option<IpAddr>,
        listener: Option<&SandboxId>,
    ) -> bool {
        self.index.load().may_be_at(sandbox, source, listener)
    }

    /// Whose an address is at a listener, if it can be told without credentials.
    #[must_use]
    pub fn owner(
        &self,
        source: Option<IpAddr>,
        listener: Option<&SandboxId>,
    ) -> Option<Arc<Sandbox>> {
        self.index.load().place(source, listener).ok().flatten().map(|known| known.sandbox)
    }

    fn register(&self, id: &SandboxId) -> Arc<Sandbox> {
        Arc::new(Sandbox {
            id: id.clone(),
            session: ArcSwapOption::empty(),
            connections: Arc::new(Semaphore::new(self.bounds.connections)),
            exposure: Exposure::new(self.bounds.exposed_hits),
            questions: Questions::new(self.bounds.dns_questions),
            told: Pace::per_minute(self.bounds.told_refusals),
            beyond: Arc::new(Semaphore::new(BEYOND)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        })
    }
}

impl Index {
    fn add_source(&mut self, source: IpNet, sandbox: &Arc<Sandbox>) -> Result<(), RegistryError> {
        let source = source.trunc();
        let length = source.prefix_len();
        let at = self.by_source.partition_point(|(known, _)| *known > length);
        if self.by_source.get(at).is_none_or(|(known, _)| *known != length) {
            self.by_source.insert(at, (length, HashMap::new()));
        }
        let taken =
            self.by_source.get_mut(at).and_then(|(_, nets)| nets.insert(source, sandbox.clone()));
        match taken {
            Some(other) if !Arc::ptr_eq(&other, sandbox) => Err(RegistryError::SourceTwice(source)),
            Some(_) | None => Ok(()),
        }
    }

    /// The sandbox of a place: by address, by listener, or as the only one. Where address and listener name one each, both must agree; the
    /// only sandbox of a sidecar is whoever is not known otherwise.
    fn place(
        &self,
        source: Option<IpAddr>,
        listener: Option<&SandboxId>,
    ) -> Result<Option<Recognised>, Denial> {
        let by_source = source.and_then(|source| self.by_source(source));
        let proven = |sandbox: &Arc<Sandbox>| Recognised { sandbox: sandbox.clone(), proven: true };
        let Some(id) = listener else {
            let only = || Some(Recognised { sandbox: self.only.clone()?, proven: false });
            return Ok(by_source.map(proven).or_else(only));
        };
        let bound = self.by_id.get(id).ok_or_else(unknown)?;
        match by_source {
            Some(other) if Arc::ptr_eq(other, bound) => Ok(Some(proven(bound))),
            None if self.is_at_its_source(bound, source) => {
                Ok(Some(Recognised { sandbox: bound.clone(), proven: source.is_none() }))
            }
            Some(_) | None => Err(unknown()),
        }
    }

    /// Whether a place is the sandbox's, or nobody's while it has no sources elsewhere.
    fn may_be_at(
        &self,
        sandbox: &Arc<Sandbox>,
        source: Option<IpAddr>,
        listener: Option<&SandboxId>,
    ) -> bool {
        match self.place(source, listener) {
            Ok(Some(known)) => Arc::ptr_eq(&known.sandbox, sandbox),
            Ok(None) => self.is_at_its_source(sandbox, source),
            Err(_unknown) => false,
        }
    }

    /// Whether a sandbox has no sources, or this is one of them.
    fn is_at_its_source(&self, sandbox: &Sandbox, source: Option<IpAddr>) -> bool {
        let Some(source) = source.map(|source| source.to_canonical()) else { return true };
        self.sources.get(&sandbox.id).is_none_or(|sources| {
            sources.is_empty() || sources.iter().any(|net| net.contains(&source))
        })
    }

    fn by_source(&self, ip: IpAddr) -> Option<&Arc<Sandbox>> {
        let ip = ip.to_canonical();
        self.by_source
            .iter()
            .find_map(|(length, nets)| nets.get(&IpNet::new(ip, *length).ok()?.trunc()))
    }
}

fn unknown() -> Denial {
    Denial::new(
        DenyReason::SandboxUnknown,
        "neither the source address nor proxy credentials name a sandbox",
        "set the proxy URL that `tollgate env` prints, with its credentials, or have an operator list this address in `sources`",
    )
}

/// Why sandboxes cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Two sandboxes claim one source.
    #[error("two sandboxes claim the source {0}")]
    SourceTwice(IpNet),
    /// The sidecar's sandbox is not in the policies.
    #[error("no policy defines the sandbox `{0}`; name one that exists with --sandbox")]
    Missing(SandboxId),
}
