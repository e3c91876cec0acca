//! The firewall of a command's network, as nftables rules written straight to the kernel. In the words of `nft`:
//!
//! ```text
//! table inet tollgate {
//!   chain redirect {
//!     type nat hook output priority -100; policy accept;
//!     ip daddr { 127.0.0.0/8, 198.18.0.2 } accept
//!     ip6 daddr { ::1, 2001:2::2 } accept
//!     udp dport 53 redirect to :DNS
//!     tcp dport 53 redirect to :DNS_TCP
//!     meta l4proto tcp redirect to :TCP          # each once for IPv4 and once for IPv6
//!   }
//!   chain refuse {
//!     type filter hook output priority 0; policy drop;
//!     ip daddr { 127.0.0.0/8, 198.18.0.2 } accept   # what was redirected is on its way to loopback
//!     ip6 daddr { ::1, 2001:2::2 } accept
//!     meta l4proto udp reject with icmpx port-unreachable   # QUIC falls back at once
//!     reject with icmpx admin-prohibited
//!   }
//! }
//! ```

use std::io;

use super::netlink::{APPEND, CREATE, Message, NESTED, Netlink, attribute, attributes};
use super::network::{OWN_V4, OWN_V6};

/// Where connections of one address family are redirected to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets {
    pub(super) v6: bool,
    pub(super) tcp: u16,
    pub(super) dns: u16,
    pub(super) dns_tcp: u16,
}

/// Puts the rules into force, all or none.
pub(super) fn install(targets: &[Targets]) -> io::Result<()> {
    let mut batch = vec![Message::silent(BATCH_BEGIN, &GENERATION), table()];
    batch.push(chain(REDIRECT, "nat", -100, ACCEPT));
    batch.push(chain(REFUSE, "filter", 0, DROP));
    for chain in [REDIRECT, REFUSE] {
        batch.extend(own_addresses().map(|matches| rule(chain, &[matches, accept()])));
    }
    for to in targets {
        batch.push(rule(REDIRECT, &[family(to.v6), protocol(UDP), port(53), redirect(to.dns)]));
        batch.push(rule(REDIRECT, &[family(to.v6), protocol(TCP), port(53), redirect(to.dns_tcp)]));
        batch.push(rule(REDIRECT, &[family(to.v6), protocol(TCP), redirect(to.tcp)]));
    }
    batch.push(rule(REFUSE, &[protocol(UDP), reject(PORT_UNREACHABLE)]));
    batch.push(rule(REFUSE, &[reject(ADMIN_PROHIBITED)]));
    batch.push(Message::silent(BATCH_END, &GENERATION));
    Netlink::open(Some(rustix::net::netlink::NETFILTER))?.request(&batch)
}

const TABLE: &[u8] = b"tollgate\0";
const REDIRECT: &str = "redirect";
const REFUSE: &str = "refuse";
/// `nfgenmsg` of a batch: no family, version 0, and the subsystem in network order.
const GENERATION: [u8; 4] = [0, 0, 0, 10];
/// The same of a message in it: family `inet`.
const INET: [u8; 4] = [1, 0, 0, 0];
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10 << 8;

const ACCEPT: u32 = 1;
const DROP: u32 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const PORT_UNREACHABLE: u8 = 1;
const ADMIN_PROHIBITED: u8 = 3;

fn table() -> Message {
    Message::new(SUBSYSTEM, CREATE, &INET).with(1, TABLE)
}

fn chain(name: &str, kind: &str, priority: i32, policy: u32) -> Message {
    const OUTPUT: u32 = 3;
    let hook = attributes(&[(1, &OUTPUT.to_be_bytes()), (2, &priority.to_be_bytes())]);
    Message::new(SUBSYSTEM | 3, CREATE, &INET)
        .with(1, TABLE)
        .with(3, &terminated(name))
        .with(4 | NESTED, &hook)
        .with(5, &policy.to_be_bytes())
        .with(7, &terminated(kind))
}

fn rule(chain: &str, steps: &[Vec<u8>]) -> Message {
    Message::new(SUBSYSTEM | 6, CREATE | APPEND, &INET)
        .with(1, TABLE)
        .with(2, &terminated(chain))
        .with(4 | NESTED, &steps.concat())
}

/// Destinations that never leave: loopback and the own address.
fn own_addresses() -> impl Iterator<Item = Vec<u8>> {
    let v4 = |octets: &[u8]| [family(false), field(NETWORK, 16, octets)].concat();
    let v6 = |octets: &[u8]| [family(true), field(NETWORK, 24, octets)].concat();
    let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
    [v4(&[127]), v4(&OWN_V4.octets()), v6(&loopback), v6(&OWN_V6.octets())].into_iter()
}

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// The one register that is used.
const REGISTER: [u8; 4] = 1u32.to_be_bytes();

fn family(v6: bool) -> Vec<u8> {
    const FAMILY: u32 = 15;
    [meta(FAMILY), equal(&[if v6 { 10 } else { 2 }])].concat()
}

fn protocol(number: u8) -> Vec<u8> {
    const L4PROTO: u32 = 16;
    [meta(L4PROTO), equal(&[number])].concat()
}

fn port(port: u16) -> Vec<u8> {
    field(TRANSPORT, 2, &port.to_be_bytes())
}

/// The bytes at an offset of a header are these.
fn field(header: u32, offset: u32, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap_or_default();
    let load = attributes(&[
        (1, &REGISTER),
        (2, &header.to_be_bytes()),
        (3, &offset.to_be_bytes()),
        (4, &length.to_be_bytes()),
    ]);
    [expression("payload", &load), equal(value)].concat()
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &attributes(&[(1, &REGISTER), (2, &key.to_be_bytes())]))
}

fn equal(value: &[u8]) -> Vec<u8> {
    let value = attributes(&[(1, value)]);
    let compare = attributes(&[(1, &REGISTER), (2, &0u32.to_be_bytes()), (3 | NESTED, &value)]);
    expression("cmp", &compare)
}

fn accept() -> Vec<u8> {
    let verdict = attributes(&[(1, &ACCEPT.to_be_bytes())]);
    let data = attributes(&[(2 | NESTED, &verdict)]);
    expression("immediate", &attributes(&[(1, &0u32.to_be_bytes()), (2 | NESTED, &data)]))
}

fn redirect(port: u16) -> Vec<u8> {
    let data = attributes(&[(1, &port.to_be_bytes())]);
    let load = attributes(&[(1, &REGISTER), (2 | NESTED, &data)]);
    [expression("immediate", &load), expression("redir", &attributes(&[(1, &REGISTER)]))].concat()
}

fn reject(code: u8) -> Vec<u8> {
    const ICMPX: u32 = 2;
    expression("reject", &attributes(&[(1, &ICMPX.to_be_bytes()), (2, &[code])]))
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    let inner = attributes(&[(1, &terminated(name)), (2 | NESTED, data)]);
    let mut element = Vec::new();
    attribute(&mut element, 1 | NESTED, &inner);
    element
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
