//! Step 10: send, and stream both ways with trailers, in constant memory.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Proxy;
use super::h1::ExpectedResponse;
use super::pool::{Connection, Lease, SendFailure, Upstreams};
use super::record::{Exchange, Record};
use super::revoke::StillAllowed;
use super::scrub::Scrubber;
use super::substitute::OutgoingBody;
use crate::host::{Destination, Scheme};
use crate::policy::{Denial, DenyReason, RequestPermit};

/// A request whose secrets have been opened, ready for an upstream.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) request: Request<OutgoingBody>,
    pub(super) destination: Destination,
    pub(super) scheme: Scheme,
    /// The client asks for a WebSocket.
    pub(super) upgrade: bool,
}

impl Outgoing {
    pub(super) const fn upgrades(&self) -> bool {
        self.upgrade
    }
}

/// The upstream's answer, and the connection it comes from.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// None for a connection that is not used again.
    pub(super) lease: Option<Lease>,
    pub(super) most_idle: usize,
    pub(super) exchange: Arc<Exchange>,
}

/// Sends the request over a connection of the same sandbox. It is sent a second time only if none of it was written the first time.
pub(super) async fn send(
    proxy: &Proxy,
    upstreams: Arc<Upstreams>,
    permit: &RequestPermit,
    outgoing: Outgoing,
    record: &Record,
) -> Result<Answer, Denial> {
    let exchange = record.exchange();
    let expected = if *outgoing.request.method() == Method::HEAD {
        ExpectedResponse::Head
    } else {
        ExpectedResponse::Normal
    };
    let Outgoing { mut request, destination, scheme, .. } = outgoing;
    let unstated = request.body().lost_its_length();
    let mut lease = upstreams.checkout(proxy, permit).await?;
    for attempt in 0.. {
        shape(&mut request, &lease, &destination, scheme);
        let sent = in_time(proxy, &exchange, pin!(lease.send(request, expected))).await;
        match sent {
            Ok(Ok(response)) if unstated && response.status() == StatusCode::LENGTH_REQUIRED => {
                return Err(wants_length(&destination));
            }
            Ok(Ok(response)) => {
                return Ok(Answer {
                    response,
                    lease: Some(lease),
                    most_idle: proxy.limits.pool_per_host as usize,
                    exchange,
                });
            }
            Ok(Err(SendFailure { unsent: Some(unsent), .. }))
                if lease.reused && attempt < MOST_RETRIES =>
            {
                request = unsent;
                lease = upstreams.fresh(proxy, permit).await?;
            }
            Ok(Err(failure)) => return Err(failed(&destination, &lease, &failure, &exchange)),
            Err(Late) => {
                return Err(exchange
                    .cut
                    .get()
                    .cloned()
                    .unwrap_or_else(|| super::connect::timed_out(&destination, "the answer")));
            }
        }
    }
    Err(super::connect::timed_out(&destination, "sending"))
}

