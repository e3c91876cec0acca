//! One running Tollgate: its parts put together from a configuration, started in order, and stopped in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::activation::{ActivationError, Inherited};
use crate::audit::{Audit, Event, Observe};
use crate::config::{AuditSink, Config, Listen, Listener};
use crate::control::api::{self, ApiKeys};
use crate::control::{Bound, health};
use crate::dns;
use crate::environment::{Credentials, Places};
use crate::introspect::Introspection;
use crate::metrics::{Connections, Metrics, Questions};
use crate::policies::{LoadError, Policies, Report};
use crate::policy::OwnSockets;
use crate::proxy::tls::ca::{CaError, CertificateAuthority};
use crate::proxy::tls::leaf::{LeafConfigs, LeafError, LeafMint};
use crate::proxy::tls::roots::PlatformRoots;
use crate::proxy::tls::seal_key::{self, SealKeyError};
use crate::proxy::tls::upstream::{UpstreamTls, UpstreamTlsError};
use crate::proxy::{
    Callers, Connector, Entrance, Kind, Listening, Mark, Proxy, ResolverError, TokenPost,
    UpstreamProxy, is_user_and_password,
};
use crate::secret::{SandboxId, SealKey, SecretName, SourceSpec};
use crate::session::{Bounds, Registry, RegistryError, Session};
use crate::shutdown::{Drained, Tasks, Trigger};
use crate::stores::{LiveSecret, SourceError, TokenEndpoints};
use crate::trust;

/// A running Tollgate.
#[derive(Debug)]
pub struct Server {
    proxy: Arc<Proxy>,
    policies: Arc<Policies>,
    health: Arc<Health>,
    explicit: Vec<SocketAddr>,
    dns: Vec<SocketAddr>,
    transparent: Vec<SocketAddr>,
    api: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    trigger: Trigger,
}

/// What `/readyz` says.
#[derive(Debug, Default)]
pub struct Health {
    /// Why the last reload was refused; the policies before it still hold.
    pub refused_reload: ArcSwapOption<String>,
}

