//! The client's body on its way to the upstream: as it came, counted, or rewritten.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::count::Counter;
use super::text::Tally;
use super::{Rewriter, note, undecodable, unfit};
use crate::policy::{Denial, DenyReason};
use crate::proxy::forward::BodyCut;
use crate::proxy::h1::RequestVerdicts;
use crate::proxy::record::Exchange;
use crate::proxy::scrub::Decoder;
use crate::proxy::sign::Chunks;
use crate::proxy::substitute::trailers::Trailers;

/// A request body as an upstream gets it.
#[derive(Debug)]
pub(in crate::proxy) struct OutgoingBody {
    source: Source,
    search: Search,
    exchange: Arc<Exchange>,
    verdicts: Option<RequestVerdicts>,
    opens: Trailers,
    /// Trailers that wait until the last bytes are out.
    trailers: Option<HeaderMap>,
}

#[derive(Debug)]
enum Source {
    Client(Incoming),
    Whole(Bytes),
    Ended,
}

#[derive(Debug)]
enum Search {
    Nothing,
    Counting(Counter),
    Rewriting(Box<Rewriter>),
    /// What is decoded is rewritten, piece by piece.
    Decoding(Box<Decoding>),
    /// Its chunks are signed anew; its length stays.
    Signing(Box<Chunks>),
}

#[derive(Debug)]
struct Decoding {
    decoder: Decoder,
    rewriter: Rewriter,
}

impl Decoding {
    /// What is settled of what came; none until more comes.
    fn next(&mut self) -> Result<Option<Bytes>, Denial> {
        while let Some(piece) = self.decoder.next().map_err(undecodable)? {
            let mut out = Vec::with_capacity(piece.len() + 256);
            self.rewriter.push(&piece, &mut out).map_err(unfit)?;
            if !out.is_empty() {
                return Ok(Some(Bytes::from(out)));
            }
        }
        Ok(None)
    }
}

impl OutgoingBody {
    /// As it came.
    pub(super) fn new(
        incoming: Incoming,
        exchange: Arc<Exchange>,
        verdicts: Option<RequestVerdicts>,
        opens: Trailers,
    ) -> Self {
        // hyper does not poll a body that is empty from the start.
        exchange.sent_whole.store(incoming.is_end_stream(), Ordering::Relaxed);
        let source = Source::Client(incoming);
        Self { source, search: Search::Nothing, exchange, verdicts, opens, trailers: None }
    }

    /// The same, with its tokens counted.
    pub(super) fn counting(self) -> Self {
        let counter = Counter::new(self.opens.finder().clone());
        Self { search: Search::Counting(counter), ..self }
    }

    /// The same, rewritten while it streams.
    pub(super) fn rewriting(self, rewriter: Rewriter) -> Self {
        Self { search: Search::Rewriting(Box::new(rewriter)), ..self }
    }

    /// The same, decoded and rewritten while it streams.
    pub(super) fn decoding(self, decoder: Decoder, rewriter: Rewriter) -> Self {
        Self { search: Search::Decoding(Box::new(Decoding { decoder, rewriter })), ..self }
    }

    /// The same, with the signatures of its chunks replaced.
    pub(in crate::proxy) fn signing(self, chunks: Chunks) -> Self {
        Self { search: Search::Signing(Box::new(chunks)), ..self }
    }

