//! What was encoded is read again however it is cut, when it is flushed, and only within its bounds.

use std::io::Write as _;

use super::*;

const CODINGS: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

const BOUNDS: Bounds = Bounds { most: 1 << 30, ratio: 1000, free: 1 << 20 };

/// A text and how a server sends it.
fn encoded(coding: Coding, text: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match coding {
        Coding::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        Coding::Deflate => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), level);
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        Coding::Brotli => {
            let mut out = Vec::new();
            brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(text).unwrap();
            out
        }
        Coding::Zstd => zstd::encode_all(text, 3).unwrap(),
    }
}

/// Decodes pieces to the end.
fn decoded<'a>(
    coding: Coding,
    bounds: Bounds,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Unreadable> {
    let mut decoder = Decoder::new(coding, bounds)?;
    let mut out = Vec::new();
    for piece in pieces {
        decoder.push(&Bytes::copy_from_slice(piece));
        while let Some(piece) = decoder.next()? {
            out.extend_from_slice(&piece);
        }
    }
    decoder.finish()?;
    Ok(out)
}

fn text() -> Vec<u8> {
    (0..20_000_u32)
        .flat_map(|nth| format!("{} ", nth.wrapping_mul(2_654_435_761)).into_bytes())
        .collect()
}

#[test]
fn every_coding_is_read_however_it_is_cut() {
    let text = text();
    for coding in CODINGS {
        let body = encoded(coding, &text);
        for size in [1, 7, 1000, body.len()] {
            assert!(
                decoded(coding, BOUNDS, body.chunks(size)).unwrap() == text,
                "{coding:?} {size}"
            );
        }
        assert_eq!(decoded(coding, BOUNDS, []), Ok(Vec::new()));
    }
}

#[test]
fn gzip_members_and_zstd_frames_follow_each_other() {
    for coding in [Coding::Gzip, Coding::Zstd] {
        let body =
            [encoded(coding, b"one "), encoded(coding, b""), encoded(coding, b"two")].concat();
        for size in [1, body.len()] {
            assert_eq!(decoded(coding, BOUNDS, body.chunks(size)).unwrap(), b"one two");
        }
    }
}

#[test]
fn a_bare_deflate_stream_is_read_too() {
    let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(b"some text, some text").unwrap();
    let body = out.finish().unwrap();
    assert_eq!(decoded(Coding::Deflate, BOUNDS, body.chunks(1)).unwrap(), b"some text, some text");
}

#[test]
fn what_is_cut_or_damaged_is_refused() {
    let text = text();
    for coding in CODINGS {
        let body = encoded(coding, &text);
        let cut = decoded(coding, BOUNDS, [&body[..body.len() - 1]]);
        assert!(cut.is_err(), "{coding:?}: {cut:?}");
        let mut damaged = body.clone();
        damaged[..4].fill(0xff);
        assert!(decoded(coding, BOUNDS, [&damaged[..]]).is_err(), "{coding:?}");
    }
}

#[test]
fn what_an_upstream_flushes_is_read_at_once() {
    let event = b"data: one\n\n";
    let flushed = |coding| -> Vec<u8> {
        let level = flate2::Compression::default();
        match coding {
            Coding::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
                out.write_all(event).and_then(|()| out.flush()).unwrap();
                out.get_ref().clone()
            }
            Coding::Deflate => {
                let mut out = flate2::write::ZlibEncoder::new(Vec::new(), level);
                out.write_all(event).and_then(|()| out.flush()).unwrap();
                out.get_ref().clone()
            }
            Coding::Brotli => {
                let mut out = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
                out.write_all(event).and_then(|()| out.flush()).unwrap();
                out.get_ref().clone()
            }
            Coding::Zstd => {
                let mut out = zstd::Encoder::new(Vec::new(), 3).unwrap();
                out.write_all(event).and_then(|()| out.flush()).unwrap();
                out.get_ref().clone()
            }
        }
    };
    for coding in CODINGS {
        let mut decoder = Decoder::new(coding, BOUNDS).unwrap();
        decoder.push(&Bytes::from(flushed(coding)));
        assert_eq!(decoder.next().unwrap().as_deref(), Some(&event[..]), "{coding:?}");
        assert_eq!(decoder.next(), Ok(None));
        assert_eq!(decoder.finish(), Err(Unreadable::Truncated));
    }
}

#[test]
fn a_bomb_is_refused_by_its_ratio_and_by_its_size() {
    let bomb = vec![0; 8 << 20];
    for coding in CODINGS {
        let body = encoded(coding, &bomb);
        let dense = Bounds { ratio: 100, ..BOUNDS };
        assert_eq!(decoded(coding, dense, [&body[..]]), Err(Unreadable::TooDense(100)));
        let long = Bounds { most: 2 << 20, ratio: 1 << 30, ..BOUNDS };
        assert_eq!(decoded(coding, long, [&body[..]]), Err(Unreadable::TooLong(2 << 20)));
        let free = Bounds { ratio: 100, free: 8 << 20, ..BOUNDS };
        assert!(decoded(coding, free, [&body[..]]).unwrap() == bomb, "{coding:?}");
    }
}

#[test]
fn one_known_coding_is_read_and_all_else_is_refused() {
    let of = |fields: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CONTENT_ENCODING, http::HeaderValue::from_static(field));
        }
        Coding::of(&headers)
    };
    for (fields, coding) in [
        (&[][..], Ok(None)),
        (&["identity"], Ok(None)),
        (&[""], Ok(None)),
        (&["GZIP"], Ok(Some(Coding::Gzip))),
        (&["x-gzip"], Ok(Some(Coding::Gzip))),
        (&["identity, br"], Ok(Some(Coding::Brotli))),
        (&["deflate"], Ok(Some(Coding::Deflate))),
        (&["zstd"], Ok(Some(Coding::Zstd))),
        (&["gzip, gzip"], Err(Unreadable::Stacked)),
        (&["gzip", "br"], Err(Unreadable::Stacked)),
        (&["compress"], Err(Unreadable::Unknown)),
        (&["dcz"], Err(Unreadable::Unknown)),
        (&["gzip, x-foo"], Err(Unreadable::Unknown)),
    ] {
        assert_eq!(of(fields), coding, "{fields:?}");
    }
}
