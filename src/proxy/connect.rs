//! Step 9: resolve once, check every answer, dial what was checked. The only place that resolves and the only one that dials.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hickory_resolver::Resolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use tokio::net::TcpStream;

use super::chain::{self, UpstreamProxy};
use super::mark::{Mark, MarkedSockets};
use crate::config::Resolver as Choice;
use crate::host::Destination;
use crate::host::address::CheckedAddr;
use crate::policy::{
    Denial, DenyReason, OwnSockets, RequestPermit, decide_address, decide_proxy_address,
    decide_unresolved,
};

/// Dials upstreams.
#[derive(Debug)]
pub struct Connector {
    resolver: Resolver<MarkedSockets>,
    mark: Mark,
    connect_to: BTreeMap<Destination, SocketAddr>,
    own: OwnSockets,
    timeout: Duration,
    proxy: Option<UpstreamProxy>,
}

impl Connector {
    /// `connect_to` replaces the look-up of single destinations, not the check of their addresses.
    pub fn new(
        choice: &Choice,
        connect_to: BTreeMap<Destination, SocketAddr>,
        own: OwnSockets,
        timeout: Duration,
        mark: Mark,
    ) -> Result<Self, ResolverError> {
        let resolver =
            build_resolver(choice, mark).map_err(|error| ResolverError(error.to_string()))?;
        Ok(Self { resolver, mark, connect_to, own, timeout, proxy: None })
    }

    /// The same behind a corporate proxy, but for what `connect_to` names.
    #[must_use]
    pub fn behind(self, proxy: Option<UpstreamProxy>) -> Self {
        Self { proxy, ..self }
    }

    /// Whether somebody who goes there comes to a socket of Tollgate.
    pub(super) fn is_own(&self, address: SocketAddr) -> bool {
        self.own.listening.iter().any(|own| {
            let ip = own.ip().to_canonical();
            own.port() == address.port()
                && (ip == address.ip() || ip.is_unspecified() && is_local(address.ip()))
        })
    }

    /// Opens a TCP connection to the destination of the permit, to no other, and to none of its addresses that was not checked.
    pub(super) async fn dial(&self, permit: &RequestPermit) -> Result<TcpStream, Denial> {
        let destination = permit.destination();
        let proxy = self.proxy.as_ref().filter(|proxy| {
            proxy.carries(destination) && !self.connect_to.contains_key(destination)
        });
        let dialled = async {
            match proxy {
                Some(proxy) => self.dial_through(proxy, permit).await,
                None => self.dial_directly(permit).await,
            }
        };
        tokio::time::timeout(self.timeout, dialled)
            .await
            .unwrap_or_else(|_elapsed| Err(timed_out(destination, "connecting")))
    }

    async fn dial_directly(&self, permit: &RequestPermit) -> Result<TcpStream, Denial> {
        let destination = permit.destination();
        let answers = self.resolve(destination).await?;
        let checked = decide_address(permit, &answers, &self.own)?;
        if let Some(own) = checked.iter().find(|address| self.is_own(address.socket_addr())) {
            return Err(leads_here(destination).at(own.socket_addr().ip()));
        }
        let tcp = race(&checked, self.mark).await.map_err(|why| {
            Denial::new(
                DenyReason::UpstreamUnreachable,
                format!("{destination} cannot be connected to: {why}"),
                "the policy allows it; check that the upstream is up, then try again",
            )
        })?;
        self.refuse_own(destination, tcp)
    }

    async fn dial_through(
        &self,
        proxy: &UpstreamProxy,
        permit: &RequestPermit,
    ) -> Result<TcpStream, Denial> {
        let destination = permit.destination();
        decide_unresolved(permit, &self.own)?;
        let not_there = |why: &str| {
            tracing::warn!(proxy = %proxy.address(), why, "the upstream proxy cannot be connected to");
            chain::unreachable(destination, "the upstream proxy cannot be connected to")
        };
        let answers = self.resolve(proxy.address()).await;
        let answers = answers.map_err(|denial| not_there(&denial.detail))?;
        let checked = decide_proxy_address(&answers, &self.own)?;
        let tcp = race(&checked, self.mark).await.map_err(|why| not_there(&why))?;
        let mut tcp = self.refuse_own(destination, tcp)?;
        proxy.open(&mut tcp, destination).await?;
        Ok(tcp)
    }

