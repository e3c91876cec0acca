//! Encoded answers become readable, and request bodies in which tokens are opened: piece by piece, in bounded memory, and as soon as the upstream flushes.
//!
//! One coding is read, of those that clients ask for. What is stacked or unknown is refused, since it could hide a value; so is what grows
//! beyond its bounds, is damaged, or ends before its end.

mod engine;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap};

use crate::config::Limits;
use crate::policy::{Denial, DenyReason};
use engine::{Engine, Step};

/// A content coding that can be read (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// The coding of this name, in any letter case.
    pub(in crate::proxy) fn parse(name: &str) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match () {
            () if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            () if is("deflate") => Some(Self::Deflate),
            () if is("br") => Some(Self::Brotli),
            () if is("zstd") => Some(Self::Zstd),
            () => None,
        }
    }

    /// The coding of a body; none if it can be read as it is.
    pub(in crate::proxy) fn of(headers: &HeaderMap) -> Result<Option<Self>, Unreadable> {
        let fields = headers.get_all(CONTENT_ENCODING).iter();
        let mut only = None;
        for field in fields {
            let names = field.to_str().map_err(|_error| Unreadable::Unknown)?;
            for name in names.split(',').map(str::trim) {
                if name.is_empty() || name.eq_ignore_ascii_case("identity") {
                    continue;
                }
                let coding = Self::parse(name).ok_or(Unreadable::Unknown)?;
                if only.replace(coding).is_some() {
                    return Err(Unreadable::Stacked);
                }
            }
        }
        Ok(only)
    }
}

/// Why an encoded answer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum Unreadable {
    #[error("the answer has a content coding that cannot be searched for values")]
    Unknown,
    #[error("the answer is encoded more than once, so it cannot be searched for values")]
    Stacked,
    #[error("a message of the answer is compressed, so it cannot be searched for values")]
    Compressed,
    #[error("the answer is in a charset that cannot be searched for values")]
    Charset,
    #[error("the encoded answer is damaged")]
    Damaged,
    #[error("the encoded answer ended before its end")]
    Truncated,
    #[error("the answer is longer than {0} bytes when it is decoded")]
    TooLong(u64),
    #[error("the answer is more than {0} times as long when it is decoded")]
    TooDense(u64),
}

impl From<Unreadable> for Denial {
    fn from(unreadable: Unreadable) -> Self {
        let (reason, hint) = match unreadable {
            Unreadable::Unknown | Unreadable::Stacked => (
                DenyReason::UpstreamUnreachable,
                "where a secret is bound, the upstream must answer in one of gzip, deflate, br, zstd, or not encoded; a retry will not help",
            ),
            Unreadable::Compressed => (
                DenyReason::UpstreamUnreachable,
                "where a secret is bound, messages must come as they are; send the request's uncompressed too, since servers answer alike",
            ),
            Unreadable::Charset => (
                DenyReason::UpstreamUnreachable,
                "where a secret is bound, the upstream must answer in UTF-8 or another charset in which ASCII stays what it is",
            ),
            Unreadable::Damaged | Unreadable::Truncated => {
                (DenyReason::UpstreamUnreachable, "try again, if that does no harm")
            }
            Unreadable::TooLong(_) => {
                (DenyReason::LimitExceeded, "an operator can raise limits.decodedBody")
            }
            Unreadable::TooDense(_) => {
                (DenyReason::LimitExceeded, "an operator can raise limits.decodedRatio")
            }
        };
        Self::new(reason, unreadable.to_string(), hint).with_status(502)
    }
}

/// How far an encoded body may grow.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Bounds {
    most: u64,
    ratio: u64,
    /// Up to here the ratio does not matter.
    free: u64,
}

impl Bounds {
    pub(in crate::proxy) fn new(limits: &Limits) -> Self {
        Self {
            most: limits.decoded_body.get() as u64,
            ratio: u64::from(limits.decoded_ratio),
            free: limits.buffered_body.get() as u64,
        }
    }

    fn check(self, read: u64, written: u64) -> Result<(), Unreadable> {
        if written > self.most {
            return Err(Unreadable::TooLong(self.most));
        }
        if written > self.free && written / self.ratio > read {
            return Err(Unreadable::TooDense(self.ratio));
        }
        Ok(())
    }
}

/// One encoded body while it streams.
pub(in crate::proxy) struct Decoder {
    engine: Engine,
    bounds: Bounds,
    /// What came and was not read yet.
    input: Bytes,
    read: u64,
    written: u64,
    /// The last piece filled its room, so more may be waiting.
    full: bool,
    room: Box<[u8]>,
}

/// The most that is decoded at once.
const PIECE: usize = 32 * 1024;

impl Decoder {
    pub(in crate::proxy) fn new(coding: Coding, bounds: Bounds) -> Result<Self, Unreadable> {
        let engine = Engine::new(coding)?;
        let room = vec![0; PIECE].into_boxed_slice();
        Ok(Self { engine, bounds, input: Bytes::new(), read: 0, written: 0, full: false, room })
    }

    /// Takes what comes next, after [`Decoder::next`] gave nothing more.
    pub(in crate::proxy) fn push(&mut self, data: &Bytes) {
        self.input = data.clone();
    }

    /// The next piece; none until more is pushed.
    pub(in crate::proxy) fn next(&mut self) -> Result<Option<Bytes>, Unreadable> {
        while self.full || !self.input.is_empty() {
            let Step { read, written } = self.engine.step(&self.input, &mut self.room)?;
            let stuck = read == 0 && written == 0 && !self.full;
            if stuck && !self.input.is_empty() {
                return Err(Unreadable::Damaged);
            }
            self.input = self.input.slice(read.min(self.input.len())..);
            self.read += read as u64;
            self.written += written as u64;
            self.full = written == PIECE;
            self.bounds.check(self.read, self.written)?;
            if written > 0 {
                let piece = self.room.get(..written).unwrap_or_default();
                return Ok(Some(Bytes::copy_from_slice(piece)));
            }
        }
        Ok(None)
    }

    /// Whether what came was all of it; nothing at all is an empty body.
    pub(in crate::proxy) fn finish(&self) -> Result<(), Unreadable> {
        if self.read == 0 || self.engine.is_whole() { Ok(()) } else { Err(Unreadable::Truncated) }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { read, written, .. } = self;
        f.debug_struct("Decoder")
            .field("read", read)
            .field("written", written)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
