//! What an open stream holds while a body is searched: resident memory of many streams in the middle of their bodies, over their number.
//!
//! Only the engines are measured, without sockets, TLS or HTTP; the C code of a decoder counts too. Each figure comes from a process of its
//! own, since memory that is freed is not always given back.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

mod setup;

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use tollgate::config::Limits;
use tollgate::proxy::{AnswerPieces, BodyPieces};
use tollgate::secret::Hide;

/// How many streams are open at once.
const STREAMS: usize = 1000;

/// What came of every body: enough that each buffer has the size that it keeps.
const CAME: usize = 256 * 1024;

const PIECE: usize = 16 * 1024;

const BODIES: [&str; 4] =
    ["text/plain", "application/json", "application/x-www-form-urlencoded", "application/grpc"];

const CODINGS: [&str; 4] = ["identity", "gzip", "br", "zstd"];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    if let (Some(what), Some(secrets)) = (arguments.next(), arguments.next()) {
        let held = measure(&what, secrets.parse().expect("a number"));
        return say(&held.to_string());
    }
    say(
        "resident bytes of one open stream, by what its body is and how many secrets its sandbox has:",
    );
    for (way, kinds) in [("out", BODIES), ("back", CODINGS)] {
        for kind in kinds {
            let held = [1, 20, 500].map(|secrets: u64| {
                let of = std::env::current_exe().expect("this program");
                let run = Command::new(of).args([kind, &secrets.to_string()]).output();
                let run = run.expect("a process of its own");
                assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
                String::from_utf8_lossy(&run.stdout).trim().to_owned()
            });
            let [one, twenty, many] = held;
            say(&format!("{way:4} {kind:34} 1: {one:>7}   20: {twenty:>7}   500: {many:>7}"));
        }
    }
}

fn measure(what: &str, secrets: u64) -> usize {
    if CODINGS.contains(&what) { answers(what, secrets) } else { bodies(what, secrets) }
}

fn bodies(content_type: &str, secrets: u64) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _inside = runtime.enter();
    let (session, permit) = setup::session(&setup::policy(secrets, None));
    let (limits, mut headers) = (Limits::default(), HeaderMap::new());
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a type"));
    // One message of gRPC that is not whole yet; to any other kind it is text that ends in the beginning of a token.
    let mut body = vec![b'x'; CAME];
    body.splice(..5, [0, 0, 8, 0, 0]);
    body.extend_from_slice(b"osb_sealed_0123456789");
    let open = || {
        let stream = BodyPieces::of(&session, &permit, &headers, &limits);
        let mut stream = runtime.block_on(stream).expect("values");
        for piece in body.chunks(PIECE) {
            stream.push(piece, &mut Vec::new()).expect("opened");
        }
        stream
    };
    held_by(open)
}

fn answers(coding: &str, secrets: u64) -> usize {
    let needles = Arc::new(setup::needles(secrets));
    let (limits, mut headers) = (Limits::default(), HeaderMap::new());
    headers.insert(CONTENT_ENCODING, HeaderValue::from_str(coding).expect("a coding"));
    let digits: String =
        (0..CAME as u64 / 16).map(|nth| format!("{:016x}", setup::mixed(nth))).collect();
    let mut body = setup::encoded(coding, digits.as_bytes());
    // The end of the body is still to come.
    body.truncate(body.len() - 16);
    let body: Vec<Bytes> = body.chunks(PIECE).map(Bytes::copy_from_slice).collect();
    let open = || {
        let stream = AnswerPieces::of(needles.clone(), Hide::Replace, &headers, &limits);
        let mut stream = stream.expect("a coding that is read");
        for piece in &body {
            stream.push(piece);
            while stream.next().expect("readable").is_some() {}
        }
        stream
    };
    held_by(open)
}

/// The first streams pay for what all share.
fn held_by<S>(open: impl Fn() -> S) -> usize {
    let first: Vec<S> = (0..STREAMS / 10).map(|_| open()).collect();
    let before = resident();
    let streams: Vec<S> = (0..STREAMS).map(|_| open()).collect();
    let after = resident();
    drop((first, streams));
    after.saturating_sub(before) / STREAMS
}

/// What the kernel counts as this process's own memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a figure");
    let kib = line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number");
    kib * 1024
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("a reader");
}
