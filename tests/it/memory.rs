//! Bodies of a gibibyte in constant memory: the program as it is served, measured from outside.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};

use crate::support::{Builder, Program, Protocol, RequestBody, Upstream, body, full, streamed};

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
    let program = Program::serve(policy, &upstream, &[]).await;
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
