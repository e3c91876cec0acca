//! WebSocket messages of the upstream, searched as they pass: a value becomes a mask of equal length, so that no frame changes its length.
//!
//! A value is found across the frames of a message. A message leaves whole when its last byte has come; before that only what may be part
//! of a value waits. Compressed messages are refused: on a host with a bound secret the handshake offers no extension.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::frames::{Frames, Kind, Sender, Stretch};
use crate::proxy::record::Exchange;
use crate::secret::{Hide, Needles};
use crate::session::Session;

/// The upstream's half of a WebSocket. What is read from it was searched; without a session, where no secret is bound, it passes as it is.
pub(in crate::proxy) struct Searched<S> {
    inner: S,
    search: Option<Box<Search>>,
}

impl<S> Searched<S> {
    pub(in crate::proxy) fn new(
        inner: S,
        session: Option<Arc<Session>>,
        exchange: Arc<Exchange>,
    ) -> Self {
        let search = |session: Arc<Session>| {
            let needles = session.needles().unwrap_or_else(|| Arc::new(Needles::new(&[])));
            Box::new(Search { session: Some(session), ..Search::new(needles, exchange) })
        };
        Self { inner, search: session.map(search) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Searched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let Self { inner, search } = &mut *self;
        let Some(search) = search else { return Pin::new(inner).poll_read(cx, buf) };
        while search.free == 0 {
            let mut piece = [0; PIECE];
            let mut read = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // A message that never ended goes with its connection.
                return Poll::Ready(Ok(()));
            }
            search.push(read.filled())?;
        }
        search.give(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Searched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What is read at once.
const PIECE: usize = 8 * 1024;

/// Frames without payload, and control frames, that may come while a message waits for its next byte.
const MOST_BETWEEN: usize = 64 * 1024;

/// What came and has not left.
struct Search {
    /// Values are fetched while the connection lives; none in tests.
    session: Option<Arc<Session>>,
    needles: Arc<Needles>,
    exchange: Arc<Exchange>,
    frames: Frames,
    bytes: BytesMut,
    /// Where in `bytes` payload of messages stands that has not left.
    message: Vec<Range<usize>>,
    /// The same for the control frame that has not ended.
    control: Vec<Range<usize>>,
    /// How many of `bytes` may leave.
    free: usize,
}

impl Search {
    fn new(needles: Arc<Needles>, exchange: Arc<Exchange>) -> Self {
        Self {
            session: None,
            needles,
            exchange,
            frames: Frames::of(Sender::Server),
            bytes: BytesMut::new(),
            message: Vec::new(),
            control: Vec::new(),
            free: 0,
        }
    }

    /// Takes what comes next, once all that may leave has left.
    fn push(&mut self, data: &[u8]) -> std::io::Result<()> {
        if let Some(needles) = self.session.as_ref().and_then(|session| session.needles()) {
            self.needles = needles;
        }
        let before = self.bytes.len();
        self.bytes.extend_from_slice(data);
        let mut stretches = Vec::new();
        self.frames
            .follow(data, before, |stretch| stretches.push(stretch))
            .map_err(std::io::Error::other)?;
        for Stretch { kind, at, ends, .. } in stretches {
            match kind {
                Kind::Control => {
                    self.control.push(at);
                    if ends {
                        let control = std::mem::take(&mut self.control);
                        self.hide(&control, usize::MAX);
                    }
                }
                Kind::Message => self.message.push(at),
                Kind::LastOfMessage => {
                    self.message.push(at);
                    if ends {
                        let message = std::mem::take(&mut self.message);
                        self.hide(&message, usize::MAX);
                    }
                }
            }
        }
        self.free_what_is_settled();
        if self.bytes.len() - self.free > 2 * self.needles.longest() + MOST_BETWEEN {
            return Err(std::io::Error::other("too many frames between those of one message"));
        }
        Ok(())
    }

    /// Moves what may leave into `buf`.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.free.min(buf.remaining());
        buf.put_slice(self.bytes.get(..length).unwrap_or_default());
        self.bytes.advance(length);
        self.free -= length;
        for range in self.message.iter_mut().chain(&mut self.control) {
            *range = range.start - length..range.end - length;
        }
    }

    /// Of a message that has not ended, what is no part of a value is settled. Nothing behind what is not settled leaves.
    fn free_what_is_settled(&mut self) {
        let message = std::mem::take(&mut self.message);
        let length: usize = message.iter().map(ExactSizeIterator::len).sum();
        let text = self.text(&message);
        let settled = self.hide(&message, length - self.needles.undecided(&text));
        self.message = behind(&message, settled);
        let waiting = self.message.iter().chain(&self.control).map(|range| range.start).min();
        self.free = waiting.unwrap_or(self.bytes.len());
    }

    /// Masks the values that begin before `settled` in the text at these places; gives how much of it was looked through.
    fn hide(&mut self, places: &[Range<usize>], settled: usize) -> usize {
        let text = self.text(places);
        let settled = settled.min(text.len());
        if !self.needles.is_in(&text) {
            return settled;
        }
        let mut clean = Vec::with_capacity(text.len());
        let (consumed, hits) = self.needles.hide(&text, settled, Hide::Mask, &mut clean);
        self.exchange.scrubbed.fetch_add(hits, Ordering::Relaxed);
        let mut clean = clean.as_slice();
        for range in places {
            let (here, rest) = clean.split_at(range.len().min(clean.len()));
            if let Some(place) = self.bytes.get_mut(range.start..range.start + here.len()) {
                place.copy_from_slice(here);
            }
            clean = rest;
        }
        consumed
    }

    fn text(&self, places: &[Range<usize>]) -> Vec<u8> {
        let pieces = places.iter().filter_map(|range| self.bytes.get(range.clone()));
        pieces.collect::<Vec<_>>().concat()
    }
}

/// The places of a text without its first `skipped` bytes.
fn behind(places: &[Range<usize>], mut skipped: usize) -> Vec<Range<usize>> {
    let mut left = Vec::new();
    for range in places {
        let here = skipped.min(range.len());
        skipped -= here;
        if here < range.len() {
            left.push(range.start + here..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests;
