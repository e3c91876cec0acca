//! How places write bytes: tokens are found through a place's escapes, and values are written with them.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

use crate::secret::{SealedToken, TokenFinder};

/// The escapes of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// None: bytes are what they are.
    Raw,
    /// URLs and forms (RFC 3986 §2.1).
    Percent,
    /// The strings of JSON (RFC 8259 §7). Outside of strings there are no backslashes, so that one reading serves the whole text.
    Json,
}

/// All but the unreserved characters (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Stands in a decoded text for what no token holds.
const BLANK: u8 = 0xff;

impl Encoding {
    /// Reads a text through its escapes, up to an escape that is not whole.
    ///
    /// An escape that stands for what no token holds is left as it is where none of its bytes may begin a token: nothing is found in it
    /// then, and a text that has no other escapes need not be copied.
    pub(super) fn decode<'t>(self, text: &'t [u8], finder: &TokenFinder) -> Decoded<'t> {
        let mut decoded =
            Decoded { text: Cow::Borrowed(text), jumps: Vec::new(), whole: text.len() };
        let mut copied = 0;
        let mut from = 0;
        while let Some(at) = self.next_escape(text, from) {
            from = match self.escape(text.get(at..).unwrap_or_default()) {
                Escape::Byte(length, byte) => {
                    let out = decoded.catch_up(text, copied, at);
                    out.push(byte);
                    let jump = Jump { decoded: out.len(), source: at + length };
                    decoded.jumps.push(jump);
                    copied = at + length;
                    copied
                }
                Escape::Other(length) if !begins_token(finder, text, at, length) => at + length,
                Escape::Other(length) => {
                    let out = decoded.catch_up(text, copied, at);
                    out.resize(out.len() + length, BLANK);
                    copied = at + length;
                    copied
                }
                Escape::None => at + 1,
                Escape::Open => {
                    decoded.whole = at;
                    break;
                }
            };
        }
        decoded.close(text, copied);
        decoded
    }

    /// The bytes of a value as they are written in this place; `None` if it has no form there.
    pub(super) fn encode(self, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        // So that it never grows, which would leave what it held behind.
        let mut out = Zeroizing::new(Vec::with_capacity(match self {
            Self::Raw => value.len(),
            Self::Percent => value.len() * 3,
            Self::Json => value.len() * 6,
        }));
        match self {
            Self::Raw => out.extend_from_slice(value),
            Self::Percent => {
                percent_encode(value, RESERVED)
                    .for_each(|piece| out.extend_from_slice(piece.as_bytes()));
            }
            Self::Json => {
                str::from_utf8(value).ok()?;
                value.iter().for_each(|&byte| push_json(byte, &mut out));
            }
        }
        // Every stream holds the values that it may need.
        if out.capacity() > out.len() { Some(Zeroizing::new(out.to_vec())) } else { Some(out) }
    }

    fn next_escape(self, text: &[u8], from: usize) -> Option<usize> {
        let escape = match self {
            Self::Raw => return None,
            Self::Percent => b'%',
            Self::Json => b'\\',
        };
        memchr::memchr(escape, text.get(from..)?).map(|at| from + at)
    }

    /// What stands at the beginning of a text that begins with an escape byte.
    fn escape(self, text: &[u8]) -> Escape {
        match (self, text) {
            (Self::Percent, [_, digits @ ..]) => hex_escape(1, digits, 2, Escape::None),
            (Self::Json, [_]) => Escape::Open,
            (Self::Json, [_, b'u', digits @ ..]) => hex_escape(2, digits, 4, Escape::Other(2)),
            (Self::Json, _) => Escape::Other(2),
            (Self::Raw, _) | (_, []) => Escape::None,
        }
    }
}

/// An escape of `wanted` hexadecimal digits behind a prefix.
fn hex_escape(prefix: usize, text: &[u8], wanted: usize, otherwise: Escape) -> Escape {
    let digits = text.get(..wanted).unwrap_or(text);
    let mut number = 0;
    for &byte in digits {
        let Some(digit) = char::from(byte).to_digit(16) else { return otherwise };
        number = number << 4 | digit;
    }
    match u8::try_from(number) {
        _ if digits.len() < wanted => Escape::Open,
        Ok(byte) if SealedToken::may_hold(byte) => Escape::Byte(prefix + wanted, byte),
        _ => Escape::Other(prefix + wanted),
    }
}

/// Whether a token may seem to begin within an escape of so many bytes.
fn begins_token(finder: &TokenFinder, text: &[u8], at: usize, length: usize) -> bool {
    let inside = text.get(at + 1..at + length).unwrap_or_default();
    inside.iter().any(|&byte| finder.may_begin(byte))
}

fn push_json(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0..=0x1f => {
            let digit = |nibble: u8| char::from_digit(nibble.into(), 16).map_or(b'0', |c| c as u8);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
        }
        _ => out.push(byte),
    }
}

