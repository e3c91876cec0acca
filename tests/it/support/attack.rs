//! The fixture of the hostile cases: policy P0, its upstreams, and ways to send what no library would.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::cut::{self, End, Piece};
use super::expand::expand;
use super::h2_frames::{self, Frames};
use super::sandbox::read_all;
use super::{Sandbox, Stream, Tollgate, Upstream};

/// Policy P0; `sb-a` is the attacker, `sb-b` and `sb-c` are innocent neighbours with the same rights. An attacker's listener is a sidecar's, so
/// that a neighbour is only told apart there by its address: `sb-c` has one.
pub(crate) const P0: &str = r#"
secretStores:
  p0:
    egressAllowlist: [api.allowed.test:443, b.allowed.test:443, open.allowed.test:443, echo.allowed.test:443, internal.allowed.test:443, "*.wild.test:443"]
    secrets:
      KEY_A: { from: { value: $KEY_A }, allowedHosts: [api.allowed.test],  headers: [authorization, x-api-key] }
      KEY_B: { from: { value: $KEY_B }, allowedHosts: [b.allowed.test],    headers: [authorization] }
      KEY_E: { from: { value: $KEY_E }, allowedHosts: [echo.allowed.test], headers: [authorization] }
sandboxes:
  sb-a: { secretStores: [p0] }
  sb-b: { secretStores: [p0] }
  sb-c: { secretStores: [p0], sources: [127.0.0.2] }
"#;

/// Names below `*.wild.test` that lead somewhere; every other one has no address.
const WILD: [&str; 4] = ["x.wild.test", "a.b.wild.test", "secret.wild.test", "www.wild.test"];

/// A running P0.
pub(crate) struct Attack {
    pub(crate) tollgate: Tollgate,
    /// The attacker: everything without credentials is this sandbox's.
    pub(crate) sandbox: Sandbox,
    /// `api.allowed.test`, and at the same address `evil.test`.
    pub(crate) api: Upstream,
    pub(crate) b: Upstream,
    pub(crate) open: Upstream,
    pub(crate) echo: Upstream,
    pub(crate) wild: Upstream,
    /// Raw bytes that were refused.
    refused: Mutex<Vec<(WayIn, Vec<u8>)>>,
}

/// Where raw bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WayIn {
    /// To the explicit listener.
    Explicit,
    /// Inside TLS inside a tunnel to this target.
    Tunnel(String),
    /// Inside a tunnel to this target.
    TunnelRaw(String),
}

/// What came of an attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The first answer's status; nothing if none came.
    pub(crate) status: Option<u16>,
    /// The reason of a denial.
    pub(crate) reason: Option<String>,
    /// All that came back.
    pub(crate) bytes: Vec<u8>,
    /// What follows the first head, or the DATA of the stream.
    pub(crate) body: String,
    /// The other end has closed, or the stream has ended by a reset or GOAWAY.
    pub(crate) closed: bool,
}

impl Attack {
    /// P0 as it stands.
    pub(crate) async fn p0() -> Self {
        Self::with(P0, serde_json::json!({})).await
    }

    /// P0 with another policy or other keys of `tollgate.yaml`.
    pub(crate) async fn with(policy: &str, config: Value) -> Self {
        let api = Upstream::https("api.allowed.test").also("evil.test").await;
        let b = Upstream::https("b.allowed.test").await;
        let open = Upstream::https("open.allowed.test").await;
        let echo = Upstream::https("echo.allowed.test").await;
        let wild = WILD[1..]
            .iter()
            .fold(Upstream::https(WILD[0]), |upstream, name| upstream.also(name))
            .await;
        let tollgate = Tollgate::describe(policy, &[&api, &b, &open, &echo, &wild])
            .sidecar("sb-a")
            .config(config)
            .start()
            .await;
        Self::of(tollgate, [api, b, open, echo, wild])
    }

