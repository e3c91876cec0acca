//! However a body is cut, what streams is what the whole would give, and what is held back tells nothing.

use proptest::prelude::*;

use super::*;
use crate::secret::{SealKey, SecretValue};

const VALUE: &str = "sk-live-0123456789abcdef";

fn needles(values: &[&str]) -> Arc<Needles> {
    let sealed = |(nth, value): (usize, &&str)| {
        let name = format!("K{nth}").parse().unwrap();
        let token = SealKey::new(&[1; 32]).seal(&"sb".parse().unwrap(), 0, &name);
        (token, Arc::new(SecretValue::new(value.as_bytes().to_vec()).unwrap()))
    };
    Arc::new(Needles::new(&values.iter().enumerate().map(sealed).collect::<Vec<_>>()))
}

fn whole(needles: &Needles, body: &[u8], hide: Hide) -> Vec<u8> {
    let mut whole = Vec::new();
    needles.hide(body, body.len(), hide, &mut whole);
    whole
}

fn scrubber(needles: &Arc<Needles>, hide: Hide) -> Scrubber {
    Scrubber::new(needles.clone(), hide, Arc::default())
}

fn drained(scrubber: &mut Scrubber) -> Vec<u8> {
    std::iter::from_fn(|| scrubber.next().unwrap()).flatten().collect()
}

fn streamed<'a>(mut scrubber: Scrubber, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut streamed = Vec::new();
    for piece in pieces {
        scrubber.push(&Bytes::copy_from_slice(piece));
        streamed.extend(drained(&mut scrubber));
    }
    scrubber.finish();
    streamed.extend(drained(&mut scrubber));
    streamed
}

#[test]
fn every_split_of_a_stream_gives_what_the_whole_gives() {
    let needles = needles(&[VALUE, "sk-live-01234"]);
    let body = format!("{VALUE}{VALUE} a {VALUE}\nsk-live-0123456789 {VALUE}sk-live-{VALUE}");
    let body = body.as_bytes();
    let whole = whole(&needles, body, Hide::Replace);
    assert!(!String::from_utf8_lossy(&whole).contains(VALUE));
    for first in 0..body.len() {
        for second in first..body.len() {
            let scrubber = scrubber(&needles, Hide::Replace);
            let pieces = [&body[..first], &body[first..second], &body[second..]];
            assert_eq!(streamed(scrubber, pieces), whole, "split at {first} and {second}");
        }
    }
}

#[test]
fn long_pieces_split_anywhere_in_a_value_give_what_the_whole_gives() {
    let needles = needles(&[VALUE]);
    let filler = "x".repeat(WORTH_A_FRAME);
    let body = format!("{filler}{VALUE}{filler}");
    let whole = whole(&needles, body.as_bytes(), Hide::Mask);
    for cut in filler.len() - 2..filler.len() + VALUE.len() + 2 {
        let scrubber = scrubber(&needles, Hide::Mask);
        let (front, back) = body.as_bytes().split_at(cut);
        assert!(streamed(scrubber, [front, back]) == whole, "cut at {cut}");
    }
}

#[test]
fn what_holds_no_value_is_not_copied() {
    let mut scrubber = scrubber(&needles(&[VALUE]), Hide::Replace);
    let data = Bytes::from("some text\n".repeat(100));
    scrubber.push(&data);
    assert_eq!(scrubber.next().unwrap().unwrap().as_ptr(), data.as_ptr());
    assert!(scrubber.is_empty());
}

#[test]
fn an_event_or_a_message_is_never_held_back() {
    let mut events = scrubber(&needles(&[VALUE]), Hide::Replace);
    events.push(&Bytes::from("data: sk-live-01234\n\n"));
    assert_eq!(drained(&mut events), b"data: sk-live-01234\n\n");
    let mut messages = scrubber(&needles(&[VALUE]), Hide::Mask).by_messages();
    messages.push(&Bytes::from(&b"\0\0\0\0\x08sk-"[..]));
    assert_eq!(drained(&mut messages), b"\0\0\0\0\x08", "a message that has not ended");
    messages.push(&Bytes::from("live-"));
    assert_eq!(drained(&mut messages), b"sk-live-");
}

#[test]
fn a_right_guess_waits_no_longer_than_a_wrong_one() {
    let needles = needles(&[VALUE]);
    for length in 1..VALUE.len() {
        let waiting = |guess: &str| {
            let mut scrubber = scrubber(&needles, Hide::Replace);
            scrubber.push(&Bytes::from(format!("echo: {guess}")));
            drained(&mut scrubber);
            scrubber.carry.len()
        };
        assert_eq!(waiting(VALUE.split_at(length).0), waiting(&"z".repeat(length)));
    }
}

/// The forms in which a server may send a value back.
fn forms() -> Vec<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let each = |form: fn(u8) -> String| VALUE.bytes().map(form).collect::<String>();
    let mut forms = vec![
        VALUE.to_owned(),
        each(|byte| format!("{byte:02x}")),
        each(|byte| format!("{byte:02X}")),
        each(|byte| format!("%{byte:02x}")),
        each(|byte| format!("%{byte:02X}")),
        each(|byte| format!("\\u{byte:04x}")),
        each(|byte| format!("\\u{byte:04X}")),
    ];
    for before in ["", "-", "--"] {
        let text = format!("{before}{VALUE}");
        forms.extend([STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)]);
    }
    forms
}

#[test]
fn what_is_released_by_each_write_is_the_same_for_right_and_wrong_guesses_in_every_form() {
    let needles = needles(&[VALUE]);
    let released = |text: &str, by: usize| -> Vec<usize> {
        let mut scrubber = scrubber(&needles, Hide::Replace);
        let write = |piece: &[u8]| {
            scrubber.push(&Bytes::copy_from_slice(piece));
            drained(&mut scrubber).len()
        };
        text.as_bytes().chunks(by).map(write).collect()
    };
    let other = |c: char| if c.is_ascii_alphanumeric() { 'z' } else { c };
    for form in forms() {
        for length in 1..form.len() - 4 {
            let (right, _) = form.split_at(length);
            let last_is_wrong = format!("{}z", right.split_at(length - 1).0);
            let wrong: String = right.chars().map(other).collect();
            for by in [1, 5, 1000] {
                let told = released(&format!("an echo: {right}"), by);
                for guess in [&last_is_wrong, &wrong] {
                    assert_eq!(released(&format!("an echo: {guess}"), by), told, "{right} {guess}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_of_any_body_gives_what_the_whole_gives(
        pieces in prop::collection::vec(prop_oneof![
            Just(VALUE.to_owned()), "(ab){0,8}", "sk-live-[0-9]{0,9}", "[a-b \n]{0,9}",
            Just("c2stbGl2ZS0wMTIzNDU2Nzg5YWJjZGVm".to_owned()),
        ], 0..12),
        cuts in prop::collection::vec(1_usize..40, 1..20),
        mask: bool,
    ) {
        let needles = needles(&[VALUE, "abababababababab", "abababababab"]);
        let hide = if mask { Hide::Mask } else { Hide::Replace };
        let body = pieces.concat().into_bytes();
        let mut rest = &body[..];
        let cut = cuts.iter().cycle().map_while(|length| {
            let (piece, after) = rest.split_at((*length).min(rest.len()));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        let cut: Vec<_> = cut.collect();
        let streamed = streamed(scrubber(&needles, hide), cut);
        let whole = whole(&needles, &body, hide);
        prop_assert_eq!(String::from_utf8_lossy(&streamed), String::from_utf8_lossy(&whole));
    }
}