impl Server {
    /// Starts everything that the configuration names. Nothing listens before all of it is usable.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_observed(config, Vec::new()).await
    }

    /// The same, with sockets that were opened beforehand; all of them must be for addresses of `listen`.
    pub async fn start_inheriting(
        config: &Config,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        Self::start_with(config, Vec::new(), inherited).await
    }

    /// The same, with others that see every audit event.
    pub async fn start_observed(
        config: &Config,
        observers: Vec<Arc<dyn Observe>>,
    ) -> Result<Self, StartError> {
        Self::start_with(config, observers, Inherited::default()).await
    }

    async fn start_with(
        config: &Config,
        mut observers: Vec<Arc<dyn Observe>>,
        mut inherited: Inherited,
    ) -> Result<Self, StartError> {
        let ca = Arc::new(CertificateAuthority::open_or_create(&config.ca_dir)?);
        let (trigger, tasks) = Tasks::new();
        let seal_key = seal_key_of(config, &tasks).await?;
        let roots = PlatformRoots::load();
        let upstream_tls = UpstreamTls::new(&roots, &config.upstream.roots, ca.der())?;
        let registry = Arc::new(Registry::new(Bounds {
            connections: config.limits.connections_per_sandbox as usize,
            exposed_hits: config.limits.exposed_hits as usize,
            dns_questions: config.limits.dns_questions,
            told_refusals: config.limits.told_refusals,
        }));
        let policies = Policies::new(
            config.policies.clone(),
            config.operator_rules(),
            config.sandbox.clone(),
            seal_key,
            registry.clone(),
            tasks.clone(),
        );
        let report = policies.load()?;
        for warning in &report.warnings {
            tracing::warn!("{warning}");
        }
        let keys = api_keys(config, &tasks).await?;
        let listening = bind_all(&config.listen, &registry, &mut inherited).await?;
        let of_kind = |explicit: bool| {
            let listening = listening.iter();
            let listening = listening.filter(|one| (one.kind() == Kind::Explicit) == explicit);
            listening.map(Listening::address).collect::<Vec<_>>()
        };
        let (explicit, transparent) = (of_kind(true), of_kind(false));
        let operators = Operators::bind(config).await?;
        let dns = dns::Sockets::bind(&config.listen.dns, &mut inherited).await;
        let dns = dns.map_err(|(address, error)| StartError::Bind(address, error))?;
        inherited.all_used()?;
        let listens = explicit.iter().chain(&transparent).chain(dns.addresses());
        let own = OwnSockets { listening: operators.and(listens) };
        let connections = Connections::default();
        let questions = Questions::default();
        let audit = open_audit(config)?;
        let metrics = Arc::new(Metrics::new(&connections, &questions, &audit.lost()));
        if operators.metrics.is_some() {
            observers.push(metrics.clone());
        }
        let audit = audit.observed_by(observers);
        let connector = Connector::new(
            &config.upstream.resolver,
            config.upstream.connect_to.clone(),
            own,
            config.limits.connect_timeout,
            Mark::new(config.upstream.mark).map_err(StartError::Mark)?,
        )?
        .behind(upstream_proxy(config, &tasks).await?);
        let mint = Arc::new(LeafMint::new(ca.clone(), config.limits.leaf_cache as usize)?);
        let refusal_mint = Arc::new(mint.with_own_cache(REFUSAL_LEAVES));
        let introspection = introspection(config, &ca, &roots, &explicit)?;
        let proxy = Arc::new(Proxy {
            registry,
            audit,
            leaves: LeafConfigs::new(mint, config.limits.leaf_cache as usize)?,
            refusal_leaves: LeafConfigs::new(refusal_mint, REFUSAL_LEAVES)?,
            upstream_tls,
            connector,
            limits: config.limits.clone(),
            slots: Arc::new(Semaphore::new(config.limits.connections as usize)),
            tasks: tasks.clone(),
            denials: config.denials,
            introspection,
            connections,
            questions,
            upstreams: DashMap::default(),
        });
        let post = TokenPost::new(&proxy, config.operator_rules());
        policies.token_endpoints().connect(Box::new(post));
        for listener in listening {
            drop(tasks.spawn(listener.run(proxy.clone())));
        }
        let names = dns.addresses().to_vec();
        dns.serve(&proxy, config.dns);
        let tidy = proxy.clone();
        drop(tasks.spawn(async move { tidy.tidy().await }));
        let server = Self {
            proxy,
            policies: Arc::new(policies),
            health: Arc::default(),
            explicit,
            dns: names,
            transparent,
            api: operators.api.as_ref().map(Bound::address),
            metrics: operators.metrics.as_ref().map(Bound::address),
            trigger,
        };
        server.record_load(&Ok(report));
        operators.serve(keys, &server, metrics);
        Ok(server)
    }

    /// The proxy.
    #[must_use]
    pub const fn proxy(&self) -> &Arc<Proxy> {
        &self.proxy
    }

    /// The policies in force.
    #[must_use]
    pub const fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Whether the last reload was refused.
    #[must_use]
    pub const fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// The explicit listeners, as bound.
    #[must_use]
    pub fn explicit(&self) -> &[SocketAddr] {
        &self.explicit
    }

    /// The DNS responder, as bound.
    #[must_use]
    pub fn dns(&self) -> &[SocketAddr] {
        &self.dns
    }

    /// The transparent listeners, as bound.
    #[must_use]
    pub fn transparent(&self) -> &[SocketAddr] {
        &self.transparent
    }

    /// Serves one sandbox on a listener that only it can reach, such as one in a network namespace of its own.
    pub fn serve_handed_over(
        &self,
        listener: std::net::TcpListener,
        kind: Kind,
        sandbox: &SandboxId,
    ) -> std::io::Result<()> {
        let callers = Callers::Alone(sandbox.clone());
        let entrance = Entrance { kind, callers, balancers: Arc::default() };
        let listening = Listening::handed_over(listener, entrance)?;
        drop(self.proxy.tasks.spawn(listening.run(self.proxy.clone())));
        Ok(())
    }

    /// The operator's API, as bound.
    #[must_use]
    pub const fn api(&self) -> Option<SocketAddr> {
        self.api
    }

    /// The listener of metrics and health, as bound.
    #[must_use]
    pub const fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Reads the policy files again. On an error the last good ones stay in force, and health says so.
    pub fn reload(&self) -> Result<(), LoadError> {
        let loaded = self.policies.load();
        self.record_load(&loaded);
        self.health
            .refused_reload
            .store(loaded.as_ref().err().map(|error| Arc::new(error.to_string())));
        loaded.map(drop)
    }

    /// Stops: no new connections, running requests end by themselves within the drain's deadline, then they are cut.
    pub async fn shut_down(self) -> Drained {
        let deadline = self.proxy.limits.drain_timeout;
        self.proxy.upstreams.clear();
        self.trigger.drain(deadline).await
    }

    fn record_load(&self, loaded: &Result<Report, LoadError>) {
        let mut event = Event::new(crate::audit::Kind::Policy);
        match loaded {
            Ok(report) => {
                event.detail =
                    format!("policies in force for {} sandboxes", report.sandboxes).into()
            }
            Err(error) => {
                tracing::error!(%error, "the policy files were refused; the last good ones stay in force");
                event.verdict = crate::audit::Outcome::Deny;
                event.detail = crate::audit::bounded(&error.to_string()).into();
            }
        }
        self.proxy.audit.emit(event);
    }
}

