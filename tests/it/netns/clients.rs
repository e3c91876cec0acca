//! Clients that people use, unchanged, in transparent mode: no proxy variable, a sealed token in, the real value at the upstream.
//!
//! One row a client; each is a test of its own. The Internet of the rig has the hosts that the clients call by themselves. README.md lists
//! the rows.

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::rig::{API, OTHER, said};
use super::{Rig, Way};
use crate::clients::{Server, server};
use crate::support::{Body, Stream, Upstream, body, fresh_value};

/// The program of a row, as the set-up made it.
#[derive(Clone, Copy)]
enum Program {
    /// On PATH.
    System(&'static str),
    /// Python with a script of tests/clients.
    Python(&'static str),
    /// A module or program of the Python environment.
    Module(&'static str),
    /// Node 24 with a script of tests/clients.
    Node(&'static str),
    /// npm, with Node 24.
    Npm,
    /// The Go program of tests/clients.
    Go,
    /// The Cargo that builds these tests.
    Cargo,
    Chromium,
}

/// One client: `$KEY` is its sealed token, `$HOME` a folder of its own.
struct Row {
    program: Program,
    arguments: &'static [&'static str],
    /// Variables beside those of the sandbox.
    variables: &'static [(&'static str, &'static str)],
    /// Run before, by a shell in the sandbox.
    before: &'static str,
    /// In what it prints.
    prints: &'static str,
}

const ROW: Row =
    Row { program: Program::Go, arguments: &[], variables: &[], before: "", prints: "hello from" };

macro_rules! clients {
    ($($name:ident: $row:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let row: Row = $row;
                row.passes(stringify!($name)).await;
            }
        )*
        /// Every row, in order.
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

const BEARER: &str = "Authorization: Bearer $KEY";
const ITEMS: &str = "https://api.example.com/v1/items";
const BASIC: &str = "https://x-access-token:$KEY@git.example.com/repo.git";

clients! {
    curl_http1: Row { program: Program::System("curl"), arguments: &["-sS", "--http1.1", "-H", BEARER, ITEMS], ..ROW };
    curl_http2: Row { program: Program::System("curl"), arguments: &["-sS", "--http2", "-H", BEARER, ITEMS], ..ROW };
    wget: Row { program: Program::System("wget"), arguments: &["-qO-", "--header", BEARER, ITEMS], ..ROW };
    git: Row { program: Program::System("git"), arguments: &["ls-remote", BASIC], prints: "refs/heads/main", ..ROW };
    gh: Row {
        program: Program::System("gh"),
        arguments: &["api", "user"],
        variables: &[("GH_TOKEN", "$KEY"), ("GH_NO_UPDATE_NOTIFIER", "1")],
        ..ROW
    };
    skopeo: Row {
        program: Program::System("skopeo"),
        arguments: &["list-tags", "--creds", "x:$KEY", "docker://registry.example.com/demo"],
        ..ROW
    };
    apt_get: Row {
        program: Program::System("apt-get"),
        before: "mkdir -p s/lists/partial c/archives/partial && touch status && \
                 echo 'deb [trusted=yes allow-insecure=yes] https://apt.example.com/debian ./' >list && \
                 echo \"machine https://apt.example.com login x password $KEY\" >auth",
        arguments: &[
            "-o", "Dir::Etc::SourceList=$HOME/list", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", "Dir::Etc::netrc=$HOME/auth", "-o", "Dir::Etc::netrcparts=/dev/null",
            "-o", "Dir::State=$HOME/s", "-o", "Dir::State::status=$HOME/status", "-o", "Dir::Cache=$HOME/c",
            "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0",
            "-o", "Acquire::https::Proxy=DIRECT", "update",
        ],
        prints: "https://apt.example.com/debian ./ Packages",
        ..ROW
    };
    pip: Row {
        program: Program::Module("pip"),
        arguments: &[
            "index", "versions", "demo", "--disable-pip-version-check", "--index-url",
            "https://x:$KEY@pypi.example.com/simple/",
        ],
        prints: "demo (1.0)",
        ..ROW
    };
    uv: Row {
        program: Program::Module("uv"),
        arguments: &[
            "pip", "install", "--dry-run", "--no-cache", "--target", "$HOME/t", "demo", "--index-url",
            "https://x:$KEY@pypi.example.com/simple/",
        ],
        prints: "demo==1.0",
        ..ROW
    };
    npm: Row {
        program: Program::Npm,
        before: "echo '//npm.example.com/:_authToken=${KEY}' >.npmrc",
        arguments: &["view", "demo", "description", "--registry", "https://npm.example.com/"],
        ..ROW
    };
    cargo: Row {
        program: Program::Cargo,
        before: "mkdir -p src && touch src/lib.rs && printf '%s\\n' '[package]' 'name = \"x\"' 'edition = \"2021\"' \
                 '[dependencies]' 'demo = { version = \"1\", registry = \"ours\" }' >Cargo.toml",
        arguments: &["update"],
        variables: &[
            ("CARGO_REGISTRIES_OURS_INDEX", "sparse+https://crates.example.com/index/"),
            ("CARGO_REGISTRIES_OURS_TOKEN", "$KEY"),
            ("CARGO_REGISTRIES_OURS_CREDENTIAL_PROVIDER", "cargo:token"),
            ("CARGO_HOME", "$HOME/cargo"),
        ],
        prints: "Locking 1 package",
    };
    go_net_http: Row { program: Program::Go, ..ROW };
    go_modules: Row {
        program: Program::System("go"),
        arguments: &["list", "-m", "-versions", "mod.example.com/demo"],
        variables: &[
            ("GOPROXY", "https://x:$KEY@goproxy.example.com"),
            ("GONOSUMDB", "*"),
            ("GOTOOLCHAIN", "local"),
            ("GOFLAGS", "-mod=mod"),
        ],
        prints: "v1.2.3",
        ..ROW
    };
    java_http_client: Row { program: Program::System("java"), arguments: &["$CLIENTS/java/Get.java", "http-client"], ..ROW };
    java_url_connection: Row {
        program: Program::System("java"),
        arguments: &["$CLIENTS/java/Get.java", "url-connection"],
        ..ROW
    };
    chromium: Row {
        program: Program::Chromium,
        before: "mkdir -p .pki/nssdb && certutil -d sql:.pki/nssdb -N --empty-password && \
                 certutil -d sql:.pki/nssdb -A -t C,, -n tollgate -i \"$CA\"",
        arguments: &[
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
            "--no-first-run", "--user-data-dir=$HOME/profile", "--dump-dom", "https://web.example.com/page?key=$KEY",
        ],
        ..ROW
    };
    python_urllib: Row { program: Program::Python("transparent.py"), arguments: &["urllib"], ..ROW };
    python_requests: Row { program: Program::Python("transparent.py"), arguments: &["requests"], ..ROW };
    python_httpx: Row { program: Program::Python("transparent.py"), arguments: &["httpx"], ..ROW };
    python_aiohttp: Row { program: Program::Python("transparent.py"), arguments: &["aiohttp"], ..ROW };
    python_openai: Row { program: Program::Python("transparent.py"), arguments: &["openai"], ..ROW };
    python_anthropic: Row { program: Program::Python("transparent.py"), arguments: &["anthropic"], ..ROW };
    python_slack_sdk: Row { program: Program::Python("transparent.py"), arguments: &["slack_sdk"], ..ROW };
    python_boto3: Row {
        program: Program::Python("aws_boto3.py"),
        prints: "\"listed\": [\"plain key(1)\", \"signed key(1)\"]",
        ..ROW
    };
    python_grpcio: Row {
        program: Program::Python("grpc_client.py"),
        arguments: &["--token", "$KEY", "grpc.example.com:443", "Chat", "hello from", "the stream"],
        prints: "\"received\": [\"hello from\", \"the stream\"]",
        ..ROW
    };
    python_websockets: Row {
        program: Program::Python("websocket_client.py"),
        arguments: &["wss://ws.example.com/socket", "hello from a socket", "--header", BEARER],
        ..ROW
    };
    node_https: Row { program: Program::Node("transparent.mjs"), arguments: &["https"], ..ROW };
    node_fetch: Row { program: Program::Node("transparent.mjs"), arguments: &["fetch"], ..ROW };
    node_http2: Row { program: Program::Node("transparent.mjs"), arguments: &["http2"], ..ROW };
    node_websocket: Row { program: Program::Node("transparent.mjs"), arguments: &["websocket"], ..ROW };
    node_undici: Row { program: Program::Node("transparent.mjs"), arguments: &["undici"], ..ROW };
    node_ws: Row { program: Program::Node("transparent.mjs"), arguments: &["ws"], ..ROW };
    node_axios: Row { program: Program::Node("transparent.mjs"), arguments: &["axios"], ..ROW };
    node_got: Row { program: Program::Node("transparent.mjs"), arguments: &["got"], ..ROW };
    node_openai: Row { program: Program::Node("transparent.mjs"), arguments: &["openai"], ..ROW };
    node_anthropic: Row { program: Program::Node("transparent.mjs"), arguments: &["anthropic"], ..ROW };
    node_stripe: Row { program: Program::Node("transparent.mjs"), arguments: &["stripe"], ..ROW };
    node_aws_sdk_s3: Row { program: Program::Node("transparent.mjs"), arguments: &["s3"], prints: "from-node", ..ROW };
    node_grpc_js: Row {
        program: Program::Node("transparent.mjs"),
        arguments: &["grpc", "/echo.Echo/Say"],
        prints: "hello",
        ..ROW
    };
}

#[test]
fn the_readme_lists_every_client() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let missing: Vec<_> =
        NAMES.iter().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in the README's table of clients: {missing:?}");
}

/// Hosts of the one upstream that knows what each client wants to hear.
const HOSTS: [&str; 12] = [
    "api.example.com",
    "web.example.com",
    "pypi.example.com",
    "npm.example.com",
    "crates.example.com",
    "goproxy.example.com",
    "apt.example.com",
    "registry.example.com",
    "api.github.com",
    "api.openai.com",
    "api.anthropic.com",
    "api.stripe.com",
];
const SLACK: [&str; 2] = ["slack.com", "www.slack.com"];
const AWS: [&str; 3] = [
    "s3.eu-west-1.amazonaws.com",
    "bucket.s3.eu-west-1.amazonaws.com",
    "sts.eu-west-1.amazonaws.com",
];

const STORES: &str = r#"
secretStores:
  sb-a:
    egressAllowlist: ["*.example.com", api.github.com, api.openai.com, api.anthropic.com, api.stripe.com, slack.com, www.slack.com, "*.amazonaws.com"]
    secrets:
      KEY:
        from: { value: $KEY }
        allowedHosts: ["*.example.com", api.github.com, api.openai.com, api.anthropic.com, api.stripe.com, slack.com, www.slack.com]
        locations: [header, query, body]
      AWS_ACCESS_KEY_ID: { from: { value: $ID }, allowedHosts: ["*.amazonaws.com"], placeholder: "AKIA{sealed:16:A-Z2-7}" }
      AWS_SECRET_ACCESS_KEY: { from: { value: $SECRET }, allowedHosts: ["*.amazonaws.com"], sign: aws-sigv4 }
  sb-b:
    egressAllowlist: [other.example.com]
"#;

impl Row {
    async fn passes(&self, name: &str) {
        let Some(program) = self.program.found() else { return };
        if !Rig::possible() {
            return;
        }
        let keys = ["id", "secret"].map(fresh_value);
        let stores = STORES.replace("$ID", &keys[0]).replace("$SECRET", &keys[1]);
        let rig = Rig::with(Way::Redirect, &stores, json!({})).await;
        let internet = Internet::of(&rig, name, &keys).await;
        if !self.before.is_empty() {
            let before = said(self.inside(&rig, "sh", &["-c", self.before])).await;
            assert!(before.fine, "{before:?}");
        }
        let arguments: Vec<_> =
            program[1..].iter().map(String::as_str).chain(self.arguments.iter().copied()).collect();
        let told = said(self.inside(&rig, &program[0], &arguments)).await;
        let log = || std::fs::read_to_string(rig.folder().join("audit.jsonl")).unwrap_or_default();
        assert!(told.fine, "{}\n{}\n{}", told.out, told.err, log());
        let printed = format!("{}{}", told.out, told.err);
        assert!(printed.contains(self.prints), "{printed}");
        let mut real = vec![&rig.value];
        real.extend(&keys);
        assert!(!real.iter().any(|value| printed.contains(*value)), "a real value in {printed}");
        assert!(internet.saw_the_value(&rig.value), "the upstream saw no real value\n{}", log());
        rig.finish().await;
    }

    fn inside(&self, rig: &Rig, program: &str, arguments: &[&str]) -> Command {
        let (home, clients) = (rig.home(), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
        let token = rig.token("sb-a");
        let fill = |text: &str| {
            text.replace("$CLIENTS", clients)
                .replace("$HOME", home.to_str().unwrap())
                .replace("$KEY", &token)
        };
        // A shell reads its variables itself.
        let arguments: Vec<String> = arguments
            .iter()
            .map(|text| if program == "sh" { (*text).to_owned() } else { fill(text) })
            .collect();
        let mut command = rig.sandboxed(
            "sb-a",
            program,
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        command
            .env("CA", rig.ca())
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_DEFAULT_REGION", "eu-west-1");
        for name in ["TOLLGATE_TEST_MODULES", "LANG"] {
            command.envs(std::env::var(name).map(|value| (name, value)));
        }
        for (name, value) in self.variables {
            command.env(name, fill(value));
        }
        command
    }
}

impl Program {
    /// The command's first words, or nothing where the set-up left it out.
    #[expect(clippy::print_stdout, reason = "the only way to tell what a run did not look at")]
    fn found(self) -> Option<Vec<String>> {
        let script = |name: &str| format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"));
        let variable = |name: &str| std::env::var(name).ok();
        let words = match self {
            Self::System(name) => Some(vec![name.to_owned()]),
            Self::Python(name) => {
                variable("TOLLGATE_TEST_PYTHON").map(|python| vec![python, script(name)])
            }
            Self::Module(name) => variable("TOLLGATE_TEST_PYTHON")
                .map(|python| vec![python, "-m".to_owned(), name.to_owned()]),
            Self::Node(name) => variable("TOLLGATE_TEST_NODE").map(|node| vec![node, script(name)]),
            Self::Npm => {
                variable("TOLLGATE_TEST_NODE").zip(npm_script()).map(|(node, npm)| vec![node, npm])
            }
            Self::Go => variable("TOLLGATE_TEST_GO").map(|program| vec![program]),
            Self::Cargo => Some(vec![env!("CARGO").to_owned()]),
            Self::Chromium => variable("TOLLGATE_TEST_CHROMIUM").map(|chromium| vec![chromium]),
        };
        let required = variable("TOLLGATE_TEST_CLIENTS").is_some_and(|value| value == "1");
        if words.as_ref().is_some_and(|words| words[0] == "-") {
            println!("left out: tests/run was told to do without it");
            return None;
        }
        assert!(words.is_some() || !required, "a client is missing, and tests/run promises it");
        if words.is_none() {
            println!("left out: the client is not here; tests/run installs it");
        }
        words
    }
}

/// The system's npm, to be run by another Node.
fn npm_script() -> Option<String> {
    let found = std::process::Command::new("sh")
        .args(["-c", "readlink -f \"$(command -v npm)\""])
        .output()
        .ok()?;
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    path.ends_with(".js").then_some(path)
}

/// The upstreams that a row needs.
struct Internet {
    fixture: Upstream,
    sockets: Upstream,
    servers: Vec<Server>,
    _folder: tempfile::TempDir,
}

impl Internet {
    async fn of(rig: &Rig, row: &str, keys: &[String; 2]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fixture =
            Upstream::https("api.example.com").handler(answer).at(rig.listen(API[0], 443));
        for host in HOSTS.iter().chain(&SLACK) {
            rig.dns.set(host, &API);
            fixture = fixture.also(host);
        }
        let fixture = fixture.await;
        fixture.also_at(rig.listen(API[1], 443));
        let sockets =
            Upstream::raw("ws.example.com", echo_messages).at(rig.listen(OTHER[0], 443)).await;
        rig.dns.set("ws.example.com", &OTHER[..1]);
        let python = std::env::var("TOLLGATE_TEST_PYTHON").unwrap_or_default();
        let root = folder.path().to_str().unwrap();
        let git = ["--token", &rig.value, "--root", root];
        let aws = ["--access-key-id", &keys[0], "--secret-access-key", &keys[1]];
        let wanted: Option<(&str, &[&str], &str, &[&str])> = match row {
            "git" => Some(("git_http.py", &["git.example.com"], "45.90.0.20", &git)),
            "python_grpcio" | "node_grpc_js" => {
                Some(("grpc_server.py", &["grpc.example.com"], "45.90.0.20", &[]))
            }
            "python_boto3" | "node_aws_sdk_s3" => Some(("s3_server.py", &AWS, "45.90.0.20", &aws)),
            _ => None,
        };
        let mut servers = Vec::new();
        if let Some((script, hosts, address, more)) = wanted {
            let started = server(&python, script, hosts, folder.path(), more).await;
            rig.internet.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
            relay(rig.listen(address, 443), u16::try_from(started.port()).unwrap());
            hosts.iter().for_each(|host| rig.dns.set(host, &[address]));
            servers.push(started);
        }
        Self { fixture, sockets, servers, _folder: folder }
    }

    /// In a header as it is or as Basic, in a query, or in what a server said of a request that it took for good.
    fn saw_the_value(&self, value: &str) -> bool {
        let of_basic = |field: &str| {
            let encoded = field.strip_prefix("Basic ").unwrap_or_default();
            let decoded =
                base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
            String::from_utf8_lossy(&decoded).into_owned()
        };
        let requests = self.fixture.requests();
        let in_request = requests.iter().any(|request| {
            let in_field = |(_, field): &(String, String)| {
                field.contains(value) || of_basic(field).contains(value)
            };
            request.target.contains(value) || request.headers.iter().any(in_field)
        });
        let in_handshake = String::from_utf8_lossy(&self.sockets.received()).contains(value);
        // git's and S3's servers judge what carries, or is signed with, the real value; gRPC's tells its metadata.
        let took = |line: &Value| {
            line["authorized"] == true
                || (line["payload"].is_string() && line["refused"].is_null())
                || line.to_string().contains(value)
        };
        let by_server = self.servers.iter().any(|server| server.lines().iter().any(took));
        in_request || in_handshake || by_server
    }
}

/// Into a server on this machine's loopback, which is in another namespace.
fn relay(listener: std::net::TcpListener, port: u16) {
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
            });
        }
    });
}

