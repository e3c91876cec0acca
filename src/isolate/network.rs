//! The network that a command finds: its own loopback, and beyond it nothing but Tollgate's listeners.
//!
//! Every address is local to the loopback interface, so that nothing needs a route elsewhere. The firewall redirects TCP, and DNS over UDP,
//! to listeners that are made here and handed out; it refuses all else.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::firewall::{self, Targets};
use super::netlink::{CREATE, Message, Netlink};

/// The command's own address beside loopback: some clients want one before they ask for names. From the network for benchmarks (RFC 2544),
/// as are the responder's answers.
pub(super) const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The same for IPv6 (RFC 5180).
pub(super) const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 2);
/// Where the command's resolver sends its questions, which the responder answers.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 53);

/// What Tollgate serves, made in the command's network.
#[derive(Debug)]
pub struct Listeners {
    /// For every TCP connection.
    pub tcp: Vec<TcpListener>,
    /// For DNS over UDP.
    pub dns: Vec<UdpSocket>,
    /// For DNS over TCP.
    pub dns_tcp: Vec<TcpListener>,
}

/// Which descriptors are handed over, in this order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Handed {
    tcp: usize,
    dns: usize,
    dns_tcp: usize,
}

impl Listeners {
    /// As they go over the socket.
    pub(super) fn handed(&self) -> (Handed, Vec<BorrowedFd<'_>>) {
        let Self { tcp, dns, dns_tcp } = self;
        let handed = Handed { tcp: tcp.len(), dns: dns.len(), dns_tcp: dns_tcp.len() };
        let tcp = tcp.iter().map(|one| one.as_fd());
        let dns = dns.iter().map(|one| one.as_fd());
        let dns_tcp = dns_tcp.iter().map(|one| one.as_fd());
        (handed, tcp.chain(dns).chain(dns_tcp).collect())
    }

    /// As they came over the socket.
    pub(super) fn received(handed: Handed, descriptors: Vec<OwnedFd>) -> Option<Self> {
        if handed.tcp + handed.dns + handed.dns_tcp != descriptors.len() {
            return None;
        }
        let mut descriptors = descriptors.into_iter();
        Some(Self {
            tcp: descriptors.by_ref().take(handed.tcp).map(TcpListener::from).collect(),
            dns: descriptors.by_ref().take(handed.dns).map(UdpSocket::from).collect(),
            dns_tcp: descriptors.map(TcpListener::from).collect(),
        })
    }
}

/// Builds the network of this name space.
pub(super) fn build() -> io::Result<Listeners> {
    let routing = Netlink::open(None)?;
    routing.request(&[loopback_up()])?;
    routing.request(&[address(INET, &OWN_V4.octets()), route(INET, &OWN_V4.octets())])?;
    // A kernel without IPv6 has nothing to lead astray either.
    let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if has_v6 {
        routing.request(&[address(INET6, &OWN_V6.octets()), route(INET6, &OWN_V6.octets())])?;
    }
    let mut listeners = Listeners { tcp: Vec::new(), dns: Vec::new(), dns_tcp: Vec::new() };
    let mut targets = listen(&mut listeners, Ipv4Addr::LOCALHOST.into())?;
    if has_v6 {
        targets.extend(listen(&mut listeners, Ipv6Addr::LOCALHOST.into())?);
    }
    firewall::install(&targets)?;
    Ok(listeners)
}

fn listen(listeners: &mut Listeners, ip: std::net::IpAddr) -> io::Result<Vec<Targets>> {
    let at = SocketAddr::new(ip, 0);
    let tcp = TcpListener::bind(at)?;
    let dns = UdpSocket::bind(at)?;
    let dns_tcp = TcpListener::bind(at)?;
    let targets = Targets {
        v6: ip.is_ipv6(),
        tcp: tcp.local_addr()?.port(),
        dns: dns.local_addr()?.port(),
        dns_tcp: dns_tcp.local_addr()?.port(),
    };
    listeners.tcp.push(tcp);
    listeners.dns.push(dns);
    listeners.dns_tcp.push(dns_tcp);
    Ok(vec![targets])
}

const INET: u8 = 2;
const INET6: u8 = 10;
/// The loopback interface is the first of its name space.
const LOOPBACK: u32 = 1;

fn loopback_up() -> Message {
    const NEW_LINK: u16 = 16;
    const UP: u32 = 1;
    let mut fixed = vec![0; 4];
    for number in [LOOPBACK, UP, UP] {
        fixed.extend_from_slice(&number.to_ne_bytes());
    }
    Message::new(NEW_LINK, 0, &fixed)
}

fn address(family: u8, octets: &[u8]) -> Message {
    const NEW_ADDRESS: u16 = 20;
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    // Usable at once: nobody else could have it.
    const NO_DETECTION: u8 = 2;
    let bits = if family == INET { 32 } else { 128 };
    let mut fixed = vec![family, bits, NO_DETECTION, 0];
    fixed.extend_from_slice(&LOOPBACK.to_ne_bytes());
    Message::new(NEW_ADDRESS, CREATE, &fixed).with(LOCAL, octets).with(ADDRESS, octets)
}

/// `ip route add local default dev lo`, from this address.
fn route(family: u8, source: &[u8]) -> Message {
    const NEW_ROUTE: u16 = 24;
    const OUT_INTERFACE: u16 = 4;
    const PREFERRED_SOURCE: u16 = 7;
    const TABLE_MAIN: u8 = 254;
    const BY_ADMINISTRATOR: u8 = 4;
    const SCOPE_HOST: u8 = 254;
    const TYPE_LOCAL: u8 = 2;
    let fixed = [family, 0, 0, 0, TABLE_MAIN, BY_ADMINISTRATOR, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    Message::new(NEW_ROUTE, CREATE, &fixed)
        .with(OUT_INTERFACE, &LOOPBACK.to_ne_bytes())
        .with(PREFERRED_SOURCE, source)
}