/// Leaves for refusals inside TLS that are kept.
const REFUSAL_LEAVES: usize = 64;

async fn seal_key_of(config: &Config, tasks: &Tasks) -> Result<SealKey, StartError> {
    let Some(source) = &config.seal_key else {
        return Ok(seal_key::open_or_create(&config.ca_dir)?);
    };
    let value = fetch("SEAL_KEY", source, tasks).await?;
    seal_key::parse(value.expose()).ok_or(StartError::SealKey)
}

/// Fetches a key of Tollgate's own, once.
pub async fn fetch(
    name: &str,
    source: &SourceSpec,
    tasks: &Tasks,
) -> Result<Arc<crate::secret::SecretValue>, StartError> {
    Ok(own_secret(name, source, tasks)?.value().await?)
}

fn own_secret(
    name: &str,
    source: &SourceSpec,
    tasks: &Tasks,
) -> Result<Arc<LiveSecret>, StartError> {
    let name: SecretName = name.parse().map_err(|_error| StartError::SealKey)?;
    Ok(LiveSecret::new(name, source.clone(), false, &TokenEndpoints::default(), tasks.clone()))
}

/// A sandbox's session without a server, for commands that only print: tokens are derived, values are not fetched.
pub async fn offline_session(config: &Config, id: &SandboxId) -> Result<Arc<Session>, StartError> {
    let (_trigger, tasks) = Tasks::new();
    let seal_key = seal_key_of(config, &tasks).await?;
    let registry = Arc::new(Registry::new(Bounds {
        connections: 1,
        exposed_hits: 1,
        dns_questions: 1,
        told_refusals: 1,
    }));
    let paths = config.policies.clone();
    let policies =
        Policies::new(paths, config.operator_rules(), None, seal_key, registry.clone(), tasks);
    policies.load()?;
    let session = registry.get(id.as_str()).and_then(|sandbox| sandbox.session().ok());
    session.ok_or_else(|| LoadError::from(RegistryError::Missing(id.clone())).into())
}

fn open_audit(config: &Config) -> Result<Audit, StartError> {
    let bound = config.limits.audit_queue.get();
    let open = |path: &Path| {
        Audit::open(path, bound)
            .map_err(|error| StartError::File(path.display().to_string(), error))
    };
    match &config.audit {
        AuditSink::Stdout => open(Path::new("-")),
        AuditSink::File(path) => open(path),
        AuditSink::Nowhere => Audit::to_writer(std::io::sink(), bound)
            .map_err(|error| StartError::File("the audit".to_owned(), error)),
    }
}

async fn bind_all(
    listen: &Listen,
    registry: &Registry,
    inherited: &mut Inherited,
) -> Result<Vec<Listening>, StartError> {
    let Listen { explicit, transparent, tproxy, .. } = listen;
    let kinds =
        [(Kind::Explicit, explicit), (Kind::Redirected, transparent), (Kind::Tproxy, tproxy)];
    let balancers: Arc<[IpNet]> = listen.balancers.clone().into();
    let mut listening = Vec::new();
    for (kind, listeners) in kinds {
        for Listener { address, sandbox } in listeners {
            if let Some(id) = sandbox.as_ref().filter(|id| !registry.contains(id)) {
                return Err(StartError::ListenerSandbox(*address, id.clone()));
            }
            let callers = sandbox.clone().map_or(Callers::Any, Callers::Of);
            let entrance = Entrance { kind, callers, balancers: balancers.clone() };
            let bound = match inherited.tcp(*address) {
                Some(listener) => Listening::handed_over(listener, entrance),
                None => Listening::bind(*address, entrance).await,
            };
            listening.push(bound.map_err(|error| StartError::Bind(*address, error))?);
        }
    }
    Ok(listening)
}

async fn api_keys(config: &Config, tasks: &Tasks) -> Result<ApiKeys, StartError> {
    let mut keys = Vec::with_capacity(config.api_keys.len());
    for source in &config.api_keys {
        keys.push(fetch("API_KEY", source, tasks).await?);
    }
    Ok(ApiKeys::new(&keys))
}

