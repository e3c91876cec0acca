//! The request guard, byte by byte.

use super::{super::*, Ending, Peer, cuts, limits, read_all};

const OK: &str = "GET / HTTP/1.1\r\nHost: api.example.com\r\n";

/// A good request, then the bytes under test; the verdict on the second request and how its body ended.
fn verdict(pieces: &[&[u8]]) -> (Result<(), HeadRefusal>, Option<BodyRefusal>, Vec<u8>, Ending) {
    let (mut guard, verdicts) = RequestGuard::new(Peer::sending(pieces.iter().copied()), limits());
    let (passed, ending) = read_all(&mut guard, 64);
    (verdicts.next(), verdicts.body_refusal(), passed, ending)
}

#[test]
fn a_bad_head_is_refused_however_it_is_cut() {
    use HeadRefusal::{Expectation, Malformed as Bad, TargetTooLong, TooManyFields, Version};
    let many = format!("{OK}{}\r\n", "A: b\r\n".repeat(8));
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(64));
    let longer_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(2000));
    let long_value = format!("{OK}X: {}\r\n\r\n", "a".repeat(1100));
    let cases: &[(&[u8], HeadRefusal)] = &[
        // Line ends.
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"GET / HTTP/1.1\nHost: a\n\n", Bad(Malformed::LineEnding)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nContent-Length: 35\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nHost: evil.test\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"GET / HTTP/1.1\r\nX: a\rHost: evil.test\r\nHost: a\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"GET / HTTP/1.1\rHost: evil.test\r\nHost: a\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", Bad(Malformed::LineEnding)),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", Bad(Malformed::LineEnding)),
        // The request line.
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"GET /\r\n", Bad(Malformed::RequestLine)),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Version),
        (b"GET / HTTP/1.9\r\nHost: a\r\n\r\n", Version),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", Bad(Malformed::RequestLine)),
        // The target.
        (b"GET /#/../evil HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"GET /\x80\xff HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"GET /\\evil.test HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"GET http://evil.test\\.wild.test/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"GET /?\" HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"GET /?<> HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"CONNECT evil.test\t.wild.test:443 HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"CONNECT evil.test\x7f.wild.test:443 HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"CONNECT b\xc3\xbccher.test:443 HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"CONNECT evil.test .wild.test:443 HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::RequestLine)),
        (b"CONNECT evil.test#.wild.test:443 HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"CONNECT evil.test/.wild.test:443 HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"CONNECT [::1:443 HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Bad(Malformed::Target)),
        // Fields.
        (b"GET / HTTP/1.1\r\nHost : evil.test\r\nHost: a\r\n\r\n", Bad(Malformed::FieldName)),
        (b"GET / HTTP/1.1\r\n Host: evil.test\r\nHost: a\r\n\r\n", Bad(Malformed::Folded)),
        (b"GET / HTTP/1.1\r\nHost: a\r\n evil.test\r\n\r\n", Bad(Malformed::Folded)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\ttwo\r\n\r\n", Bad(Malformed::Folded)),
        (b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n", Bad(Malformed::Host)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Bad(Malformed::FieldName)),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", Bad(Malformed::FieldName)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\0: x\r\n\r\n", Bad(Malformed::FieldName)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Bad(Malformed::FieldValue)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", Bad(Malformed::FieldValue)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x08\r\n\r\n", Bad(Malformed::FieldValue)),
        // Host.
        (b"GET / HTTP/1.1\r\n\r\n", Bad(Malformed::HostMissing)),
        (b"GET / HTTP/1.0\r\n\r\n", Bad(Malformed::HostMissing)),
        (b"CONNECT a:443 HTTP/1.1\r\n\r\n", Bad(Malformed::HostMissing)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: evil.test\r\n\r\n", Bad(Malformed::HostRepeated)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n", Bad(Malformed::HostRepeated)),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Bad(Malformed::Host)),
        (b"GET / HTTP/1.1\r\nHost: \t \r\n\r\n", Bad(Malformed::Host)),
        (b"GET / HTTP/1.1\r\nHost: a@evil.test\r\n\r\n", Bad(Malformed::Host)),
        (b"GET / HTTP/1.1\r\nHost: a, evil.test\r\n\r\n", Bad(Malformed::Host)),
        (b"GET / HTTP/1.1\r\nHost: a evil.test\r\n\r\n", Bad(Malformed::Host)),
        (b"GET / HTTP/1.1\r\nHost: a/evil\r\n\r\n", Bad(Malformed::Host)),
        (b"GET / HTTP/1.1\r\nHost: a\\evil\r\n\r\n", Bad(Malformed::Host)),
        (b"GET / HTTP/1.1\r\nHost: \xef\xbd\x81pi\r\n\r\n", Bad(Malformed::Host)),
        // Framing.
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Bad(Malformed::ContentLengthRepeated)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", Bad(Malformed::ContentLength)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", Bad(Malformed::ContentLength)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello", Bad(Malformed::ContentLength)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", Bad(Malformed::ContentLength)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello", Bad(Malformed::ContentLength)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Bad(Malformed::ContentLength)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", Bad(Malformed::ContentLength)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Bad(Malformed::TwoFramings)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Bad(Malformed::TwoFramings)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Bad(Malformed::FieldValue)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", Bad(Malformed::FieldName)),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Bad(Malformed::TransferEncodingVersion)),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Bad(Malformed::ConnectBody)),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Bad(Malformed::ConnectBody)),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Bad(Malformed::ConnectBody)),
        // Expectations and limits.
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\nContent-Length: 1\r\n\r\nx", Expectation),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect:\r\nContent-Length: 1\r\n\r\nx", Expectation),
        (many.as_bytes(), TooManyFields),
        (long_target.as_bytes(), TargetTooLong),
        (longer_target.as_bytes(), TargetTooLong),
        (long_value.as_bytes(), HeadRefusal::HeadTooLarge),
    ];
    for (message, refusal) in cases {
        for pieces in cuts(message) {
            let (verdict, body, passed, ending) = verdict(&pieces);
            let case = message.escape_ascii();
            assert_eq!(verdict, Err(*refusal), "{case}");
            assert_eq!((body, ending), (None, Ending::Waiting), "{case}");
            assert!(passed.starts_with(b"GET / HTTP/1.1\r\nhost: refused.invalid\r\n"), "{case}");
            assert!(passed.ends_with(b"\r\nconnection: close\r\n\r\n"), "{case}");
        }
    }
}

