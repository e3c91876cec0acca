//! The grammar that requests and responses share: lines, field lines, and the fields that frame a body.
//!
//! Everything is strict and nothing allocates. A line is judged when it is whole, a stray CR or LF as soon as it is
//! seen, so that a verdict depends on the bytes and never on how they were cut into reads.

use memchr::memchr2;

use super::refusal::Malformed;

/// Cuts a head into CRLF lines over bytes that arrive in pieces; remembers how far it has looked.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Where the current line begins.
    start: usize,
    /// Everything before this was searched and holds no line end of the current line.
    scanned: usize,
}

impl Lines {
    /// The next whole line without its CRLF, or `None` while it is not whole.
    ///
    /// `head` begins at the first byte of the head at every call.
    pub(super) fn next<'a>(&mut self, head: &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        let unseen = head.get(self.scanned..).unwrap_or_default();
        let Some(found) = memchr2(b'\r', b'\n', unseen) else {
            self.scanned = head.len();
            return Ok(None);
        };
        let end = self.scanned + found;
        self.scanned = end;
        match (head.get(end), head.get(end + 1)) {
            (Some(b'\r'), None) => Ok(None),
            (Some(b'\r'), Some(b'\n')) => {
                let line = head.get(self.start..end).unwrap_or_default();
                self.start = end + 2;
                self.scanned = self.start;
                Ok(Some(line))
            }
            _ => Err(Malformed::LineEnding),
        }
    }

    /// How many bytes the lines so far took, their CRLFs included.
    pub(super) fn consumed(&self) -> usize {
        self.start
    }
}

/// A field line, cut at its colon.
#[derive(Debug)]
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    /// With the white space around it.
    padded_value: &'a [u8],
}

impl<'a> Field<'a> {
    /// RFC 9112 section 5, without obs-fold and without space before the colon.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, Malformed> {
        let end = line.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(line.len());
        let (name, rest) = line.split_at_checked(end).unwrap_or((line, &[]));
        match rest.split_first() {
            Some((b':', value)) if !name.is_empty() => {
                if !is_field_value(value) {
                    return Err(Malformed::FieldValue);
                }
                Ok(Self { name, padded_value: value })
            }
            Some((b' ' | b'\t', _)) if name.is_empty() => Err(Malformed::Folded),
            _ => Err(Malformed::FieldName),
        }
    }

    /// The value without the white space around it.
    pub(super) fn value(&self) -> &'a [u8] {
        trim_blanks(self.padded_value)
    }
}

/// The fields that say how long a body is, gathered while a head is walked.
#[derive(Debug, Default)]
pub(super) struct FramingFields {
    content_length: Option<u64>,
    chunked: bool,
}

impl FramingFields {
    /// Takes note of a field if it frames the body.
    pub(super) fn note(&mut self, field: &Field<'_>) -> Result<(), Malformed> {
        match field.name.len() {
            14 if field.name.eq_ignore_ascii_case(b"content-length") => {
                self.note_length(field.value())
            }
            17 if field.name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.note_encoding(field.value())
            }
            _ => Ok(()),
        }
    }

    fn note_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.content_length.is_some() {
            return Err(Malformed::ContentLengthRepeated);
        }
        self.content_length = Some(parse_length(value)?);
        Ok(())
    }

    fn note_encoding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::TransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }

    /// The one framing that the fields agree on.
    pub(super) fn resolve(&self, version: Version) -> Result<Framing, Malformed> {
        match (self.content_length, self.chunked) {
            (Some(_), true) => Err(Malformed::TwoFramings),
            (None, true) if version == Version::Http10 => Err(Malformed::TransferEncodingVersion),
            (None, true) => Ok(Framing::Chunked),
            (Some(length), false) => Ok(Framing::Length(length)),
            (None, false) => Ok(Framing::Unstated),
        }
    }
}

/// What the framing fields of a head say about its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Neither field: a request has no body, a response ends with the connection.
    Unstated,
    Length(u64),
    Chunked,
}

/// The two versions that are spoken here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http10,
    #[default]
    Http11,
}

impl Version {
    /// `HTTP/1.0` or `HTTP/1.1`, byte for byte.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"HTTP/1.1" => Some(Self::Http11),
            b"HTTP/1.0" => Some(Self::Http10),
            _ => None,
        }
    }
}

/// `tchar` of RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).copied().unwrap_or(false)
}

/// HTAB, SP, VCHAR and obs-text.
pub(super) fn is_value_byte(byte: u8) -> bool {
    (byte >= 0x20) & (byte != 0x7f) | (byte == b'\t')
}

/// Whether every byte may stand in a field value. No early exit, so that the loop becomes vector code.
pub(super) fn is_field_value(value: &[u8]) -> bool {
    value.iter().fold(true, |good, &byte| good & is_value_byte(byte))
}

fn trim_blanks(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// Digits only. 19 of them always fit, and more than that is no length of this world.
fn parse_length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::ContentLength);
    }
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, over the bytes below 128")]
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};