/// Echoes WebSocket messages.
async fn echo_messages(io: Stream) {
    use futures_util::{SinkExt as _, StreamExt as _};
    let Ok(mut socket) = tokio_tungstenite::accept_async(io).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// What each host says; where a client expects no form of its own, what came, as a leaky upstream does.
async fn answer(request: Request<Bytes>) -> Response<Body> {
    let field = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let authority = request.uri().authority().map(ToString::to_string);
    let host = authority.unwrap_or_else(|| field("host").to_owned());
    let path = request.uri().path();
    let shown =
        format!("hello from {host}, you sent {:?} and {:?}", request.headers(), request.uri());
    let chunk = json!({ "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{ "index": 0, "delta": { "role": "assistant", "content": shown }, "finish_reason": null }] });
    let (kind, text) = match (host.as_str(), path) {
        ("registry.example.com", _) if field("authorization").is_empty() => return challenge(),
        ("registry.example.com", "/v2/") => (JSON, "{}".to_owned()),
        ("registry.example.com", _) => (JSON, json!({ "name": "demo", "tags": ["hello from a tag"] }).to_string()),
        ("crates.example.com", _) if field("authorization").is_empty() => return refusal(401),
        ("crates.example.com", "/index/config.json") => {
            (JSON, json!({ "dl": "https://crates.example.com/dl", "auth-required": true }).to_string())
        }
        ("crates.example.com", "/index/de/mo/demo") => (
            JSON,
            json!({ "name": "demo", "vers": "1.0.0", "deps": [], "cksum": "0".repeat(64), "features": {}, "yanked": false })
                .to_string(),
        ),
        ("pypi.example.com", "/simple/demo/") => (
            "text/html",
            "<a href=\"/files/demo-1.0-py3-none-any.whl\" data-core-metadata=\"true\">demo-1.0-py3-none-any.whl</a>"
                .to_owned(),
        ),
        ("pypi.example.com", "/files/demo-1.0-py3-none-any.whl.metadata") => {
            ("text/plain", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n".to_owned())
        }
        ("npm.example.com", _) => (
            JSON,
            json!({ "name": "demo", "dist-tags": { "latest": "1.0.0" },
                "versions": { "1.0.0": { "name": "demo", "version": "1.0.0", "description": shown,
                    "dist": { "tarball": "https://npm.example.com/demo.tgz", "shasum": "0" } } } })
            .to_string(),
        ),
        ("goproxy.example.com", "/mod.example.com/demo/@v/list") => ("text/plain", "v1.2.3\n".to_owned()),
        ("goproxy.example.com", "/mod.example.com/demo/@v/v1.2.3.info") => {
            (JSON, json!({ "Version": "v1.2.3", "Time": "2020-01-01T00:00:00Z" }).to_string())
        }
        ("goproxy.example.com", "/mod.example.com/demo/@v/v1.2.3.mod") => {
            ("text/plain", "module mod.example.com/demo\n".to_owned())
        }
        ("apt.example.com", "/debian/./Packages" | "/debian/Packages") => ("text/plain", String::new()),
        ("apt.example.com" | "pypi.example.com" | "crates.example.com" | "goproxy.example.com", _) => return refusal(404),
        ("web.example.com", "/page") => ("text/html", format!("<p>{}</p>", shown.replace('"', "'"))),
        ("api.openai.com", _) => ("text/event-stream", format!("data: {chunk}\n\ndata: [DONE]\n\n")),
        ("api.anthropic.com", _) => (
            JSON,
            json!({ "id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
                "stop_sequence": null, "content": [{ "type": "text", "text": shown }],
                "usage": { "input_tokens": 1, "output_tokens": 1 } })
            .to_string(),
        ),
        ("api.stripe.com", _) => (
            JSON,
            json!({ "object": "list", "url": "/v1/customers", "has_more": false,
                "data": [{ "id": shown, "object": "customer" }] })
            .to_string(),
        ),
        ("slack.com" | "www.slack.com", _) => (JSON, json!({ "ok": true, "user": shown }).to_string()),
        _ => (JSON, json!({ "login": shown }).to_string()),
    };
    Response::builder().header("content-type", kind).body(body(text)).unwrap()
}

const JSON: &str = "application/json";

fn challenge() -> Response<Body> {
    let answer =
        Response::builder().status(401).header("www-authenticate", "Basic realm=\"registry\"");
    answer.body(body("{}")).unwrap()
}

fn refusal(status: u16) -> Response<Body> {
    Response::builder().status(status).body(body("")).unwrap()
}
