//! Step 9: resolve once, check every answer, dial what was checked. The only place that resolves and the only one that dials.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hickory_resolver::Resolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use quick_cache::sync::Cache;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::chain::{self, UpstreamProxy};
use super::mark::{Mark, MarkedSockets};
use crate::config::Resolver as Choice;
use crate::host::address::CheckedAddr;
use crate::host::{Destination, Host};
use crate::policy::{
    Denial, DenyReason, OwnSockets, RequestPermit, decide_address, decide_proxy_address,
    decide_unresolved, leads_here,
};
use crate::session::Pace;

/// Dials upstreams.
#[derive(Debug)]
pub struct Connector {
    resolver: Resolver<MarkedSockets>,
    /// What was looked up, while it is good. The resolver's own cache would keep whole messages, which whoever runs a zone makes as large as
    /// he likes.
    known: Cache<Host, (Vec<IpAddr>, Instant)>,
    mark: Mark,
    connect_to: BTreeMap<Destination, SocketAddr>,
    own: OwnSockets,
    timeout: Duration,
    proxy: Option<UpstreamProxy>,
    /// How often it is told that the proxy cannot be connected to; the audit has each request.
    told: Pace,
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
        let known = Cache::new(MOST_KNOWN);
        Ok(Self {
            resolver,
            known,
            mark,
            connect_to,
            own,
            timeout,
            proxy: None,
            told: Pace::per_minute(1),
        })
    }

    /// The same behind a corporate proxy, but for what `connect_to` names.
    #[must_use]
    pub fn behind(self, proxy: Option<UpstreamProxy>) -> Self {
        Self { proxy, ..self }
    }

    /// Whether somebody who goes there comes to a socket of Tollgate.
    pub(super) fn is_own(&self, address: SocketAddr) -> bool {
        self.own.includes(address, is_local)
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
            return Err(leads_here(destination, own.socket_addr()));
        }
        race(&checked, self.mark).await.map_err(|why| {
            Denial::new(
                DenyReason::UpstreamUnreachable,
                format!("{destination} cannot be connected to: {why}"),
                "the policy allows it; check that the upstream is up, then try again",
            )
        })
    }

    async fn dial_through(
        &self,
        proxy: &UpstreamProxy,
        permit: &RequestPermit,
    ) -> Result<TcpStream, Denial> {
        let destination = permit.destination();
        decide_unresolved(permit, &self.own)?;
        let not_there = |why: &str| {
            if self.told.admits() {
                tracing::warn!(proxy = %proxy.address(), why, "the upstream proxy cannot be connected to");
            }
            chain::unreachable(destination, "the upstream proxy cannot be connected to")
        };
        let answers = self.resolve(proxy.address()).await;
        let answers = answers.map_err(|denial| not_there(&denial.detail))?;
        let checked = decide_proxy_address(&answers, |address| self.is_own(address))?;
        let mut tcp = race(&checked, self.mark).await.map_err(|why| not_there(&why))?;
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
        let with_port = |ips: &[IpAddr]| ips.iter().map(|&ip| SocketAddr::new(ip, port)).collect();
        if let Some((known, until)) = self.known.get(&destination.host)
            && Instant::now() < until
        {
            return Ok(with_port(&known));
        }
        // With the trailing dot the name is absolute: no search list is applied.
        let name = format!("{}.", destination.host);
        match self.resolver.lookup_ip(name).await {
            Ok(found) => {
                let ips: Vec<IpAddr> = found.iter().take(MOST_ANSWERS).collect();
                let answers = with_port(&ips);
                let until =
                    Instant::from_std(found.valid_until()).min(Instant::now() + LONGEST_KNOWN);
                self.known.insert(destination.host.clone(), (ips, until));
                Ok(answers)
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
}

/// So many answers of one look-up are checked and tried.
const MOST_ANSWERS: usize = 16;
/// The answers for so many names are kept.
const MOST_KNOWN: usize = 4096;
/// No answer is good for longer, whatever it says.
const LONGEST_KNOWN: Duration = Duration::from_secs(60 * 60);
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
                Ok(tcp) => {
                    if let Err(error) = tcp.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY is not set");
                    }
                    return Ok(tcp);
                }
                Err(error) => why = error.kind().to_string(),
            },
            () = tokio::time::sleep(NEXT_ATTEMPT), if waiting.len() > 0 => {}
        }
    }
}

/// Whether an address is one of this machine: what goes to such a one starts there too. Nothing is sent.
fn is_local(ip: IpAddr) -> bool {
    let any: IpAddr =
        if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let starts_there = || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        match socket.connect((ip, DISCARD)) {
            Ok(()) => Ok(socket.local_addr()?.ip() == ip),
            Err(error) if leads_nowhere(error.kind()) => Ok(false),
            Err(error) => Err(error),
        }
    };
    // Where it cannot be told, such as without a free descriptor, it is taken for one.
    ip.is_loopback() || starts_there().unwrap_or(true)
}

fn leads_nowhere(error: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{
        AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable, PermissionDenied,
    };
    [AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable, PermissionDenied]
        .contains(&error)
}

/// Any port would do.
const DISCARD: u16 = 9;

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
    options.cache_size = 0;
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
