//! Long and large streams, and many at once, through the transparent path.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::namespace::Namespace;
use super::rig::{API, said};
use super::{Rig, Way};
use crate::support::{Body, Stream, Upstream, body};

const STORES: &str = r#"
secretStores:
  sb-a:
    egressAllowlist: [api.example.com]
    secrets: { KEY: { from: { value: $KEY }, allowedHosts: [api.example.com] } }
  sb-b:
    egressAllowlist: [api.example.com]
"#;
const MIB: usize = 1 << 20;

/// A WebSocket upstream that echoes.
async fn echo(rig: &Rig) -> Upstream {
    let script = |io: Stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(io).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                return;
            }
        }
    };
    Upstream::raw("api.example.com", script).at(rig.listen(API[0], 443)).await
}

/// A redirected connection of a sandbox to `api.example.com`.
async fn connected(rig: &Rig, from: &Namespace) -> Stream {
    let tcp = from.connect(SocketAddr::new(API[0].parse().unwrap(), 443)).unwrap();
    rig.client().tls_on(tcp, "api.example.com", &[b"http/1.1"]).await.unwrap()
}

/// Idle for `idle`, which is longer than the limit, but for a ping every `beat`: it still echoes then, and one that is silent is gone.
async fn a_websocket_lives_by_its_pings(limits: Value, beat: Duration, idle: Duration) {
    let rig = Rig::with(Way::Redirect, STORES, limits).await;
    let _upstream = echo(&rig).await;
    let url = "wss://api.example.com/";
    let (mut kept, _) =
        tokio_tungstenite::client_async(url, connected(&rig, &rig.a).await).await.unwrap();
    let (mut silent, _) =
        tokio_tungstenite::client_async(url, connected(&rig, &rig.a).await).await.unwrap();
    let until = Instant::now() + idle;
    while Instant::now() < until {
        kept.send(Message::Ping(Bytes::new())).await.unwrap();
        let pong = tokio::time::timeout(Duration::from_secs(20), kept.next()).await.unwrap();
        assert!(pong.unwrap().unwrap().is_pong());
        tokio::time::sleep(beat).await;
    }
    kept.send(Message::text("still here")).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), kept.next()).await.unwrap();
    assert_eq!(answer.unwrap().unwrap(), Message::text("still here"));
    let end = tokio::time::timeout(Duration::from_secs(20), silent.next()).await;
    assert!(!matches!(end.expect("the silent one ends"), Some(Ok(Message::Text(_)))));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_with_keep_alive_outlives_the_idle_limit() {
    if Rig::possible() {
        // Looked at twice within the time for a head.
        let limits = json!({ "limits": { "idleTimeout": "5s", "headerTimeout": "4s" } });
        let (beat, idle) = (Duration::from_millis(500), Duration::from_secs(12));
        a_websocket_lives_by_its_pings(limits, beat, idle).await;
    }
}

/// Ten minutes with the shipped limits: `TOLLGATE_TEST_LONG=1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_with_keep_alive_lives_for_ten_minutes() {
    if std::env::var_os("TOLLGATE_TEST_LONG").is_none() {
        println!("left out: ten minutes of idleness are tried with TOLLGATE_TEST_LONG=1");
    } else if Rig::possible() {
        let (beat, idle) = (Duration::from_secs(30), Duration::from_secs(600));
        a_websocket_lives_by_its_pings(json!({}), beat, idle).await;
    }
}

