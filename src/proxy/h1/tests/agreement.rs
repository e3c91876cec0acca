//! What hyper hands out behind the guard is what the reference finds, on mutated streams cut anywhere.

use std::{convert::Infallible, sync::Mutex};

use ::hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{
    super::{ExpectedResponse, HeadLimits, RequestGuard, ResponseGuard},
    reference::{self, Seen},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hyper_behind_the_guard_sees_the_requests_of_the_reference(
        stream in stream(REQUESTS), pipe in 1usize..200
    ) {
        let reference = reference::requests(&stream);
        let seen = run(requests_through_hyper(&stream, pipe));
        let common = seen.len().min(reference.len());
        let reference_essence: Vec<_> = reference[..common].iter().map(|seen| (as_uri(&seen.start), &seen.body)).collect();
        let essence: Vec<_> = seen.iter().map(|seen| (seen.start.clone(), &seen.body)).collect();
        prop_assert_eq!(essence, reference_essence, "{}", stream.escape_ascii());
        prop_assert!(
            seen.len() == reference.len() || may_stop_at(&reference, seen.len()),
            "hyper stopped after {} of {}: {}", seen.len(), reference.len(), stream.escape_ascii()
        );
    }

    #[test]
    fn hyper_behind_the_guard_sees_the_response_of_the_reference(
        stream in stream(RESPONSES), pipe in 1usize..200, expected in prop::sample::select(EXPECTED)
    ) {
        let reference = reference::response(
            &stream, expected == ExpectedResponse::Head, expected == ExpectedResponse::Upgrade,
        );
        let seen = run(response_through_hyper(&stream, pipe, expected));
        let essence = |seen: Option<Seen>| seen.map(|seen| (seen.start, seen.body));
        prop_assert_eq!(essence(seen), essence(reference), "{}", stream.escape_ascii());
    }
}

/// Method and target as hyper shows them: `http://a` is `http://a/` there.
fn as_uri(start: &str) -> String {
    let (method, target) = start.split_once(' ').unwrap();
    target.parse::<http::Uri>().map_or_else(|_| start.to_owned(), |uri| format!("{method} {uri}"))
}

/// hyper may end a connection before the stream does: when it was told to, or by its own reading of a target.
fn may_stop_at(reference: &[Seen], stop: usize) -> bool {
    let told_to = stop.checked_sub(1).and_then(|last| reference.get(last)).is_some_and(|last| {
        last.head.contains("HTTP/1.0") || last.head.to_ascii_lowercase().contains("\nconnection:")
    });
    let target = reference[stop].start.split(' ').nth(1).unwrap_or_default();
    told_to || target.parse::<http::Uri>().is_err()
}

async fn requests_through_hyper(stream: &[u8], pipe: usize) -> Vec<Seen> {
    let (mut client, server) = duplex(pipe);
    let (guard, verdicts) = RequestGuard::new(server, HeadLimits::default());
    let seen = Mutex::new(Vec::new());
    let service = service_fn(async |request: Request<Incoming>| {
        let verdict = verdicts.next();
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return answer(StatusCode::BAD_REQUEST) };
        if verdict.is_err() {
            return answer(StatusCode::BAD_REQUEST);
        }
        verdicts.resume();
        let start = format!("{} {}", head.method, head.uri);
        let entry = Seen { start, head: String::new(), body: body.to_bytes().to_vec() };
        seen.lock().unwrap().push(entry);
        answer(if head.method == Method::CONNECT { StatusCode::FORBIDDEN } else { StatusCode::OK })
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(guard), service);
    let (_, ()) = tokio::join!(connection.with_upgrades(), talk(&mut client, stream));
    seen.into_inner().unwrap()
}

fn answer(status: StatusCode) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

/// Sends the stream and hears the other side out.
async fn talk(client: &mut DuplexStream, stream: &[u8]) {
    let (mut from, mut to) = tokio::io::split(client);
    let send = async {
        // The other side may hang up before it has heard everything.
        let sent = to.write_all(stream).await;
        sent.and(to.shutdown().await)
    };
    let mut answers = Vec::new();
    let (_, heard) = tokio::join!(send, from.read_to_end(&mut answers));
    heard.unwrap();
}

