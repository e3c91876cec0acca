//! The program as a person starts it: its commands, its exit statuses, and what a served Tollgate tells its operator.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const REAL: &str = "ghp_a-real-value-of-the-test";

const POLICY: &str = "
secretStores:
  store:
    egressAllowlist: [api.example.com, \"127.0.0.1:*\"]
    secrets:
      GITHUB_TOKEN: { from: { env: SOURCE_OF_TOKEN }, allowedHosts: [api.example.com] }
sandboxes:
  sb-only: { secretStores: [store] }
";

fn tollgate(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    std::fs::write(folder.path().join("policies/policy.yaml"), POLICY).unwrap();
    folder
}

fn run(folder: &Path, script: &str) -> Output {
    let mut command = tollgate(folder);
    command.args(["run", "--", "sh", "-c", script]);
    command.env("SOURCE_OF_TOKEN", REAL).env("GH_TOKEN", REAL).env("GITHUB_TOKEN", REAL);
    command.env("TOLLGATE_AUDIT", "audit.jsonl").env("no_proxy", "mine.example");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_demo_goes_as_it_must_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let demo = tollgate(folder.path()).arg("demo").env("TMPDIR", folder.path()).output().unwrap();
    let out = text(&demo.stdout);
    assert!(demo.status.success(), "{out}{}", text(&demo.stderr));
    for told in
        ["sk-live-…3f9a (real value)", "secret_misdirected", "host_not_allowed", "allowed-hosts"]
    {
        assert!(out.contains(told), "{told}\n{out}");
    }
    assert!(!out.contains("0000") && !out.contains('\u{1b}'), "{out}");
    assert_eq!(text(&demo.stderr), "");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn check_lists_the_presets_and_three_words_of_one_are_a_policy() {
    let folder = tempfile::tempdir().unwrap();
    let listed = |arguments: &[&str]| {
        let output = tollgate(folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let human = listed(&["check", "--presets"]);
    for told in ["github-fine-grained\n", "github_pat_{sealed:22}_{sealed:59}", "x-goog-api-key"] {
        assert!(human.contains(told), "{told} in {human}");
    }
    let presets: serde_json::Value =
        serde_json::from_str(&listed(&["check", "--presets", "--format", "json"])).unwrap();
    for preset in presets.as_array().unwrap() {
        let name = preset["preset"].as_str().unwrap();
        assert!(preset["allowedHosts"][0].is_string(), "{name}");
        if name.starts_with("aws-") {
            // Of a pair, and with wildcards that are warned about.
            continue;
        }
        assert!(preset["headers"][0].is_string(), "{name}");
        let policy =
            format!("secretStores: {{ s: {{ secrets: {{ KEY: {{ preset: {name} }} }} }} }}\n");
        std::fs::write(folder.path().join("p.yaml"), policy).unwrap();
        assert!(listed(&["check", "p.yaml"]).contains("0 warnings"), "{name}");
    }
}

#[test]
fn a_command_gets_sealed_tokens_and_no_credential_under_any_name() {
    let folder = folder();
    let ran = run(folder.path(), "env; exit 7");
    let (out, err) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(7), "{err}");
    assert!(!out.contains(REAL) && !err.contains(REAL), "{out}{err}");
    let value = |name: &str| {
        out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let token = value("GITHUB_TOKEN").unwrap();
    assert!(token.starts_with("osb_sealed_"), "{token}");
    assert_eq!(value("GH_TOKEN"), Some(token));
    assert_eq!(value("SOURCE_OF_TOKEN"), None);
    assert_eq!(value("TOLLGATE_AUDIT"), None);
    assert_eq!(value("no_proxy").as_deref(), Some("mine.example"));
    assert!(value("HTTPS_PROXY").unwrap().starts_with("http://127.0.0.1:"));
    assert!(err.contains("contained") && err.contains("no_proxy"), "{err}");
}

#[test]
fn a_run_ends_as_its_command_does() {
    let folder = folder();
    assert_eq!(run(folder.path(), "kill -TERM $$").status.code(), Some(143));
    let mut missing = tollgate(folder.path());
    assert_eq!(missing.args(["run", "--", "no-such-program"]).status().unwrap().code(), Some(127));
    let mut isolated = tollgate(folder.path());
    let isolated = isolated.args(["run", "--isolate", "--", "true"]).output().unwrap();
    assert_eq!(isolated.status.code(), Some(1));
    let mut nothing = tollgate(folder.path());
    assert_eq!(nothing.arg("run").output().unwrap().status.code(), Some(2));
}

#[test]
fn what_a_command_was_denied_is_listed_with_the_entry_that_would_allow_it() {
    let folder = folder();
    let mut command = tollgate(folder.path());
    command.args(["run", "--", "sh", "-c", "echo $HTTP_PROXY; read line"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut proxy = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut proxy).unwrap();
    let proxy = proxy.trim().strip_prefix("http://").unwrap();
    for _ in 0..2 {
        let request =
            "CONNECT paste.example.net:443 HTTP/1.1\r\nhost: paste.example.net:443\r\n\r\n";
        let mut tcp = TcpStream::connect(proxy).unwrap();
        tcp.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        tcp.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 403");
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let ended = child.wait_with_output().unwrap();
    let err = text(&ended.stderr);
    assert!(ended.status.success(), "{err}");
    assert!(err.contains("2 × paste.example.net:443  host_not_allowed"), "{err}");
    assert!(err.contains("- \"paste.example.net\""), "{err}");
}

#[test]
fn a_signal_reaches_the_command() {
    let folder = folder();
    let mut command = tollgate(folder.path());
    command.args([
        "run",
        "--",
        "sh",
        "-c",
        "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn what_a_sandbox_may_reach_is_told_without_a_server_and_without_a_key() {
    let folder = folder();
    let mut command = tollgate(folder.path());
    let told = command.args(["allowed-hosts", "sb-only", "--format", "json"]).output().unwrap();
    let hosts: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(hosts["egressAllowlist"], serde_json::json!(["api.example.com", "127.0.0.1:*"]));
    assert!(!folder.path().join("certs").exists());
    let unknown = tollgate(folder.path()).args(["allowed-hosts", "sb-other"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("sb-only"));
}

#[test]
fn every_schema_is_json() {
    for of in ["policy", "config", "audit"] {
        let schema = tollgate(Path::new("/")).args(["schema", of]).output().unwrap();
        let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
        assert!(schema["properties"].is_object(), "{of}");
    }
}

/// A served Tollgate, ended by SIGTERM.
struct Served {
    child: Child,
    proxy: String,
    api: String,
    metrics: String,
}

impl Served {
    fn start(folder: &Path) -> Self {
        let config = "listen: { explicit: [\"127.0.0.1:0\"], api: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\" }\n\
                      api: { keys: [{ env: FIRST_KEY }, { env: SECOND_KEY }] }\n\
                      audit: { file: audit.jsonl }\n\
                      egress: { allowPrivate: [127.0.0.0/8] }\n";
        std::fs::write(folder.join("tollgate.yaml"), config).unwrap();
        let mut command = tollgate(folder);
        command.args(["serve", "--sandbox", "sb-only"]).stderr(Stdio::piped());
        command.env("FIRST_KEY", "the-first-key-0000").env("SECOND_KEY", "the-second-key-0000");
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut address = |of: &str| {
            let line = lines.find(|line| line.starts_with("tollgate: ")).unwrap();
            line.strip_prefix(&format!("tollgate: {of} on ")).expect(&line).to_owned()
        };
        let (proxy, api) = (address("proxy"), address("API"));
        let metrics = address("metrics and health");
        // The pipe is read on, so that the server's log never blocks.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, proxy, api, metrics }
    }

    fn stop(mut self) {
        signal(&self.child, rustix::process::Signal::TERM);
        assert!(self.child.wait().unwrap().success());
    }
}

fn exchange(address: &str, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: &str, path: &str, headers: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n");
    let answer = exchange(address, &request);
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Asks until the answer has this status.
fn until(served: &Served, status: u16) -> String {
    for _ in 0..200 {
        let (answered, body) = get(&served.metrics, "/readyz", "");
        if answered == status {
            return body;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("/readyz is never {status}");
}

#[test]
fn an_operator_reads_the_api_and_no_sandbox_reaches_it_through_the_proxy() {
    let folder = folder();
    let served = Served::start(folder.path());
    let path = "/api/sandboxes/sb-only/allowed-hosts";
    for key in ["the-first-key-0000", "the-second-key-0000"] {
        let (status, body) = get(&served.api, path, &format!("x-api-key: {key}\r\n"));
        assert!(status == 200 && body.contains("\"secretStore\":\"store\""), "{status} {body}");
    }
    assert_eq!(get(&served.api, path, "").0, 401);
    for own in [&served.api, &served.metrics, &served.proxy] {
        let request = format!(
            "GET http://{own}/healthz HTTP/1.1\r\nhost: {own}\r\nconnection: close\r\n\r\n"
        );
        let answer = exchange(&served.proxy, &request);
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("address_not_allowed"),
            "{answer}"
        );
    }
    let (status, metrics) = get(&served.metrics, "/metrics", "");
    assert_eq!(status, 200);
    assert!(
        metrics.contains("tollgate_denials_total{reason=\"address_not_allowed\"} 3"),
        "{metrics}"
    );
    served.stop();
}

#[test]
fn a_changed_policy_holds_at_once_and_a_broken_one_leaves_the_last_good_one_in_force() {
    let folder = folder();
    let served = Served::start(folder.path());
    let file = folder.path().join("policies/policy.yaml");
    let (path, key) = ("/api/sandboxes/sb-only/allowed-hosts", "x-api-key: the-first-key-0000\r\n");
    until(&served, 200);
    std::fs::write(&file, "secretStores: [").unwrap();
    let body = until(&served, 503);
    assert!(body.contains("reload_refused") && body.contains("policy.yaml"), "{body}");
    assert!(get(&served.api, path, key).1.contains("api.example.com"));
    std::fs::write(
        &file,
        POLICY.replace("[api.example.com, ", "[api.example.com, new.example.com, "),
    )
    .unwrap();
    until(&served, 200);
    assert!(get(&served.api, path, key).1.contains("new.example.com"));
    served.stop();
}
