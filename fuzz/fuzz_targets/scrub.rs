//! Any answer, encoded or not: however it is cut, no value is left in it, and nothing waits longer than it may be part of one.
#![no_main]

mod compose;
mod values;

use std::io::Write as _;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tollgate::config::Limits;
use tollgate::proxy::fuzzing::scrub;
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

fn stream(searched: &Searched, text: &[u8], lengths: &[usize], hide: Hide) {
    let mut whole = Vec::new();
    let (_, hits) = searched.needles.hide(text, text.len(), hide, &mut whole);
    let mut clean = Vec::new();
    let counted =
        scrub(&searched.needles, hide, false, None, compose::pieces(text, lengths), |came, out| {
            if hide == Hide::Mask {
                assert!(out.len() <= came && came - out.len() < searched.needles.longest());
            }
            clean.extend_from_slice(&out[clean.len()..]);
        });
    assert_eq!(counted, Ok(hits));
    assert!(clean == whole, "{} {}", clean.escape_ascii(), whole.escape_ascii());
    searched.assert_none_in(&clean);
    assert!(hide == Hide::Replace || clean.len() == text.len());
    assert!(clean.len() <= text.len() + text.len() / 12 * SealedToken::LEN);
}

fn encoded(searched: &Searched, text: &[u8], lengths: &[usize], hide: Hide) {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text).unwrap();
    let body = gzip.finish().unwrap();
    let limits = Limits { decoded_ratio: u32::MAX, ..Limits::default() };
    let mut whole = Vec::new();
    searched.needles.hide(text, text.len(), hide, &mut whole);
    let mut clean = Vec::new();
    let encoding = Some(("gzip", &limits));
    scrub(&searched.needles, hide, false, encoding, compose::pieces(&body, lengths), |_, out| {
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
    scrub(&searched.needles, Hide::Mask, true, None, pieces, |came, out| {
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