    /// What runs already: the upstreams of `api`, `b`, `open`, `echo` and the wild names.
    pub(crate) fn of(tollgate: Tollgate, [api, b, open, echo, wild]: [Upstream; 5]) -> Self {
        let sandbox = tollgate.sandbox("sb-a");
        Self { tollgate, sandbox, api, b, open, echo, wild, refused: Mutex::default() }
    }

    /// Connections that any upstream accepted.
    pub(crate) fn upstream_connections(&self) -> usize {
        [&self.api, &self.b, &self.open, &self.echo, &self.wild]
            .iter()
            .map(|one| one.connections())
            .sum()
    }

    /// Requests that any upstream read.
    pub(crate) fn upstream_requests(&self) -> usize {
        [&self.api, &self.b, &self.open, &self.echo, &self.wild]
            .iter()
            .map(|one| one.requests().len())
            .sum()
    }

    /// Expands the input language.
    pub(crate) fn expand(&self, text: &str) -> Vec<u8> {
        expand(text, &|name| {
            let token = name
                .strip_prefix("TOK_")
                .map(|key| self.sandbox.token(&format!("KEY_{key}")).to_owned());
            token.or_else(|| {
                name.strip_prefix("S_").map(|key| self.tollgate.value(&format!("KEY_{key}")))
            })
        })
    }

    /// EXPL: bytes to the explicit proxy port.
    pub(crate) async fn explicit(&self, text: &str) -> Outcome {
        let mut io = self.sandbox.dial().await;
        let bytes = self.expand(text);
        let outcome = exchange(&mut io, &bytes).await;
        self.note(WayIn::Explicit, bytes, &outcome);
        outcome
    }

    /// TUN: bytes inside TLS inside a tunnel; SNI is the target's host.
    pub(crate) async fn tunnel(&self, target: &str, text: &str) -> Outcome {
        let bytes = self.expand(text);
        let outcome = self.tunnel_as(target, host_of(target), b"http/1.1", &bytes).await;
        self.note(WayIn::Tunnel(target.to_owned()), bytes, &outcome);
        outcome
    }

    /// TUN with SNI and ALPN of one's own.
    pub(crate) async fn tunnel_as(
        &self,
        target: &str,
        sni: &str,
        alpn: &[u8],
        bytes: &[u8],
    ) -> Outcome {
        let io = match self.sandbox.connect(target).await {
            Ok(io) => io,
            Err(refused) => {
                return Outcome {
                    status: Some(refused.status),
                    reason: Some(refused.reason().to_owned()).filter(|reason| !reason.is_empty()),
                    body: refused.text(),
                    ..Outcome::default()
                };
            }
        };
        match self.sandbox.tls_over(io, sni, &[alpn]).await {
            Ok(mut io) if alpn == b"h2" => exchange_h2(&mut io, bytes).await,
            Ok(mut io) => exchange(&mut io, bytes).await,
            Err(_) => Outcome { closed: true, ..Outcome::default() },
        }
    }

    /// TUN-RAW: bytes behind an accepted CONNECT, without TLS.
    pub(crate) async fn tunnel_raw(&self, target: &str, text: &str) -> Outcome {
        let mut io = self.sandbox.connect(target).await.expect("an accepted CONNECT");
        let bytes = self.expand(text);
        let outcome = exchange(&mut io, &bytes).await;
        self.note(WayIn::TunnelRaw(target.to_owned()), bytes, &outcome);
        outcome
    }

    /// H2: frames inside TLS; the outcome is that of stream 1.
    pub(crate) async fn h2(&self, host: &str, frames: &Frames) -> Outcome {
        self.tunnel_as(&format!("{host}:443"), host, b"h2", frames.bytes()).await
    }

    /// Stops, and checks what must hold after every case. Returns the audit's events of the case.
    pub(crate) async fn finish(self) -> Vec<Value> {
        self.cut_everywhere().await;
        self.neighbour_is_served().await;
        let mut events = self.tollgate.finish().await;
        events.retain(cut::is_of_the_case);
        events
    }

