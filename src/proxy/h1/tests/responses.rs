//! The response guard, byte by byte.

use std::{io::ErrorKind, pin::Pin, task::Context};

use tokio::io::AsyncWrite;

use super::{super::*, Ending, Peer, cuts, limits, read_all};

/// A guard whose peer has got one request and sends `pieces`.
fn asked(
    expected: ExpectedResponse,
    pieces: &[&[u8]],
) -> (ResponseGuard<Peer>, ResponseExpectations) {
    let (mut guard, expectations) =
        ResponseGuard::new(Peer::sending(pieces.iter().copied()), limits());
    expectations.push(expected);
    ask(&mut guard);
    (guard, expectations)
}

fn ask(guard: &mut ResponseGuard<Peer>) {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(Pin::new(guard).poll_write(&mut cx, b"GET").is_ready());
}

#[test]
fn a_bad_response_kills_the_connection_however_it_is_cut() {
    use ResponseRefusal::{
        Body, HeadTooLarge, Malformed as Bad, TooManyFields, TooManyInterim, UnexpectedSwitch,
    };
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(9));
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(1024));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(33);
    let cases: &[(&[u8], ResponseRefusal)] = &[
        (b"HTTP/1.1 20 OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"HTTP/1.1 2000 OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"HTTP/1.1 099 OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"HTTP/1.1  200 OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"HTTP/1.1 200OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"HTTP/1.1 200 O\x00K\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"HTTP/2.0 200 OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"http/1.1 200 OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"ICY 200 OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", Bad(Malformed::StatusLine)),
        (b"HTTP/1.1 200 OK\nX: y\n\n", Bad(Malformed::LineEnding)),
        (b"HTTP/1.1 200 OK\r\nX: y\nZ: z\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"HTTP/1.1 200 OK\r\nX: y\rZ: z\r\n\r\n", Bad(Malformed::LineEnding)),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", Bad(Malformed::Folded)),
        (b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", Bad(Malformed::FieldName)),
        (b"HTTP/1.1 200 OK\r\nX: \x01\r\n\r\n", Bad(Malformed::FieldValue)),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            Bad(Malformed::ContentLengthRepeated),
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", Bad(Malformed::ContentLength)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\nhello", Bad(Malformed::ContentLength)),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            Bad(Malformed::TwoFramings),
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Bad(Malformed::TransferEncoding)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Bad(Malformed::TransferEncoding),
        ),
        (
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Bad(Malformed::TransferEncodingVersion),
        ),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", UnexpectedSwitch),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\nhello\r\n0\r\n\r\n",
            Body(BodyRefusal::ChunkSize),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
            Body(BodyRefusal::ChunkSize),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
            Body(BodyRefusal::ChunkEnd),
        ),
        (many.as_bytes(), TooManyFields),
        (large.as_bytes(), HeadTooLarge),
        (interim.as_bytes(), TooManyInterim),
    ];
    for (message, refusal) in cases {
        for pieces in cuts(message) {
            let (mut guard, expectations) = asked(ExpectedResponse::Normal, &pieces);
            let (_, ending) = read_all(&mut guard, 64);
            let case = message.escape_ascii();
            assert_eq!(ending, Ending::Error(ErrorKind::InvalidData), "{case}");
            assert_eq!(expectations.refusal(), Some(*refusal), "{case}");
        }
    }
}

#[test]
fn good_responses_pass_byte_for_byte_however_they_are_cut() {
    use ExpectedResponse::{Head, Normal, Upgrade};
    let cases: &[(ExpectedResponse, &[u8])] = &[
        (Normal, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        (Normal, b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
        (Normal, b"HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n"),
        (Normal, b"HTTP/1.1 200 caf\xe9\r\nTransfer-Encoding: CHUNKED\r\n\r\nA\r\n0123456789\r\n00\r\nX-T: y\r\n\r\n"),
        (Normal, b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
        (Normal, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        (Head, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (Head, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (Normal, b"HTTP/1.0 200 OK\r\n\r\nuntil the end"),
        (Upgrade, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\x81\x05hello\n\r\n"),
        (Upgrade, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
    ];
    for (expected, message) in cases {
        for pieces in cuts(message) {
            let (mut guard, expectations) = asked(*expected, &pieces);
            let (passed, ending) = read_all(&mut guard, 7);
            assert_eq!(
                (passed, ending),
                (message.to_vec(), Ending::Eof),
                "{}",
                message.escape_ascii()
            );
            assert_eq!(expectations.refusal(), None);
        }
    }
}

#[test]
fn a_second_response_to_one_request_is_never_kept_for_the_next() {
    let once = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
    let twice = [once, &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"[..]].concat();
    for pieces in cuts(&twice) {
        let (mut guard, expectations) = asked(ExpectedResponse::Normal, &pieces);
        let (passed, ending) = read_all(&mut guard, once.len());
        assert_eq!((passed, ending), (once.to_vec(), Ending::Error(ErrorKind::InvalidData)));
        assert_eq!(expectations.refusal(), Some(ResponseRefusal::Unsolicited));
    }
}

#[test]
fn bytes_that_come_before_the_request_was_written_answer_nothing() {
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (mut guard, expectations) = ResponseGuard::new(Peer::sending([&response[..]]), limits());
    expectations.push(ExpectedResponse::Normal);
    assert_eq!(read_all(&mut guard, 64), (Vec::new(), Ending::Error(ErrorKind::InvalidData)));
    assert_eq!(expectations.refusal(), Some(ResponseRefusal::Unsolicited));
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let response: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
    let (mut guard, expectations) =
        ResponseGuard::new(Peer::sending([response, response]).then_waiting(), limits());
    for _ in 0..2 {
        expectations.push(ExpectedResponse::Normal);
        ask(&mut guard);
        let mut buf = [0; 100];
        let mut read = tokio::io::ReadBuf::new(&mut buf);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(
            tokio::io::AsyncRead::poll_read(Pin::new(&mut guard), &mut cx, &mut read).is_ready()
        );
        assert_eq!(read.filled(), response);
    }
    assert_eq!(read_all(&mut guard, 64), (Vec::new(), Ending::Waiting));
}

#[test]
fn a_response_that_ends_early_is_an_error() {
    for message in [
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ] {
        for pieces in cuts(message.as_bytes()) {
            let (mut guard, _expectations) = asked(ExpectedResponse::Normal, &pieces);
            let (_, ending) = read_all(&mut guard, 64);
            assert_eq!(ending, Ending::Error(ErrorKind::UnexpectedEof), "{message:?}");
        }
    }
}
