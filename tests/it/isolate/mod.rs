//! `tollgate run --isolate`: a command without root whose only way out is Tollgate.
//!
//! Root is what `--isolate` refuses, so a root runs these as the user that `TOLLGATE_TEST_USER` names; `tests/run` makes one. Without it,
//! the tests say that they were left out.

mod hidden;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::support::{Upstream, authority_pem, fresh_value};

/// An unprivileged user with a home folder.
struct User {
    uid: u32,
    gid: u32,
    home: PathBuf,
}

impl User {
    /// The one that the tests run commands as; `None`, and said, where there is none.
    #[expect(clippy::print_stdout, reason = "the only way to tell what a run did not look at")]
    fn find() -> Option<Self> {
        let uid = rustix::process::getuid().as_raw();
        let named = std::env::var("TOLLGATE_TEST_USER").ok().filter(|name| !name.is_empty());
        if uid == 0 && named.is_none() {
            let required = std::env::var("TOLLGATE_TEST_CLIENTS").is_ok_and(|value| value == "1");
            assert!(!required, "TOLLGATE_TEST_USER is missing, and tests/run promises it");
            println!("left out: TOLLGATE_TEST_USER names no unprivileged user (see tests/run)");
            return None;
        }
        let entries = std::fs::read_to_string("/etc/passwd").unwrap();
        let entries = entries.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let wanted = |entry: &Vec<&str>| match &named {
            Some(name) => entry[0] == name,
            None => entry[2] == uid.to_string(),
        };
        let entry = entries.into_iter().find(wanted).expect("the user has an entry");
        let (uid, gid) = (entry[2].parse().unwrap(), entry[3].parse().unwrap());
        Some(Self { uid, gid, home: entry[5].into() })
    }
}

/// A folder of the user's with a configuration, and what runs in it.
struct Workshop {
    user: User,
    folder: tempfile::TempDir,
    /// The value of `KEY`.
    value: String,
}

const POLICY: &str = "
secretStores:
  store:
    egressAllowlist: [api.example.com]
    secrets:
      KEY: { from: { file: ../secrets/key }, allowedHosts: [api.example.com] }
sandboxes:
  sb-only: { secretStores: [store] }
";

impl Workshop {
    fn open(upstream: Option<&Upstream>) -> Option<Self> {
        let user = User::find()?;
        let folder = tempfile::Builder::new().prefix("isolated-").tempdir_in(&user.home).unwrap();
        let value = fresh_value("key");
        let workshop = Self { user, folder, value };
        let connect_to: BTreeMap<_, _> = upstream
            .into_iter()
            .flat_map(|upstream| {
                let address = upstream.address().to_string();
                upstream.names().iter().map(move |name| (format!("{name}:443"), address.clone()))
            })
            .collect();
        let config = json!({
            "egress": { "allowPrivate": ["127.0.0.0/8"] },
            "upstream": { "roots": ["roots/upstreams.pem"], "connectTo": connect_to },
            "audit": { "file": "audit/audit.jsonl" },
        });
        workshop.write("tollgate.yaml", &config.to_string());
        workshop.write("policies/policy.yaml", POLICY);
        workshop.write("secrets/key", &workshop.value);
        workshop.write("roots/upstreams.pem", authority_pem());
        workshop.write("audit/audit.jsonl", "");
        workshop.write("work/mine", "mine");
        Some(workshop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        for path in path.ancestors().take_while(|path| path.starts_with(self.folder.path())) {
            chown(path, Some(self.user.uid), Some(self.user.gid)).unwrap();
        }
    }

    /// A program of this user's, in the folder, with a plain environment.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.folder.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("HOME", &self.user.home);
        if rustix::process::getuid().is_root() {
            // Groups of root's go as well: `uid` drops them.
            command.uid(self.user.uid).gid(self.user.gid);
        }
        command
    }

    fn isolated(&self, options: &[&str], command: &[&str]) -> Command {
        let mut tollgate = self.command(program());
        tollgate.args(["run", "--isolate"]).args(options).arg("--").args(command);
        tollgate
    }

    /// What a shell says in there.
    async fn shell(&self, script: &str) -> Said {
        self.run(self.isolated(&[], &["sh", "-c", script])).await
    }

    /// What Python says in there.
    async fn python(&self, script: &str) -> Said {
        self.run(self.isolated(&[], &[PYTHON, "-c", script])).await
    }

