//! Two sandboxes, a gateway and an Internet, each in a network namespace of its own:
//!
//! ```text
//!   sandbox A ── sbx-a ┐
//!                      ├ gateway (rules of deploy/, tollgate serve) ── wan ── Internet: HTTPS upstreams, name server
//!   sandbox B ── sbx-b ┘
//! ```
//!
//! The gateway's rules and configuration are the files of `deploy/` as they are. The Internet's addresses look public, since Tollgate
//! refuses others; they exist in the namespaces only.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::namespace::{Namespace, sweep};
use crate::support::{DnsStub, Sandbox, Upstream, authority_pem, fresh_value};

/// How packets of the sandboxes reach Tollgate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Redirect,
    Tproxy,
}

/// The running whole.
pub(crate) struct Rig {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) internet: Namespace,
    pub(crate) dns: DnsStub,
    /// The real value that stands for `$KEY` in the policy.
    pub(crate) value: String,
    tollgate: Child,
    folder: tempfile::TempDir,
}

/// Addresses in the Internet.
pub(crate) const API: [&str; 2] = ["45.90.0.10", "2a01:90::10"];
pub(crate) const OTHER: [&str; 2] = ["45.90.0.11", "2a01:90::11"];
const NAME_SERVER: &str = "45.90.0.53";
/// Addresses of the gateway and the sandboxes.
pub(crate) const GATEWAY: [&str; 2] = ["10.60.1.1", "fd60:1::1"];
pub(crate) const A: [&str; 2] = ["10.60.1.2", "fd60:1::2"];
pub(crate) const B: [&str; 2] = ["10.60.2.2", "fd60:2::2"];

impl Rig {
    /// Whether this machine can hold it; a test that cannot run says so, and under `tests/run` fails.
    #[expect(clippy::print_stdout, reason = "the only way to tell what a run did not look at")]
    pub(crate) fn possible() -> bool {
        let works = |program: &str| {
            let output = std::process::Command::new(program).arg("-V").output();
            output.is_ok_and(|output| output.status.success())
        };
        let able = rustix::process::geteuid().is_root()
            && ["ip", "nft", "curl"].iter().all(|program| works(program));
        let required = std::env::var("TOLLGATE_TEST_CLIENTS").is_ok_and(|value| value == "1");
        assert!(
            able || !required,
            "network namespaces need root, ip, nft and curl, and tests/run promises them"
        );
        if !able {
            println!(
                "left out: network namespaces need root, ip, nft and curl; tests/run installs them"
            );
        }
        able
    }

