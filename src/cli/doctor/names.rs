//! Names: what Tollgate itself resolves, and whether its responder answers sandboxes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

use super::finding::Finding;
use crate::config::{Config, Listener};
use crate::host::Destination;
use crate::policy::{OperatorRules, OwnSockets, PolicySet};
use crate::proxy::{Connector, Mark};

const NAMES: &str = "names";
/// How long a question waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Resolves one name that a policy opens, as a request would.
pub(super) async fn resolver(config: &Config, set: Option<&PolicySet>) -> Vec<Finding> {
    // Behind a corporate proxy its own name is the one that is resolved.
    let proxy = config.upstream.proxy.as_ref().map(|proxy| proxy.address.clone());
    let Some(destination) = proxy.or_else(|| set.and_then(some_destination)) else {
        return vec![Finding::fine(
            NAMES,
            "no policy opens a single host by its name; nothing to resolve",
        )];
    };
    let own = OwnSockets { listening: Vec::new() };
    let connect_to = config.upstream.connect_to.clone();
    // Without the right to set it the look-up is tried all the same.
    let mark = Mark::new(config.upstream.mark).unwrap_or_default();
    let connector = Connector::new(
        &config.upstream.resolver,
        connect_to,
        own,
        config.limits.connect_timeout,
        mark,
    );
    let mend = "mend /etc/resolv.conf, or name servers in `upstream.resolver`";
    let connector = match connector {
        Ok(connector) => connector,
        Err(error) => return vec![Finding::failure(NAMES, error.to_string(), mend)],
    };
    let host = destination.host.to_string();
    let looked_up = tokio::time::timeout(PATIENCE * 2, connector.resolve(&destination)).await;
    vec![match looked_up {
        Ok(Ok(addresses)) => {
            Finding::fine(NAMES, format!("{host} has {} addresses", addresses.len()))
        }
        Ok(Err(denial)) => Finding::failure(NAMES, denial.detail, mend),
        Err(_elapsed) => Finding::failure(NAMES, format!("nobody answers for {host}"), mend),
    }]
}

/// The first exact host of an allowlist.
fn some_destination(set: &PolicySet) -> Option<Destination> {
    let rules = set.sandboxes().filter_map(|(_, entry)| {
        let policy = set.effective(&entry.layers, &OperatorRules::default()).ok()?;
        Some(policy.allow_rules().to_vec())
    });
    let patterns = rules.flatten().map(|rule| rule.pattern.to_string());
    patterns.into_iter().find_map(|pattern| {
        let (host, _port) = pattern.split_once(':').unwrap_or((&pattern, ""));
        let destination = Destination::parse_connect(&format!("{host}:443")).ok()?;
        destination.host.ip().is_none().then_some(destination)
    })
}

/// Asks every `listen.dns`; any answer will do, since this machine is hardly a sandbox.
pub(super) async fn responder(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Listener { address, .. } in &config.listen.dns {
        let target = reachable(*address);
        let answered = tokio::time::timeout(PATIENCE, ask(target)).await;
        findings.push(if matches!(answered, Ok(Ok(()))) {
            Finding::fine(NAMES, format!("the responder answers on {target}"))
        } else {
            let mend = "start `tollgate serve` with this configuration; if another name server holds the port, redirect port 53 to a port of `listen.dns`";
            Finding::failure(NAMES, format!("no responder answers on {target}"), mend)
        });
    }
    findings
}

/// The wildcard address, as this machine reaches it.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// `tollgate.internal A IN` (RFC 1035 §4.1); the answer has our number and is one.
async fn ask(server: SocketAddr) -> std::io::Result<()> {
    let from = SocketAddr::new(
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
        0,
    );
    let socket = UdpSocket::bind(from).await?;
    socket.connect(server).await?;
    socket.send(b"\x70\x71\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x08tollgate\x08internal\x00\x00\x01\x00\x01").await?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some([0x70, 0x71, flags, ..]) = answer.get(..length)
            && flags & 0x80 != 0
        {
            return Ok(());
        }
    }
}
