//! How places write bytes: tokens are found through a place's escapes, and values are written with them.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

/// The escapes of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// URLs and forms (RFC 3986 §2.1).
    Percent,
}

/// All but the unreserved characters (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Encoding {
    /// Reads a text through its escapes.
    pub(super) fn decode(self, text: &[u8]) -> Decoded<'_> {
        let mut decoded = Decoded { text: Cow::Borrowed(text), jumps: Vec::new() };
        let mut from = 0;
        while let Some(at) = self.next_escape(text, from) {
            let (length, byte) = self.unit(text.get(at..).unwrap_or_default());
            if length > 1 {
                decoded.jump(text, at, length, byte);
            }
            from = at + length;
        }
        decoded.close(text);
        decoded
    }

    /// The bytes of a value as they are written in this place.
    pub(super) fn encode(self, value: &[u8]) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Percent => {
                let mut out = Zeroizing::new(Vec::with_capacity(value.len() * 3));
                for piece in percent_encode(value, RESERVED) {
                    out.extend_from_slice(piece.as_bytes());
                }
                out
            }
        }
    }

    fn next_escape(self, text: &[u8], from: usize) -> Option<usize> {
        let escape = match self {
            Self::Percent => b'%',
        };
        memchr::memchr(escape, text.get(from..)?).map(|at| from + at)
    }

    /// The length of the unit that begins with an escape byte, and the byte that it stands for.
    fn unit(self, text: &[u8]) -> (usize, u8) {
        match (self, text) {
            (Self::Percent, [_, high, low, ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (3, high << 4 | low),
                _ => (1, b'%'),
            },
            (Self::Percent, _) => (1, b'%'),
        }
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A text without its escapes, each position of which leads back to the text.
#[derive(Debug)]
pub(super) struct Decoded<'t> {
    pub(super) text: Cow<'t, [u8]>,
    jumps: Vec<Jump>,
}

/// From this position on, `source` bytes of the text were read for the first `decoded` bytes.
#[derive(Clone, Copy, Debug)]
struct Jump {
    decoded: usize,
    source: usize,
}

impl Decoded<'_> {
    /// Where a position of the decoded text stands in the text.
    pub(super) fn source(&self, at: usize) -> usize {
        let after = self.jumps.partition_point(|jump| jump.decoded <= at);
        let jump = after.checked_sub(1).and_then(|nth| self.jumps.get(nth));
        jump.map_or(at, |jump| jump.source + (at - jump.decoded))
    }

    fn jump(&mut self, text: &[u8], at: usize, length: usize, byte: u8) {
        let copied = self.jumps.last().map_or(0, |jump| jump.source);
        if self.jumps.is_empty() {
            self.text = Cow::Owned(Vec::with_capacity(text.len()));
        }
        let out = self.text.to_mut();
        out.extend_from_slice(text.get(copied..at).unwrap_or_default());
        out.push(byte);
        self.jumps.push(Jump { decoded: out.len(), source: at + length });
    }

    fn close(&mut self, text: &[u8]) {
        if let Some(last) = self.jumps.last() {
            self.text.to_mut().extend_from_slice(text.get(last.source..).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_lead_back_through_escapes() {
        let decoded = Encoding::Percent.decode(b"a%62c%%64%zz%6");
        assert_eq!(&*decoded.text, b"abc%d%zz%6");
        let sources: Vec<usize> = (0..=decoded.text.len()).map(|at| decoded.source(at)).collect();
        assert_eq!(sources, [0, 1, 4, 5, 6, 9, 10, 11, 12, 13, 14]);
        assert!(matches!(Encoding::Percent.decode(b"plain").text, Cow::Borrowed(_)));
    }
}
