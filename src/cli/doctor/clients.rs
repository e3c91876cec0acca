//! What the clients on PATH trust: each is really run against an upstream on loopback whose leaf our authority has signed.
//!
//! A client passes once its request arrives: a handshake that it did not trust brings none. What it thinks of the answer does not matter.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::Response;
use tokio::process::Command;

use super::finding::Finding;
use crate::cli::Failure;
use crate::cli::loopback::{Folder, Respond, Upstream};
use crate::config::Config;
use crate::environment::Environment;
use crate::host::Host;
use crate::proxy::tls::ca::CertificateAuthority;
use crate::proxy::tls::leaf::{LeafConfigs, LeafMint};
use crate::secret::SandboxId;
use crate::server;

const CLIENTS: &str = "clients";
/// The slowest start in a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
const AT_ONCE: usize = 4;

/// A client, how it is made to fetch `$URL`, and what makes it trust us. `$CODE` is one argument for an interpreter.
struct Client {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    trusts: Trusts,
}

/// Where a client takes its roots from.
#[derive(Clone, Copy)]
enum Trusts {
    /// A variable of `tollgate env`.
    Variable(&'static str),
    /// The system's store and nothing else.
    System,
    /// An NSS database.
    Nss,
}

const fn python(
    name: &'static str,
    arguments: &'static [&'static str],
    variable: &'static str,
) -> Client {
    Client { name, program: "python3", arguments, trusts: Trusts::Variable(variable) }
}

