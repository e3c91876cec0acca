//! What it costs to search a request's body for tokens and to open them: by how many tokens a sandbox holds, by kind of body, and whether it
//! streams or is rewritten whole. The length is the same everywhere, and so is the one token in the middle.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

#[expect(dead_code, reason = "other benches use the rest")]
mod setup;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tollgate::config::{ByteSize, Limits};
use tollgate::proxy::{BodyPieces, open_body};

/// What one read of a body gives.
const PIECE: usize = 16 * 1024;

/// How often a kind's record is repeated on either side of the token.
const HALF: usize = 512 * 1024;

fn body(c: &mut Criterion) {
    for count in [1, 20, 500] {
        opening(c, &format!("body/{count}"), count, None);
        opening(c, &format!("body/{count}/shaped"), count, Some("ghp_{sealed:36}"));
    }
}

fn opening(c: &mut Criterion, name: &str, count: u64, shape: Option<&str>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _inside = runtime.enter();
    let (session, permit) = setup::session(&setup::policy(count, shape));
    let limits = Limits { buffered_body: ByteSize::mib(8), ..Limits::default() };
    let token = session.secrets().first().expect("a secret").token.as_str();
    let mut group = c.benchmark_group(name);
    for (kind, content_type, body) in bodies(token) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        group.throughput(Throughput::Bytes(body.len() as u64));
        let pieces = || {
            let pieces = BodyPieces::of(&session, &permit, &headers, &limits);
            runtime.block_on(pieces).expect("values")
        };
        group.bench_function(format!("{kind}/stream"), |b| {
            b.iter_batched_ref(
                pieces,
                |pieces| {
                    for piece in body.chunks(PIECE) {
                        let mut out = Vec::with_capacity(piece.len() + 256);
                        pieces.push(black_box(piece), &mut out).expect("opened");
                        black_box(out);
                    }
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("{kind}/whole"), |b| {
            b.iter(|| {
                let opened = open_body(&session, &permit, &headers, &limits, black_box(&body));
                runtime.block_on(opened).expect("opened")
            });
        });
    }
    group.finish();
}

fn bodies(token: &str) -> [(&'static str, &'static str, Vec<u8>); 6] {
    let json = "{\"role\": \"user\", \"content\": \"say \\\"hello\\\" to\\nall of them\"},\n";
    let form = "name=some%20words%2C+and+more&address=12+Long+Street%0ATown&";
    let part = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nsome text of a file\r\n";
    [
        ("raw", "text/plain", around("all the words of a text, one after the other\n", token)),
        ("json", "application/json", around(json, &format!("\"{token}\","))),
        ("form", "application/x-www-form-urlencoded", around(form, &format!("key={token}&"))),
        ("multipart", "multipart/form-data; boundary=x", around(part, token)),
        ("upload", "multipart/related; boundary=x", upload(&around(json, token))),
        ("grpc", "application/grpc", around_messages(token)),
    ]
}

fn around(record: &str, token: &str) -> Vec<u8> {
    let half = record.repeat(HALF / record.len());
    [&half, token, &half].concat().into_bytes()
}

/// One part of JSON, as an upload has it beside its file.
fn upload(json: &[u8]) -> Vec<u8> {
    let head = b"--x\r\nContent-Type: application/json\r\n\r\n";
    [head, json, b"\r\n--x--\r\n"].concat()
}

/// Messages of one field each, of a kibibyte.
fn around_messages(token: &str) -> Vec<u8> {
    let message = |text: &str| {
        let length = u16::try_from(text.len()).expect("a short text");
        let ([low, _], [high, _]) =
            ((length & 0x7f | 0x80).to_le_bytes(), (length >> 7).to_le_bytes());
        let field = [&[0x0a, low, high], text.as_bytes()].concat();
        let length = u32::try_from(field.len()).expect("a short message");
        [&[0][..], &length.to_be_bytes(), &field].concat()
    };
    let half = message(&"some text of a message, ".repeat(43)).repeat(HALF / 1024);
    let opened = message(&format!("{token}{}", " and a text".repeat(80)));
    [half.as_slice(), &opened, &half].concat()
}

criterion_group!(benches, body);
criterion_main!(benches);
