//! The decoders of each coding behind one step: some input in, some output out, never more than there is room for.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation as _};

use super::{Coding, Unreadable};

/// A decoder at some place of its stream.
pub(super) enum Engine {
    /// The first byte tells whether it is what RFC 9110 means by `deflate`, or the bare stream that many servers send.
    DeflateOfSomeKind,
    Inflate {
        stream: Decompress,
        /// Members may follow each other (RFC 1952 §2.2).
        members: bool,
        ended: bool,
    },
    Brotli {
        state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
        ended: bool,
    },
    Zstd {
        stream: ZstdDecoder<'static>,
        ended: bool,
    },
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) read: usize,
    pub(super) written: usize,
}

/// RFC 9659: what a `zstd` answer may ask its reader to remember, 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// What a gzip stream may ask its reader to remember, as a power of two.
const GZIP_WINDOW_LOG: u8 = 15;

/// The first byte of every gzip member (RFC 1952 §2.3.1).
const GZIP_MAGIC: u8 = 0x1f;

impl Engine {
    pub(super) fn new(coding: Coding) -> Result<Self, Unreadable> {
        Ok(match coding {
            Coding::Gzip => Self::gzip_member(),
            Coding::Deflate => Self::DeflateOfSomeKind,
            Coding::Brotli => {
                let alloc = StandardAlloc::default;
                // Strict: windows as large as RFC 7932 has them, 16 MiB, and not the gibibyte of an extension to it.
                let state = Box::new(BrotliState::new_strict(alloc(), alloc(), alloc()));
                Self::Brotli { state, ended: false }
            }
            Coding::Zstd => {
                let mut stream = ZstdDecoder::new().map_err(|_error| Unreadable::Damaged)?;
                let window = DParameter::WindowLogMax(ZSTD_WINDOW_LOG);
                stream.set_parameter(window).map_err(|_error| Unreadable::Damaged)?;
                Self::Zstd { stream, ended: false }
            }
        })
    }

    /// Decodes some of `input` into `room`. What follows the end of the body is dropped, as clients do.
    pub(super) fn step(&mut self, input: &[u8], room: &mut [u8]) -> Result<Step, Unreadable> {
        match self {
            Self::DeflateOfSomeKind => {
                let Some(&first) = input.first() else { return Ok(Step { read: 0, written: 0 }) };
                // RFC 1950 §2.2: the low half is the method, 8; no bare stream begins so.
                let stream = Decompress::new(first & 0x0f == 8);
                *self = Self::Inflate { stream, members: false, ended: false };
                self.step(input, room)
            }
            Self::Inflate { members: true, ended: true, .. }
                if input.first() == Some(&GZIP_MAGIC) =>
            {
                *self = Self::gzip_member();
                self.step(input, room)
            }
            Self::Inflate { members, ended: true, .. } => {
                // What is no member ends the body, wherever it was cut: nothing behind it is looked at again.
                *members &= input.is_empty();
                Ok(Step { read: input.len(), written: 0 })
            }
            Self::Brotli { ended: true, .. } => Ok(Step { read: input.len(), written: 0 }),
            Self::Inflate { stream, ended, .. } => inflate(stream, ended, input, room),
            Self::Brotli { state, ended } => unbrotli(state, ended, input, room),
            Self::Zstd { stream, ended } => {
                let status =
                    stream.run_on_buffers(input, room).map_err(|_error| Unreadable::Damaged)?;
                if status.bytes_read > 0 || status.bytes_written > 0 {
                    *ended = status.remaining == 0;
                }
                Ok(Step { read: status.bytes_read, written: status.bytes_written })
            }
        }
    }

    /// Whether the body may end here.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::DeflateOfSomeKind => false,
            Self::Inflate { ended, .. } | Self::Brotli { ended, .. } | Self::Zstd { ended, .. } => {
                *ended
            }
        }
    }

    fn gzip_member() -> Self {
        let stream = Decompress::new_gzip(GZIP_WINDOW_LOG);
        Self::Inflate { stream, members: true, ended: false }
    }
}

fn inflate(
    stream: &mut Decompress,
    ended: &mut bool,
    input: &[u8],
    room: &mut [u8],
) -> Result<Step, Unreadable> {
    let (read, written) = (stream.total_in(), stream.total_out());
    let status = stream
        .decompress(input, room, FlushDecompress::None)
        .map_err(|_error| Unreadable::Damaged)?;
    *ended = status == Status::StreamEnd;
    let moved = |before: u64, after: u64| usize::try_from(after - before).unwrap_or(usize::MAX);
    Ok(Step { read: moved(read, stream.total_in()), written: moved(written, stream.total_out()) })
}

fn unbrotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: &mut bool,
    input: &[u8],
    room: &mut [u8],
) -> Result<Step, Unreadable> {
    let (mut unread, mut read) = (input.len(), 0);
    let (mut free, mut written, mut total) = (room.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut unread,
        &mut read,
        input,
        &mut free,
        &mut written,
        room,
        &mut total,
        state,
    );
    match result {
        BrotliResult::ResultFailure => return Err(Unreadable::Damaged),
        BrotliResult::ResultSuccess => *ended = true,
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
    }
    Ok(Step { read, written })
}
