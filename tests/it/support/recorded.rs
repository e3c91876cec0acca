//! A byte stream that keeps a copy of what was read from it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Any byte stream.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Bytes for S {}

/// A recorded byte stream of any kind.
pub(crate) type Stream = Recorded<Box<dyn Bytes>>;

/// What was read, up to [`Copy::MOST`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy(Arc<Mutex<Vec<u8>>>);

impl Copy {
    /// Beyond it nothing is kept: large bodies are noise.
    const MOST: usize = 8 << 20;

    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap();
        let room = Self::MOST.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A stream with its copy.
#[derive(Debug)]
pub(crate) struct Recorded<S> {
    io: S,
    copy: Copy,
}

impl<S> Recorded<S> {
    pub(crate) fn new(io: S, copy: Copy) -> Self {
        Self { io, copy }
    }
}

impl<S: Bytes + 'static> Recorded<S> {
    pub(crate) fn boxed(self) -> Stream {
        Recorded { io: Box::new(self.io), copy: self.copy }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.copy.add(&buf.filled()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
