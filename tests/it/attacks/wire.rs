//! What the cases about bytes and frames share: P0 with one upstream replaced, upstreams that speak HTTP/2 frame by frame, and readers of both.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Attack, P0, Stream, Tollgate, Upstream};

/// The host of most cases, with its port.
pub(super) const API: &str = "api.allowed.test:443";

/// A value for policies whose upstream must know it. Made up here, and real to nobody.
pub(super) const KNOWN_VALUE: &str = "known-value-4d1f7c20b95e8a36";

/// P0 with this upstream in the place of the one that has its name.
pub(super) async fn p0_with(upstream: Upstream) -> Attack {
    start(P0, upstream, serde_json::json!({})).await
}

/// P0 with [`KNOWN_VALUE`] as `KEY_A`, and this upstream in the place of the one that has its name.
pub(super) async fn known_p0_with(upstream: Upstream) -> Attack {
    start(&P0.replace("$KEY_A", KNOWN_VALUE), upstream, serde_json::json!({})).await
}

/// A policy and keys of `tollgate.yaml` with this upstream in the place of the one that has its name.
pub(super) async fn start(policy: &str, upstream: Upstream, config: Value) -> Attack {
    let mut given = Some(upstream);
    let mut api = take(&mut given, "api.allowed.test");
    let mut echo = take(&mut given, "echo.allowed.test");
    let api = match api.take() {
        Some(api) => api,
        None => Upstream::https("api.allowed.test").also("evil.test").await,
    };
    let echo = match echo.take() {
        Some(echo) => echo,
        None => Upstream::https("echo.allowed.test").await,
    };
    let b = Upstream::https("b.allowed.test").await;
    let open = Upstream::https("open.allowed.test").await;
    let wild = Upstream::https("x.wild.test").await;
    let tollgate = Tollgate::describe(policy, &[&api, &b, &open, &echo, &wild])
        .sidecar("sb-a")
        .config(config)
        .start()
        .await;
    Attack::of(tollgate, [api, b, open, echo, wild])
}

fn take(given: &mut Option<Upstream>, name: &str) -> Option<Upstream> {
    given.take_if(|upstream| upstream.names().iter().any(|known| known == name))
}

/// `api.allowed.test` that speaks HTTP/1.1 only and echoes.
pub(super) async fn api_h1() -> Upstream {
    Upstream::https("api.allowed.test").also("evil.test").h1_only().await
}

/// How many answers the bytes hold.
pub(super) fn answers(bytes: &[u8]) -> usize {
    memchr::memmem::find_iter(bytes, b"HTTP/1.1 ")
        .filter(|at| bytes.get(at + 9).is_some_and(u8::is_ascii_digit))
        .count()
}

/// Whether the bytes hold this text.
pub(super) fn holds(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

/// An HTTP/1 upstream that writes one answer after another, over whatever connections they are asked for, and counts the connections that
/// the other end closed.
pub(super) fn answering_in_turn(
    name: &str,
    answers: &'static [&'static str],
) -> (impl IntoFuture<Output = Upstream>, Arc<AtomicUsize>) {
    let (turn, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = closed.clone();
    let upstream = Upstream::raw(name, move |mut io| {
        let (turn, closed) = (turn.clone(), counted.clone());
        async move {
            while read_head(&mut io).await {
                let answer = answers.get(turn.fetch_add(1, Ordering::Relaxed)).unwrap_or(&"");
                drop(io.write_all(answer.as_bytes()).await);
                drop(io.flush().await);
            }
            closed.fetch_add(1, Ordering::Relaxed);
        }
    });
    (upstream, closed)
}

/// Reads to the empty line; `false` at the end of the stream.
pub(super) async fn read_head(io: &mut Stream) -> bool {
    let mut last = [0; 4];
    while last != *b"\r\n\r\n" {
        let Ok(byte) = io.read_u8().await else { return false };
        last.rotate_left(1);
        last[3] = byte;
    }
    true
}

/// One HTTP/2 frame.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
pub(super) const GOAWAY: u8 = 7;

impl Frame {
    /// The bytes of a frame.
    pub(super) fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    async fn read(io: &mut Stream) -> Option<Self> {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Self { kind: head[3], flags: head[4], stream, payload })
    }
}

/// The whole frames in these bytes.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        bytes = rest;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        all.push(Frame { kind: head[3], flags: head[4], stream, payload: payload.to_vec() });
    }
    all
}

/// An HTTP/2 upstream by hand: it answers each HEADERS of a request with these bytes, and keeps every frame that it reads.
pub(super) fn by_frames(
    name: &str,
    answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) -> (impl IntoFuture<Output = Upstream>, Arc<Mutex<Vec<Frame>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (keep, answer) = (kept.clone(), Arc::new(answer));
    let upstream = Upstream::raw(name, move |mut io| {
        let (keep, answer) = (keep.clone(), answer.clone());
        async move {
            let mut preface = [0; 24];
            if io.read_exact(&mut preface).await.is_err() {
                return;
            }
            drop(io.write_all(&Frame::bytes(SETTINGS, 0, 0, &[])).await);
            drop(io.flush().await);
            while let Some(frame) = Frame::read(&mut io).await {
                keep.lock().unwrap().push(frame.clone());
                let reply = match frame.kind {
                    SETTINGS if frame.flags == 0 => Frame::bytes(SETTINGS, 1, 0, &[]),
                    HEADERS => answer(frame.stream),
                    _ => continue,
                };
                drop(io.write_all(&reply).await);
                drop(io.flush().await);
            }
        }
    });
    (upstream.h2_only(), kept)
}
