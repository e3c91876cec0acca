//! Any bytes as the answer to one request: no panic, and the same verdict whole and in pieces.
#![no_main]

mod pieces;

use std::{
    io,
    pin::Pin,
    task::{Context, Waker},
};

use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWrite;
use tollgate::proxy::h1::{ExpectedResponse, HeadLimits, ResponseGuard, ResponseRefusal};

use self::pieces::{Pieces, assert_same_beginning, drain};

fuzz_target!(|data: &[u8]| {
    let [piece, kind, bytes @ ..] = data else { return };
    let expected = match kind % 3 {
        0 => ExpectedResponse::Normal,
        1 => ExpectedResponse::Head,
        _ => ExpectedResponse::Upgrade,
    };
    let (whole, whole_error, whole_refusal) = read(bytes, usize::MAX, expected);
    let (pieces, error, refusal) = read(bytes, usize::from(*piece).max(1), expected);
    assert_same_beginning(&whole, &pieces);
    assert_eq!((whole_error, whole_refusal), (error, refusal));
});

fn read(
    bytes: &[u8],
    piece: usize,
    expected: ExpectedResponse,
) -> (Vec<u8>, Option<io::ErrorKind>, Option<ResponseRefusal>) {
    let limits = HeadLimits { head_bytes: 512, target_bytes: 100, fields: 10 };
    let (mut guard, expectations) = ResponseGuard::new(Pieces { bytes, piece }, limits);
    expectations.push(expected);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut guard).poll_write(&mut cx, b"GET").is_ready());
    let (passed, error) = drain(&mut guard);
    (passed, error, expectations.refusal())
}
