//! A stream that arrives in pieces, and what comes through a guard over it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives at most `piece` bytes a read, then ends.
#[derive(Debug)]
pub struct Pieces<'a> {
    pub bytes: &'a [u8],
    pub piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.piece.min(out.remaining()).min(self.bytes.len());
        let (piece, rest) = self.bytes.split_at(length);
        out.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads until nothing more comes: what passed, and the error, end or wait that stopped it.
pub fn drain(io: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut passed = Vec::new();
    let mut space = [0; 512];
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut *io).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                passed.extend_from_slice(buf.filled())
            }
            Poll::Ready(Err(error)) => return (passed, Some(error.kind())),
            Poll::Pending | Poll::Ready(Ok(())) => return (passed, None),
        }
    }
}

/// Where a body is cut depends on the reads, but nothing else passes: one is the beginning of the other.
pub fn assert_same_beginning(a: &[u8], b: &[u8]) {
    let common = a.len().min(b.len());
    assert_eq!(a[..common], b[..common]);
}
