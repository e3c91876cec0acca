//! Any bytes as requests: no panic, and the same verdicts whole and in pieces.
#![no_main]

mod pieces;

use libfuzzer_sys::fuzz_target;
use tollgate::proxy::h1::{BodyRefusal, HeadLimits, HeadRefusal, RequestGuard};

use self::pieces::{Pieces, assert_same_beginning, drain};

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else { return };
    let whole = read(bytes, usize::MAX);
    let pieces = read(bytes, usize::from(*piece).max(1));
    assert_same_beginning(&whole.passed, &pieces.passed);
    assert_eq!(
        (whole.accepted, whole.refusal, whole.cut, whole.error),
        (pieces.accepted, pieces.refusal, pieces.cut, pieces.error)
    );
});

struct Reading {
    passed: Vec<u8>,
    error: Option<std::io::ErrorKind>,
    accepted: usize,
    refusal: HeadRefusal,
    cut: Option<BodyRefusal>,
}

fn read(bytes: &[u8], piece: usize) -> Reading {
    let limits = HeadLimits { head_bytes: 512, target_bytes: 100, fields: 10 };
    let (mut guard, verdicts) = RequestGuard::new(Pieces { bytes, piece }, limits);
    let (passed, error) = drain(&mut guard);
    let mut accepted = 0;
    let refusal = loop {
        match verdicts.next() {
            Ok(()) => accepted += 1,
            Err(refusal) => break refusal,
        }
    };
    Reading { passed, error, accepted, refusal, cut: verdicts.body_refusal() }
}