#[test]
fn a_bad_chunked_body_is_cut_however_it_arrives() {
    use BodyRefusal::{ChunkEnd, ChunkSize, Trailer, TrailerTooLarge};
    let long_trailer = format!("0\r\nX: {}\r\n\r\n", "a".repeat(1100));
    let many_trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(9));
    let cases: &[(&[u8], BodyRefusal)] = &[
        (b"5\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"\r\n5\r\nhello\r\n", ChunkSize),
        (b"0x5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"+5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b" 5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"5 \r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"5;a=b\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"0;a\r\n\r\n", ChunkSize),
        (b"1;a=\"\r\nX\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n\"\r\nY\r\n0\r\n\r\n", ChunkSize),
        (b"5\r\rhello\r\n0\r\n\r\n", ChunkSize),
        (b"00000000000000005\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"10000000000000005\r\nhello\r\n0\r\n\r\n", ChunkSize),
        (b"5\r\nhelloXX0\r\n\r\n", ChunkEnd),
        (b"5\r\nhello\n0\r\n\r\n", ChunkEnd),
        (b"5\r\nhello\r\r0\r\n\r\n", ChunkEnd),
        (b"0\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", Trailer),
        (b"0\r\nX : y\r\n\r\n", Trailer),
        (b"0\r\n X: y\r\n\r\n", Trailer),
        (b"0\r\nX: y\r\n z\r\n\r\n", Trailer),
        (b"0\r\nX: y\nZ: z\r\n\r\n", Trailer),
        (b"0\r\nX: y\rZ: z\r\n\r\n", Trailer),
        (b"0\r\nX: \0\r\n\r\n", Trailer),
        (b"0\r\n\r\r\n", Trailer),
        (b"0\r\n\n", Trailer),
        (long_trailer.as_bytes(), TrailerTooLarge),
        (many_trailers.as_bytes(), TrailerTooLarge),
    ];
    for (body, refusal) in cases {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
        let message = [head, *body].concat();
        for pieces in cuts(&message) {
            let (verdict, cut, passed, ending) = verdict(&pieces);
            let case = body.escape_ascii();
            assert_eq!((verdict, cut), (Ok(()), Some(*refusal)), "{case}");
            assert_eq!(ending, Ending::Error(std::io::ErrorKind::InvalidData), "{case}");
            assert!(message.starts_with(&passed) && passed.len() >= head.len(), "{case}");
        }
    }
}

#[test]
fn good_requests_pass_byte_for_byte_however_they_are_cut() {
    let stream: Vec<u8> = [
        &b"GET /a?b={}|^` HTTP/1.1\r\nHost: api.example.com:443\r\nX: \xff\xfe\t.\r\nEmpty:\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: [::1]:8080\r\ncontent-LENGTH: 005\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tchunked \r\n\r\n5\r\nhello\r\n0a\r\n0123456789\r\n000\r\nT: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi",
        b"GET http://b.example.com/ HTTP/1.0\r\nHost: a\r\nUpgrade: h2c\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a_b\r\n\r\n",
    ]
    .concat();
    for pieces in cuts(&stream) {
        for room in [1, 7, 4096] {
            let (mut guard, verdicts) =
                RequestGuard::new(Peer::sending(pieces.iter().copied()), limits());
            let (passed, ending) = read_all(&mut guard, room);
            assert_eq!(
                (passed.escape_ascii().to_string(), ending),
                (stream.escape_ascii().to_string(), Ending::Eof)
            );
            assert_eq!(
                [(); 8].map(|()| verdicts.next().is_ok()),
                [true, true, true, true, true, true, true, false]
            );
        }
    }
}

#[test]
fn limits_are_exact() {
    let pass = |message: String| {
        let (verdict, ..) = verdict(&[message.as_bytes()]);
        verdict
    };
    let target = |length: usize| format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", "/".repeat(length));
    assert_eq!((pass(target(64)), pass(target(65))), (Ok(()), Err(HeadRefusal::TargetTooLong)));
    let fields = |count: usize| format!("{OK}{}\r\n", "A: b\r\n".repeat(count - 1));
    assert_eq!((pass(fields(8)), pass(fields(9))), (Ok(()), Err(HeadRefusal::TooManyFields)));
    let head = |length: usize| format!("{OK}X: {}\r\n\r\n", "a".repeat(length - OK.len() - 7));
    assert_eq!((pass(head(1024)), pass(head(1025))), (Ok(()), Err(HeadRefusal::HeadTooLarge)));
}

#[test]
fn a_stream_that_ends_inside_a_message_is_an_error() {
    for message in [
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r",
    ] {
        for pieces in cuts(message.as_bytes()) {
            let (_, _, _, ending) = verdict(&pieces);
            assert_eq!(ending, Ending::Error(std::io::ErrorKind::UnexpectedEof), "{message:?}");
        }
    }
}

#[test]
fn what_follows_a_connect_or_an_upgrade_waits_for_the_answer() {
    let heads = [
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "CONNECT a:443 HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
    ];
    for head in heads {
        let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
        let stream = format!("{head}{next}");
        for pieces in cuts(stream.as_bytes()) {
            let (mut guard, verdicts) =
                RequestGuard::new(Peer::sending(pieces.iter().copied()).then_waiting(), limits());
            verdicts.resume();
            assert_eq!(
                read_all(&mut guard, 64),
                (head.into(), Ending::Waiting),
                "a resume before is no resume"
            );
            assert_eq!(verdicts.next(), Ok(()));
            verdicts.resume();
            assert_eq!(read_all(&mut guard, 64), (next.into(), Ending::Waiting));
            assert_eq!(verdicts.next(), Ok(()));
        }
    }
}

#[test]
fn early_bytes_of_a_tunnel_are_given_back_and_not_shown() {
    let stream = b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n\x16\x03\x01hello";
    let (mut guard, _verdicts) = RequestGuard::new(Peer::sending([&stream[..]]), limits());
    let (passed, ending) = read_all(&mut guard, 4096);
    assert!(passed.ends_with(b"\r\n\r\n") && ending == Ending::Waiting);
    assert_eq!(guard.into_parts().1, &b"\x16\x03\x01hello"[..]);
}

#[test]
fn a_client_that_leaves_while_it_is_held_is_noticed() {
    let stream = b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut guard, _verdicts) = RequestGuard::new(Peer::sending([&stream[..]]), limits());
    assert_eq!(read_all(&mut guard, 4096), (stream.to_vec(), Ending::Eof));
}

#[test]
fn a_request_that_the_guard_did_not_see_is_refused() {
    let (_guard, verdicts) = RequestGuard::new(Peer::sending([]), limits());
    assert_eq!(verdicts.next(), Err(HeadRefusal::OutOfStep));
}

#[test]
fn hyper_reads_every_path_that_passes() {
    for byte in 0x21..0x7f_u8 {
        for target in [[b'/', byte, b'x'], [b'/', b'?', byte]] {
            let head = [b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let (mut guard, verdicts) = RequestGuard::new(Peer::sending([&head[..]]), limits());
            read_all(&mut guard, 4096);
            let passed = verdicts.next().is_ok();
            let read = http::Uri::try_from(&target[..]).is_ok();
            assert!(!passed || read, "{}", target.escape_ascii());
            assert!(passed || !byte.is_ascii_alphanumeric(), "{}", target.escape_ascii());
        }
    }
}
