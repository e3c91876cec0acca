//! Any answer, encoded or not: however it is cut, no value is left in it, and nothing waits longer than it may be part of one.
#![no_main]

mod compose;
mod values;

use std::io::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tollgate::config::Limits;
use tollgate::policy::Denial;
use tollgate::proxy::AnswerPieces;
use tollgate::secret::{Hide, SealedToken};

use self::values::Searched;

static SEARCHED: LazyLock<[Searched; 2]> = LazyLock::new(|| [Searched::plain(), Searched::odd()]);

fuzz_target!(|data: &[u8]| {
    let [how, data @ ..] = data else { return };
    let Some((lengths, data)) = compose::split(data) else { return };
    let searched = &SEARCHED[usize::from(how & 1)];
    let hide = if how & 2 == 0 { Hide::Replace } else { Hide::Mask };
    if how & 12 == 12 {
        messages(searched, data, &lengths);
    } else {
        let text = compose::text(data, &searched.snippets);
        stream(searched, &text, &lengths, hide);
        if how & 12 == 4 {
            encoded(searched, &text, &lengths, hide);
        }
    }
});

/// Scrubs a body that comes in these pieces under this header field. `told` hears how much came in and what came out of it after every piece;
/// gives how many values were hidden.
fn scrub<'p>(
    searched: &Searched,
    hide: Hide,
    field: Option<(HeaderName, &'static str)>,
    pieces: impl IntoIterator<Item = &'p [u8]>,
    mut told: impl FnMut(usize, &[u8]),
) -> Result<u64, Denial> {
    let limits = Limits { decoded_ratio: u32::MAX, ..Limits::default() };
    let field = field.map(|(name, value)| (name, HeaderValue::from_static(value)));
    let headers = HeaderMap::from_iter(field);
    let mut body = AnswerPieces::of(searched.needles.clone(), hide, &headers, &limits)?;
    let (mut came, mut out) = (0, Vec::new());
    for piece in pieces {
        body.push(&Bytes::copy_from_slice(piece));
        came += piece.len();
        drain(&mut body, &mut out)?;
        told(came, &out);
    }
    body.finish();
    drain(&mut body, &mut out)?;
    told(came, &out);
    Ok(body.hidden())
}

fn drain(body: &mut AnswerPieces, out: &mut Vec<u8>) -> Result<(), Denial> {
    while let Some(piece) = body.next()? {
        out.extend_from_slice(&piece);
    }
    Ok(())
}

fn stream(searched: &Searched, text: &[u8], lengths: &[usize], hide: Hide) {
    let mut whole = Vec::new();
    let (_, hits) = searched.needles.hide(text, text.len(), hide, &mut whole);
    let mut clean = Vec::new();
    let counted = scrub(searched, hide, None, compose::pieces(text, lengths), |came, out| {
        if hide == Hide::Mask {
            assert!(out.len() <= came && came - out.len() < searched.needles.longest());
        }
        clean.extend_from_slice(&out[clean.len()..]);
    });
    assert_eq!(counted.unwrap(), hits);
    assert!(clean == whole, "{} {}", clean.escape_ascii(), whole.escape_ascii());
    searched.assert_none_in(&clean);
    assert!(hide == Hide::Replace || clean.len() == text.len());
    assert!(clean.len() <= text.len() + text.len() / 12 * SealedToken::LEN);
}

fn encoded(searched: &Searched, text: &[u8], lengths: &[usize], hide: Hide) {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text).unwrap();
    let body = gzip.finish().unwrap();
    let mut whole = Vec::new();
    searched.needles.hide(text, text.len(), hide, &mut whole);
    let mut clean = Vec::new();
    let coding = Some((CONTENT_ENCODING, "gzip"));
    scrub(searched, hide, coding, compose::pieces(&body, lengths), |_, out| {
        clean.extend_from_slice(&out[clean.len()..]);
    })
    .unwrap();
    assert!(clean == whole);
}

/// gRPC messages leave when they are whole, and none holds a value.
fn messages(searched: &Searched, data: &[u8], lengths: &[usize]) {
    let mut body = Vec::new();
    let mut ends = vec![0];
    for message in data.split(|byte| *byte == 0xff) {
        let message = compose::text(message, &searched.snippets);
        body.push(0);
        body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&message);
        ends.push(body.len());
    }
    let mut clean = Vec::new();
    let pieces = compose::pieces(&body, lengths);
    let grpc = Some((CONTENT_TYPE, "application/grpc"));
    scrub(searched, Hide::Mask, grpc, pieces, |came, out| {
        let whole = ends.iter().filter(|end| **end <= came).max().unwrap();
        assert!(out.len() >= *whole && out.len() <= came);
        clean.extend_from_slice(&out[clean.len()..]);
    })
    .unwrap();
    assert_eq!(clean.len(), body.len());
    for range in ends.windows(2) {
        searched.assert_none_in(&clean[range[0] + 5..range[1]]);
    }
}
