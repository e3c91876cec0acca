//! Texts out of what the fuzzer gives: bytes as they are, between them snippets, their beginnings and ends, and long stretches.

#![allow(dead_code, reason = "no target uses all of it")]

/// Where a text is cut: the first bytes of the input, and what follows them.
pub fn split(data: &[u8]) -> Option<(Vec<usize>, &[u8])> {
    let (count, rest) = data.split_first()?;
    let (lengths, rest) = rest.split_at_checked(usize::from(*count) % 8)?;
    Some((lengths.iter().map(|length| usize::from(*length) + 1).collect(), rest))
}

/// Pieces of these lengths, over and over; one whole piece if there are none.
pub fn pieces<'t>(text: &'t [u8], lengths: &[usize]) -> Vec<&'t [u8]> {
    let mut rest = text;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(rest.len().min(*length));
        pieces.push(piece);
        rest = after;
    }
    if lengths.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// The text that these bytes tell of. Few of the 256 have a meaning of their own.
pub fn text(mut data: &[u8], snippets: &[Vec<u8>]) -> Vec<u8> {
    let mut text = Vec::new();
    loop {
        data = match data {
            [0xf8, nth, rest @ ..] => {
                text.extend_from_slice(snippet(snippets, *nth));
                rest
            }
            [0xf9, nth, length, rest @ ..] => {
                let whole = snippet(snippets, *nth);
                text.extend_from_slice(&whole[..usize::from(*length) % (whole.len() + 1)]);
                rest
            }
            [0xfa, nth, skipped, rest @ ..] => {
                let whole = snippet(snippets, *nth);
                text.extend_from_slice(&whole[usize::from(*skipped) % (whole.len() + 1)..]);
                rest
            }
            [0xfb, count, byte, rest @ ..] => {
                text.resize(text.len() + usize::from(*count), *byte);
                rest
            }
            [0xfc, count, byte, rest @ ..] if text.len() < MOST => {
                text.resize(text.len() + usize::from(*count) * 256, *byte);
                rest
            }
            [0xfd, nth, which, rest @ ..] => {
                escaped(snippet(snippets, *nth), *which, &mut text, |byte| format!("%{byte:02X}"));
                rest
            }
            [0xfe, nth, which, rest @ ..] => {
                escaped(snippet(snippets, *nth), *which, &mut text, |byte| {
                    format!("\\u{byte:04x}")
                });
                rest
            }
            [byte, rest @ ..] => {
                text.push(*byte);
                rest
            }
            [] => return text,
        }
    }
}

/// A longer text is not made any longer.
const MOST: usize = 100_000;

fn snippet(snippets: &[Vec<u8>], nth: u8) -> &[u8] {
    &snippets[usize::from(nth) % snippets.len()]
}

/// Every eighth byte as the bits say.
fn escaped(snippet: &[u8], which: u8, text: &mut Vec<u8>, escape: impl Fn(u8) -> String) {
    for (nth, byte) in snippet.iter().enumerate() {
        if which >> (nth % 8) & 1 == 1 {
            text.extend_from_slice(escape(*byte).as_bytes());
        } else {
            text.push(*byte);
        }
    }
}
