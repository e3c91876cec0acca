//! Tollgate beside one sandbox in one network namespace, as in a pod: the configuration and the rules that deploy/kubernetes ships.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::Rig;
use super::namespace::{Namespace, sweep};
use super::rig::{API, load, serving};
use crate::support::{DnsStub, Upstream, authority_pem, fresh_value, merge};

const NAME_SERVER: &str = "45.90.0.53:53";
/// The users of the rules and of the pod.
const TOLLGATE: &str = "7071";
const SANDBOX: &str = "1000";

struct Pod {
    pod: Namespace,
    internet: Namespace,
    folder: tempfile::TempDir,
    value: String,
    _dns: DnsStub,
    _tollgate: tokio::process::Child,
}

impl Pod {
    /// With the shipped policy after this change.
    async fn start(change: impl Fn(String) -> String) -> Self {
        sweep();
        let [pod, internet] = ["pod", "inet"].map(Namespace::new);
        super::rig::link(&internet, "eth0", &pod, "eth0");
        for address in [API[0], "45.90.0.53"] {
            internet.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        }
        internet.ip(&["-6", "addr", "add", &format!("{}/64", API[1]), "dev", "eth0", "nodad"]);
        pod.ip(&["addr", "add", "45.90.0.1/24", "dev", "eth0"]);
        pod.ip(&["-6", "addr", "add", "2a01:90::1/64", "dev", "eth0", "nodad"]);
        pod.ip(&["route", "add", "default", "via", API[0]]);
        pod.ip(&["-6", "route", "add", "default", "via", API[1]]);
        pod.run("sysctl", &["-qw", "net.ipv4.ip_unprivileged_port_start=53"]);
        load(&pod, "sidecar.nft");
        let server: SocketAddr = NAME_SERVER.parse().unwrap();
        let dns = DnsStub::on(internet.udp(server), internet.listen(server));
        dns.set("api.anthropic.com", &API);
        let (folder, value) = (tempfile::tempdir().unwrap(), fresh_value("key"));
        write_files(folder.path(), change);
        let mut command = as_user(&pod, TOLLGATE, env!("CARGO_BIN_EXE_tollgate"));
        command
            .args(["serve", "--config", "tollgate.yaml", "--sandbox", "sb-pod"])
            .current_dir(folder.path())
            .env("ANTHROPIC_API_KEY", &value);
        let tollgate = serving(command, folder.path(), "DNS on [::1]:53").await;
        std::fs::write(pod.etc().join("resolv.conf"), "nameserver 45.90.0.53\n").unwrap();
        Self { pod, internet, folder, value, _dns: dns, _tollgate: tollgate }
    }