/// The corporate proxy, once its credentials were fetched and can be sent.
async fn upstream_proxy(
    config: &Config,
    tasks: &Tasks,
) -> Result<Option<UpstreamProxy>, StartError> {
    let Some(proxy) = &config.upstream.proxy else { return Ok(None) };
    let mut credentials = None;
    if let Some(source) = &proxy.credentials {
        let live = own_secret("UPSTREAM_PROXY", source, tasks)?;
        if !is_user_and_password(live.value().await?.expose()) {
            return Err(StartError::ProxyCredentials);
        }
        credentials = Some(live);
    }
    Ok(Some(UpstreamProxy::new(proxy.address.clone(), credentials, &proxy.direct)))
}

/// The operator's listeners.
struct Operators {
    api: Option<Bound>,
    metrics: Option<Bound>,
}

impl Operators {
    async fn bind(config: &Config) -> Result<Self, StartError> {
        let bind = async |address: Option<SocketAddr>| match address {
            None => Ok(None),
            Some(address) => {
                let bound = Bound::bind(address).await;
                bound.map(Some).map_err(|error| StartError::Bind(address, error))
            }
        };
        Ok(Self {
            api: bind(config.listen.api).await?,
            metrics: bind(config.listen.metrics).await?,
        })
    }

    /// Every socket on which Tollgate listens.
    fn and<'a>(&self, others: impl Iterator<Item = &'a SocketAddr>) -> Vec<SocketAddr> {
        let own = self.api.iter().chain(&self.metrics).map(Bound::address);
        others.copied().chain(own).collect()
    }

    fn serve(self, keys: ApiKeys, server: &Server, metrics: Arc<Metrics>) {
        let Proxy { registry, tasks, .. } = &*server.proxy;
        if let Some(bound) = self.api {
            let router = api::router(keys, registry.clone());
            drop(tasks.spawn(bound.serve(router, tasks.clone())));
        }
        if let Some(bound) = self.metrics {
            let router = health::router(server.health.clone(), metrics);
            drop(tasks.spawn(bound.serve(router, tasks.clone())));
        }
    }
}

fn introspection(
    config: &Config,
    ca: &CertificateAuthority,
    roots: &PlatformRoots,
    explicit: &[SocketAddr],
) -> Result<Introspection, StartError> {
    let places = places(config, explicit);
    let bundle_pem = trust::write(&config.ca_dir, ca, roots)
        .map_err(|(path, error)| StartError::File(path.display().to_string(), error))?;
    Ok(Introspection { ca_pem: ca.pem(), bundle_pem, places })
}

/// Where a sandbox on this machine finds the proxy and the files.
#[must_use]
pub fn places(config: &Config, explicit: &[SocketAddr]) -> Places {
    let folder = config.trust_seen_in.as_ref().unwrap_or(&config.ca_dir);
    let folder = std::path::absolute(folder).unwrap_or_else(|_error| folder.clone());
    let mut proxy = explicit.first().copied();
    if let Some(proxy) = proxy.as_mut().filter(|proxy| proxy.ip().is_unspecified()) {
        proxy.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let credentials =
        if config.sandbox.is_some() { Credentials::IfInjected } else { Credentials::Always };
    Places {
        proxy,
        ca: folder.join("ca.pem"),
        bundle: folder.join(trust::BUNDLE),
        java: Some(folder.join(trust::JAVA)),
        credentials,
    }
}

/// Why Tollgate does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The seal key's file.
    #[error(transparent)]
    SealKeyFile(#[from] SealKeyError),
    /// The seal key's source gives something else.
    #[error("the seal key is not 64 hex digits; make one with `openssl rand -hex 32`")]
    SealKey,
    /// A key of Tollgate's own cannot be fetched.
    #[error(transparent)]
    Key(#[from] SourceError),
    /// The upstream proxy's credentials are something else.
    #[error("the credentials of upstream.proxy are not `user:password` on one line")]
    ProxyCredentials,
    /// Trust anchors.
    #[error(transparent)]
    UpstreamTls(#[from] UpstreamTlsError),
    /// Leaves.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The resolver.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// The policies.
    #[error(transparent)]
    Policies(#[from] LoadError),
    /// Sockets that were opened beforehand.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// A listener.
    #[error("cannot listen on {0}: {1}")]
    Bind(SocketAddr, std::io::Error),
    /// The mark of Tollgate's sockets.
    #[error(
        "upstream.mark cannot be set on a socket: {0}; give Tollgate CAP_NET_ADMIN, or leave it out"
    )]
    Mark(std::io::Error),
    /// The sandbox of a listener is not in the policies.
    #[error("the listener {0} is for the sandbox `{1}`, which no policy defines")]
    ListenerSandbox(SocketAddr, SandboxId),
    /// A file.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
}
