//! Behind a corporate proxy: every kind of upstream is reached through its CONNECT, and nothing that it says is believed but a status.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tollgate::config::{Config, Overrides};
use tollgate::server::Server;

use crate::support::{Protocol, Tollgate, Upstream, full};

const POLICY: &str = r#"
secretStores:
  keys:
    egressAllowlist: [api.example.com, plain.example.com, direct.example.com, login.example.com, printer.local, host.corp, "localhost:*", "10.0.0.8:443", "169.254.169.254"]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
sandboxes:
  sb-test: { secretStores: [keys] }
  sb-other: { secretStores: [keys] }
"#;
const URL: &str = "https://api.example.com/";

/// A proxy that knows some destinations, and records what it was asked.
struct Corporate {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Corporate {
    async fn leading_to(upstreams: &[&Upstream]) -> Self {
        let names = upstreams.iter().flat_map(|upstream| {
            let target =
                |name: &String| (format!("{name}:{}", upstream.port()), upstream.address());
            upstream.names().iter().map(target)
        });
        let known: BTreeMap<String, SocketAddr> = names.collect();
        Self::answering(move |head| {
            known
                .get(head.split(' ').nth(1).unwrap())
                .copied()
                .ok_or_else(|| "HTTP/1.1 403 Forbidden\r\n\r\n".into())
        })
        .await
    }

