//! Lengths inside of protobuf messages. There is no schema at hand, but the wire format (protobuf.dev, "Encoding") tells enough: a field of
//! bytes that can be read whole as a message, with every edit inside of one of its own fields of bytes, is taken for one.

use std::borrow::Cow;
use std::ops::Range;

/// Bytes that take the place of others.
#[derive(Debug)]
pub(super) struct Edit<'v> {
    pub(super) at: Range<usize>,
    pub(super) with: Cow<'v, [u8]>,
}

/// Adds to the edits of a message, which are in order, those of every length around them. What is no protobuf gets none.
pub(super) fn repair_lengths(message: &[u8], edits: &mut Vec<Edit<'_>>) {
    let mut lengths = Vec::new();
    length_after(message, 0..message.len(), edits, DEEPEST, &mut lengths);
    edits.append(&mut lengths);
    edits.sort_by_key(|edit| edit.at.start);
}

/// So deep messages are followed into each other.
const DEEPEST: usize = 32;

/// The length of a stretch once everything in it is edited; the lengths within it that change with it are added to `lengths`.
fn length_after(
    message: &[u8],
    content: Range<usize>,
    edits: &[Edit<'_>],
    depth: usize,
    lengths: &mut Vec<Edit<'_>>,
) -> usize {
    let holders = if depth == 0 { None } else { holders(message, &content, edits) };
    let Some(holders) = holders else {
        let new: usize = edits.iter().map(|edit| edit.with.len()).sum();
        let old: usize = edits.iter().map(|edit| edit.at.len()).sum();
        return content.len() - old + new;
    };
    let mut after = content.len();
    for Holder { length, payload, edits } in holders {
        let inner = length_after(message, payload.clone(), edits, depth - 1, lengths);
        let written = varint(inner);
        after = after - payload.len() - length.len() + inner + written.len();
        lengths.push(Edit { at: length, with: Cow::Owned(written) });
    }
    after
}

/// A field of bytes with edits in it.
struct Holder<'e, 'v> {
    /// Where its length stands.
    length: Range<usize>,
    payload: Range<usize>,
    edits: &'e [Edit<'v>],
}

/// The fields of bytes that hold the edits, if the stretch is a message and they hold them all.
fn holders<'e, 'v>(
    message: &[u8],
    content: &Range<usize>,
    edits: &'e [Edit<'v>],
) -> Option<Vec<Holder<'e, 'v>>> {
    let text = message.get(..content.end)?;
    let mut holders = Vec::new();
    let mut left = edits;
    let mut at = content.start;
    while at < content.end {
        let (tag, payload) = field(text, at)?;
        let inside = left.iter().take_while(|edit| edit.at.start < payload.end).count();
        let (held, rest) = left.split_at(inside);
        if let (Some(first), Some(last)) = (held.first(), held.last()) {
            let within = payload.start <= first.at.start && last.at.end <= payload.end;
            let Payload::Bytes { length } = tag else { return None };
            if !within {
                return None;
            }
            holders.push(Holder { length, payload: payload.clone(), edits: held });
        }
        left = rest;
        at = payload.end;
    }
    left.is_empty().then_some(holders)
}

enum Payload {
    Number,
    Bytes { length: Range<usize> },
}

/// The kind of the field that begins here, and where its payload stands.
fn field(text: &[u8], start: usize) -> Option<(Payload, Range<usize>)> {
    let (tag, after) = read_varint(text, start)?;
    let (kind, payload) = match tag & 7 {
        0 => (Payload::Number, after..read_varint(text, after)?.1),
        1 => (Payload::Number, after..after + 8),
        2 => {
            let (length, from) = read_varint(text, after)?;
            // Longer than need be, it is hardly a length.
            if varint(usize::try_from(length).ok()?).len() != from - after {
                return None;
            }
            let end = from.checked_add(usize::try_from(length).ok()?)?;
            (Payload::Bytes { length: after..from }, from..end)
        }
        5 => (Payload::Number, after..after + 4),
        _ => return None,
    };
    (tag >> 3 > 0 && payload.end <= text.len()).then_some((kind, payload))
}