    async fn run(&self, mut command: Command) -> Said {
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = Said::of(&output);
        assert!(!said.out.contains(&self.value) && !said.err.contains(&self.value), "{said:?}");
        said
    }
}

const PYTHON: &str = "/usr/bin/python3";

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Self { code: output.status.code(), out, err }
    }
}

/// The program at a path that every user reaches.
fn program() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_tollgate"));
        let everybodys = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o001 != 0;
        if !rustix::process::getuid().is_root() || built.ancestors().all(everybodys) {
            return built.into();
        }
        let folder = std::env::temp_dir().join(format!("tollgate-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let copy = folder.join("tollgate");
        std::fs::copy(built, &copy).unwrap();
        for path in [&folder, &copy] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        copy
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_proxy_variables_reaches_an_allowed_host_with_the_real_secret() {
    let upstream = Upstream::https("api.example.com").await;
    let Some(workshop) = Workshop::open(Some(&upstream)) else { return };
    let said = workshop
        .shell("env | grep -i proxy; curl -sS https://api.example.com/x -H \"authorization: Bearer $KEY\"")
        .await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let expected = format!("Bearer {}", workshop.value);
    assert_eq!(upstream.request().header("authorization").as_deref(), Some(expected.as_str()));
    assert!(said.out.contains("osb_sealed_"), "the echo is sealed: {said:?}");
    assert!(!said.out.to_ascii_lowercase().contains("proxy="), "{said:?}");
    // By the system's own files alone, as clients do that know no variable of ours.
    let python = "import urllib.request as r; print(r.urlopen('https://api.example.com/z').status)";
    let said = workshop.run(workshop.isolated(&[], &["env", "-i", PYTHON, "-c", python])).await;
    assert_eq!(said.out, "200\n", "{said:?}");
    let said = workshop
        .shell("unset SSL_CERT_FILE CURL_CA_BUNDLE; curl -sS -o /dev/null -w '%{http_code}' https://api.example.com/y")
        .await;
    assert_eq!(said.out, "200", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_host_is_told_why_and_the_summary_has_the_lines_that_would_allow_it() {
    let Some(workshop) = Workshop::open(None) else { return };
    let said =
        workshop.shell("curl -sS https://pastebin.example/x; curl -sS http://10.1.2.3/").await;
    assert!(said.out.contains("host_not_allowed"), "{said:?}");
    assert!(
        said.err.contains("secretStores:\n  store:\n    egressAllowlist:\n      - \"")
            && said.err.contains("      - \"pastebin.example\""),
        "{said:?}"
    );
    let audit = std::fs::read_to_string(workshop.path("audit/audit.jsonl")).unwrap();
    assert!(audit.contains("pastebin.example"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_by_the_responder() {
    let Some(workshop) = Workshop::open(None) else { return };
    let said = workshop
        .python(
            "import socket\nfor f in (socket.AF_INET, socket.AF_INET6): print(socket.getaddrinfo('any.example', 443, f, socket.SOCK_STREAM)[0][4][0])",
        )
        .await;
    assert_eq!(said.out.lines().count(), 2, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_of_java_and_nss_hold_the_authority() {
    let Some(workshop) = Workshop::open(None) else { return };
    let said = workshop
        .shell(
            "unset JAVA_TOOL_OPTIONS; command -v keytool >/dev/null && \
             { keytool -list -cacerts -storepass changeit -alias tollgate 2>&1 | grep -c trustedCertEntry; } || echo 1; \
             test -x /usr/bin/certutil && { certutil -L -d sql:$HOME/.pki/nssdb | grep -c 'Tollgate *C,,'; } || echo 1",
        )
        .await;
    assert_eq!(said.out, "1\n1\n", "{said:?}");
}

/// Tries each of `cases`, and prints its name and the error.
const TRY: &str = "
import socket, os
def attempt(name, case):
    try: print(name, 'GOT', case())
    except Exception as error: print(name, 'failed', type(error).__name__)
def tcp(host, port): return socket.create_connection((host, port), 5)
def udp(host, port):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1); s.connect((host, port)); s.send(b'x'); return s.recv(9)
def unix(path):
    s = socket.socket(socket.AF_UNIX); s.connect(path); return s
";

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_other_way_out_of_the_network() {
    let Some(workshop) = Workshop::open(None) else { return };
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let outside_v6 = std::net::TcpListener::bind("[::1]:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let port_v6 = outside_v6.local_addr().unwrap().port();
    let script = format!(
        "{TRY}
attempt('loopback', lambda: tcp('127.0.0.1', {port}))
attempt('loopback by v6', lambda: tcp('::1', {port_v6}))
attempt('quic', lambda: udp('1.1.1.1', 443))
attempt('quic by v6', lambda: udp('2606:4700::1111', 443))
attempt('metadata by udp', lambda: udp('169.254.169.254', 80))
attempt('icmp', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt('vsock', lambda: socket.socket(40, socket.SOCK_STREAM))
attempt('bluetooth', lambda: socket.socket(31, socket.SOCK_RAW))
attempt('unix datagrams', lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
"
    );
    let said = workshop.python(&script).await;
    assert_eq!(said.out.lines().count(), 10, "{said:?}");
    assert!(said.out.lines().all(|line| line.contains("failed")), "{said:?}");
    let said = workshop
        .shell(
            "ip route del default; ip route add 192.0.2.0/24 dev lo; ip link add x type dummy; \
             unshare -Urn true; echo own $?; nsenter -t 1 -n true; ip link | grep -c ^[0-9]",
        )
        .await;
    assert_eq!(said.out, "own 0\n1\n", "{said:?}");
    assert!(said.err.matches("Operation not permitted").count() >= 3, "{said:?}");
}

#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread")]
async fn calls_with_other_numbers_and_rings_do_not_go_past_the_filter() {
    let Some(workshop) = Workshop::open(None) else { return };
    // `getpid` by the 32-bit entry and by the x32 numbers, then `io_uring_setup` and `keyctl`.
    let said = workshop
        .python(
            "
import ctypes, errno, mmap
def run(code):
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(bytes.fromhex(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
print(run('b814000000cd80c3'), run('b8270000400f05c3'))
libc = ctypes.CDLL(None, use_errno=True)
for number in (425, 250): print(libc.syscall(number, 1, 0, 0), errno.errorcode[ctypes.get_errno()])
",
        )
        .await;
    assert_eq!(said.out, "-38 -38\n-1 ENOSYS\n-1 ENOSYS\n", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_the_command_could_turn_is_no_way_to_a_secret() {
    let Some(workshop) = Workshop::open(None) else { return };
    std::os::unix::fs::symlink("secrets/key", workshop.path("link")).unwrap();
    workshop.write("policies/policy.yaml", &POLICY.replace("../secrets/key", "../link"));
    let said = workshop.shell("touch ran").await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("/link, which") && !workshop.path("ran").exists(), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_in_the_file_system_are_out_of_reach_unless_they_are_shared() {
    let Some(workshop) = Workshop::open(None) else { return };
    let listen = |path: &Path| {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        chown(path, Some(workshop.user.uid), Some(workshop.user.gid)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        listener
    };
    let home = workshop.path("agent.sock");
    let engine = std::env::temp_dir().join(format!("engine-{}.sock", std::process::id()));
    let _listening = (listen(&home), listen(&engine));
    let script = format!(
        "{TRY}
import os
home, engine = {home:?}, {engine:?}
attempt('home', lambda: unix(home))
attempt('engine', lambda: unix(engine))
os.chdir(os.path.dirname(home))
attempt('relative', lambda: unix('agent.sock'))
os.symlink(home, '/tmp/link')
attempt('link', lambda: unix('/tmp/link'))
os.link(home, 'other'); attempt('hard link', lambda: unix('other')); os.unlink('other')
attempt('proc', lambda: unix('/proc/self/cwd/agent.sock'))
own = socket.socket(socket.AF_UNIX); own.bind('/tmp/own.sock'); own.listen()
attempt('own', lambda: unix('/tmp/own.sock'))
abstract = socket.socket(socket.AF_UNIX); abstract.bind('\\0own'); abstract.listen()
attempt('abstract', lambda: unix('\\0own'))
try:
    at_home = socket.socket(socket.AF_UNIX); at_home.bind('own.sock'); at_home.listen()
    attempt('own at home', lambda: unix('own.sock'))
finally: os.unlink('own.sock')
"
    );
    let reached = |said: &Said| {
        let lines = said.out.lines().filter_map(|line| line.split_once(" GOT"));
        lines.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let said = workshop.python(&script).await;
    assert_eq!(reached(&said), ["own", "abstract", "own at home"], "{said:?}");
    let shared = ["--share", engine.to_str().unwrap()];
    let said = workshop.run(workshop.isolated(&shared, &[PYTHON, "-c", &script])).await;
    assert_eq!(reached(&said), ["engine", "own", "abstract", "own at home"], "{said:?}");
    std::fs::remove_file(engine).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn own_sockets_are_known_where_a_file_system_has_several_devices() {
    let Some(workshop) = Workshop::open(None) else { return };
    if !rustix::process::getuid().is_root() {
        return;
    }
    // An overlay of two file systems, in which `stat` tells another device than the kernel's list of sockets.
    let (User { uid, gid, home }, program) = (&workshop.user, program().display());
    let script = format!(
        "mkdir t && mount -t tmpfs none t && mkdir t/u t/w && chown {uid}:{gid} t/u && \
         mount -t overlay none -o lowerdir=work,upperdir=t/u,workdir=t/w work && HOME={home:?} && \
         exec setpriv --reuid {uid} --regid {gid} --clear-groups {program} run --isolate -- {PYTHON} -c \"$1\""
    );
    let python = format!(
        "{TRY}
own = socket.socket(socket.AF_UNIX); own.bind('work/own.sock')
attempt('early', lambda: unix('work/own.sock'))
own.listen()
attempt('own', lambda: unix('work/own.sock'))
"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh", &python]).current_dir(workshop.folder.path());
    let said = workshop.run(command).await;
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines.first(), Some(&"early failed ConnectionRefusedError"), "{said:?}");
    assert!(lines.last().is_some_and(|line| line.starts_with("own GOT")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tollgates_files_and_variables_are_hidden() {
    let Some(workshop) = Workshop::open(None) else { return };
    workshop.write("work/key", "");
    let script = "env | grep -i tollgate_; env | grep real; cat work/mine; \
        for f in policies secrets audit certs /run/user /run/dbus /run/docker.sock; do find $f -type f -size +0; done 2>/dev/null; \
        wc -c < tollgate.yaml; test -w /tmp && ls -A /tmp | wc -l; ls -l /proc/self/fd | grep -c -- '->'; \
        touch policies/x secrets/x certs/x /sys/x /sys/fs/cgroup/x 2>/dev/null && echo WROTE; mv secrets elsewhere; cp /proc/1/environ . ";
    let mut command = workshop.isolated(&[], &["sh", "-c", script]);
    command.env("TOLLGATE_LOG", "warn").env("COPY", "x");
    let said = workshop.run(command).await;
    assert_eq!(said.out, "mine0\n0\n4\n", "{said:?}");
    // A file in the working folder itself is hidden alone, and that is said.
    workshop.write("key", &workshop.value);
    workshop.write("policies/policy.yaml", &POLICY.replace("../secrets/key", "../key"));
    let said = workshop.shell("cat key work/mine; rm -f key; mv key other; cat other").await;
    assert_eq!(said.out, "mine", "{said:?}");
    assert!(said.err.contains("a folder of its own"), "{said:?}");
    workshop.write("policies/policy.yaml", POLICY);
    // What Tollgate reads again cannot be replaced by moving a folder above it.
    let name = workshop.folder.path().file_name().unwrap().to_str().unwrap();
    let said = workshop.shell(&format!("mv ../{name} ../moved && echo MOVED")).await;
    assert_eq!(said.out, "", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_of_the_caller_are_closed() {
    let Some(workshop) = Workshop::open(None) else { return };
    let program = program().display();
    let script = format!(
        "exec 7<secrets/key 8<.; exec {program} run --isolate -- sh -c 'ls /proc/$$/fd; cat <&7'"
    );
    let mut command = workshop.command("/bin/bash");
    command.args(["-c", &script]);
    let said = workshop.run(command).await;
    assert!(!said.out.contains('7') && !said.out.contains('8'), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tollgate_can_be_neither_signalled_nor_traced() {
    let Some(workshop) = Workshop::open(None) else { return };
    let said = workshop
        .python(
            "
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()))
for signal in (9, 15, 19): os.kill(1, signal)
print(libc.ptrace(16, 1, 0, 0))
try: open('/proc/1/mem', 'rb'); print('READ')
except PermissionError: print('kept')
try: fd = os.pidfd_open(1); print(libc.syscall(438, fd, 4, 0))
except OSError: print(-1)
print(open('/proc/self/status').read().count('CapEff:\\t0000000000000000'))
",
        )
        .await;
    assert_eq!(said.out, "[1]\n-1\nkept\n-1\n1\n", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_its_process_group_ends_the_command_alone() {
    let Some(workshop) = Workshop::open(None) else { return };
    let said = workshop.shell("curl -sS https://denied.example/; kill -9 0; sleep 60").await;
    assert_eq!(said.code, Some(137), "{said:?}");
    assert!(said.err.contains("denied.example"), "Tollgate summed up: {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_lets_owners_change_is_not_the_commands() {
    let Some(workshop) = Workshop::open(None) else { return };
    let said = workshop
        .shell(
            "for f in net/ipv4/ip_forward net/ipv4/conf/all/route_localnet user/max_cgroup_namespaces kernel/core_pattern; \
             do test -w /proc/sys/$f && echo $f; done; \
             unshare -UrC true || echo no groups; \
             find /sys /proc/sys -type f -writable ! -name ns_last_pid 2>/dev/null | head -3; \
             for d in policies certs secrets; do unshare -Urm umount $d; unshare -Urm umount -l $d; \
             unshare -Urm sh -c \"mkdir /tmp/b; mount --bind . /tmp/b && ls /tmp/b/$d\"; done",
        )
        .await;
    assert_eq!(said.out, "no groups\n", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_status_the_folder_and_the_user_are_as_without_tollgate() {
    let Some(workshop) = Workshop::open(None) else { return };
    let said = workshop.shell("id -u; id -g; pwd; hostname; cat; exit 7").await;
    let (user, here) = (&workshop.user, workshop.folder.path().display());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    assert_eq!(said.out, format!("{}\n{}\n{here}\n{host}\n", user.uid, user.gid), "{said:?}");
    assert_eq!(said.code, Some(7));
    assert_eq!(workshop.shell("kill -9 $$").await.code, Some(137));
    let missing = workshop.run(workshop.isolated(&[], &["no-such-command"])).await;
    assert_eq!(missing.code, Some(127), "{missing:?}");
    let folder = workshop.run(workshop.isolated(&[], &["./work"])).await;
    assert_eq!(folder.code, Some(126), "{folder:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_loopback_works_and_orphans_are_collected() {
    let Some(workshop) = Workshop::open(None) else { return };
    let said = workshop
        .python(
            "
import socket, os, time
for family, host in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
    l = socket.socket(family); l.bind((host, 0)); l.listen()
    c = socket.create_connection(l.getsockname()[:2], 5); a, _ = l.accept(); a.send(b'hi'); print(c.recv(2))
for _ in range(200):
    if os.fork() == 0:
        if os.fork() == 0: time.sleep(0.01)
        os._exit(0)
    os.wait()
deadline = time.time() + 20
others = lambda: [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())]
while others() and time.time() < deadline: time.sleep(0.05)
print(others())
",
        )
        .await;
    assert_eq!(said.out, "b'hi'\nb'hi'\n[]\n", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_tollgate_reaches_the_command_and_its_death_ends_everything() {
    let Some(workshop) = Workshop::open(None) else { return };
    for (signal, code) in [(Signal::TERM, Some(5)), (Signal::KILL, None)] {
        let script = "trap 'exit 5' TERM; echo ready; sleep 300 & while :; do sleep 0.1; done";
        let mut command = workshop.isolated(&[], &["sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), code);
        // Whoever held the other end of this pipe has gone.
        std::io::Read::read_to_string(&mut out, &mut line).unwrap();
        assert_eq!(line, "ready\n");
    }
}

/// Runs the command on a terminal of its own, types, and prints what the terminal shows.
const ON_A_TERMINAL: &str = "
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0: os.execv(sys.argv[2], sys.argv[2:])
shown = b''
typed = False
while True:
    try: piece = os.read(terminal, 1000)
    except OSError: break
    if not piece: break
    shown += piece
    if b'ready' in shown and not typed:
        os.write(terminal, sys.argv[1].encode().decode('unicode_escape').encode()); typed = True
sys.stdout.write(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
";

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_works_and_its_interrupt_reaches_the_command_once() {
    let Some(workshop) = Workshop::open(None) else { return };
    let on_a_terminal = |typed: &str, script: &str| {
        let mut command = workshop.command(PYTHON);
        command.args(["-c", ON_A_TERMINAL, typed]).arg(program());
        command.args(["run", "--isolate", "--", "bash", "-c", script]);
        command
    };
    let script = "trap 'n=$((n+1))' INT; echo ready; sleep 2; sleep 0.5; echo interrupts: $n";
    let said = workshop.run(on_a_terminal("\\x03", script)).await;
    assert!(said.out.contains("interrupts: 1"), "{said:?}");
    let said = workshop.run(on_a_terminal("\\x03", "echo ready; exec sleep 60")).await;
    assert_eq!(said.code, Some(130), "{said:?}");
    let script = "test -t 0 && tty && stty size > /dev/null && echo ready; read line; echo got $line; \
        set -m; sleep 0.1 & wait; echo x > /dev/tty";
    let said = workshop.run(on_a_terminal("word\\n", script)).await;
    assert!(said.out.contains("/dev/") && said.out.contains("got word"), "{said:?}");
    assert!(!said.out.contains("job control"), "{said:?}");
    // Nothing can be typed into the caller's terminal.
    let inject = format!(
        "echo ready; {PYTHON} -c 'import fcntl; fcntl.ioctl(0, 0x5412, b\"x\")' 2>&1 | tail -1"
    );
    let said = workshop.run(on_a_terminal("", &inject)).await;
    assert!(said.out.contains("PermissionError"), "{said:?}");
}

/// A shell with job control on a terminal of its own: what is typed once what is awaited has been shown.
const IN_A_SHELL: &str = r#"
import os, pty, re, select, sys, time
pid, terminal = pty.fork()
if pid == 0: os.execve('/bin/bash', ['bash', '--norc', '-i'], {**os.environ, 'PS1': 'P> ', 'TERM': 'dumb'})
shown = ''
at = 0
def type(text): os.write(terminal, text.encode())
def wait(pattern):
    global shown, at
    end = time.time() + 60
    while time.time() < end:
        found = re.search(pattern, shown[at:])
        if found: at += found.end(); return
        if select.select([terminal], [], [], 0.5)[0]: shown += os.read(terminal, 1000).decode()
    sys.exit('no ' + pattern + ' in ' + repr(shown))
run = sys.argv[1] + ' run --isolate -- '
wait('P> '); type(run + """sh -c 'echo rea""dy; read x; echo got $x; exit 4'\n""")
wait('ready'); type('\x1a'); wait('Stopped'); wait('P> '); type('jobs; echo mi""d\n'); wait('Stopped'); wait('mid')
type('fg\n'); wait('exit 4'); type('word\n'); wait('got word'); wait('P> ')
type('echo code $?\n'); wait('code 4')
type(run + """sh -c 'read x </dev/tty; echo got $x' | cat\n"""); wait('isolated'); type('more\n'); wait('got more')
type('exit\n'); os.waitpid(pid, 0); print('good')
"#;

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_job_of_the_callers_shell() {
    let Some(workshop) = Workshop::open(None) else { return };
    let mut command = workshop.command(PYTHON);
    command.args(["-c", IN_A_SHELL]).arg(program());
    let said = workshop.run(command).await;
    assert_eq!(said.out, "good\n", "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_forbids_name_spaces_is_told_apart_and_nothing_runs() {
    let Some(workshop) = Workshop::open(None) else { return };
    let program = program().display();
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && {program} run --isolate -- touch ran"
    );
    let mut command = workshop.command("/usr/bin/unshare");
    command.args(["-U", "--map-current-user", "--keep-caps", "sh", "-c", &script]);
    let said = workshop.run(command).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("user.max_user_namespaces"), "{said:?}");
    assert!(!workshop.path("ran").exists());
    if rustix::process::getuid().is_root() {
        let mut command = Command::new(program.to_string());
        command.current_dir(workshop.folder.path()).args([
            "run",
            "--isolate",
            "--",
            "touch",
            "ran",
        ]);
        let said = Said::of(&command.output().unwrap());
        assert!(said.err.contains("root") && !workshop.path("ran").exists(), "{said:?}");
    }
}
