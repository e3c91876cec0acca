//! A network namespace of the test's own, in which nftables redirects connections. Everything of the test runs inside it.
//!
//! It wants root, `ip` and `nft`, which `tests/run` has. Elsewhere the test says that it was left out.
//!
//! ```text
//! namespace::run(async || {
//!     let tollgate = …;
//!     namespace::redirect("ip daddr 198.51.100.0/24", tollgate.server().transparent()[0].port());
//! });
//! ```

use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Addresses of the namespace from which a client may call, beside 127.0.0.0/8 and ::1.
const ADDRESSES: [&str; 6] = [
    "10.0.0.5/32",
    "10.0.0.6/32",
    "10.0.1.7/32",
    "fd00:a::5/128",
    "fd00:a::6/128",
    "fd00:b::7/128",
];
/// Addresses to which connections only seem to lead: packets to them are looked at by nftables and go nowhere else.
const ELSEWHERE: [(&str, &str); 2] = [("-4", "198.51.100.0/24"), ("-6", "2001:db8::/32")];

/// Runs the test inside a new namespace, or says that it was left out.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let Some(name) = add() else { return };
    let inside = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter(&name);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(test());
        });
        inside.join()
    });
    ip(&["netns", "delete", &name]);
    if let Err(panic) = inside {
        std::panic::resume_unwind(panic);
    }
}

/// Redirects what an expression of nftables matches to a port of the namespace's loopback.
pub(crate) fn redirect(matches: &str, port: u16) {
    nft(&format!(
        "table inet {TABLE} {{ chain out {{ type nat hook output priority -100; }}; }}
         add rule inet {TABLE} out {matches} meta l4proto tcp redirect to :{port}"
    ));
}

/// Gives the namespace another address, such as a public one.
pub(crate) fn address(address: &str) {
    ip(&["address", "add", address, "dev", "lo"]);
}

/// Hands over what an expression of nftables matches to a listener of the kind `tproxy`.
pub(crate) fn hand_over(matches: &str, family: &str, listener: SocketAddr) {
    // The packets of this machine are looked at as they come in on the loopback.
    nft(&format!(
        "table inet {TABLE} {{ chain pre {{ type filter hook prerouting priority mangle; }}; }}
         add rule inet {TABLE} pre {matches} meta l4proto tcp tproxy {family} to {listener} accept"
    ));
}

/// Refuses connections to an address that have not this mark.
pub(crate) fn reject_unmarked(address: SocketAddr, mark: u32) {
    let (ip, port) = (address.ip(), address.port());
    nft(&format!(
        "table inet {TABLE} {{ chain own {{ type filter hook output priority 0; }}; }}
         add rule inet {TABLE} own ip daddr {ip} tcp dport {port} mark != {mark} reject with tcp reset"
    ));
}

const TABLE: &str = "tollgate_test";

/// Makes a namespace, if that is possible here.
#[expect(clippy::print_stdout, reason = "the only way to tell what a run did not look at")]
fn add() -> Option<String> {
    static NTH: AtomicU32 = AtomicU32::new(0);
    let nth = NTH.fetch_add(1, Ordering::Relaxed);
    let name = format!("tollgate-{}-{nth}", std::process::id());
    let works = |program: &str, arguments: &[&str]| {
        let run = Command::new(program).args(arguments).output();
        run.is_ok_and(|output| output.status.success())
    };
    let added = works("nft", &["--version"]) && works("ip", &["netns", "add", &name]);
    let required = std::env::var("TOLLGATE_TEST_CLIENTS").is_ok_and(|value| value == "1");
    assert!(added || !required, "no network namespace can be made, and tests/run promises it");
    if !added {
        println!("left out: a network namespace wants root, ip and nft; tests/run has them");
    }
    added.then_some(name)
}

/// Moves this thread, and what it starts, into the namespace, and sets that up.
fn enter(name: &str) {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    ip(&["link", "set", "lo", "up"]);
    for address in ADDRESSES {
        ip(&["address", "add", address, "dev", "lo"]);
    }
    for (family, network) in ELSEWHERE {
        ip(&[family, "route", "add", "local", network, "dev", "lo"]);
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
}

#[track_caller]
fn nft(rules: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft: {rules}");
}