/// A number in groups of seven bits, the lowest first, and where it ends.
fn read_varint(text: &[u8], start: usize) -> Option<(u64, usize)> {
    let mut number = 0;
    for (nth, &byte) in text.get(start..)?.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f).checked_shl(u32::try_from(nth * 7).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((number, start + nth + 1));
        }
    }
    None
}

fn varint(number: usize) -> Vec<u8> {
    let mut written = Vec::new();
    let mut rest = number;
    loop {
        let [low, ..] = (rest & 0x7f).to_le_bytes();
        rest >>= 7;
        written.push(if rest == 0 { low } else { low | 0x80 });
        if rest == 0 {
            return written;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message as a tree.
    #[derive(Clone, Debug)]
    enum Node {
        Number(u64),
        Fixed32,
        Fixed64,
        Text(String),
        Message(Vec<(u64, Self)>),
    }

    /// What is replaced in the texts of the tree. Its first letter is that of no field, so that a text is not taken for a message.
    const OLD: &str = "?token?";

    fn encoded(fields: &[(u64, Node)], new: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, node) in fields {
            let (kind, payload) = match node {
                Node::Number(number) => (0, varint(usize::try_from(*number).unwrap())),
                Node::Fixed64 => (1, vec![0xff; 8]),
                Node::Fixed32 => (5, vec![0xff; 4]),
                Node::Text(text) => (2, text.replace(OLD, new).into_bytes()),
                Node::Message(fields) => (2, encoded(fields, new)),
            };
            out.extend_from_slice(&varint(usize::try_from(number << 3 | kind).unwrap()));
            if kind == 2 {
                out.extend_from_slice(&varint(payload.len()));
            }
            out.extend_from_slice(&payload);
        }
        out
    }

    fn tree() -> impl Strategy<Value = Vec<(u64, Node)>> {
        let text = prop::collection::vec(prop::sample::select(vec![OLD, "?x", "?"]), 0..30);
        let leaf = prop_oneof![
            any::<u32>().prop_map(|number| Node::Number(number.into())),
            Just(Node::Fixed32),
            Just(Node::Fixed64),
            text.prop_map(|pieces| Node::Text(pieces.concat())),
        ];
        let field = |node| (1..5000u64, node);
        let node = leaf.prop_recursive(6, 60, 5, move |inner| {
            prop::collection::vec(field(inner), 0..5).prop_map(Node::Message)
        });
        prop::collection::vec((1..5000u64, node), 0..6)
    }

    fn edited(message: &[u8], new: &str) -> Vec<u8> {
        let found = memchr::memmem::find_iter(message, OLD);
        let mut edits: Vec<_> = found
            .map(|at| Edit { at: at..at + OLD.len(), with: Cow::Borrowed(new.as_bytes()) })
            .collect();
        repair_lengths(message, &mut edits);
        let mut out = Vec::new();
        let mut copied = 0;
        for Edit { at, with } in edits {
            out.extend_from_slice(&message[copied..at.start]);
            out.extend_from_slice(&with);
            copied = at.end;
        }
        out.extend_from_slice(&message[copied..]);
        out
    }

    proptest! {
        #[test]
        fn every_length_around_an_edit_is_right(fields in tree(), new in "\\PC{0,200}") {
            prop_assert_eq!(edited(&encoded(&fields, OLD), &new), encoded(&fields, &new));
        }

        #[test]
        fn any_bytes_keep_all_but_edits_and_lengths(
            before in prop::collection::vec(any::<u8>(), 0..40),
            after in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let message = [&before, OLD.as_bytes(), &after].concat();
            prop_assert_eq!(edited(&message, OLD), message);
        }
    }
}
