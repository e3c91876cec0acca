//! Where a body ends: the walk over its bytes, in place and without a copy.

use super::{
    HeadLimits,
    grammar::{is_token_byte, is_value_byte},
    refusal::BodyRefusal,
};

/// The walk over one body.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunks),
    /// The rest of the connection.
    UntilClose,
}

/// What a walk found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// So many of the bytes belong to the body.
    pub(super) taken: usize,
    /// Whether the body ends there.
    pub(super) ended: bool,
}

impl Body {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunks::default())
    }

    /// Walks `bytes`, which follow the bytes of the walk before.
    pub(super) fn walk(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<Walked, BodyRefusal> {
        match self {
            Self::Length(left) => {
                let taken = take(left, bytes.len());
                Ok(Walked { taken, ended: *left == 0 })
            }
            Self::Chunked(chunks) => chunks.walk(bytes, limits),
            Self::UntilClose => Ok(Walked { taken: bytes.len(), ended: false }),
        }
    }
}

/// The chunked coding of RFC 9112 section 7.1 as an automaton, without chunk extensions.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// The size of the chunk while it is read, then what is left of its data.
    size: u64,
    size_digits: u32,
    trailer_bytes: usize,
    trailer_fields: usize,
}

/// What the next byte is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
    Ended,
}

impl Chunks {
    fn walk(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Walked, BodyRefusal> {
        let mut taken = 0;
        while self.at != At::Ended
            && let Some(&byte) = bytes.get(taken)
        {
            if self.at == At::Data {
                taken += self.data(bytes.len() - taken);
            } else {
                self.at = self.step(byte, limits)?;
                taken += 1;
            }
        }
        Ok(Walked { taken, ended: self.at == At::Ended })
    }

    fn data(&mut self, available: usize) -> usize {
        let taken = take(&mut self.size, available);
        if self.size == 0 {
            self.at = At::DataCr;
        }
        taken
    }

    fn step(&mut self, byte: u8, limits: &HeadLimits) -> Result<At, BodyRefusal> {
        match self.at {
            At::Size => self.size_byte(byte),
            At::SizeLf => match byte {
                b'\n' if self.size == 0 => Ok(At::TrailerStart),
                b'\n' => Ok(At::Data),
                _ => Err(BodyRefusal::ChunkSize),
            },
            At::DataCr => if_byte(byte, b'\r', At::DataLf, BodyRefusal::ChunkEnd),
            At::DataLf => {
                self.size_digits = 0;
                if_byte(byte, b'\n', At::Size, BodyRefusal::ChunkEnd)
            }
            At::TrailerStart | At::TrailerName | At::TrailerValue | At::TrailerLf => {
                self.trailer_byte(byte, limits)
            }
            At::FinalLf => if_byte(byte, b'\n', At::Ended, BodyRefusal::Trailer),
            // Data is taken by the slice, and after the end nothing is taken at all.
            at @ (At::Data | At::Ended) => Ok(at),
        }
    }

    fn size_byte(&mut self, byte: u8) -> Result<At, BodyRefusal> {
        if byte == b'\r' && self.size_digits > 0 {
            return Ok(At::SizeLf);
        }
        let digit = char::from(byte).to_digit(16).ok_or(BodyRefusal::ChunkSize)?;
        if self.size_digits == MAX_SIZE_DIGITS {
            return Err(BodyRefusal::ChunkSize);
        }
        self.size_digits += 1;
        self.size = (self.size << 4) | u64::from(digit);
        Ok(At::Size)
    }

    fn trailer_byte(&mut self, byte: u8, limits: &HeadLimits) -> Result<At, BodyRefusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > limits.head_bytes {
            return Err(BodyRefusal::TrailerTooLarge);
        }
        match (self.at, byte) {
            (At::TrailerStart, b'\r') => Ok(At::FinalLf),
            (At::TrailerStart, _) if is_token_byte(byte) => {
                self.trailer_fields += 1;
                if self.trailer_fields > limits.fields {
                    return Err(BodyRefusal::TrailerTooLarge);
                }
                Ok(At::TrailerName)
            }
            (At::TrailerName, b':') => Ok(At::TrailerValue),
            (At::TrailerName, _) if is_token_byte(byte) => Ok(At::TrailerName),
            (At::TrailerValue, b'\r') => Ok(At::TrailerLf),
            (At::TrailerValue, _) if is_value_byte(byte) => Ok(At::TrailerValue),
            (At::TrailerLf, b'\n') => Ok(At::TrailerStart),
            _ => Err(BodyRefusal::Trailer),
        }
    }
}

fn if_byte(byte: u8, wanted: u8, next: At, otherwise: BodyRefusal) -> Result<At, BodyRefusal> {
    if byte == wanted { Ok(next) } else { Err(otherwise) }
}

/// Takes up to `available` from `left`.
fn take(left: &mut u64, available: usize) -> usize {
    let taken = usize::try_from(*left).map_or(available, |left| left.min(available));
    *left -= taken as u64;
    taken
}

/// 16 hexadecimal digits are 64 bits: the size cannot overflow.
const MAX_SIZE_DIGITS: u32 = 16;
