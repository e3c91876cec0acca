//! A gateway's listeners, rules and routes, as the kernel has them.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::process::Command;

use super::finding::Finding;
use super::names::reachable;
use super::rules::Rules;
use crate::config::{Config, Listener};

const LISTENERS: &str = "listeners";
const RULES: &str = "rules";
const ROUTES: &str = "routes";
/// How long a command or a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether somebody accepts connections where sandboxes are sent.
pub(super) async fn listeners(config: &Config) -> Vec<Finding> {
    let listen = &config.listen;
    let listeners = listen.explicit.iter().chain(&listen.transparent).chain(&listen.tproxy);
    let mut findings = Vec::new();
    // Port 0 is another one at each start.
    for listener in listeners.filter(|listener| listener.address.port() != 0) {
        let address = reachable(listener.address);
        let accepted = tokio::time::timeout(PATIENCE, connect(address)).await;
        findings.push(if matches!(accepted, Ok(Ok(()))) {
            Finding::fine(LISTENERS, format!("{address} accepts connections"))
        } else {
            let mend = "start `tollgate serve` with this configuration";
            Finding::failure(LISTENERS, format!("nobody listens on {address}"), mend)
        });
    }
    findings
}

async fn connect(address: SocketAddr) -> std::io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    #[expect(
        clippy::disallowed_methods,
        reason = "the operator's own look, at the operator's own address"
    )]
    socket.connect(address).await.map(drop)
}

/// Rules and routes, where connections are redirected.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let (transparent, tproxy) = (ports(&config.listen.transparent), ports(&config.listen.tproxy));
    if transparent.is_empty() && tproxy.is_empty() {
        let what = "no transparent listener: sandboxes use the proxy of their own accord, and what they send past it is not Tollgate's to see";
        let mend = "for containment set `listen.transparent` and load rules such as deploy/nftables/redirect.nft, or use `tollgate run --isolate`";
        return vec![Finding::warning(RULES, what, mend)];
    }
    let rules = match json(&["nft", "--json", "list", "ruleset"]).await {
        Ok(rules) => Rules::read(&rules),
        Err(why) => {
            let what = format!("the firewall's rules cannot be read: {why}");
            return vec![Finding::warning(
                RULES,
                what,
                "install nftables, and run `tollgate doctor` as root",
            )];
        }
    };
    let mut findings: Vec<_> =
        transparent.iter().map(|port| sent("redirect", *port, rules.redirects_to(*port))).collect();
    findings.extend(tproxy.iter().map(|port| sent("tproxy", *port, rules.hands_over_to(*port))));
    let dns = ports(&config.listen.dns);
    findings.extend(dns.iter().map(|port| {
        if rules.redirects_to(*port) {
            Finding::fine(RULES, format!("questions to any name server reach port {port}"))
        } else {
            let what = format!("no rule redirects port 53 to port {port}: a sandbox can ask, and tell, any name server that it reaches");
            Finding::warning(RULES, what, FILES)
        }
    }));
    findings.push(if rules.drop_the_rest() {
        Finding::fine(RULES, "what no rule carries is dropped")
    } else {
        Finding::failure(
            RULES,
            "no rule drops what is not redirected: UDP, ICMP and other protocols leave",
            FILES,
        )
    });
    findings.push(if rules.reject_quic() {
        Finding::fine(RULES, "QUIC is rejected at once")
    } else {
        let what = "UDP 443 is not rejected: browsers wait before they fall back to TCP";
        Finding::warning(RULES, what, "reject it, as the files in deploy/nftables do")
    });
    findings.extend(interfaces(&rules));
    if !tproxy.is_empty() {
        findings.extend(tproxy_routes().await);
    }
    findings.extend(default_route().await);
    findings
}

const FILES: &str = "load deploy/nftables/redirect.nft or tproxy.nft with `nft -f`, and let its ports be those of `listen`";

fn ports(listeners: &[Listener]) -> Vec<u16> {
    listeners.iter().map(|listener| listener.address.port()).collect()
}

fn sent(how: &str, port: u16, found: bool) -> Finding {
    if found {
        Finding::fine(RULES, format!("connections are sent to port {port} ({how})"))
    } else {
        Finding::failure(RULES, format!("no `{how}` rule sends connections to port {port}"), FILES)
    }
}

/// Rules that name interfaces hold for nothing while there is none.
fn interfaces(rules: &Rules) -> Option<Finding> {
    let named = rules.interfaces();
    let present: Vec<String> = std::fs::read_dir("/sys/class/net")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let matched = |pattern: &String| match pattern.strip_suffix('*') {
        Some(start) => present.iter().any(|name| name.starts_with(start)),
        None => present.contains(pattern),
    };
    if named.is_empty() || named.iter().any(matched) {
        return None;
    }
    let what = format!("the rules are for {}, and no such interface is there", named.join(", "));
    Some(Finding::warning(
        RULES,
        what,
        "name the sandboxes' interfaces so, or change `define sandboxes` in the rules",
    ))
}

/// What `tproxy` marks must be delivered here: a policy rule by mark, and a local route in its table, for each family.
async fn tproxy_routes() -> Vec<Finding> {
    let mut findings = Vec::new();
    for (family, name) in [("-4", "IPv4"), ("-6", "IPv6")] {
        findings.push(if delivers(family).await {
            Finding::fine(ROUTES, format!("marked {name} packets are delivered here"))
        } else {
            let what = format!("marked {name} packets are not delivered here");
            Finding::failure(ROUTES, what, "run deploy/nftables/tproxy-routes")
        });
    }
    findings
}

async fn delivers(family: &str) -> bool {
    let Ok(Value::Array(rules)) = json(&["ip", "-json", family, "rule"]).await else {
        return false;
    };
    for rule in rules.iter().filter(|rule| rule.get("fwmark").is_some()) {
        let Some(table) = rule.get("table").and_then(Value::as_str) else { continue };
        let routes = json(&["ip", "-json", family, "route", "show", "table", table]).await;
        let local = |route: &Value| route.get("type").and_then(Value::as_str) == Some("local");
        if routes.is_ok_and(|routes| routes.as_array().is_some_and(|all| all.iter().any(local))) {
            return true;
        }
    }
    false
}

async fn default_route() -> Option<Finding> {
    let mut seen = false;
    for family in ["-4", "-6"] {
        let routes = json(&["ip", "-json", family, "route", "show", "default"]).await.ok()?;
        seen |= routes.as_array().is_some_and(|routes| !routes.is_empty());
    }
    Some(if seen {
        Finding::fine(ROUTES, "there is a default route to upstreams")
    } else {
        let what = "there is no default route: only upstreams on connected networks can be reached";
        Finding::warning(ROUTES, what, "ip route add default via …")
    })
}

/// What a command prints, as JSON.
async fn json(words: &[&str]) -> Result<Value, String> {
    let Some((program, arguments)) = words.split_first() else { return Ok(Value::Null) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_elapsed) => return Err(format!("`{program}` does not end")),
        Ok(Err(error)) => return Err(format!("`{program}`: {error}")),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().next().unwrap_or("it failed").to_owned());
    }
    // Without any rule, `ip` prints nothing at all.
    if output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("`{program}`: {error}"))
}
