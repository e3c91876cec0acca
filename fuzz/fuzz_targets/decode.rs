//! Any bytes as an encoded body: never more than its bounds comes out, the same in pieces, and what was encoded whole or cut short is told.
#![no_main]

mod compose;

use std::io::Write as _;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tollgate::config::{ByteSize, Limits};
use tollgate::policy::Denial;
use tollgate::proxy::AnswerPieces;
use tollgate::secret::{Hide, Needles};

const CODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

const MOST: usize = 64 * 1024;
const RATIO: u32 = 20;
const FREE: usize = 4 * 1024;

fuzz_target!(|data: &[u8]| {
    let [how, data @ ..] = data else { return };
    let Some((lengths, data)) = compose::split(data) else { return };
    let coding = CODINGS[usize::from(*how % 4)];
    match how & 12 {
        0 | 8 => any(coding, data, &lengths),
        4 => encoded(coding, data, &lengths, usize::from(how >> 4)),
        _ => followed(coding, data, &lengths),
    }
});

/// What comes out of a body of this coding that comes in these pieces and, if it was cut, why. Nothing is searched for in it.
fn decode<'p>(
    coding: &str,
    limits: &Limits,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (Vec<u8>, Result<(), Denial>) {
    static NEEDLES: LazyLock<Arc<Needles>> = LazyLock::new(|| Arc::new(Needles::new(&[])));
    let headers =
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_str(coding).unwrap())]);
    let mut body = AnswerPieces::of(NEEDLES.clone(), Hide::Mask, &headers, limits).unwrap();
    let mut out = Vec::new();
    let mut take = |body: &mut AnswerPieces| {
        while let Some(piece) = body.next()? {
            out.extend_from_slice(&piece);
        }
        Ok(())
    };
    let mut ended = Ok(());
    for piece in pieces {
        body.push(&Bytes::copy_from_slice(piece));
        ended = take(&mut body);
        if ended.is_err() {
            return (out, ended);
        }
    }
    body.finish();
    ended = ended.and_then(|()| take(&mut body));
    (out, ended)
}

fn limits(most: usize, ratio: u32) -> Limits {
    Limits {
        decoded_body: ByteSize::bytes(most),
        decoded_ratio: ratio,
        buffered_body: ByteSize::bytes(FREE),
        ..Limits::default()
    }
}

fn any(coding: &str, body: &[u8], lengths: &[usize]) {
    let limits = limits(MOST, RATIO);
    let (whole, whole_end) = decode(coding, &limits, [body]);
    let (pieces, end) = decode(coding, &limits, compose::pieces(body, lengths));
    for out in [&whole, &pieces] {
        assert!(out.len() <= MOST);
        assert!(out.len() <= FREE || out.len() / RATIO as usize <= body.len());
    }
    let common = whole.len().min(pieces.len());
    assert!(whole[..common] == pieces[..common]);
    // How much was read before a piece came out depends on the cuts, and with it the ratio there.
    let dense = |end: &Result<(), Denial>| {
        end.as_ref().is_err_and(|denial| denial.hint.contains("limits.decodedRatio"))
    };
    if !dense(&whole_end) && !dense(&end) {
        assert_eq!(whole_end.is_ok(), end.is_ok(), "{whole_end:?} {end:?}");
        assert!(whole_end.is_err() || whole == pieces);
    }
}

fn encoded(coding: &str, data: &[u8], lengths: &[usize], cut: usize) {
    let text = compose::text(data, &[b"some text that comes again and again, ".to_vec()]);
    let body = encode(coding, &text);
    let limits = limits(1 << 24, u32::MAX);
    let (out, end) = decode(coding, &limits, compose::pieces(&body, lengths));
    assert!(end.is_ok() && out == text, "{end:?}");
    let short = &body[..body.len() - cut.min(body.len())];
    let (out, end) = decode(coding, &limits, compose::pieces(short, lengths));
    assert!(text.starts_with(&out));
    assert_eq!(end.is_ok(), cut == 0 || short.is_empty(), "{end:?}");
}

/// What follows the end of a body is another one or nothing, wherever the cuts are.
fn followed(coding: &str, data: &[u8], lengths: &[usize]) {
    let mut parts = data.splitn(2, |byte| *byte == 0xff);
    let text = parts.next().unwrap_or_default();
    let mut body = encode(coding, text);
    body.extend_from_slice(parts.next().unwrap_or_default());
    let limits = limits(1 << 24, u32::MAX);
    let (whole, whole_end) = decode(coding, &limits, [body.as_slice()]);
    let (pieces, end) = decode(coding, &limits, compose::pieces(&body, lengths));
    assert!(whole.starts_with(text) || whole_end.is_err());
    assert_eq!(whole_end.is_ok(), end.is_ok(), "{whole_end:?} {end:?}");
    assert!(whole_end.is_err() || whole == pieces);
}

fn encode(coding: &str, text: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::fast();
    match coding {
        "gzip" => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        "deflate" => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), level);
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        "br" => {
            let mut out = Vec::new();
            brotli::CompressorWriter::new(&mut out, 4096, 1, 18).write_all(text).unwrap();
            out
        }
        _ => zstd::encode_all(text, 1).unwrap(),
    }
}
