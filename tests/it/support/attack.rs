//! The fixture of the hostile cases: policy P0, its upstreams, and ways to send what no library would.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::expand::expand;
use super::h2_frames::{self, Frames};
use super::sandbox::{read_all, read_answer};
use super::{Sandbox, Stream, Tollgate, Upstream};

/// Policy P0; `sb-a` is the attacker, `sb-b` an innocent neighbour with the same rights.
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
        let sandbox = tollgate.sandbox("sb-a");
        Self { tollgate, sandbox, api, b, open, echo, wild }
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
        exchange(&mut io, &self.expand(text)).await
    }

    /// TUN: bytes inside TLS inside a tunnel; SNI is the target's host.
    pub(crate) async fn tunnel(&self, target: &str, text: &str) -> Outcome {
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
        self.tunnel_as(target, host, b"http/1.1", &self.expand(text)).await
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
        exchange(&mut io, &self.expand(text)).await
    }

    /// H2: frames inside TLS; the outcome is that of stream 1.
    pub(crate) async fn h2(&self, host: &str, frames: &Frames) -> Outcome {
        self.tunnel_as(&format!("{host}:443"), host, b"h2", frames.bytes()).await
    }

    /// Stops, and checks what must hold after every case. Returns the audit's events.
    pub(crate) async fn finish(self) -> Vec<Value> {
        // I6: the neighbour is served as if nothing had happened.
        let neighbour = self.tollgate.sandbox("sb-b").showing_credentials(true);
        if self.tollgate.server().proxy().registry.get("sb-b").is_some() {
            let io = neighbour.dial().await;
            assert!(proves_alive(io).await, "the proxy answers no more");
        }
        let mut events = self.tollgate.finish().await;
        // The check of life is the last event.
        events.retain(|event| event["host"] != "alive.test");
        events
    }
}

async fn proves_alive(mut io: Stream) -> bool {
    let head = b"CONNECT alive.test:443 HTTP/1.1\r\nHost: alive.test:443\r\n\r\n";
    io.write_all(head).await.is_ok() && read_answer(&mut io).await.status == 403
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

/// I7: the status is the same when the bytes come in two pieces, cut anywhere (at most at 64 places, evenly spread).
pub(crate) async fn cut_at_every_byte(attack: &Attack, bytes: &[u8], expected: Option<u16>) {
    let step = bytes.len().div_ceil(64).max(1);
    let cuts = (1..bytes.len()).step_by(step).map(|cut| async move {
        let mut io = attack.sandbox.dial().await;
        io.write_all(&bytes[..cut]).await.unwrap();
        io.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let outcome = exchange(&mut io, &bytes[cut..]).await;
        assert_eq!(outcome.status, expected, "cut at {cut}: {outcome:?}");
    });
    futures_util::future::join_all(cuts).await;
}
