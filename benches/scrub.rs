//! What it costs to search answers for values and to hide them, by how many values a sandbox holds and by what an answer is made of.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

#[expect(dead_code, reason = "other benches use the rest")]
mod setup;

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use tollgate::config::Limits;
use tollgate::proxy::AnswerPieces;
use tollgate::secret::{Hide, Needles};

/// What one read of an answer gives.
const PIECE: usize = 16 * 1024;

/// The length of an answer, once it is decoded.
const LENGTH: usize = 1 << 20;

fn scrub(c: &mut Criterion) {
    let (text, json, hex) = (text(PIECE), json(PIECE), hex(PIECE));
    for count in [1, 20, 500] {
        let needles = setup::needles(count);
        let mut group = c.benchmark_group(format!("scrub/{count}"));
        group.throughput(Throughput::Bytes(PIECE as u64));
        for (what, piece) in [("text", &text), ("json", &json), ("hex", &hex)] {
            group.bench_function(format!("scan {what}"), |b| {
                b.iter(|| needles.is_in(black_box(piece)));
            });
        }
        let half = json.get(..PIECE / 2).expect("half");
        let echo = [half, setup::value(0).as_bytes()].concat().repeat(2);
        group.bench_function("hide two", |b| {
            let mut out = Vec::with_capacity(2 * PIECE);
            b.iter(|| {
                out.clear();
                needles.hide(black_box(&echo), echo.len(), Hide::Replace, &mut out)
            });
        });
        group.finish();
        let mut head = head();
        c.bench_function(&format!("scrub/{count}/head"), |b| {
            b.iter(|| needles.scrub_headers(black_box(&mut head)));
        });
        streams(c, count, &Arc::new(needles));
    }
}

/// Whole answers as they stream, pieces in and pieces out; throughput is that of the decoded text.
fn streams(c: &mut Criterion, count: u64, needles: &Arc<Needles>) {
    let mut group = c.benchmark_group(format!("scrub/{count}/stream"));
    group.throughput(Throughput::Bytes(LENGTH as u64));
    for (what, body) in [("text", text(LENGTH)), ("json", json(LENGTH)), ("hex", hex(LENGTH))] {
        let body = pieces(&body);
        group.bench_function(what, |b| b.iter(|| streamed(needles, "identity", &body)));
    }
    let json = json(LENGTH);
    for coding in ["gzip", "br", "zstd"] {
        let body = pieces(&setup::encoded(coding, &json));
        group.bench_function(format!("json {coding}"), |b| {
            b.iter(|| streamed(needles, coding, &body));
        });
    }
    group.finish();
}

fn streamed(needles: &Arc<Needles>, coding: &str, pieces: &[Bytes]) -> usize {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_str(coding).expect("a coding"));
    let answer = AnswerPieces::of(needles.clone(), Hide::Replace, &headers, &Limits::default());
    let mut answer = answer.expect("a coding that is read");
    let mut length = 0;
    for piece in pieces {
        answer.push(piece);
        while let Some(piece) = answer.next().expect("readable") {
            length += black_box(piece).len();
        }
    }
    answer.finish();
    while let Some(piece) = answer.next().expect("readable") {
        length += black_box(piece).len();
    }
    length
}

fn pieces(body: &[u8]) -> Vec<Bytes> {
    body.chunks(PIECE).map(Bytes::copy_from_slice).collect()
}

/// Records that are alike and not the same, as an API sends them.
fn json(length: usize) -> Vec<u8> {
    let record = |nth: u64| {
        let drawn = setup::mixed(nth);
        format!(
            "{{\"id\": {nth}, \"name\": \"user-{:04x}\", \"tags\": [\"alpha\", \"beta\"], \"score\": {}}},\n",
            drawn & 0xffff,
            drawn >> 50
        )
    };
    cut((0..).map(record), length)
}

/// Words of text.
fn text(length: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["the ", "answers ", "of ", "a ", "server\n", "are ", "mostly ", "words, "];
    let word = |nth: u64| {
        let drawn = usize::try_from(setup::mixed(nth) >> 61).expect("three bits");
        (*WORDS.get(drawn).expect("one of 8")).to_owned()
    };
    cut((0..).map(word), length)
}

/// Digits in which no space ends a run.
fn hex(length: usize) -> Vec<u8> {
    cut((0..).map(|nth| format!("{:016x}", setup::mixed(nth))), length)
}

fn cut(stretches: impl Iterator<Item = String>, length: usize) -> Vec<u8> {
    stretches.flat_map(String::into_bytes).take(length).collect()
}

fn head() -> HeaderMap {
    let fields = [
        ("content-type", "application/json; charset=utf-8"),
        ("content-length", "1048576"),
        ("date", "Tue, 24 Nov 2026 08:00:00 GMT"),
        ("etag", "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
        ("cache-control", "private, max-age=60, s-maxage=60"),
        ("vary", "Accept, Authorization, Cookie, X-Requested-With"),
        ("x-request-id", "0123456789abcdef"),
        ("strict-transport-security", "max-age=31536000; includeSubdomains; preload"),
    ];
    let field = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    fields.into_iter().map(field).collect()
}

criterion_group!(benches, scrub);
criterion_main!(benches);