/// What an escape byte begins.
enum Escape {
    /// So many bytes that stand for one that a token may hold.
    Byte(usize, u8),
    /// So many bytes that stand for something else.
    Other(usize),
    /// Nothing: the byte stands for itself.
    None,
    /// An escape that goes on behind the end of the text.
    Open,
}

/// A text without its escapes, each position of which leads back to the text.
#[derive(Debug)]
pub(super) struct Decoded<'t> {
    pub(super) text: Cow<'t, [u8]>,
    /// So many bytes of the text were read.
    pub(super) whole: usize,
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

    /// The decoded text, up to a position of the text.
    fn catch_up(&mut self, text: &[u8], copied: usize, at: usize) -> &mut Vec<u8> {
        if copied == 0 {
            self.text = Cow::Owned(Vec::with_capacity(text.len()));
        }
        let out = self.text.to_mut();
        out.extend_from_slice(text.get(copied..at).unwrap_or_default());
        out
    }

    fn close(&mut self, text: &[u8], copied: usize) {
        match &mut self.text {
            Cow::Owned(out) => {
                out.extend_from_slice(text.get(copied..self.whole).unwrap_or_default());
            }
            Cow::Borrowed(whole) => *whole = whole.get(..self.whole).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn decodes(encoding: Encoding, text: &str, expected: &str, whole: usize) {
        decodes_for(&TokenFinder::default(), encoding, text, expected, whole);
    }

    #[track_caller]
    fn decodes_for(
        finder: &TokenFinder,
        encoding: Encoding,
        text: &str,
        expected: &str,
        whole: usize,
    ) {
        let decoded = encoding.decode(text.as_bytes(), finder);
        let shown: String = decoded
            .text
            .iter()
            .map(|&byte| if byte == BLANK { '_' } else { char::from(byte) })
            .collect();
        assert_eq!((shown.as_str(), decoded.whole), (expected, whole), "{text}");
        assert_eq!(decoded.source(decoded.text.len()), whole, "{text}");
    }

    #[test]
    fn escapes_are_read_and_open_ones_are_left() {
        decodes(Encoding::Raw, r"a%62\u0063\", r"a%62\u0063\", 11);
        decodes(Encoding::Percent, "a%62c%%64%zz%6", "abc%d%zz", 12);
        decodes(Encoding::Percent, "%0a%C3%a9%", "%0a%C3%a9", 9);
        decodes(Encoding::Percent, "plain%", "plain", 5);
        decodes(Encoding::Json, r#"a\u0062c\"\\u0064"#, r#"abc\"\\u0064"#, 17);
        decodes(Encoding::Json, r"\u00e9\n\/\uzz\u006", r"\u00e9\n\/\uzz", 14);
        decodes(Encoding::Json, "plain\\", "plain", 5);
    }

    #[test]
    fn no_token_begins_within_an_escape() {
        let tokens = ["npm_0", "0e9xy", "ok_1_"].map(SealedToken::of_text);
        let finder = TokenFinder::new(&tokens).unwrap();
        decodes_for(&finder, Encoding::Json, r"\npm_0\u00e9xy", "__pm_0______xy", 14);
        decodes_for(&finder, Encoding::Json, r"\r\/\osb_sealed_", r"\r\/__sb_sealed_", 16);
        decodes_for(&finder, Encoding::Percent, "%C0e9xy%2Fok", "___e9xy%2Fok", 12);
    }

    #[test]
    fn positions_lead_back_through_escapes() {
        let decoded = Encoding::Percent.decode(b"a%62c%%64%zz", &TokenFinder::default());
        let sources: Vec<usize> = (0..=decoded.text.len()).map(|at| decoded.source(at)).collect();
        assert_eq!(sources, [0, 1, 4, 5, 6, 9, 10, 11, 12]);
        let decoded = Encoding::Json.decode(br"pl\n\u00e9ain", &TokenFinder::default());
        assert!(matches!(decoded.text, Cow::Borrowed(_)));
    }

    #[test]
    fn values_are_written_with_the_escapes_of_their_place() {
        let encode = |encoding: Encoding, value: &[u8]| {
            encoding.encode(value).map(|out| String::from_utf8_lossy(&out).into_owned())
        };
        let value = "a-._~+/ \"\\\n\u{1}é".as_bytes();
        assert_eq!(encode(Encoding::Percent, value).unwrap(), "a-._~%2B%2F%20%22%5C%0A%01%C3%A9");
        let json = encode(Encoding::Json, value).unwrap();
        assert_eq!(json, r#"a-._~+/ \"\\\n\u0001é"#);
        assert_eq!(
            serde_json::from_str::<String>(&format!("\"{json}\"")).unwrap().as_bytes(),
            value
        );
        assert_eq!(encode(Encoding::Json, b"\xff"), None);
        assert_eq!(Encoding::Raw.encode(b"\xff").unwrap().as_slice(), b"\xff");
    }
}
