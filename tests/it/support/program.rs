//! `tollgate serve` in a process of its own, looked at from outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{Sandbox, Upstream, authority_pem, eventually, fresh_value};

/// `tollgate serve` in a process of its own.
pub(crate) struct Program {
    child: Child,
    folder: tempfile::TempDir,
    pub(crate) sandbox: Sandbox,
    /// The real value that stands for `$KEY` in the policy.
    pub(crate) value: String,
    metrics: SocketAddr,
}

impl Program {
    /// With this policy, one upstream, and these variables in its environment.
    pub(crate) async fn serve(
        policy: &str,
        upstream: &Upstream,
        variables: &[(&str, &str)],
    ) -> Self {
        let (folder, value) = (tempfile::tempdir().unwrap(), fresh_value("key"));
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("policy.yaml", &policy.replace("$KEY", &value));
        write("upstreams.pem", authority_pem());
        let connect_to: BTreeMap<_, _> = upstream
            .names()
            .iter()
            .map(|name| (format!("{name}:443"), upstream.address().to_string()))
            .collect();
        let config = json!({
            "policies": ["policy.yaml"],
            "listen": { "explicit": ["127.0.0.1:0"], "metrics": "127.0.0.1:0" },
            "ca": { "dir": "authority" },
            "egress": { "allowPrivate": ["127.0.0.0/8"] },
            "upstream": {
                "roots": ["upstreams.pem"],
                "connectTo": connect_to,
            },
            "audit": { "file": "audit.jsonl" },
        });
        write("tollgate.yaml", &config.to_string());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["serve", "--config", "tollgate.yaml", "--sandbox", "sb-test"])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let address = |of: &'static str| {
            let log = read(folder.path(), "log");
            let line =
                log.lines().find_map(|line| line.strip_prefix("tollgate: ")?.strip_prefix(of));
            line.and_then(|address| address.parse().ok())
        };
        let metrics = eventually("it says where it listens", || address("metrics and health on "));
        let metrics = metrics.await;
        let proxy = address("proxy on ").unwrap();
        let sandbox = Sandbox::of_program(proxy, &folder.path().join("authority/ca.pem"));
        Self { child, folder, sandbox, value, metrics }
    }

    /// The sealed token of `KEY`, as the sandbox is told.
    pub(crate) async fn token(&self) -> String {
        let told = self.sandbox.get("http://tollgate.internal/env").await.text();
        let at = told.find("osb_sealed_").unwrap_or_else(|| panic!("no token in {told}"));
        let token = told[at..].split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_');
        token.into_iter().next().unwrap().to_owned()
    }

    /// A figure of its memory, in MiB.
    pub(crate) fn memory(&self, figure: &str) -> usize {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
        let kib: usize = line.unwrap().trim().strip_suffix(" kB").unwrap().parse().unwrap();
        kib / 1024
    }

    /// Where it runs, with all that it writes.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What an operator reads at this path.
    pub(crate) async fn operator(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(self.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Ends it; nothing that it wrote holds the value.
    pub(crate) async fn stop(mut self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().await.unwrap().success());
        for file in ["log", "audit.jsonl"] {
            let text = read(self.folder.path(), file);
            assert!(!text.contains(&self.value) && !text.contains(" ERROR "), "{file}: {text}");
        }
    }
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_default()
}
