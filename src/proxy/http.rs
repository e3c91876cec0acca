//! Step 6: HTTP/1 behind its strict reading, HTTP/2 by h2, both with their limits; and what a connection becomes after them.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::h1::RequestGuard;
use super::seldom::seldom;
use super::{Opened, Via, serve_request};

/// A byte stream that carries requests.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// An HTTP/1 connection that has become something else.
pub(super) struct After<S> {
    pub(super) opened: Opened,
    pub(super) io: Rewound<S>,
}

/// Serves HTTP/1 until the connection ends, or until an accepted CONNECT or Upgrade turns it into something else.
pub(super) async fn serve_h1<S: Stream>(io: S, via: &Arc<Via>) -> Option<After<S>> {
    let (guard, verdicts) = RequestGuard::new(io, via.client.proxy.heads());
    if via.verdicts.set(verdicts).is_err() {
        return None;
    }
    let service = {
        let via = via.clone();
        service_fn(move |request: Request<Incoming>| {
            let via = via.clone();
            async move { Ok::<_, Infallible>(serve_request(&via, request).await) }
        })
    };
    let mut connection = hyper::server::conn::http1::Builder::new()
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_headers(via.client.proxy.limits.fields as usize)
        .max_buf_size(READ_BUFFER.max(via.client.proxy.limits.headers.get() + 8192))
        .serve_connection(TokioIo::new(guard), service);
    let served = tokio::select! {
        biased;
        served = &mut connection => served,
        () = seldom(via.client.proxy.tasks.closed()) => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, peer = %via.client.peer, "an HTTP/1 connection ended");
        return None;
    }
    let opened = via.take_opened()?;
    let parts = connection.into_parts();
    let (io, early) = parts.io.into_inner().into_parts();
    let early =
        if parts.read_buf.is_empty() { early } else { [parts.read_buf, early].concat().into() };
    Some(After { opened, io: Rewound { early, io } })
}

/// hyper's buffer for one connection: bodies are read in pieces of at most this size.
const READ_BUFFER: usize = 128 * 1024;

/// Serves HTTP/2 until the connection ends.
pub(super) async fn serve_h2<S: Stream>(io: S, via: Arc<Via>) {
    via.client.activity.multiplexed();
    let limits = &via.client.proxy.limits;
    let service = {
        let via = via.clone();
        service_fn(move |request: Request<Incoming>| {
            let via = via.clone();
            async move { Ok::<_, Infallible>(serve_request(&via, request).await) }
        })
    };
    let mut connection = std::pin::pin!(
        hyper::server::conn::http2::Builder::new(via.client.proxy.tasks.clone())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(limits.streams_per_connection)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(64)
            .max_header_list_size(u32::try_from(limits.headers.get()).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(TokioIo::new(io), service)
    );
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = seldom(via.client.proxy.tasks.closed()) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, peer = %via.client.peer, "an HTTP/2 connection ended");
    }
}

/// What one stream of a client may send ahead of the upstream, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What all streams of one connection may send ahead, in bytes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What one stream may have waiting towards a client that does not read, in bytes.
const SEND_BUFFER: usize = 256 * 1024;

/// A stream with bytes in front that were read too early.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    early: Bytes,
    io: S,
}

impl<S> Rewound<S> {
    /// Nothing was read yet.
    pub(super) const fn new(io: S) -> Self {
        Self { early: Bytes::new(), io }
    }

    /// Puts bytes back that were just read.
    pub(super) fn put_back(self, bytes: &[u8]) -> Self {
        let mut early = BytesMut::with_capacity(bytes.len() + self.early.len());
        early.extend_from_slice(bytes);
        early.extend_from_slice(&self.early);
        Self { early: early.freeze(), io: self.io }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early.split_to(length));
        if !self.early.has_remaining() {
            self.early = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
