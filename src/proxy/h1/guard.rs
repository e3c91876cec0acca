//! The stream that stands between a peer and hyper and passes on what a walk over the bytes allows.
//!
//! A read goes straight into hyper's buffer and is walked there. What may not pass yet is moved out again, to a stash
//! that holds at most one incomplete head, or what one read brought beyond the end of a message.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Reads HTTP/1 strictly in front of hyper: hyper never sees a byte that the walk `W` did not accept.
///
/// Writes pass through. Dropping it loses what the stash holds; [`Guard::into_parts`] gives it back.
pub struct Guard<S, W> {
    io: S,
    walk: W,
    /// Bytes that hyper has not seen.
    stash: BytesMut,
    /// So many bytes at the front of the stash may pass.
    cleared: usize,
    /// The refused head was replaced: no byte of the peer passes any more.
    replaced: bool,
    /// The peer broke a rule, so that unread bytes may be waiting when the connection is shut down.
    cut: bool,
}

/// What reads the bytes: a state machine without I/O.
pub(super) trait Walk {
    /// Says what to do with `bytes`, which begin at the first byte that has not passed.
    ///
    /// Every step but [`Step::Pass`] leaves the walk so that the same bytes, or more of them, give the same step.
    fn walk(&mut self, bytes: &[u8]) -> Step;

    /// Asks to be woken when a [`Step::Hold`] ends; whether it still lasts.
    fn is_held(&self, cx: &Context<'_>) -> bool;

    /// Judges the end of the stream after `unpassed` bytes that could not pass.
    fn end(&self, unpassed: usize) -> io::Result<()>;

    /// Hears that something was written to the peer.
    fn note_write(&mut self);
}

/// What may happen to the bytes at the front.
#[derive(Debug)]
pub(super) enum Step {
    /// So many of them pass, at least one.
    Pass(usize),
    /// None passes until more have come.
    More,
    /// None passes until the answer to what passed before is known.
    Hold,
    /// None passes ever again; hyper gets this last message in their place.
    Replace(&'static [u8]),
    /// None passes ever again.
    Fault(io::Error),
}

impl<S, W> Guard<S, W> {
    pub(super) fn with_walk(io: S, walk: W) -> Self {
        Self { io, walk, stash: BytesMut::new(), cleared: 0, replaced: false, cut: false }
    }

    /// The stream below, and what was read from it but never shown to hyper: the first bytes after a CONNECT or an
    /// upgrade.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.io, self.stash.freeze())
    }

    fn pass_cleared(&mut self, out: &mut ReadBuf<'_>) {
        let length = self.cleared.min(out.remaining()).min(self.stash.len());
        out.put_slice(self.stash.get(..length).unwrap_or_default());
        self.stash.advance(length);
        self.cleared = self.cleared.saturating_sub(length);
        if self.stash.is_empty() && self.stash.capacity() > KEPT_STASH {
            self.stash = BytesMut::new();
        }
    }
}

impl<S: AsyncRead + Unpin, W> Guard<S, W> {
    /// Reads into hyper's buffer and leaves there what may pass. `true` if the read is answered.
    fn poll_direct(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<bool>>
    where
        W: Walk,
    {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, out))?;
        let fresh = out.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            self.walk.end(0)?;
            return Poll::Ready(Ok(true));
        }
        let passed = match self.walk.walk(fresh) {
            Step::Pass(passed) => passed.min(fresh.len()),
            // The stash is walked next, and gives the same step.
            Step::More | Step::Hold | Step::Replace(_) | Step::Fault(_) => 0,
        };
        self.stash.extend_from_slice(fresh.get(passed..).unwrap_or_default());
        out.set_filled(before + passed);
        Poll::Ready(Ok(passed > 0))
    }

    /// Reads more behind what the stash holds. `true` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.stash.reserve(FILL);
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.stash))?;
        Poll::Ready(Ok(read == 0))
    }

    /// Throws away what has arrived already. Closing a socket with unread bytes resets it, and the reset may overtake
    /// the answer that says why.
    fn drain_arrived(&mut self, cx: &mut Context<'_>) {
        let mut scrap = [0; FILL];
        for _ in 0..DRAIN_READS {
            let mut buf = ReadBuf::new(&mut scrap);
            let read = Pin::new(&mut self.io).poll_read(cx, &mut buf);
            if !matches!(read, Poll::Ready(Ok(()))) || buf.filled().is_empty() {
                return;
            }
        }
    }
}

impl<S: AsyncRead + Unpin, W: Walk + Unpin> AsyncRead for Guard<S, W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.cleared > 0 {
                this.pass_cleared(out);
                return Poll::Ready(Ok(()));
            }
            match this.walk.walk(&this.stash) {
                Step::Pass(length) => this.cleared = length,
                Step::More if this.stash.is_empty() => {
                    if ready!(this.poll_direct(cx, out))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Step::More => {
                    if ready!(this.poll_fill(cx))? {
                        return Poll::Ready(this.walk.end(this.stash.len()));
                    }
                }
                Step::Hold => {
                    if this.walk.is_held(cx) {
                        if !this.stash.is_empty() {
                            return Poll::Pending;
                        }
                        if ready!(this.poll_fill(cx))? {
                            return Poll::Ready(this.walk.end(0));
                        }
                    }
                }
                // An end of stream would make hyper drop the answer that is on its way. It closes after it.
                Step::Replace(_) if this.replaced => return Poll::Pending,
                Step::Replace(last_message) => {
                    this.stash = BytesMut::from(last_message);
                    this.cleared = last_message.len();
                    this.replaced = true;
                    this.cut = true;
                }
                Step::Fault(error) => {
                    this.cut = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, W: Walk + Unpin> AsyncWrite for Guard<S, W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.walk.note_write();
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.walk.note_write();
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        if this.cut {
            this.drain_arrived(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S, W> fmt::Debug for Guard<S, W> {
    /// Leaves the bytes out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("stashed", &self.stash.len())
            .field("cleared", &self.cleared)
            .field("cut", &self.cut)
            .finish_non_exhaustive()
    }
}

/// Bytes of room for a read into the stash.
const FILL: usize = 4096;

/// A larger empty stash is given back, so that an idle connection costs little.
const KEPT_STASH: usize = 16 * 1024;

/// At most this many reads of [`FILL`] bytes are thrown away at shutdown.
const DRAIN_READS: usize = 64;