async fn response_through_hyper(
    stream: &[u8],
    pipe: usize,
    expected: ExpectedResponse,
) -> Option<Seen> {
    let (client, mut upstream) = duplex(pipe);
    let (guard, expectations) = ResponseGuard::new(client, HeadLimits::default());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(guard)).await.unwrap();
    // The connection ends when the sender is dropped with this.
    let ask = async move {
        expectations.push(expected);
        let response = sender.send_request(request(expected)).await.ok()?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes().to_vec();
        Some(Seen { start: head.status.as_str().to_owned(), head: String::new(), body })
    };
    let serve = async {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(upstream.read_u8().await.unwrap());
        }
        talk(&mut upstream, stream).await;
    };
    let (_, seen, ()) = tokio::join!(connection.with_upgrades(), ask, serve);
    seen
}

fn request(expected: ExpectedResponse) -> Request<Empty<Bytes>> {
    let builder = Request::builder().uri("/").header("host", "a");
    let builder = match expected {
        ExpectedResponse::Normal => builder,
        ExpectedResponse::Head => builder.method(Method::HEAD),
        ExpectedResponse::Upgrade => builder.header("upgrade", "x").header("connection", "upgrade"),
    };
    builder.body(Empty::new()).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
        tokio::time::timeout(std::time::Duration::from_secs(5), future)
            .await
            .expect("the connection hangs")
    })
}

/// One to three messages, then up to three edits anywhere.
fn stream(messages: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let messages = prop::collection::vec(prop::sample::select(messages), 1..4);
    let edits = prop::collection::vec(
        (any::<prop::sample::Index>(), 0u8..4, prop::sample::select(SNIPPETS)),
        0..4,
    );
    (messages, edits).prop_map(|(messages, edits)| {
        let mut stream = messages.concat().into_bytes();
        for (at, kind, snippet) in edits {
            edit(&mut stream, at, kind, snippet.as_bytes());
        }
        stream
    })
}

fn edit(stream: &mut Vec<u8>, at: prop::sample::Index, kind: u8, snippet: &[u8]) {
    if stream.is_empty() {
        return;
    }
    let at = at.index(stream.len());
    // Field lines are more telling at the start of a line.
    let line =
        stream[at..].windows(2).position(|two| two == b"\r\n").map_or(at, |end| at + end + 2);
    match kind {
        0 => drop(stream.remove(at)),
        1 => stream[at] = snippet[0],
        2 => drop(stream.splice(at..at, snippet.iter().copied())),
        _ => drop(stream.splice(line..line, snippet.iter().copied())),
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

const EXPECTED: &[ExpectedResponse] =
    &[ExpectedResponse::Normal, ExpectedResponse::Head, ExpectedResponse::Upgrade];

const REQUESTS: &[&str] = &[
    "GET /a HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    "GET http://a.example/x?y=z HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "POST /b HTTP/1.1\r\nHost: b:80\r\nContent-Length: 5\r\n\r\nhello",
    "POST /c HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    "PUT /d HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\na\r\n0123456789\r\n0\r\nT: x\r\nU: y\r\n\r\n",
    "POST /e HTTP/1.1\r\nHost: e\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "CONNECT f:443 HTTP/1.1\r\nHost: f:443\r\n\r\n",
    "CONNECT f:443 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /g HTTP/1.1\r\nHost: g\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "POST /h HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    "GET /i HTTP/1.0\r\nHost: i\r\nConnection: keep-alive\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: j\r\nContent-Length: 0\r\n\r\n",
];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\na\r\n0123456789\r\n0\r\nT: x\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\nuntil the end",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
];

/// What parsers disagree about. The first byte alone replaces a byte.
const SNIPPETS: &[&str] = &[
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    " ",
    "\t",
    ":",
    ",",
    ";",
    ";a=b",
    "0",
    "1",
    "5",
    "a",
    "F",
    "x",
    "\0",
    "\x7f",
    "é",
    "#",
    "\\",
    "/",
    "@",
    "+",
    "-",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.2",
    "Content-Length: 5\r\n",
    "Content-Length: 6\r\n",
    "Content-Length: 0\r\n",
    "content-length : 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding:\tCHUNKED \r\n",
    "Transfer-Encoding: identity\r\n",
    "Host: evil\r\n",
    "Expect: x\r\n",
    "Upgrade: x\r\n",
    "Connection: close\r\n",
    " folded\r\n",
    "X: a\n",
    "0\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
];
