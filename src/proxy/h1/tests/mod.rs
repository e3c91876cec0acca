//! Tables of bad messages, each cut at every byte, and the agreement of guard, reference and hyper on random streams.

mod agreement;
mod hyper;
mod reference;
mod requests;
mod responses;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::HeadLimits;

/// A peer that sends its pieces one read at a time, then ends or waits for ever.
#[derive(Debug)]
struct Peer {
    pieces: VecDeque<Vec<u8>>,
    ends: bool,
    written: Vec<u8>,
}

impl Peer {
    fn sending<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let pieces =
            pieces.into_iter().filter(|piece| !piece.is_empty()).map(<[u8]>::to_vec).collect();
        Self { pieces, ends: true, written: Vec::new() }
    }

    fn then_waiting(self) -> Self {
        Self { ends: false, ..self }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.pieces.pop_front() else {
            return if self.ends { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let rest = piece.split_off(piece.len().min(out.remaining()));
        out.put_slice(&piece);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What one read after the other brought.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Eof,
    Waiting,
    Error(io::ErrorKind),
}

/// Reads until nothing more comes, with buffers of `room` bytes.
fn read_all(io: &mut (impl AsyncRead + Unpin), room: usize) -> (Vec<u8>, Ending) {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut passed = Vec::new();
    loop {
        let mut space = vec![0; room];
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut *io).poll_read(&mut cx, &mut buf) {
            Poll::Pending => return (passed, Ending::Waiting),
            Poll::Ready(Err(error)) => return (passed, Ending::Error(error.kind())),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (passed, Ending::Eof),
            Poll::Ready(Ok(())) => passed.extend_from_slice(buf.filled()),
        }
    }
}

/// Every way to cut a short message in two, and the way to cut it into single bytes.
fn cuts(message: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let halves = (0..message.len()).map(|at| {
        let (front, back) = message.split_at(at);
        vec![front, back]
    });
    halves.chain([message.chunks(1).collect()])
}

fn limits() -> HeadLimits {
    HeadLimits { head_bytes: 1024, target_bytes: 64, fields: 8 }
}