    /// All addresses of a destination, at most [`MOST_ANSWERS`], none of them checked yet.
    pub async fn resolve(&self, destination: &Destination) -> Result<Vec<SocketAddr>, Denial> {
        if let Some(address) = self.connect_to.get(destination) {
            return Ok(vec![*address]);
        }
        let port = destination.port.get();
        if let Some(ip) = destination.host.ip() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        // With the trailing dot the name is absolute: no search list is applied.
        let name = format!("{}.", destination.host);
        match self.resolver.lookup_ip(name).await {
            Ok(found) => {
                Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).take(MOST_ANSWERS).collect())
            }
            Err(error) => {
                tracing::debug!(%error, host = %destination.host, "a look-up failed");
                Err(Denial::new(
                    DenyReason::UpstreamUnresolvable,
                    format!("{} has no address", destination.host),
                    "check the name's spelling and the resolver that Tollgate uses (upstream.resolver)",
                ))
            }
        }
    }

    /// A listener on the unspecified address has every address of the machine; dialling one of them starts and ends at the same address.
    fn refuse_own(&self, destination: &Destination, tcp: TcpStream) -> Result<TcpStream, Denial> {
        let (Ok(peer), Ok(local)) = (tcp.peer_addr(), tcp.local_addr()) else { return Ok(tcp) };
        let listens = self
            .own
            .listening
            .iter()
            .any(|own| own.ip().is_unspecified() && own.port() == peer.port());
        if listens && peer.ip() == local.ip() {
            return Err(leads_here(destination).at(peer.ip()));
        }
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, %destination, "TCP_NODELAY is not set");
        }
        Ok(tcp)
    }
}

/// So many answers of one look-up are checked and tried.
const MOST_ANSWERS: usize = 16;
/// RFC 8305's recommended delay between connection attempts.
const NEXT_ATTEMPT: Duration = Duration::from_millis(250);

/// Tries the addresses in turn, the next one as soon as one fails and also while one is slow (RFC 8305 §5); or says why all failed.
async fn race(addresses: &[CheckedAddr], mark: Mark) -> Result<TcpStream, String> {
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut why = "no address".to_owned();
    loop {
        match waiting.next() {
            Some(address) => attempts.push(mark.connect(address.socket_addr())),
            None if attempts.is_empty() => return Err(why),
            None => {}
        }
        tokio::select! {
            Some(ended) = attempts.next() => match ended {
                Ok(tcp) => return Ok(tcp),
                Err(error) => why = error.kind().to_string(),
            },
            () = tokio::time::sleep(NEXT_ATTEMPT), if waiting.len() > 0 => {}
        }
    }
}

/// Whether an address is one of this machine: only to such a one can a socket be bound.
fn is_local(ip: std::net::IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

fn leads_here(destination: &Destination) -> Denial {
    Denial::new(
        DenyReason::AddressNotAllowed,
        format!("{destination} leads to a socket of Tollgate itself"),
        "Tollgate is never reached through itself; a retry will not help",
    )
}

/// The denial for an upstream that took too long.
pub(super) fn timed_out(destination: &Destination, what: &str) -> Denial {
    Denial::new(
        DenyReason::UpstreamTimeout,
        format!("{what} to {destination} took too long"),
        "the policy allows it; try again later, or have an operator raise limits.connectTimeout or limits.responseTimeout",
    )
}

fn build_resolver(
    choice: &Choice,
    mark: Mark,
) -> Result<Resolver<MarkedSockets>, hickory_resolver::net::NetError> {
    let provider = MarkedSockets::new(mark);
    let mut builder = match choice {
        Choice::System => {
            let (config, options) = hickory_resolver::system_conf::read_system_conf()?;
            let servers = config.name_servers().to_vec();
            let mut builder = Resolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), servers),
                provider,
            );
            *builder.options_mut() = options;
            builder
        }
        Choice::Servers(servers) => {
            let servers = servers.iter().map(|&server| name_server(server)).collect();
            let mut builder = Resolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), servers),
                provider,
            );
            *builder.options_mut() = ResolverOpts::default();
            builder
        }
    };
    let options = builder.options_mut();
    options.ndots = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 4096;
    builder.build()
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = server.port();
    }
    NameServerConfig::new(server.ip(), true, connections)
}

/// The resolver cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the resolver cannot be set up ({0}); name servers under upstream.resolver")]
pub struct ResolverError(String);
