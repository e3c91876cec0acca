//! Bodies of a gibibyte in constant memory: the program as it is served, measured from outside.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::support::{
    Builder, Protocol, RequestBody, Sandbox, Upstream, authority_pem, body, eventually,
    fresh_value, full, streamed,
};

const MIB: usize = 1 << 20;
/// What is sent each way, in MiB.
const SIZE: usize = 1024;
/// By how much the program may grow meanwhile, in MiB: windows and buffers of two exchanges, not their bodies.
const MOST: usize = 64;
const URL: &str = "https://api.example.com/";

const SEARCHED: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
/// The same host without a secret: nothing is searched, nothing is changed.
const PLAIN: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [other.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;

/// `tollgate serve` in a process of its own.
struct Program {
    child: Child,
    folder: tempfile::TempDir,
    sandbox: Sandbox,
    value: String,
}

impl Program {
    async fn serve(policy: &str, upstream: &Upstream) -> Self {
        let (folder, value) = (tempfile::tempdir().unwrap(), fresh_value("key"));
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("policy.yaml", &policy.replace("$KEY", &value));
        write("upstreams.pem", authority_pem());
        let config = json!({
            "policies": ["policy.yaml"],
            "listen": { "explicit": ["127.0.0.1:0"] },
            "ca": { "dir": "authority" },
            "egress": { "allowPrivate": ["127.0.0.0/8"] },
            "upstream": {
                "roots": ["upstreams.pem"],
                "connectTo": { "api.example.com:443": upstream.address().to_string() },
            },
            "audit": { "file": "audit.jsonl" },
        });
        write("tollgate.yaml", &config.to_string());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["serve", "--config", "tollgate.yaml", "--sandbox", "sb-test"])
            .current_dir(folder.path())
            .env_clear()
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let proxy = eventually("the program says where it listens", || {
            let log = read(folder.path(), "log");
            let line = log.lines().find_map(|line| line.strip_prefix("tollgate: proxy on "));
            line.and_then(|address| address.parse().ok())
        })
        .await;
        let sandbox = Sandbox::of_program(proxy, &folder.path().join("authority/ca.pem"));
        Self { child, folder, sandbox, value }
    }

    /// The sealed token of `KEY`, as the sandbox is told.
    async fn token(&self) -> String {
        let told = self.sandbox.get("http://tollgate.internal/env").await.text();
        let at = told.find("osb_sealed_").unwrap_or_else(|| panic!("no token in {told}"));
        let token = told[at..].split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_');
        token.into_iter().next().unwrap().to_owned()
    }

    /// A figure of its memory, in MiB.
    fn memory(&self, figure: &str) -> usize {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
        let kib: usize = line.unwrap().trim().strip_suffix(" kB").unwrap().parse().unwrap();
        kib / 1024
    }

    /// Ends it; nothing that it wrote holds the value.
    async fn stop(mut self) {
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

fn mebibytes(count: usize) -> RequestBody {
    let block = Bytes::from(vec![b'x'; MIB / 16]);
    let blocks = (0..count * 16).map(move |_| Frame::data(block.clone()));
    streamed(futures_util::stream::iter(blocks))
}

async fn length(mut body: Incoming) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    length
}

/// Says how long the body of a POST was, and answers a GET with as many MiB as its path says.
fn measuring(builder: Builder) -> Builder {
    builder.streaming(|request| async move {
        let wanted = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
        match request.method().as_str() {
            "GET" => Response::new(mebibytes(wanted)),
            _ => Response::new(body(length(request.into_body()).await.to_string())),
        }
    })
}

/// A gibibyte up and, beside it, a gibibyte down.
async fn assert_constant_memory(policy: &str, upstream: Builder, protocol: Protocol) {
    let upstream = measuring(upstream).await;
    let program = Program::serve(policy, &upstream).await;
    let token = program.token().await;
    let get = |size: usize| Request::get(format!("{URL}{size}"));
    // A value is searched for once it has been fetched.
    if policy == SEARCHED {
        let first = get(1).header("x-key", &token).body(full("")).unwrap();
        assert_eq!(program.sandbox.send_over(protocol, first).await.body.len(), MIB);
    }
    let before = program.memory("VmRSS");
    let up = async {
        let mut connection = program.sandbox.open(URL, protocol).await.unwrap();
        let request = Request::post(URL).body(mebibytes(SIZE)).unwrap();
        let answer = connection.begin(request).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    };
    let down = async {
        let mut connection = program.sandbox.open(URL, protocol).await.unwrap();
        let answer = connection.begin(get(SIZE).body(full("")).unwrap()).await.unwrap();
        length(answer.into_body()).await
    };
    let both = tokio::time::timeout(Duration::from_secs(300), async { tokio::join!(up, down) });
    let (sent, received) = both.await.expect("both end");
    assert_eq!((sent, received), ((SIZE * MIB).to_string().into(), SIZE * MIB));
    let most = program.memory("VmHWM");
    assert!(most.saturating_sub(before) < MOST, "{before} MiB before, {most} MiB at most");
    program.stop().await;
}

#[tokio::test]
async fn a_gibibyte_each_way_over_h1_takes_no_memory() {
    assert_constant_memory(PLAIN, Upstream::https("api.example.com").h1_only(), Protocol::H1).await;
}

#[tokio::test]
async fn a_gibibyte_each_way_over_h2_takes_no_memory_while_it_is_searched() {
    assert_constant_memory(SEARCHED, Upstream::https("api.example.com").h2_only(), Protocol::H2)
        .await;
}
