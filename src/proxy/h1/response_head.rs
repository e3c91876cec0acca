//! One response head, walked line by line as it arrives.

use super::{
    HeadLimits,
    grammar::{Field, Framing, FramingFields, Lines, Version, is_field_value},
    refusal::{Malformed, ResponseRefusal},
};

/// The walk over one response head; give it the bytes from the head's first one at every call.
#[derive(Debug, Default)]
pub(super) struct ResponseHead {
    lines: Lines,
    status: Option<u16>,
    version: Version,
    fields: usize,
    framing: FramingFields,
}

/// A whole and accepted head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AcceptedResponse {
    /// Its length, the empty line included.
    pub(super) head_len: usize,
    pub(super) status: u16,
    pub(super) body: Framing,
}

impl ResponseHead {
    /// Walks the lines that are whole; `None` while the head is not.
    pub(super) fn walk(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<AcceptedResponse>, ResponseRefusal> {
        let limit = limits.head_bytes;
        let window = bytes.get(..limit).unwrap_or(bytes);
        loop {
            let Some(line) = self.lines.next(window)? else {
                return if bytes.len() < limit {
                    Ok(None)
                } else {
                    Err(ResponseRefusal::HeadTooLarge)
                };
            };
            match self.status {
                None => self.status_line(line)?,
                Some(status) if line.is_empty() => return self.finish(status).map(Some),
                Some(_) => self.field(line, limits)?,
            }
        }
    }

    /// RFC 9112 section 4. The space before an empty reason may be missing: servers leave it out.
    fn status_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let (version, rest) = line.split_at_checked(8).ok_or(Malformed::StatusLine)?;
        self.version = Version::parse(version).ok_or(Malformed::StatusLine)?;
        let (status, reason) = match rest {
            [b' ', hundreds @ b'1'..=b'9', tens, ones] => ([*hundreds, *tens, *ones], &[][..]),
            [b' ', hundreds @ b'1'..=b'9', tens, ones, b' ', reason @ ..] => {
                ([*hundreds, *tens, *ones], reason)
            }
            _ => return Err(Malformed::StatusLine),
        };
        if !status.iter().all(u8::is_ascii_digit) || !is_field_value(reason) {
            return Err(Malformed::StatusLine);
        }
        self.status =
            Some(status.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')));
        Ok(())
    }

    fn field(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), ResponseRefusal> {
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(ResponseRefusal::TooManyFields);
        }
        self.framing.note(&Field::parse(line)?)?;
        Ok(())
    }

    fn finish(&self, status: u16) -> Result<AcceptedResponse, ResponseRefusal> {
        let body = self.framing.resolve(self.version)?;
        Ok(AcceptedResponse { head_len: self.lines.consumed(), status, body })
    }
}
