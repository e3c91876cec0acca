//! What it costs to search answers for values and to hide them, by how many values a sandbox holds.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tollgate::secret::{Hide, Needles, SealKey, SecretValue};

/// What one read of an answer gives.
const PIECE: usize = 16 * 1024;

fn scrub(c: &mut Criterion) {
    let text = "{\"id\": 4711, \"name\": \"user-2f3a\", \"tags\": [\"alpha\", \"beta\"]},\n"
        .repeat(PIECE / 64);
    let hex: String =
        (0..text.len() as u64 / 16).map(|nth| format!("{:016x}", mixed(nth))).collect();
    for count in [1, 20, 500] {
        let needles = needles(count);
        let mut group = c.benchmark_group(format!("scrub/{count}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("scan json", |b| b.iter(|| needles.is_in(black_box(text.as_bytes()))));
        group.bench_function("scan hex", |b| b.iter(|| needles.is_in(black_box(hex.as_bytes()))));
        let echo = format!("{}{}", text.split_at(PIECE / 2).0, value(0)).repeat(2);
        group.bench_function("hide two", |b| {
            let mut out = Vec::with_capacity(2 * PIECE);
            b.iter(|| {
                out.clear();
                needles.hide(black_box(echo.as_bytes()), echo.len(), Hide::Replace, &mut out)
            });
        });
        group.finish();
        let mut head = head();
        c.bench_function(&format!("scrub/{count}/head"), |b| {
            b.iter(|| needles.scrub_headers(black_box(&mut head)));
        });
    }
}

fn needles(count: u64) -> Needles {
    let key = SealKey::new(&[1; 32]);
    let id = "sb".parse().expect("an id");
    let sealed = |nth: u64| {
        let token = key.seal(&id, 0, &format!("KEY_{nth}").parse().expect("a name"));
        (token, Arc::new(SecretValue::new(value(nth).into_bytes()).expect("a value")))
    };
    Needles::new(&(0..count).map(sealed).collect::<Vec<_>>())
}

/// Forty characters that look drawn at random.
fn value(nth: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |at: u64| {
        let drawn = usize::try_from(mixed(nth * 40 + at) >> 58).expect("six bits");
        char::from(*LETTERS.get(drawn).expect("one of 64"))
    };
    (0..40).map(letter).collect()
}

/// The mixer of splitmix64.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