const TABLE: [Client; 19] = [
    Client { name: "curl", program: "curl", arguments: &["-sS", "-o", "/dev/null", "$URL"], trusts: Trusts::Variable("SSL_CERT_FILE or CURL_CA_BUNDLE") },
    Client { name: "wget", program: "wget", arguments: &["-q", "-O", "/dev/null", "--tries=1", "$URL"], trusts: Trusts::System },
    Client { name: "git", program: "git", arguments: &["ls-remote", "$URL"], trusts: Trusts::Variable("GIT_SSL_CAINFO") },
    python("python urllib", &["-c", "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=20)", "$URL"], "SSL_CERT_FILE"),
    python("python requests", &["-c", "import sys, requests; requests.get(sys.argv[1], timeout=20)", "$URL"], "REQUESTS_CA_BUNDLE"),
    python("python httpx", &["-c", "import sys, httpx; httpx.get(sys.argv[1], timeout=20)", "$URL"], "SSL_CERT_FILE"),
    python("python aiohttp", &["-c", "import sys, asyncio, aiohttp
async def get():
    async with aiohttp.ClientSession() as session:
        await session.get(sys.argv[1])
asyncio.run(get())", "$URL"], "SSL_CERT_FILE"),
    python("python boto3", &["-c", "import sys, boto3, botocore.config as c
boto3.client('s3', 'eu-west-1', endpoint_url=sys.argv[1], aws_access_key_id='x', aws_secret_access_key='x', config=c.Config(retries={'total_max_attempts': 1})).list_buckets()", "$URL"], "AWS_CA_BUNDLE"),
    python("pip", &["-m", "pip", "--disable-pip-version-check", "--retries", "0", "index", "versions", "tollgate", "--index-url", "$URL"], "PIP_CERT"),
    Client { name: "uv", program: "uv", arguments: &["--no-cache", "pip", "install", "--dry-run", "--system", "--break-system-packages", "--index-url", "$URL", "tollgate"], trusts: Trusts::Variable("SSL_CERT_FILE") },
    Client { name: "node", program: "node", arguments: &["-e", "require('https').get(process.argv[1], (answer) => answer.resume())", "$URL"], trusts: Trusts::Variable("NODE_EXTRA_CA_CERTS") },
    Client { name: "npm", program: "npm", arguments: &["ping", "--fetch-retries=0", "--registry", "$URL"], trusts: Trusts::Variable("NODE_EXTRA_CA_CERTS, and no `cafile` in an npmrc") },
    Client { name: "deno", program: "deno", arguments: &["eval", "await fetch(Deno.args[0])", "$URL"], trusts: Trusts::Variable("DENO_CERT") },
    Client { name: "bun", program: "bun", arguments: &["-e", "await fetch(process.argv.at(-1))", "$URL"], trusts: Trusts::Variable("NODE_EXTRA_CA_CERTS") },
    Client { name: "go", program: "go", arguments: &["list", "-m", "-versions", "example.com/tollgate"], trusts: Trusts::Variable("SSL_CERT_FILE") },
    Client { name: "java", program: "java", arguments: &["Get.java", "$URL"], trusts: Trusts::Variable("JAVA_TOOL_OPTIONS") },
    Client { name: "ruby", program: "ruby", arguments: &["-ropen-uri", "-e", "URI.open(ARGV[0])", "$URL"], trusts: Trusts::Variable("SSL_CERT_FILE") },
    Client { name: "php", program: "php", arguments: &["-r", "file_get_contents($argv[1]);", "$URL"], trusts: Trusts::Variable("SSL_CERT_FILE") },
    Client { name: "chromium", program: "chromium", arguments: &["--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=profile", "--dump-dom", "$URL"], trusts: Trusts::Nss },
];

/// For single-file programs.
const JAVA: &str = "class Get { public static void main(String[] a) throws Exception { new java.net.URL(a[0]).openStream().close(); } }\n";

/// Tries each that is there, a few at a time.
pub(super) async fn examine(
    config: &Config,
    ca: Arc<CertificateAuthority>,
) -> Result<Vec<Finding>, Failure> {
    let places = server::places(config, &[]);
    if !places.bundle.exists() {
        let mend = "start `tollgate serve` once: it writes the bundle";
        let what = format!("{} is not there", places.bundle.display());
        return Ok(vec![Finding::failure(CLIENTS, what, mend)]);
    }
    let arrived = Arc::new(Mutex::new(BTreeSet::new()));
    let upstream = Upstream::presenting(leaf(ca)?, noting(arrived.clone())).await?;
    let folder = Folder::make("doctor")?;
    folder.write("Get.java", JAVA)?;
    let trial = Trial {
        folder: &folder,
        port: upstream.address().port(),
        environment: Environment::trust(&places),
    };
    let tried = futures_util::stream::iter(TABLE.iter().enumerate())
        .map(|(nth, client)| {
            let (trial, arrived) = (&trial, &arrived);
            async move {
                trial.of(nth, client).await.map(|said| {
                    let came = arrived.lock().is_ok_and(|arrived| arrived.contains(&nth));
                    judged(client, came, &said, config)
                })
            }
        })
        .buffered(AT_ONCE);
    let findings = tried.filter_map(std::future::ready).collect().await;
    upstream.stop().await;
    Ok(findings)
}

/// What the proxy would present for `localhost`, spoken HTTP/1.1 upon.
fn leaf(ca: Arc<CertificateAuthority>) -> Result<rustls::ServerConfig, Failure> {
    let configs = LeafConfigs::new(Arc::new(LeafMint::new(ca, 1)?), 1)?;
    let doctor: SandboxId = "doctor".parse()?;
    let mut tls = (*configs.for_sandbox_host(&doctor, &Host::parse("localhost")?)?).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// Notes whose request arrived: each client has a path of its own.
fn noting(arrived: Arc<Mutex<BTreeSet<usize>>>) -> Respond {
    Arc::new(move |head, _body| {
        let first = head.uri.path().split('/').nth(1).and_then(|number| number.parse().ok());
        if let (Some(nth), Ok(mut arrived)) = (first, arrived.lock()) {
            arrived.insert(nth);
        }
        Response::new(http_body_util::Full::new(bytes::Bytes::from_static(b"{}")))
    })
}

/// What each client is run with.
struct Trial<'a> {
    folder: &'a Folder,
    port: u16,
    environment: Environment,
}

impl Trial<'_> {
    /// Runs a client to its end; the last line that it said, or nothing if it is not here.
    async fn of(&self, nth: usize, client: &Client) -> Option<String> {
        let url = format!("https://localhost:{}/{nth}/", self.port);
        let mut command = Command::new(client.program);
        command
            .args(client.arguments.iter().map(|text| text.replace("$URL", &url)))
            .current_dir(self.folder.path())
            .envs(self.environment.iter())
            .envs([
                ("NO_PROXY", "localhost"),
                ("no_proxy", "localhost"),
                ("GIT_TERMINAL_PROMPT", "0"),
            ])
            .envs([
                ("GOPROXY", url.as_str()),
                ("GONOSUMDB", "*"),
                ("GOFLAGS", "-mod=mod"),
                ("GOTOOLCHAIN", "local"),
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match tokio::time::timeout(PATIENCE, command.output()).await {
            Err(_elapsed) => return Some("it does not end".to_owned()),
            Ok(Err(_absent)) => return None,
            Ok(Ok(output)) => output,
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let absent =
            ["ModuleNotFoundError", "No module named", "command not found", "is not installed"];
        if absent.iter().any(|sign| said.contains(sign)) {
            return None;
        }
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        Some(last.chars().filter(|sign| !sign.is_control()).take(MOST_SAID).collect())
    }
}

/// Characters of a client's own words that are shown.
const MOST_SAID: usize = 160;

fn judged(client: &Client, came: bool, said: &str, config: &Config) -> Finding {
    if came {
        return Finding::fine(CLIENTS, format!("{} trusts the authority", client.name));
    }
    let ca = config.ca_dir.join("ca.pem");
    let ca = ca.display();
    let mend = match client.trusts {
        Trusts::Variable(name) => {
            format!(
                "set {name} in the sandbox, as `tollgate env` prints; it is set here, so look for a setting of the client's own that beats it"
            )
        }
        Trusts::System => format!(
            "it reads the system's store alone: cp {ca} /usr/local/share/ca-certificates/tollgate.crt && update-ca-certificates"
        ),
        Trusts::Nss => format!(
            "it reads an NSS database alone: certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n tollgate -i {ca}"
        ),
    };
    Finding::failure(
        CLIENTS,
        format!("{} does not reach an upstream of ours: {said}", client.name),
        mend,
    )
}