    /// I6: a neighbour is served as if nothing had happened, with a secret of its own and nothing of anybody else's.
    async fn neighbour_is_served(&self) {
        const AT_ONCE: Duration = Duration::from_secs(15);
        let neighbour = self.tollgate.sandbox("sb-c").dialling_from(cut::NEIGHBOUR);
        let token = neighbour.token("KEY_B");
        let began = Instant::now();
        let url = "https://b.allowed.test/neighbour";
        let answer = neighbour.get_with(url, "authorization", token).await;
        assert_eq!(answer.status, 200, "the neighbour is not served: {answer:?}");
        assert!(began.elapsed() < AT_ONCE, "the neighbour waits for {:?}", began.elapsed());
        assert!(!answer.text().contains(self.sandbox.token("KEY_B")), "{answer:?}");
        let requests = self.b.requests();
        let own = requests.iter().filter(|request| request.target == "/neighbour");
        let own: Vec<_> = own.map(|request| request.header("authorization")).collect();
        assert_eq!(own, [Some(self.tollgate.value("KEY_B"))]);
    }

    /// I7, for all that was refused; see [`cut::everywhere`].
    async fn cut_everywhere(&self) {
        let again = self.sandbox.clone().dialling_from(cut::SOURCE);
        let refused = std::mem::take(&mut *self.refused.lock().unwrap());
        for (way, bytes) in &refused {
            let what = bytes.escape_ascii().to_string();
            let send = async |piece: Piece| {
                let Some(mut io) = way.open(&again).await else {
                    return End { status: None, closed: true };
                };
                cut::send(&mut io, bytes, piece).await.1
            };
            cut::everywhere(&what, bytes.len(), || self.upstream_requests(), send).await;
        }
    }

    /// Keeps what was refused, to be tried again in pieces.
    fn note(&self, way: WayIn, bytes: Vec<u8>, outcome: &Outcome) {
        let mut refused = self.refused.lock().unwrap();
        if outcome.status.is_some_and(cut::refuses)
            && !refused.contains(&(way.clone(), bytes.clone()))
        {
            refused.push((way, bytes));
        }
    }
}

impl WayIn {
    async fn open(&self, sandbox: &Sandbox) -> Option<Stream> {
        match self {
            Self::Explicit => Some(sandbox.dial().await),
            Self::TunnelRaw(target) => sandbox.connect(target).await.ok(),
            Self::Tunnel(target) => {
                let io = sandbox.connect(target).await.ok()?;
                sandbox.tls_over(io, host_of(target), &[b"http/1.1"]).await.ok()
            }
        }
    }
}

fn host_of(target: &str) -> &str {
    target.rsplit_once(':').map_or(target, |(host, _)| host)
}

/// How long nothing must come before an answer is taken to be over.
const QUIET: Duration = Duration::from_millis(250);

/// Writes, and reads the first answer and what follows it.
pub(crate) async fn exchange(io: &mut Stream, bytes: &[u8]) -> Outcome {
    let written = io.write_all(bytes).await.and(io.flush().await);
    let (read, closed) = read_all(io, QUIET).await;
    let text = String::from_utf8_lossy(&read).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let reason = head.lines().find_map(|line| line.strip_prefix("x-deny-reason: "));
    Outcome {
        status: head.split(' ').nth(1).and_then(|status| status.parse().ok()),
        reason: reason.map(str::to_owned),
        body: body.to_owned(),
        closed: closed || written.is_err(),
        bytes: read,
    }
}

async fn exchange_h2(io: &mut Stream, bytes: &[u8]) -> Outcome {
    let written = io.write_all(bytes).await.and(io.flush().await);
    let (read, closed) = read_all(io, QUIET).await;
    let received = h2_frames::received(&read, 1);
    let problem: Option<Value> = serde_json::from_slice(&received.body).ok();
    let reason = problem.as_ref().and_then(|problem| problem["reason"].as_str());
    Outcome {
        status: received.status,
        reason: reason.map(str::to_owned),
        body: String::from_utf8_lossy(&received.body).into_owned(),
        closed: closed || written.is_err() || received.reset.is_some() || received.goaway.is_some(),
        bytes: read,
    }
}