    /// curl as the sandbox's user: whether it ended well, and what it printed.
    fn curl(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = as_user(&self.pod, SANDBOX, "curl");
        command
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(self.folder.path().join("public.pem"));
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What the policy allows, by both families.
    async fn upstream(&self) -> Upstream {
        let api = Upstream::https("api.anthropic.com");
        let api = api.at(self.internet.listen(address(0, 443))).await;
        api.also_at(self.internet.listen(address(1, 443)));
        api
    }

    /// The sandbox's variables, and its trust in the authority, as the init container fetches them.
    fn environment(&self) -> String {
        let (fine, environment) = self.curl(&["-f", "http://tollgate.internal/env"]);
        assert!(fine && !environment.contains("PROXY"), "{environment}");
        let (_, ca) = self.curl(&["-f", "http://tollgate.internal/ca.pem"]);
        std::fs::write(self.folder.path().join("public.pem"), ca).unwrap();
        environment
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

fn address(nth: usize, port: u16) -> SocketAddr {
    SocketAddr::new(API[nth].parse().unwrap(), port)
}

/// A program in the pod, as a user without any capability.
fn as_user(pod: &Namespace, user: &str, program: &str) -> Command {
    let mut command = pod.command("setpriv");
    command.args([
        "--reuid",
        user,
        "--regid",
        user,
        "--clear-groups",
        "--bounding-set=-all",
        program,
    ]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command
}

/// The two files of the ConfigMap, with this machine's paths and the tests' roots and name server.
fn write_files(folder: &Path, change: impl Fn(String) -> String) {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/sidecar.yaml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    let map: Value = serde_saphyr::from_str(shipped.split("\n---\n").next().unwrap()).unwrap();
    let mut config: Value =
        serde_saphyr::from_str(map["data"]["tollgate.yaml"].as_str().unwrap()).unwrap();
    let own = json!({
        "policies": ["policy.yaml"],
        "ca": { "dir": "authority" },
        "audit": { "file": "audit.jsonl" },
        "upstream": { "roots": ["upstreams.pem"], "resolver": [NAME_SERVER] },
    });
    merge(&mut config, own);
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("tollgate.yaml", &config.to_string());
    write("policy.yaml", &change(map["data"]["policy.yaml"].as_str().unwrap().to_owned()));
    write("upstreams.pem", authority_pem());
    // Others may pass through it, to the authority's certificate; only Tollgate's user may write.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let user = TOLLGATE.parse().unwrap();
    chown(folder, Some(user), Some(user)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reaches_its_hosts_through_its_sidecar_and_nothing_else() {
    if !Rig::possible() {
        return;
    }
    let pod = Pod::start(|policy| policy).await;
    let api = pod.upstream().await;
    let environment = pod.environment();
    let token =
        environment.split("ANTHROPIC_API_KEY='").nth(1).unwrap().split('\'').next().unwrap();
    for family in ["-4", "-6"] {
        let header = format!("x-api-key: {token}");
        let (fine, said) = pod.curl(&[family, "-f", "-H", &header, "https://api.anthropic.com/v1"]);
        assert!(fine && said.contains(token), "{family}: {said}\n{}", pod.read("log"));
        assert_eq!(api.requests().pop().unwrap().header("x-api-key").unwrap(), pod.value);
    }
    let (_, told) = pod.curl(&["https://evil.example.net/"]);
    assert!(told.contains("host_not_allowed"), "{told}");
    // Past the proxy there is no way: not by UDP, not by ICMP, and QUIC is told so at once.
    let receiver = pod.internet.udp(address(0, 4433));
    let script = format!(
        "import socket, sys
for port in (443, 4433):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.settimeout(1)
    try:
        sender.connect(('{0}', port))
        sender.send(b'hello')
        sender.recv(8)
    except OSError as error:
        print(port, type(error).__name__)
try:
    socket.socket().setsockopt(socket.SOL_SOCKET, 36, 0x7467)
except OSError as error:
    print('mark', type(error).__name__)
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
except OSError as error:
    print('raw', type(error).__name__)",
        API[0]
    );
    let tried = as_user(&pod.pod, SANDBOX, "/usr/bin/env")
        .args(["python3", "-c", &script])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&tried.stdout).into_owned();
    // What a rule drops or rejects on its way out, the sender hears of at once.
    for expected in [
        "443 PermissionError",
        "4433 PermissionError",
        "mark PermissionError",
        "raw PermissionError",
    ] {
        assert!(
            told.contains(expected),
            "{expected}: {told}{}",
            String::from_utf8_lossy(&tried.stderr)
        );
    }
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(receiver.recv(&mut [0; 8]).is_err());
    // Nor to what is Tollgate's: its keys, its listener by itself, its operator's ports.
    let key =
        as_user(&pod.pod, SANDBOX, "cat").arg(pod.folder.path().join("authority/ca.key")).output();
    assert!(!key.unwrap().status.success());
    for url in [
        "http://127.0.0.1:3129/",
        "http://127.0.0.1:3130/",
        "http://127.0.0.1:9464/metrics",
        "http://127.0.0.1:53/",
    ] {
        let (fine, said) = pod.curl(&["-f", "--max-time", "5", url]);
        assert!(!fine, "{url}: {said}");
    }
    let log = pod.read("log") + &pod.read("audit.jsonl");
    assert!(!log.contains(&pod.value) && !log.contains(" ERROR "), "{log}");
}

/// Redirected connections come from the pod's own addresses; what Tollgate adds by itself is for callers that it knows by those.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_added_for_a_pod_that_is_known_by_its_addresses_only() {
    if !Rig::possible() {
        return;
    }
    let injecting = |policy: String| {
        let by_itself = "inject: { header: x-api-key, format: \"{value}\" }";
        let changed = policy.replace("headers: [x-api-key]", by_itself);
        assert_ne!(policy, changed);
        changed
    };
    let sourced = |policy: String| {
        let sources = "secretStores: [agent-keys], sources: [45.90.0.0/24, \"2a01:90::/64\"]";
        injecting(policy.replace("secretStores: [agent-keys]", sources))
    };
    let pod = Pod::start(sourced).await;
    let api = pod.upstream().await;
    pod.environment();
    for family in ["-4", "-6"] {
        let (fine, said) = pod.curl(&[family, "-f", "https://api.anthropic.com/v1"]);
        assert!(fine, "{family}: {said}\n{}", pod.read("log"));
        assert_eq!(api.requests().pop().unwrap().header("x-api-key").unwrap(), pod.value);
    }
    drop((pod, api));
    let pod = Pod::start(injecting).await;
    let api = pod.upstream().await;
    pod.environment();
    let (_, told) = pod.curl(&["https://api.anthropic.com/v1"]);
    assert!(told.contains("secret_unavailable"), "{told}");
    assert_eq!(api.requests().len(), 0);
}
