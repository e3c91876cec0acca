//! Clients that people use, unchanged, with nothing but the environment that a sandbox gets.
//!
//! `tests/run` installs them and sets TOLLGATE_TEST_CLIENTS, TOLLGATE_TEST_PYTHON and TOLLGATE_TEST_NODE: then a client that is missing fails
//! its test. Without the variables a test says what it left out.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tollgate::environment::Environment;

use crate::support::{Stream, Tollgate, Upstream, certificate_files};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes: { sb-test: { secretStores: [keys] } }
"#;
const URL: &str = "https://api.example.com/v1/items";

/// A program to run, or why it is left out.
#[expect(clippy::print_stdout, reason = "the only way to tell what a run did not look at")]
pub(crate) fn client(variable: Option<&str>, program: &str) -> Option<String> {
    let required = std::env::var("TOLLGATE_TEST_CLIENTS").is_ok_and(|value| value == "1");
    let found = match variable {
        Some(variable) => std::env::var(variable).ok(),
        None => Some(program.to_owned()),
    };
    let works = |program: &String| {
        std::process::Command::new(program)
            .arg(if program.ends_with("dig") { "-v" } else { "--version" })
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let found = found.filter(works);
    assert!(found.is_some() || !required, "{program} is missing, and tests/run promises it");
    if found.is_none() {
        println!("left out: {program} is not here; tests/run installs it");
    }
    found
}

pub(crate) fn python() -> Option<String> {
    client(Some("TOLLGATE_TEST_PYTHON"), "python")
}

fn node() -> Option<String> {
    client(Some("TOLLGATE_TEST_NODE"), "node")
}

fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A command with the sandbox's environment and nothing else.
pub(crate) fn in_sandbox(tollgate: &Tollgate, program: &str, arguments: &[&str]) -> Command {
    let server = tollgate.server();
    let session = server.proxy().registry.get("sb-test").unwrap().session().unwrap();
    let environment = Environment::of(&session, &server.proxy().introspection.places);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", tollgate.folder())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(environment.iter())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs to the end; what it printed reached the sandbox.
pub(crate) async fn run(tollgate: &Tollgate, mut command: Command) -> (bool, String, String) {
    let output = tokio::time::timeout(Duration::from_secs(60), command.output())
        .await
        .expect("ends")
        .unwrap();
    tollgate.sandbox_saw(&output.stdout);
    tollgate.sandbox_saw(&output.stderr);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Runs a script of tests/clients; its one line.
pub(crate) async fn report(
    tollgate: &Tollgate,
    program: &str,
    name: &str,
    arguments: &[&str],
) -> Value {
    let script = script(name);
    let arguments = [&[script.as_str()], arguments].concat();
    let (_, out, err) = run(tollgate, in_sandbox(tollgate, program, &arguments)).await;
    serde_json::from_str(out.trim()).unwrap_or_else(|error| panic!("{name}: {error}: {out}{err}"))
}

fn bearer(tollgate: &Tollgate) -> String {
    format!("Authorization: Bearer {}", tollgate.sandbox("sb-test").token("KEY"))
}

/// The upstream saw the value, the client its token again.
fn assert_carried(tollgate: &Tollgate, upstream: &Upstream, body: &str) {
    let request = upstream.requests().pop().expect("a request");
    assert_eq!(
        request.header("authorization").unwrap(),
        format!("Bearer {}", tollgate.value("KEY"))
    );
    assert!(body.contains(tollgate.sandbox("sb-test").token("KEY")), "{body}");
}

#[tokio::test]
async fn curl_over_h1_and_h2() {
    let Some(curl) = client(None, "curl") else { return };
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let header = bearer(&tollgate);
        let arguments = ["-sS", flag, "-H", &header, "-d", "a=1", "-w", "\n%{http_version}", URL];
        let (fine, out, err) = run(&tollgate, in_sandbox(&tollgate, &curl, &arguments)).await;
        assert!(fine, "{err}");
        let (body, spoken) = out.rsplit_once('\n').unwrap();
        assert_eq!(spoken, version);
        assert_carried(&tollgate, &upstream, body);
    }
    tollgate.finish().await;
}

/// `api` redirects to `other`, with the value in the location; what a client brings there was never opened.
async fn redirecting() -> (Upstream, Upstream, Tollgate) {
    let api = Upstream::https("api.example.com")
        .handler(|request: http::Request<Bytes>| async move {
            let value = request.headers().get("x-key").map_or("", |key| key.to_str().unwrap());
            let query =
                if request.uri().path() == "/told" { format!("?k={value}") } else { String::new() };
            Response::builder()
                .status(307)
                .header("location", format!("https://other.example.com/{query}"))
                .body(crate::support::empty())
                .unwrap()
        })
        .await;
    let other = Upstream::https("other.example.com").await;
    let policy = POLICY.replace("[api.example.com]\n", "[api.example.com, other.example.com]\n");
    let tollgate = Tollgate::with(&policy, &[&api, &other]).await;
    (api, other, tollgate)
}

/// Nothing that came to `other` holds the token or the value; that the value stayed at `api` is asserted at the end of every test too.
async fn assert_refused(tollgate: Tollgate, api: &Upstream, other: &Upstream, followed: usize) {
    let (token, value) =
        (tollgate.sandbox("sb-test").token("KEY").to_owned(), tollgate.value("KEY"));
    assert_eq!(api.requests().len(), followed);
    assert!(api.requests().iter().all(|request| request.header("x-key") == Some(value.clone())));
    for text in [&token, &value] {
        assert!(memchr::memmem::find(&other.received(), text.as_bytes()).is_none());
    }
    assert!(other.requests().is_empty());
    let events = tollgate.finish().await;
    let alerts = events.iter().filter(|event| event["reason"] == "secret_misdirected").count();
    assert_eq!(alerts, followed, "{events:#?}");
}

#[tokio::test]
async fn curl_that_follows_a_redirect_takes_no_value_along() {
    let Some(curl) = client(None, "curl") else { return };
    let (api, other, tollgate) = redirecting().await;
    let key = format!("X-Key: {}", tollgate.sandbox("sb-test").token("KEY"));
    for (flag, path) in
        [("--http1.1", "told"), ("--http2", "told"), ("--http1.1", ""), ("--http2", "")]
    {
        let url = format!("https://api.example.com/{path}");
        let arguments = [
            "-sS",
            "-L",
            "--location-trusted",
            flag,
            "-H",
            &key,
            "-w",
            "\n%{http_code} %{num_redirects}",
            &url,
        ];
        let (fine, out, err) = run(&tollgate, in_sandbox(&tollgate, &curl, &arguments)).await;
        assert!(fine && out.ends_with("\n403 1"), "{out}{err}");
        assert!(out.contains("secret_misdirected"), "{out}");
    }
    assert_refused(tollgate, &api, &other, 4).await;
}

#[tokio::test]
async fn httpx_that_follows_a_redirect_takes_no_value_along() {
    let Some(python) = python() else { return };
    let (api, other, tollgate) = redirecting().await;
    let key = format!("X-Key: {}", tollgate.sandbox("sb-test").token("KEY"));
    for path in ["told", ""] {
        let url = format!("https://api.example.com/{path}");
        let told =
            report(&tollgate, &python, "httpx_get.py", &["--header", &key, "--follow", &url]).await;
        assert_eq!(
            (&told["status"], &told["headers"]["x-deny-reason"]),
            (&json!(403), &json!("secret_misdirected")),
            "{told}"
        );
    }
    assert_refused(tollgate, &api, &other, 2).await;
}

#[tokio::test]
async fn curl_reads_each_event_as_it_comes() {
    let Some(curl) = client(None, "curl") else { return };
    let (prompt, prompts) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let prompts = Mutex::new(Some(prompts));
    let upstream = Upstream::https("api.example.com")
        .handler(move |_request| {
            let prompts = prompts.lock().unwrap().take().unwrap();
            async move {
                let events = futures_util::stream::unfold(prompts, |mut prompts| async move {
                    Some((Ok(Frame::data(Bytes::from(prompts.recv().await?))), prompts))
                });
                Response::builder()
                    .header("content-type", "text/event-stream")
                    .body(http_body_util::BodyExt::boxed(StreamBody::new(events)))
                    .unwrap()
            }
        })
        .await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let mut command = in_sandbox(&tollgate, &curl, &["-sSN", URL]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    for event in ["data: one\n\n", "data: two\n\n"] {
        prompt.send(event).unwrap();
        let mut read = vec![0; event.len()];
        tokio::time::timeout(Duration::from_secs(20), out.read_exact(&mut read))
            .await
            .expect("the event")
            .unwrap();
        assert_eq!(read, event.as_bytes());
    }
    drop(prompt);
    assert!(child.wait().await.unwrap().success());
    tollgate.finish().await;
}

#[tokio::test]
async fn curl_is_told_why_it_was_refused() {
    let Some(curl) = client(None, "curl") else { return };
    let tollgate = Tollgate::with(POLICY, &[]).await;
    let arguments = ["-sS", "-v", "https://evil.example.net/"];
    let (fine, _, err) = run(&tollgate, in_sandbox(&tollgate, &curl, &arguments)).await;
    assert!(!fine && err.contains("x-deny-reason: host_not_allowed"), "{err}");
    tollgate.finish().await;
}

#[tokio::test]
async fn requests_and_httpx() {
    let Some(python) = python() else { return };
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    for (script, version) in [("requests_get.py", "HTTP/1.1"), ("httpx_get.py", "HTTP/2")] {
        let line = report(&tollgate, &python, script, &[URL, "--header", &bearer(&tollgate)]).await;
        assert_eq!((&line["status"], &line["http"]), (&json!(200), &json!(version)), "{line}");
        assert_carried(&tollgate, &upstream, line["body"].as_str().unwrap());
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn node_fetch_over_https_and_http() {
    let Some(node) = node() else { return };
    let upstream = Upstream::https("api.example.com").await;
    let plain = Upstream::http("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream, &plain]).await;
    let line = report(&tollgate, &node, "fetch.mjs", &[URL, "--header", &bearer(&tollgate)]).await;
    assert_eq!(line["status"], 200, "{line}");
    assert_carried(&tollgate, &upstream, line["body"].as_str().unwrap());
    // Node tunnels plain HTTP too: CONNECT to port 80.
    let line = report(&tollgate, &node, "fetch.mjs", &["http://api.example.com/plain"]).await;
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(plain.request().target, "/plain");
    tollgate.finish().await;
}

#[tokio::test]
async fn python_checks_our_certificates_strictly() {
    let Some(python) = python() else { return };
    let upstream = Upstream::https("api.example.com").await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let line =
        report(&tollgate, &python, "strict_x509.py", &["api.example.com", "--path", "/"]).await;
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["certificate"]["subjectAltName"], json!([["DNS", "api.example.com"]]));
    tollgate.finish().await;
}

/// Echoes WebSocket messages.
async fn websocket_echo() -> Upstream {
    Upstream::raw("api.example.com", |io: Stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(io).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn websockets_of_python_and_node() {
    let (Some(python), Some(node)) = (python(), node()) else { return };
    let upstream = websocket_echo().await;
    let tollgate = Tollgate::with(POLICY, &[&upstream]).await;
    let url = "wss://api.example.com/socket";
    let header = bearer(&tollgate);
    let line = report(
        &tollgate,
        &python,
        "websocket_client.py",
        &[url, "hello", "world", "--header", &header],
    )
    .await;
    assert_eq!(line["received"], json!(["hello", "world"]), "{line}");
    let authorization = format!("Bearer {}", tollgate.sandbox("sb-test").token("KEY"));
    let line =
        report(&tollgate, &node, "websocket.mjs", &[url, &authorization, "hello", "world"]).await;
    assert_eq!(line["received"], json!(["hello", "world"]), "{line}");
    let value = tollgate.value("KEY");
    let received = String::from_utf8_lossy(&upstream.received()).into_owned();
    assert_eq!(received.matches(&value).count(), 2, "both handshakes carry the value");
    let denied =
        report(&tollgate, &python, "websocket_client.py", &["wss://evil.example.net/", "x"]).await;
    assert!(denied["error"].is_string() || denied["status"] == 403, "{denied}");
    tollgate.finish().await;
}

/// A server of tests/clients/servers; it ends when this is dropped.
pub(crate) struct Server {
    port: u64,
    lines: Arc<Mutex<Vec<Value>>>,
    _child: Child,
}

impl Server {
    pub(crate) fn port(&self) -> u64 {
        self.port
    }

    /// What it said of each request.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.lines.lock().unwrap().clone()
    }
}

pub(crate) async fn server(
    python: &str,
    name: &str,
    hosts: &[&str],
    folder: &std::path::Path,
    more: &[&str],
) -> Server {
    let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let (certificate, key) = certificate_files(&names);
    let paths = [folder.join("server.pem"), folder.join("server.key")];
    std::fs::write(&paths[0], certificate).unwrap();
    std::fs::write(&paths[1], key).unwrap();
    let mut child = Command::new(python)
        .arg(script(&format!("servers/{name}")))
        .arg("--cert")
        .arg(&paths[0])
        .arg("--key")
        .arg(&paths[1])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(Duration::from_secs(30), lines.next_line())
        .await
        .expect("its port")
        .unwrap();
    let first: Value = serde_json::from_str(&first.unwrap()).unwrap();
    // Its lines are read on, so that it never waits for us.
    let said = Arc::new(Mutex::new(Vec::new()));
    let kept = said.clone();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            kept.lock().unwrap().push(serde_json::from_str(&line).unwrap());
        }
    });
    Server { port: first["port"].as_u64().unwrap(), lines: said, _child: child }
}

async fn in_front_of(policy: &str, host: &str, server: &Server) -> Tollgate {
    let (from, to) = (format!("{host}:443"), format!("127.0.0.1:{}", server.port));
    let config = json!({ "upstream": { "connectTo": { (from): to } } });
    Tollgate::describe(policy, &[]).config(config).start().await
}

#[tokio::test]
async fn git_clones_and_pushes_with_a_token_in_basic() {
    let (Some(git), Some(python)) = (client(None, "git"), python()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let value = crate::support::fresh_value("git");
    let server = server(
        &python,
        "git_http.py",
        &["git.example.com"],
        folder.path(),
        &["--token", &value, "--root", root],
    )
    .await;
    let policy = POLICY.replace("api.example.com", "git.example.com").replace("$KEY", &value);
    let tollgate = in_front_of(&policy, "git.example.com", &server).await;
    let token = tollgate.sandbox("sb-test").token("KEY").to_owned();
    let url = format!("https://x-access-token:{token}@git.example.com/repo.git");
    let work = tollgate.folder().join("work");
    let work = work.to_str().unwrap();
    let who = ["-c", "user.name=Tester", "-c", "user.email=tester@example.com"];
    for arguments in [
        vec!["clone", "--quiet", &url, work],
        [&["-C", work], &who[..], &["commit", "--quiet", "--allow-empty", "--message", "second"]]
            .concat(),
        vec!["-C", work, "push", "--quiet", "origin", "main"],
    ] {
        let (fine, _, err) = run(&tollgate, in_sandbox(&tollgate, &git, &arguments)).await;
        assert!(fine, "git {arguments:?}: {err}");
    }
    let bare = folder.path().join("repo.git");
    let (_, log, _) = run(
        &tollgate,
        in_sandbox(&tollgate, &git, &["-C", bare.to_str().unwrap(), "log", "--format=%s"]),
    )
    .await;
    assert_eq!(log, "second\nfirst\n");
    tollgate.finish().await;
}

#[tokio::test]
async fn git_answers_a_challenge_with_the_credentials_of_its_proxy_url() {
    let (Some(git), Some(python)) = (client(None, "git"), python()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let value = crate::support::fresh_value("git");
    let arguments = ["--token", &value, "--root", root];
    let server =
        server(&python, "git_http.py", &["git.example.com"], folder.path(), &arguments).await;
    let policy = POLICY
        .replace("api.example.com", "git.example.com")
        .replace("$KEY", &value)
        .replace("sandboxes: {", "sandboxes: { sb-other: { secretStores: [keys] },");
    let tollgate = in_front_of(&policy, "git.example.com", &server).await;
    let sandbox = tollgate.sandbox("sb-test");
    let url = format!("https://x-access-token:{}@git.example.com/repo.git", sandbox.token("KEY"));
    let work = tollgate.folder().join("work");
    let work = work.to_str().unwrap();
    // git asks for a challenge before it shows the credentials of a proxy's URL.
    let proxy = |credentials: &str| format!("http.proxy=http://{credentials}{}", sandbox.proxy());
    let known = proxy(&format!("{}@", sandbox.credentials()));
    for (proxy, told) in [(proxy(""), "407"), (proxy("sb-test:wrong@"), "407"), (known.clone(), "")]
    {
        let arguments = ["-c", &proxy, "clone", "--quiet", &url, work];
        let (fine, _, err) = run(&tollgate, in_sandbox(&tollgate, &git, &arguments)).await;
        assert_eq!(fine, told.is_empty(), "{proxy}: {err}");
        assert!(err.contains(told), "{proxy}: {err}");
    }
    let commit = ["-C", work, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit"];
    for arguments in [
        [&commit[..], &["--quiet", "--allow-empty", "--message", "second"]].concat(),
        vec!["-C", work, "-c", &known, "push", "--quiet", "origin", "main"],
    ] {
        let (fine, _, err) = run(&tollgate, in_sandbox(&tollgate, &git, &arguments)).await;
        assert!(fine, "git {arguments:?}: {err}");
    }
    let events = tollgate.finish().await;
    let challenged = |event: &&Value| event["status"] == 407;
    // One without credentials; the wrong ones are asked for first too, as the right ones are, each time.
    assert!(events.iter().filter(challenged).count() >= 5, "{events:#?}");
    for event in &events {
        let expected = if event["status"] == 407 { json!("sandbox_unknown") } else { Value::Null };
        assert_eq!(event["reason"], expected, "{event:#}");
    }
}

#[tokio::test]
async fn grpc_unary_and_streaming_both_ways() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = server(&python, "grpc_server.py", &["api.example.com"], folder.path(), &[]).await;
    let tollgate = in_front_of(POLICY, "api.example.com", &server).await;
    let token = tollgate.sandbox("sb-test").token("KEY").to_owned();
    let target = "api.example.com:443";
    for (call, sent, received) in [
        ("Say", &["hello"][..], json!(["hello"])),
        ("Count", &["n"], json!(["n 1", "n 2", "n 3", "n 4", "n 5"])),
        ("Chat", &["a", "b", "c"], json!(["a", "b", "c"])),
    ] {
        let arguments = [&["--token", &token, target, call], sent].concat();
        let line = report(&tollgate, &python, "grpc_client.py", &arguments).await;
        assert_eq!((&line["code"], &line["received"]), (&json!("OK"), &received), "{call}: {line}");
        assert_eq!(line["trailing"]["calls-done"], "1", "{call}: {line}");
    }
    let line = report(&tollgate, &python, "grpc_client.py", &[target, "Fail", "because"]).await;
    assert_eq!(
        (&line["code"], &line["details"]),
        (&json!("INVALID_ARGUMENT"), &json!("because")),
        "{line}"
    );
    let line =
        report(&tollgate, &python, "grpc_client.py", &["--token", &token, target, "Reveal"]).await;
    assert_eq!(line["code"], "OK", "{line}");
    tollgate.finish().await;
}

#[tokio::test]
async fn curl_answers_a_challenge_with_the_credentials_of_its_proxy_url() {
    let Some(curl) = client(None, "curl") else { return };
    let upstream = Upstream::https("api.example.com").await;
    let two = POLICY.replace("sandboxes: {", "sandboxes: { sb-other: { secretStores: [keys] },");
    let tollgate = Tollgate::with(&two, &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let proxy = format!("http://{}@{}", sandbox.credentials(), sandbox.proxy());
    let header = bearer(&tollgate);
    for way in [&["--proxy", &proxy][..], &["--proxy-anyauth", "--proxy", &proxy]] {
        let arguments = [&["-sS", "-H", &header][..], way, &[URL]].concat();
        let (fine, out, err) = run(&tollgate, in_sandbox(&tollgate, &curl, &arguments)).await;
        assert!(fine, "{err}");
        assert_carried(&tollgate, &upstream, &out);
    }
    tollgate.finish().await;
}

#[tokio::test]
async fn the_opencomputer_sdk_reads_allowed_hosts() {
    let Some(python) = python() else { return };
    let key = crate::support::fresh_value("api");
    let tollgate = Tollgate::describe(POLICY, &[])
        .config(json!({
            "listen": { "api": "127.0.0.1:0" },
            "api": { "keys": [{ "command": ["echo", key] }] },
        }))
        .start()
        .await;
    tollgate.watch(&key, &[]);
    let api = format!("http://{}", tollgate.server().api().expect("the API listens"));
    let script = script("opencomputer_allowed_hosts.py");
    let arguments = [&script, "sb-test", "--api-url", &api, "--api-key", &key];
    let mut command = Command::new(&python);
    command.args(arguments).kill_on_drop(true);
    let (_, out, err) = run(&tollgate, command).await;
    let line: Value =
        serde_json::from_str(out.trim()).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(
        line["allowedHosts"],
        json!({
            "sandboxID": "sb-test",
            "secretStore": "keys",
            "egressAllowlist": ["api.example.com"],
            "perSecretAllowedHosts": { "KEY": ["api.example.com"] },
        })
    );
    tollgate.finish().await;
}
