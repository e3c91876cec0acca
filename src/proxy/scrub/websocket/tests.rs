//! However frames are cut, values are masked across them, lengths stay, and what has ended leaves.

use super::*;
use crate::secret::{SealKey, SecretValue};

const VALUE: &str = "sk-live-0123456789abcdef";

fn search() -> Search {
    let token = SealKey::new(&[1; 32]).seal(&"sb".parse().unwrap(), 0, &"KEY".parse().unwrap());
    let value = Arc::new(SecretValue::new(VALUE.as_bytes().to_vec()).unwrap());
    Search::new(Arc::new(Needles::new(&[(token, value)])), Arc::default())
}

fn frame(first: u8, payload: &str) -> Vec<u8> {
    let mut frame = vec![first, u8::try_from(payload.len()).unwrap()];
    frame.extend_from_slice(payload.as_bytes());
    frame
}

/// What leaves at once.
fn leaves(search: &mut Search, data: &[u8]) -> Vec<u8> {
    search.push(data).unwrap();
    let mut room = vec![0; search.free];
    let mut buf = ReadBuf::new(&mut room);
    search.give(&mut buf);
    room
}

#[test]
fn a_value_is_masked_across_frames_and_reads() {
    let (front, back) = VALUE.split_at(9);
    let mask = "*".repeat(VALUE.len());
    let whole = [
        frame(0x81, &format!("a {VALUE} b")),
        frame(0x01, &format!("a{front}")),
        frame(0x89, &format!("ping {VALUE}")),
        frame(0x00, ""),
        frame(0x80, &format!("{back}b")),
        frame(0x88, &format!("\x03\u{b}{VALUE}")),
    ]
    .concat();
    let (masked_front, masked_back) = mask.split_at(9);
    let expected = [
        frame(0x81, &format!("a {mask} b")),
        frame(0x01, &format!("a{masked_front}")),
        frame(0x89, &format!("ping {mask}")),
        frame(0x00, ""),
        frame(0x80, &format!("{masked_back}b")),
        frame(0x88, &format!("\x03\u{b}{mask}")),
    ]
    .concat();
    for cut in 0..whole.len() {
        let mut search = search();
        let mut left = leaves(&mut search, &whole[..cut]);
        left.extend(leaves(&mut search, &whole[cut..]));
        assert_eq!(String::from_utf8_lossy(&left), String::from_utf8_lossy(&expected), "{cut}");
        assert_eq!(search.exchange.scrubbed.load(Ordering::Relaxed), 4);
    }
    let mut search = search();
    let bytes: Vec<u8> =
        whole.iter().flat_map(|byte| leaves(&mut search, std::slice::from_ref(byte))).collect();
    assert_eq!(bytes, expected);
}

#[test]
fn a_message_leaves_with_its_last_byte() {
    let mut search = search();
    let message = frame(0x81, "sk-live-01234");
    let (all_but_one, last) = message.split_at(message.len() - 1);
    assert_eq!(leaves(&mut search, all_but_one), &message[..2]);
    assert_eq!(leaves(&mut search, last), &message[2..]);
}

#[test]
fn frames_without_end_between_those_of_a_message_are_refused() {
    let mut search = search();
    search.push(&frame(0x01, "sk-live")).unwrap();
    let empty = frame(0x00, "").repeat(1024);
    assert!((0..100).any(|_| search.push(&empty).is_err()));
}