    /// The whole body as it leaves, if it is known.
    pub(in crate::proxy) fn whole(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Whole(_) if self.lost_its_length() => None,
            Source::Whole(bytes) => Some(bytes),
            Source::Ended => Some(&[]),
            Source::Client(incoming) if incoming.is_end_stream() => Some(&[]),
            Source::Client(_) => None,
        }
    }

    /// Whether it was read whole, so that it may have been rewritten.
    pub(in crate::proxy) const fn was_read(&self) -> bool {
        matches!(self.source, Source::Whole(_))
    }

    /// Reads the body as it leaves whole, if it is at most so long. Each piece has so much time.
    pub(in crate::proxy) async fn read_whole(
        mut self,
        piece_timeout: Duration,
        most: usize,
    ) -> Result<Self, Denial> {
        if self.size_hint().lower() > most as u64 {
            return Err(too_long(most));
        }
        let mut whole = Vec::new();
        loop {
            let piece = std::future::poll_fn(|cx| self.poll_bytes(cx));
            match tokio::time::timeout(piece_timeout, piece).await {
                Ok(piece) => match piece? {
                    piece if piece.is_empty() => break,
                    piece if whole.len() + piece.len() > most => return Err(too_long(most)),
                    piece => whole.extend_from_slice(&piece),
                },
                Err(_elapsed) => return Err(late()),
            }
        }
        self.exchange.sent_whole.store(whole.is_empty(), Ordering::Relaxed);
        Ok(Self { source: Source::Whole(Bytes::from(whole)), search: Search::Nothing, ..self })
    }

    /// Whether a length that the client stated cannot be stated to the upstream.
    pub(in crate::proxy) const fn lost_its_length(&self) -> bool {
        matches!(self.search, Search::Rewriting(_) | Search::Decoding(_))
    }

    /// Reads a body of stated length whole, as it came. Each piece has so much time.
    pub(super) async fn collect(mut self, piece_timeout: Duration) -> Result<Collected, Denial> {
        let mut bytes = Vec::new();
        while let Source::Client(incoming) = &mut self.source {
            match tokio::time::timeout(piece_timeout, incoming.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => bytes.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.trailers = Some(self.opens.open(&trailers, &self.exchange)?);
                        self.source = Source::Ended;
                    }
                },
                Ok(Some(Err(error))) => return Err(self.client_failed(&error)),
                Ok(None) => self.source = Source::Ended,
                Err(_elapsed) => return Err(late()),
            }
        }
        Ok(Collected { body: self, bytes })
    }

    /// The body ended early: the upstream must not take what it got for the whole.
    fn cut(&self, denial: Denial) -> BodyCut {
        self.exchange.cut(denial);
        BodyCut(())
    }

    fn client_failed(&self, error: &hyper::Error) -> Denial {
        tracing::debug!(%error, "a request body ended early");
        let refusal = self.verdicts.as_ref().and_then(RequestVerdicts::body_refusal);
        let detail = refusal.map_or_else(
            || "the request body ended before its end".to_owned(),
            |refusal| refusal.to_string(),
        );
        let hint = "send a whole, well-formed body (RFC 9112 §7)";
        Denial::new(DenyReason::ProtocolNotAllowed, detail, hint)
    }

    /// A piece on its way through the search; empty if all of it is held back.
    fn pass(&mut self, data: Bytes) -> Result<Bytes, Denial> {
        match &mut self.search {
            Search::Nothing => Ok(data),
            Search::Counting(counter) => {
                let passed = counter.count(&data);
                note(&self.exchange, Tally { passed, ..Tally::default() }, "body");
                Ok(data)
            }
            Search::Rewriting(rewriter) => {
                let mut out = Vec::with_capacity(data.len() + 256);
                let pushed = rewriter.push(&data, &mut out);
                note(&self.exchange, rewriter.tally(), "body");
                pushed.map(|()| Bytes::from(out)).map_err(unfit)
            }
            Search::Decoding(decoding) => {
                decoding.decoder.push(&data);
                Ok(Bytes::new())
            }
            Search::Signing(chunks) => {
                let mut out = Vec::with_capacity(data.len() + 256);
                chunks.push(&data, &mut out).map(|()| Bytes::from(out))
            }
        }
    }

    /// The client's body has ended: what was held back.
    fn end(&mut self) -> Result<Bytes, Denial> {
        self.source = Source::Ended;
        self.exchange.sent_whole.store(true, Ordering::Relaxed);
        let rewriter = match &mut self.search {
            Search::Nothing | Search::Counting(_) => return Ok(Bytes::new()),
            Search::Rewriting(rewriter) => rewriter,
            Search::Signing(chunks) => return chunks.finish().map(|()| Bytes::new()),
            Search::Decoding(decoding) => {
                decoding.decoder.finish().map_err(undecodable)?;
                &mut decoding.rewriter
            }
        };
        let mut out = Vec::new();
        let finished = rewriter.finish(&mut out);
        note(&self.exchange, rewriter.tally(), "body");
        finished.map(|()| Bytes::from(out)).map_err(unfit)
    }

    /// The next bytes; empty if the body has ended and nothing was held back.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Denial>> {
        loop {
            if let Search::Decoding(decoding) = &mut self.search {
                let settled = decoding.next();
                note(&self.exchange, decoding.rewriter.tally(), "body");
                if let Some(bytes) = settled? {
                    return Poll::Ready(Ok(bytes));
                }
            }
            let incoming = match &mut self.source {
                Source::Client(incoming) => incoming,
                Source::Whole(bytes) => {
                    let bytes = std::mem::take(bytes);
                    if matches!(self.search, Search::Decoding(_)) {
                        if bytes.is_empty() {
                            return Poll::Ready(self.end());
                        }
                        self.pass(bytes)?;
                        continue;
                    }
                    self.source = Source::Ended;
                    self.exchange.sent_whole.store(true, Ordering::Relaxed);
                    return Poll::Ready(Ok(bytes));
                }
                Source::Ended => return Poll::Ready(Ok(Bytes::new())),
            };
            let frame = std::task::ready!(Pin::new(&mut *incoming).poll_frame(cx));
            let ended = incoming.is_end_stream();
            let bytes = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    if ended && matches!(self.search, Search::Nothing | Search::Counting(_)) {
                        self.exchange.sent_whole.store(true, Ordering::Relaxed);
                    }
                    self.pass(data)?
                }
                Some(Ok(Err(frame))) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.trailers = Some(self.opens.open(&trailers, &self.exchange)?);
                    return Poll::Ready(self.end());
                }
                Some(Err(error)) => return Poll::Ready(Err(self.client_failed(&error))),
                None => return Poll::Ready(self.end()),
            };
            if !bytes.is_empty() {
                return Poll::Ready(Ok(bytes));
            }
        }
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        let this = &mut *self;
        Poll::Ready(match std::task::ready!(this.poll_bytes(cx)) {
            Ok(bytes) if bytes.is_empty() => {
                this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))
            }
            Ok(bytes) => {
                this.exchange.out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Some(Ok(Frame::data(bytes)))
            }
            Err(denial) => Some(Err(this.cut(denial))),
        })
    }

    fn is_end_stream(&self) -> bool {
        let ended = match (&self.source, &self.search) {
            (Source::Client(_), Search::Rewriting(_) | Search::Signing(_))
            | (Source::Client(_) | Source::Whole(_), Search::Decoding(_)) => false,
            (Source::Client(incoming), _) => incoming.is_end_stream(),
            (Source::Whole(bytes), _) => bytes.is_empty(),
            (Source::Ended, _) => true,
        };
        ended && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, &self.search) {
            (Source::Client(_), Search::Rewriting(_))
            | (Source::Client(_) | Source::Whole(_), Search::Decoding(_)) => SizeHint::default(),
            (Source::Client(incoming), _) => incoming.size_hint(),
            (Source::Whole(bytes), _) => SizeHint::with_exact(bytes.len() as u64),
            (Source::Ended, _) => SizeHint::with_exact(0),
        }
    }
}