    /// With this policy, whose sandboxes `sb-a` and `sb-b` need no `sources`: the rig adds them.
    pub(crate) async fn with(way: Way, stores: &str, config: Value) -> Self {
        sweep();
        let [a, b, gateway, internet] = ["a", "b", "gw", "inet"].map(Namespace::new);
        sandbox_link(&a, &gateway, "sbx-a", A, GATEWAY);
        sandbox_link(&b, &gateway, "sbx-b", B, ["10.60.2.1", "fd60:2::1"]);
        link(&internet, "eth0", &gateway, "wan");
        for address in [API[0], OTHER[0], NAME_SERVER, "45.90.0.2"] {
            internet.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        }
        for address in [API[1], OTHER[1]] {
            internet.ip(&["-6", "addr", "add", &format!("{address}/64"), "dev", "eth0", "nodad"]);
        }
        gateway.ip(&["addr", "add", "45.90.0.1/24", "dev", "wan"]);
        gateway.ip(&["-6", "addr", "add", "2a01:90::1/64", "dev", "wan", "nodad"]);
        // The Internet knows a way back, and the gateway forwards: only the rules keep packets in.
        internet.ip(&["route", "add", "10.60.0.0/16", "via", "45.90.0.1"]);
        internet.ip(&["-6", "route", "add", "fd60::/16", "via", "2a01:90::1"]);
        gateway.run("sysctl", &["-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
        load_rules(&gateway, way);
        let server: SocketAddr = format!("{NAME_SERVER}:53").parse().unwrap();
        let dns = DnsStub::on(internet.udp(server), internet.listen(server));
        dns.set("api.example.com", &API);
        dns.set("other.example.com", &OTHER);
        let (folder, value) = (tempfile::tempdir().unwrap(), fresh_value("key"));
        write_files(folder.path(), way, &stores.replace("$KEY", &value), config);
        let tollgate = serve(&gateway, folder.path()).await;
        let rig = Self { a, b, gateway, internet, dns, value, tollgate, folder };
        rig.trust(&rig.a);
        rig.trust(&rig.b);
        rig
    }

    /// An upstream at this address of the Internet.
    pub(crate) fn listen(&self, address: &str, port: u16) -> std::net::TcpListener {
        let address: IpAddr = address.parse().unwrap();
        self.internet.listen(SocketAddr::new(address, port))
    }

    /// An upstream that echoes, at the usual place of `api.example.com`, over both families.
    pub(crate) async fn api(&self) -> Upstream {
        let upstream = Upstream::https("api.example.com").at(self.listen(API[0], 443)).await;
        upstream.also_at(self.listen(API[1], 443));
        upstream
    }

    /// The sealed token of `KEY` for a sandbox.
    pub(crate) fn token(&self, sandbox: &str) -> String {
        self.environment(sandbox).remove("KEY").expect("the sandbox has a KEY")
    }

    /// What `tollgate env` prints for a sandbox.
    pub(crate) fn environment(&self, sandbox: &str) -> std::collections::BTreeMap<String, String> {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["env", "--config", "tollgate.yaml", "--sandbox", sandbox, "--format", "json"])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A program in a sandbox, with what the sandbox is told and nothing else.
    pub(crate) fn sandboxed(&self, id: &str, program: &str, arguments: &[&str]) -> Command {
        let namespace = if id == "sb-a" { &self.a } else { &self.b };
        let mut command = namespace.command(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("HOME", self.home())
            .envs(self.environment(id))
            .current_dir(self.home())
            .stdin(Stdio::null());
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        command
    }

    /// Runs curl in a sandbox: exit status, what it printed, what it said.
    pub(crate) async fn curl(&self, id: &str, arguments: &[&str]) -> Said {
        let common = ["-sS", "--connect-timeout", "5", "--max-time", "30"];
        said(self.sandboxed(id, "curl", &[&common[..], arguments].concat())).await
    }

    /// The client's side of TLS: it trusts the authority. What it would dial is of no use here.
    pub(crate) fn client(&self) -> Sandbox {
        Sandbox::of_program(SocketAddr::from(([127, 0, 0, 1], 9)), &self.ca())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A folder for the clients' own files.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("authority/ca.pem")
    }

    /// How many packets the rule with this comment counted.
    pub(crate) fn counted(&self, comment: &str) -> u64 {
        let rules = self.gateway.run("nft", &["list", "table", "inet", "tollgate"]);
        let line = rules.lines().find(|line| line.contains(&format!("comment \"{comment}\"")));
        let line = line.unwrap_or_else(|| panic!("no rule {comment:?} in {rules}"));
        let count = line.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.unwrap().parse().unwrap()
    }

    /// A figure of Tollgate's memory, in MiB.
    pub(crate) fn memory(&self, figure: &str) -> usize {
        let status = format!("/proc/{}/status", self.tollgate.id().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
        let kib: usize = line.unwrap().trim().strip_suffix(" kB").unwrap().parse().unwrap();
        kib / 1024
    }

    /// Ends it; nothing that it wrote holds the value.
    pub(crate) async fn finish(mut self) {
        let pid = i32::try_from(self.tollgate.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.tollgate.wait().await.unwrap().success());
        for file in ["log", "audit.jsonl"] {
            let text = std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
            assert!(!text.contains(&self.value) && !text.contains(" ERROR "), "{file}: {text}");
        }
    }

    /// What an image of a sandbox is built with: the authority in the system's stores, and the gateway as its name server.
    fn trust(&self, namespace: &Namespace) {
        let etc = namespace.etc();
        let server = if namespace.name() == self.a.name() { GATEWAY[0] } else { "10.60.2.1" };
        std::fs::write(etc.join("resolv.conf"), format!("nameserver {server}\n")).unwrap();
        std::fs::write(etc.join("hosts"), "127.0.0.1 localhost\n::1 localhost\n").unwrap();
        let script = "cp -a /etc/ssl \"$0/ssl\" && cd \"$0/ssl/certs\" && cat \"$1\" >>ca-certificates.crt \
                      && cp \"$1\" \"$(openssl x509 -hash -noout -in \"$1\").0\"";
        let copied =
            std::process::Command::new("sh").args(["-c", script]).args([&etc, &self.ca()]).status();
        assert!(copied.unwrap().success());
        let java = etc.join("ssl/certs/java");
        if java.is_dir() {
            let store = self.folder.path().join("authority/truststore.jks");
            std::fs::copy(store, java.join("cacerts")).unwrap();
        }
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) fine: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs it to its end, which may take a while on a busy machine.
pub(crate) async fn said(mut command: Command) -> Said {
    let output = tokio::time::timeout(Duration::from_secs(600), command.output());
    let output = output.await.expect("ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { fine: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A veth pair with both ends up.
pub(crate) fn link(inner: &Namespace, inner_name: &str, outer: &Namespace, outer_name: &str) {
    let pair = [
        "link",
        "add",
        inner_name,
        "type",
        "veth",
        "peer",
        "name",
        outer_name,
        "netns",
        outer.name(),
    ];
    inner.ip(&pair);
    inner.ip(&["link", "set", inner_name, "up"]);
    outer.ip(&["link", "set", outer_name, "up"]);
}

fn sandbox_link(
    sandbox: &Namespace,
    gateway: &Namespace,
    name: &str,
    own: [&str; 2],
    via: [&str; 2],
) {
    link(sandbox, "eth0", gateway, name);
    sandbox.ip(&["addr", "add", &format!("{}/30", own[0]), "dev", "eth0"]);
    sandbox.ip(&["-6", "addr", "add", &format!("{}/64", own[1]), "dev", "eth0", "nodad"]);
    gateway.ip(&["addr", "add", &format!("{}/30", via[0]), "dev", name]);
    gateway.ip(&["-6", "addr", "add", &format!("{}/64", via[1]), "dev", name, "nodad"]);
    sandbox.ip(&["route", "add", "default", "via", via[0]]);
    sandbox.ip(&["-6", "route", "add", "default", "via", via[1]]);
}

fn load_rules(gateway: &Namespace, way: Way) {
    match way {
        Way::Redirect => load(gateway, "redirect.nft"),
        Way::Tproxy => {
            gateway.run(&shipped("nftables/tproxy-routes"), &[]);
            load(gateway, "tproxy.nft");
        }
    }
}

/// Rules as they are shipped.
pub(crate) fn load(namespace: &Namespace, rules: &str) {
    namespace.run("nft", &["-f", &shipped(&format!("nftables/{rules}"))]);
}

fn shipped(path: &str) -> String {
    format!("{}/deploy/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// The shipped configuration with this machine's paths, and the tests' roots and name server.
fn write_files(folder: &Path, way: Way, stores: &str, more: Value) {
    let text = std::fs::read_to_string(shipped("tollgate.yaml")).unwrap();
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    if way == Way::Tproxy {
        let listen = config["listen"].as_object_mut().unwrap();
        listen.remove("transparent");
        listen.insert("tproxy".to_owned(), json!(["[::]:3131"]));
    }
    let own = json!({
        "policies": ["policy.yaml"],
        "ca": { "dir": "authority" },
        "api": { "keys": [{ "file": "api-key" }] },
        "audit": { "file": "audit.jsonl" },
        "upstream": { "roots": ["upstreams.pem"], "resolver": [format!("{NAME_SERVER}:53")] },
        "limits": { "drainTimeout": "300ms" },
    });
    crate::support::merge(&mut config, own);
    crate::support::merge(&mut config, more);
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("tollgate.yaml", &config.to_string());
    write("upstreams.pem", authority_pem());
    write("api-key", &fresh_value("api"));
    let sources = |id: &str, own: [&str; 2]| {
        format!("  {id}: {{ secretStores: [{id}], sources: [\"{}\", \"{}\"] }}\n", own[0], own[1])
    };
    let sandboxes = format!("sandboxes:\n{}{}", sources("sb-a", A), sources("sb-b", B));
    write("policy.yaml", &format!("{stores}\n{sandboxes}"));
    std::fs::create_dir(folder.join("home")).unwrap();
}

async fn serve(gateway: &Namespace, folder: &Path) -> Child {
    let mut command = gateway.command(env!("CARGO_BIN_EXE_tollgate"));
    command
        .args(["serve", "--config", "tollgate.yaml"])
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap());
    serving(command, folder, "metrics and health on ").await
}

/// Starts Tollgate with its log in the folder; returns once it says this.
pub(crate) async fn serving(
    mut command: std::process::Command,
    folder: &Path,
    says: &str,
) -> Child {
    let log = folder.join("log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
    // A machine that is busy with other tests takes its time.
    for _ in 0..600 {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(child.try_wait().unwrap().is_none(), "tollgate ended: {log}");
        if log.contains(says) {
            return child;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never said {says:?}");
}