    /// Leads somewhere, or says this.
    async fn answering(
        lead: impl Fn(&str) -> Result<SocketAddr, Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, lead) = (heads.clone(), Arc::new(lead));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (seen, lead) = (seen.clone(), lead.clone());
                tokio::spawn(async move {
                    let Some(head) = read_head(&mut client).await else { return };
                    seen.lock().unwrap().push(head.clone());
                    match lead(&head) {
                        Ok(upstream) => {
                            let mut upstream = TcpStream::connect(upstream).await.unwrap();
                            let answer =
                                b"HTTP/1.1 200 Connection established\r\nVia: corp\r\n\r\n";
                            client.write_all(answer).await.unwrap();
                            drop(copy_bidirectional(&mut client, &mut upstream).await);
                        }
                        Err(answer) => {
                            drop(client.write_all(&answer).await);
                            // What it says is all: it neither closes nor goes on.
                            drop(client.read(&mut [0; 1]).await);
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn config(&self) -> Value {
        json!({ "upstream": { "proxy": { "url": format!("http://{}", self.address) } } })
    }
}

async fn read_head(client: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn start(corporate: &Corporate, config: Value, upstreams: &[&Upstream]) -> Tollgate {
    let tollgate = Tollgate::describe(POLICY, &[])
        .sidecar("sb-test")
        .config(corporate.config())
        .config(config)
        .start()
        .await;
    for upstream in upstreams {
        upstream.tollgate_started(&tollgate.folder().join("authority"));
    }
    tollgate
}

#[tokio::test]
async fn every_protocol_goes_through_its_connect_and_names_are_not_resolved_here() {
    let h1 = Upstream::https("api.example.com").h1_only().await;
    let h2 = Upstream::https("login.example.com").h2_only().await;
    let plain = Upstream::http("plain.example.com").await;
    let upstreams = [&h1, &h2, &plain];
    let corporate = Corporate::leading_to(&upstreams).await;
    let tollgate = start(&corporate, json!({}), &upstreams).await;
    let sandbox = tollgate.sandbox("sb-test");
    let answer = sandbox.get_with(URL, "x-key", sandbox.token("KEY")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(h1.requests()[0].header("x-key").unwrap(), tollgate.value("KEY"));
    let post = Request::post("https://login.example.com/").body(full("body")).unwrap();
    assert_eq!(sandbox.send_h2(post).await.status, 200);
    assert_eq!(h2.requests()[0].version, "HTTP/2.0");
    assert_eq!(sandbox.get("http://plain.example.com/").await.status, 200);
    assert_eq!(
        corporate.heads(),
        ["api.example.com:443", "login.example.com:443", "plain.example.com:80"]
            .map(|target| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"))
    );
    assert_eq!(tollgate.dns().questions(), [""; 0]);
    tollgate.finish().await;
}

#[tokio::test]
async fn a_websocket_goes_through_it() {
    let upstream = Upstream::answers_raw(
        "api.example.com",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )
    .await;
    let corporate = Corporate::leading_to(&[&upstream]).await;
    let tollgate = start(&corporate, json!({}), &[&upstream]).await;
    let sandbox = tollgate.sandbox("sb-test");
    let mut connection = sandbox.open(URL, Protocol::H1).await.unwrap();
    let request = Request::get(URL)
        .header("host", "api.example.com")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(full(""))
        .unwrap();
    assert_eq!(connection.begin(request).await.unwrap().status(), 101);
    assert_eq!(corporate.heads().len(), 1);
    tollgate.finish().await;
}

#[tokio::test]
async fn its_credentials_are_sent_to_it_alone_and_never_shown() {
    let upstream = Upstream::https("api.example.com").h1_only().await;
    let corporate = Corporate::leading_to(&[&upstream]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    std::fs::write(&file, "corp-user:long-corporate-password\n").unwrap();
    let config = json!({ "upstream": { "proxy": { "credentials": { "file": file } } } });
    let tollgate = start(&corporate, config, &[&upstream]).await;
    tollgate.watch("long-corporate-password", &[]);
    tollgate.watch(&STANDARD.encode("corp-user:long-corporate-password"), &[]);
    assert_eq!(tollgate.sandbox("sb-test").get(URL).await.status, 200);
    let head = corporate.heads().remove(0);
    let sent = STANDARD.encode("corp-user:long-corporate-password");
    assert!(head.contains(&format!("\r\nProxy-Authorization: Basic {sent}\r\n")), "{head}");
    assert!(!upstream.requests()[0].head.to_ascii_lowercase().contains("proxy-"));
    assert!(!format!("{:?}", tollgate.server()).contains("long-corporate"));
    tollgate.finish().await;
}

#[tokio::test]
async fn credentials_that_are_none_keep_it_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate.yaml");
    let secret = folder.path().join("credentials");
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    std::fs::write(
        folder.path().join("policies/policy.yaml"),
        POLICY.replace("$KEY", "a-value-of-tests"),
    )
    .unwrap();
    for (text, message) in
        [("no-colon-in-this", "not `user:password`"), ("two:lines\nof-it", "not `user:password`")]
    {
        std::fs::write(&secret, text).unwrap();
        let config = json!({
            "listen": { "explicit": ["127.0.0.1:0"] },
            "upstream": { "proxy": { "url": "http://127.0.0.1:1", "credentials": { "file": secret } } },
        });
        std::fs::write(&file, config.to_string()).unwrap();
        let config = Config::load(Some(&file), &Overrides::default()).unwrap();
        let error = Server::start(&config).await.unwrap_err().to_string();
        assert!(error.contains(message) && !error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn hosts_of_no_proxy_are_resolved_and_checked_here() {
    let corporate = Corporate::leading_to(&[]).await;
    let config = json!({
        "upstream": { "proxy": { "noProxy": ["direct.example.com", "*.local"] } },
        "egress": { "allowPrivate": [] },
    });
    let tollgate = start(&corporate, config, &[]).await;
    tollgate.dns().set("direct.example.com", &["10.0.0.8"]);
    tollgate.dns().set("printer.local", &["10.0.0.9"]);
    for host in ["direct.example.com", "printer.local"] {
        let answer = tollgate.sandbox("sb-test").get(&format!("https://{host}/")).await;
        assert_eq!((answer.status, answer.reason()), (403, "address_not_allowed"), "{host}");
    }
    assert_eq!(corporate.heads(), [""; 0]);
    tollgate.finish().await;
}

#[tokio::test]
async fn internal_literals_and_private_names_are_refused_before_it_is_asked() {
    let corporate = Corporate::leading_to(&[]).await;
    let tollgate = start(&corporate, json!({ "egress": { "allowPrivate": [] } }), &[]).await;
    let sandbox = tollgate.sandbox("sb-test");
    for url in [
        "https://10.0.0.8/",
        "http://169.254.169.254/latest/meta-data/",
        "https://printer.local/",
        "https://host.corp/",
        "http://localhost:8080/",
    ] {
        let answer = sandbox.get(url).await;
        assert_eq!((answer.status, answer.reason()), (403, "address_not_allowed"), "{url}");
    }
    assert_eq!(corporate.heads(), [""; 0]);
    tollgate.finish().await;
}

#[tokio::test]
async fn nothing_but_a_plain_success_opens_the_tunnel() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(9_000));
    for (answer, reason, detail) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno",
            "upstream_unreachable",
            "other credentials",
        ),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "upstream_unreachable",
            "other credentials",
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "upstream_unreachable", "answered 403"),
        ("HTTP/1.1 100 Continue\r\n\r\n", "upstream_unreachable", "answered 100"),
        ("HTTP/1.1 200 OK\r\n\r\n\x16\x03", "upstream_unreachable", "more than an answer"),
        ("HTTP/1.1 200 OK\n\n", "upstream_unreachable", "not HTTP/1"),
        ("HTTP/2 200\r\n\r\n", "upstream_unreachable", "not HTTP/1"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "upstream_unreachable", "not HTTP/1"),
        (long.as_str(), "upstream_unreachable", "not HTTP/1"),
        ("HTTP/1.1 200 OK\r\n", "upstream_timeout", "took too long"),
        ("", "upstream_timeout", "took too long"),
    ] {
        let said = answer.as_bytes().to_vec();
        let corporate = Corporate::answering(move |_| Err(said.clone())).await;
        let tollgate =
            start(&corporate, json!({ "limits": { "connectTimeout": "1s" } }), &[]).await;
        let refused = tollgate.sandbox("sb-test").get(URL).await;
        assert_eq!(refused.reason(), reason, "{answer:?}: {}", refused.text());
        assert!(refused.text().contains(detail), "{answer:?}: {}", refused.text());
        assert!(!refused.text().contains(&corporate.address.to_string()), "nobody's business");
        tollgate.finish().await;
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_unreachable_and_tollgate_is_none() {
    for (url, reason) in [
        ("http://127.0.0.1:1", "upstream_unreachable"),
        ("http://gone.example:1", "upstream_unreachable"),
    ] {
        let tollgate = Tollgate::describe(POLICY, &[])
            .sidecar("sb-test")
            .config(json!({ "upstream": { "proxy": { "url": url } } }))
            .start()
            .await;
        let answer = tollgate.sandbox("sb-test").get(URL).await;
        assert_eq!((answer.status, answer.reason()), (502, reason), "{url}");
        assert!(!answer.text().contains("gone.example"), "{}", answer.text());
        tollgate.finish().await;
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tollgate = Tollgate::describe(POLICY, &[])
        .sidecar("sb-test")
        .config(json!({
            "listen": { "explicit": [free.to_string()] },
            "upstream": { "proxy": { "url": format!("http://{free}") } },
        }))
        .start()
        .await;
    assert_eq!(tollgate.sandbox("sb-test").get(URL).await.reason(), "address_not_allowed");
    tollgate.finish().await;
}

#[tokio::test]
async fn tunnels_of_two_sandboxes_are_never_shared() {
    let upstream = Upstream::https("api.example.com").await;
    let corporate = Corporate::leading_to(&[&upstream]).await;
    let tollgate = Tollgate::describe(POLICY, &[]).config(corporate.config()).start().await;
    upstream.tollgate_started(&tollgate.folder().join("authority"));
    for _ in 0..2 {
        for id in ["sb-test", "sb-other"] {
            assert_eq!(tollgate.sandbox(id).get(URL).await.status, 200);
        }
    }
    assert_eq!(corporate.heads().len(), 2, "one tunnel each");
    tollgate.finish().await;
}

#[tokio::test]
async fn tollgates_own_token_requests_go_through_it() {
    let login = Upstream::https("login.example.com")
        .answering(
            200,
            &[("content-type", "application/json")],
            r#"{"access_token":"granted-access-token","expires_in":3600}"#,
        )
        .await;
    let api = Upstream::https("api.example.com").await;
    let corporate = Corporate::leading_to(&[&login, &api]).await;
    let policy = "secretStores:\n  keys:\n    egressAllowlist: [api.example.com]\n    secrets:\n      KEY: { from: { oauth2ClientCredentials: { tokenUrl: \"https://login.example.com/token\", clientId: app, clientSecret: { value: $SECRET } } }, allowedHosts: [api.example.com] }\nsandboxes: { sb-test: { secretStores: [keys] } }\n";
    let tollgate = Tollgate::describe(policy, &[]).config(corporate.config()).start().await;
    for upstream in [&login, &api] {
        upstream.tollgate_started(&tollgate.folder().join("authority"));
    }
    let sandbox = tollgate.sandbox("sb-test");
    assert_eq!(sandbox.get_with(URL, "x-key", sandbox.token("KEY")).await.status, 200);
    assert_eq!(api.requests()[0].header("x-key").unwrap(), "granted-access-token");
    let asked: Vec<_> =
        corporate.heads().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(asked, ["login.example.com:443", "api.example.com:443"]);
    tollgate.finish().await;
}