fn late() -> Denial {
    let detail = "the request body did not come in time";
    Denial::new(DenyReason::LimitExceeded, detail, "send it faster").with_status(408)
}

fn too_long(most: usize) -> Denial {
    let detail =
        format!("the body must be known before it is signed, and is longer than {most} bytes");
    let hint = "send a smaller body, send its hash (x-amz-content-sha256), or have an operator raise limits.bufferedBody";
    Denial::new(DenyReason::LimitExceeded, detail, hint).with_status(413)
}

/// A body that was read whole.
#[derive(Debug)]
pub(super) struct Collected {
    body: OutgoingBody,
    bytes: Vec<u8>,
}

impl Collected {
    /// What the client sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body as it came.
    pub(super) fn untouched(self, tally: Tally) -> OutgoingBody {
        note(&self.body.exchange, tally, "body");
        let bytes = Bytes::from(self.bytes);
        self.body.exchange.sent_whole.store(bytes.is_empty(), Ordering::Relaxed);
        OutgoingBody { source: Source::Whole(bytes), ..self.body }
    }

    /// The body with these bytes in place of the client's.
    pub(super) fn rewritten(self, bytes: Bytes, tally: Tally) -> OutgoingBody {
        Self { bytes: bytes.into(), ..self }.untouched(tally)
    }
}