/// Answers a GET with as many MiB as its path says, anything else with the length of its body.
async fn measuring(rig: &Rig) -> Upstream {
    let builder = Upstream::https("api.example.com").streaming(|request| async move {
        let wanted: usize = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
        if request.method() == "GET" {
            let block = Bytes::from(vec![b'x'; MIB / 16]);
            let blocks = (0..wanted * 16).map(move |_| Ok(Frame::data(block.clone())));
            return Response::new(Body::new(StreamBody::new(futures_util::stream::iter(blocks))));
        }
        let (mut length, mut incoming) = (0, request.into_body());
        while let Some(Ok(frame)) = incoming.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
        }
        Response::new(body(length.to_string()))
    });
    builder.at(rig.listen(API[0], 443)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gibibytes_each_way_take_no_memory() {
    if cfg!(debug_assertions) && std::env::var_os("TOLLGATE_TEST_LONG").is_none() {
        println!(
            "left out: two gibibytes are moved by a release build, or with TOLLGATE_TEST_LONG=1"
        );
        return;
    }
    if !Rig::possible() {
        return;
    }
    const SIZE: usize = 2048;
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    let _upstream = measuring(&rig).await;
    let header = format!("x-key: {}", rig.token("sb-a"));
    // A value is searched for once it has been fetched.
    assert!(
        rig.curl("sb-a", &["-o", "/dev/null", "-H", &header, "https://api.example.com/1"])
            .await
            .fine
    );
    let before = rig.memory("VmRSS");
    for version in ["--http1.1", "--http2"] {
        let script = format!(
            "set -e -o pipefail
             curl -sS {version} --max-time 280 https://api.example.com/{SIZE} | wc -c
             head -c {} /dev/zero | curl -sS {version} --max-time 280 -T - https://api.example.com/up",
            SIZE * MIB
        );
        let told = said(rig.sandboxed("sb-a", "bash", &["-c", &script])).await;
        assert_eq!(told.out, format!("{0}\n{0}", SIZE * MIB), "{version}: {told:?}");
    }
    let most = rig.memory("VmHWM");
    assert!(most.saturating_sub(before) < 64, "{before} MiB before, {most} MiB at most");
    rig.finish().await;
}

/// Sends its first chunk at once, and then one a second, as long as somebody reads.
async fn dripping(rig: &Rig) -> Upstream {
    let builder = Upstream::https("api.example.com").streaming(|request| async move {
        if request.uri().path() != "/drip" {
            return Response::new(body("quick"));
        }
        let drops = futures_util::stream::unfold(0, |nth: u64| async move {
            tokio::time::sleep(Duration::from_secs(nth.min(1))).await;
            Some((Ok(Frame::data(Bytes::from_static(b"drop"))), nth + 1))
        });
        Response::new(Body::new(StreamBody::new(drops)))
    });
    builder.h1_only().at(rig.listen(API[0], 443)).await
}

/// The quickest half of B's requests, each on a connection of its own, took at most this long.
async fn median(rig: &Rig) -> Duration {
    let mut took = Vec::new();
    for _ in 0..15 {
        let begun = Instant::now();
        let mut io = connected(rig, &rig.b).await;
        io.write_all(b"GET /quick HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"quick"), "{}", String::from_utf8_lossy(&answer));
        took.push(begun.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_of_one_sandbox_do_not_slow_another() {
    if !Rig::possible() {
        return;
    }
    const MANY: usize = 1_000;
    let rig = Rig::with(Way::Redirect, STORES, json!({})).await;
    let upstream = dripping(&rig).await;
    let before = median(&rig).await;
    // A few at a time, so that no handshake waits past its limit on two processors.
    let open = futures_util::stream::iter(0..MANY).map(|_| async {
        let mut io = connected(&rig, &rig.a).await;
        io.write_all(b"GET /drip HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await.unwrap();
        // With its turn used up, the task writes into TLS alone, and nothing else would send it.
        io.flush().await.unwrap();
        let mut first = [0; 12];
        io.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        io
    });
    let open: Vec<Stream> = open.buffer_unordered(16).collect().await;
    assert!(upstream.connections() >= MANY, "{}", upstream.connections());
    let during = median(&rig).await;
    assert!(
        during < before * 4 + Duration::from_millis(100),
        "{before:?} before, {during:?} beside {MANY} connections"
    );
    drop(open);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_uses_up_its_connections_leaves_the_others_theirs() {
    if !Rig::possible() {
        return;
    }
    let rig =
        Rig::with(Way::Redirect, STORES, json!({ "limits": { "connectionsPerSandbox": 8 } })).await;
    let _upstream = dripping(&rig).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(connected(&rig, &rig.a).await);
    }
    let refused = rig.curl("sb-a", &["-f", "https://api.example.com/quick"]).await;
    assert!(!refused.fine, "{refused:?}");
    let other = rig.curl("sb-b", &["-f", "https://api.example.com/quick"]).await;
    assert_eq!(other.out, "quick", "{other:?}");
    drop(held);
    rig.finish().await;
}