/// Waits for an answer as long as the request's body moves, and for the response time-out after it has stopped.
async fn in_time<T>(
    proxy: &Proxy,
    exchange: &Exchange,
    mut answer: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Late> {
    let mut sent = 0;
    loop {
        if let Ok(answer) =
            tokio::time::timeout(proxy.limits.response_timeout, answer.as_mut()).await
        {
            return Ok(answer);
        }
        let now = exchange.out.load(Ordering::Relaxed);
        if now == sent {
            return Err(Late);
        }
        sent = now;
    }
}

/// Nothing moved for the response time-out.
struct Late;

/// One retry is enough: it goes over a connection that was just opened.
const MOST_RETRIES: u32 = 1;

/// The length of a body that is rewritten while it streams is not known before its end.
fn wants_length(destination: &Destination) -> Denial {
    let detail = format!(
        "{destination} wants the length of the body, and tokens are opened in it while it streams"
    );
    let hint = "send a smaller body, or have an operator raise limits.bufferedBody or take `body` out of the secret's `locations`";
    Denial::new(DenyReason::LimitExceeded, detail, hint).with_status(413)
}

fn failed(
    destination: &Destination,
    lease: &Lease,
    failure: &SendFailure,
    exchange: &Exchange,
) -> Denial {
    if let Some(cut) = exchange.cut.get() {
        return cut.clone();
    }
    tracing::debug!(error = %failure.error, %destination, "the upstream gave no answer");
    if let Some(refusal) = lease.refusal() {
        return Denial::new(
            DenyReason::UpstreamUnreachable,
            format!(
                "{destination} answered with HTTP that can be read in more than one way: {refusal}"
            ),
            "the upstream must answer by RFC 9112; a retry will not help",
        );
    }
    Denial::new(
        DenyReason::UpstreamUnreachable,
        format!("{destination} closed the connection before it answered"),
        "the request may have been carried out; send it again only if that does no harm",
    )
}

/// Gives the request the form that the upstream's protocol wants. Idempotent, so that a retry may speak another protocol.
fn shape(
    request: &mut Request<OutgoingBody>,
    lease: &Lease,
    destination: &Destination,
    scheme: Scheme,
) {
    match lease.connection {
        Connection::Http1(_) => shape_h1(request, destination, scheme),
        Connection::Http2(_) => shape_h2(request, destination, scheme),
    }
}

/// Origin-form, `Host` first, and a framing that says whether a body follows (RFC 9112 §3.2.1, §6).
pub(super) fn shape_h1(
    request: &mut Request<OutgoingBody>,
    destination: &Destination,
    scheme: Scheme,
) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().scheme().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    }
    let host = HeaderValue::try_from(destination.authority(scheme)).ok();
    match (request.headers_mut().get_mut(HOST), host) {
        (Some(field), Some(host)) if *field != host => *field = host,
        (None, Some(host)) => {
            let mut headers = HeaderMap::with_capacity(request.headers().len() + 1);
            headers.insert(HOST, host);
            headers.extend(std::mem::take(request.headers_mut()));
            *request.headers_mut() = headers;
        }
        _ => {}
    }
    let unstated =
        !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH);
    if unstated {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// An absolute URI, no `Host`, no connection fields (RFC 9113 §8.2.2, §8.3.1).
fn shape_h2(request: &mut Request<OutgoingBody>, destination: &Destination, scheme: Scheme) {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(TRANSFER_ENCODING);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = scheme.as_str().parse().ok();
    parts.authority = destination.authority(scheme).try_into().ok();
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// The answer to an accepted CONNECT.
pub(super) fn tunnel_opened(mut record: Record) -> Response<AnswerBody> {
    record.answered(200);
    Response::new(AnswerBody::own(Bytes::new(), record))
}

/// An answer that Tollgate gives itself.
pub(super) fn own_answer(answer: Response<Bytes>, mut record: Record) -> Response<AnswerBody> {
    record.answered(answer.status().as_u16());
    answer.map(|body| AnswerBody::own(body, record))
}

/// A body that was cut on purpose; the reason is in the request's record.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body was cut")]
pub struct BodyCut(pub(super) ());

/// The body of an answer: Tollgate's own, or the upstream's on its way to the client.
#[derive(Debug)]
pub struct AnswerBody {
    source: Source,
    record: Record,
}

#[derive(Debug)]
enum Source {
    Own { bytes: Option<Bytes>, trailers: Option<HeaderMap> },
    Upstream(Box<Relayed>),
}

/// An upstream's body while it streams.
#[derive(Debug)]
pub(super) struct Relayed {
    pub(super) incoming: Incoming,
    pub(super) lease: Option<Lease>,
    pub(super) most_idle: usize,
    pub(super) exchange: Arc<Exchange>,
    pub(super) scrubber: Option<Scrubber>,
    /// Trailers that wait until the scrubber has let go of the last bytes.
    pub(super) trailers: Option<HeaderMap>,
    pub(super) still_allowed: StillAllowed,
    pub(super) ended: bool,
}

impl AnswerBody {
    /// A whole body.
    pub(super) const fn own(bytes: Bytes, record: Record) -> Self {
        Self::whole(bytes, None, record)
    }

    /// A whole body and what follows it.
    pub(super) const fn whole(bytes: Bytes, trailers: Option<HeaderMap>, record: Record) -> Self {
        Self { source: Source::Own { bytes: Some(bytes), trailers }, record }
    }

    /// The upstream's body.
    pub(super) fn relayed(relayed: Relayed, record: Record) -> Self {
        Self { source: Source::Upstream(Box::new(relayed)), record }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        let this = &mut *self;
        match &mut this.source {
            Source::Own { bytes, trailers } => {
                let Some(bytes) = bytes.take().filter(|bytes| !bytes.is_empty()) else {
                    return Poll::Ready(trailers.take().map(|it| Ok(Frame::trailers(it))));
                };
                this.record.exchange().back.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Source::Upstream(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own { bytes, trailers } => {
                trailers.is_none() && bytes.as_ref().is_none_or(Bytes::is_empty)
            }
            Source::Upstream(relayed) => relayed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own { bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Upstream(relayed) => relayed.size_hint(),
        }
    }
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        loop {
            if let Some(denial) = self.still_allowed.check() {
                self.exchange.cut(denial);
                return Poll::Ready(Some(Err(BodyCut(()))));
            }
            match self.scrubber.as_mut().map_or(Ok(None), Scrubber::next) {
                Ok(Some(data)) => {
                    self.exchange.back.fetch_add(data.len() as u64, Ordering::Relaxed);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(None) => {}
                Err(unreadable) => {
                    self.exchange.cut(unreadable.into());
                    return Poll::Ready(Some(Err(BodyCut(()))));
                }
            }
            if self.ended {
                return Poll::Ready(
                    self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
                );
            }
            let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match &mut self.scrubber {
                        Some(scrubber) => scrubber.push(&data),
                        None if data.is_empty() => {}
                        None => {
                            self.exchange.back.fetch_add(data.len() as u64, Ordering::Relaxed);
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                    },
                    Err(frame) => {
                        self.trailers = frame
                            .into_trailers()
                            .ok()
                            .map(|trailers| self.scrub_trailers(trailers));
                        self.end();
                    }
                },
                Some(Err(error)) => {
                    tracing::debug!(%error, "an answer ended early");
                    return Poll::Ready(Some(Err(BodyCut(()))));
                }
                None => self.end(),
            }
        }
    }

    /// The upstream's body has ended: its connection is free, and what the scrubber held back is settled.
    fn end(&mut self) {
        self.ended = true;
        self.give_back();
        if let Some(scrubber) = &mut self.scrubber {
            scrubber.finish();
        }
    }

    fn scrub_trailers(&self, mut trailers: HeaderMap) -> HeaderMap {
        if let Some(scrubber) = &self.scrubber {
            let hits = scrubber.trailers(&mut trailers);
            self.exchange.scrubbed.fetch_add(hits, Ordering::Relaxed);
        }
        trailers
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take()
            && self.exchange.sent_whole.load(Ordering::Relaxed)
        {
            lease.give_back(self.most_idle);
        }
    }

    /// The body was taken whole: its connection is free if it was read to its end.
    pub(super) fn finish(&mut self) {
        self.ended = true;
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_held = self.scrubber.as_ref().is_none_or(Scrubber::is_empty);
        self.trailers.is_none() && (self.ended || self.incoming.is_end_stream()) && nothing_held
    }

    fn size_hint(&self) -> SizeHint {
        match &self.scrubber {
            Some(scrubber) if !scrubber.keeps_length() => SizeHint::default(),
            _ if self.ended => SizeHint::default(),
            _ => self.incoming.size_hint(),
        }
    }
}

impl Drop for Relayed {
    /// hyper does not poll a body of known length past its end.
    fn drop(&mut self) {
        if !self.ended && self.incoming.is_end_stream() {
            self.end();
        }
    }
}

/// Whether an answer to this request and with this status has a body at all (RFC 9112 §6.3).
pub(super) fn has_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD
        && !status.is_informational()
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED
}
