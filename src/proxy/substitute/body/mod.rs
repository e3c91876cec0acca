//! Tokens in bodies, for secrets that are opted into `body`. A token of any other secret goes on as it is and is counted.
//!
//! A body of stated length within `limits.bufferedBody` is rewritten whole and gets its exact length; any other streams through a
//! [`Rewriter`] in constant memory, without a stated length. A body with `Content-Encoding` is decoded, and sent on without it, where a
//! secret is opted in; if its coding is unknown it is not searched.

mod count;
mod grpc;
mod kind;
mod multipart;
mod outgoing;
mod pieces;
mod protobuf;
mod text;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use hyper::body::{Body as _, Incoming};

use self::grpc::Grpc;
use self::multipart::Multipart;
use self::text::{Text, Unfit, Values};
use super::encoding::Encoding;
use super::exposed::Trailing;
use super::tokens::{self, Tokens, value_of};
use super::trailers::Trailers;
use crate::config::Limits;
use crate::host::Scheme;
use crate::policy::{Denial, DenyReason};
use crate::proxy::Via;
use crate::proxy::record::Exchange;
use crate::proxy::scrub::{self, Bounds, Coding, Decoder, Unreadable};
use crate::secret::{Locations, TokenFinder};
use crate::session::SealedSecret;

#[cfg(fuzzing)]
pub(in crate::proxy) use count::Counter;
pub(super) use kind::Kind;
pub(in crate::proxy) use outgoing::OutgoingBody;
pub use pieces::{BodyPieces, open_body};
use text::Tally;

/// The body as it leaves: untouched where no secret is opted in, else rewritten now or while it streams.
pub(super) async fn open(
    tokens: &Tokens<'_>,
    via: &Via,
    headers: &mut HeaderMap,
    incoming: Incoming,
    exchange: Arc<Exchange>,
    exposed: Option<Trailing>,
) -> Result<OutgoingBody, Denial> {
    let trailers = Trailers::of(tokens, headers, exposed).await?;
    let body = OutgoingBody::new(incoming, exchange, via.verdicts.get().cloned(), trailers);
    if body.is_end_stream() || tokens.session.secrets().is_empty() {
        return Ok(body);
    }
    let opted = opted_in(tokens, |locations| locations.body);
    let Ok(coding) = Coding::of(headers) else { return Ok(body) };
    if is_aws_chunked(headers) {
        return Ok(body);
    }
    if opted.is_empty() {
        return Ok(if coding.is_none() { body.counting() } else { body });
    }
    let rewrite = Rewrite {
        finder: tokens.session.finder().clone(),
        opted,
        kind: Kind::of(headers),
        limits: &via.client.proxy.limits,
    };
    match coding {
        // Most requests have no such body, and their future need not be as large.
        Some(coding) => Box::pin(rewrite.encoded(headers, body, coding)).await,
        None => Box::pin(rewrite.plain(headers, body)).await,
    }
}

/// How one body is rewritten.
struct Rewrite<'a> {
    finder: Arc<TokenFinder>,
    opted: Vec<&'a SealedSecret>,
    kind: Kind,
    limits: &'a Limits,
}

impl Rewrite<'_> {
    async fn plain(
        self,
        headers: &mut HeaderMap,
        body: OutgoingBody,
    ) -> Result<OutgoingBody, Denial> {
        if !self.is_small(&body) {
            let rewriter = self.rewriter().await?;
            drop_length(headers);
            return Ok(body.rewriting(rewriter));
        }
        let sent = body.collect(self.limits.response_timeout).await?;
        let (whole, tally) = self.whole(sent.bytes()).await?;
        if !tally.opened.is_empty() {
            restate_length(headers, whole.len());
        }
        Ok(sent.rewritten(Bytes::from(whole), tally))
    }

    /// A small body that opens no token leaves encoded, as it came; so does one that cannot be decoded. What grows beyond its bounds is
    /// refused.
    async fn encoded(
        self,
        headers: &mut HeaderMap,
        body: OutgoingBody,
        coding: Coding,
    ) -> Result<OutgoingBody, Denial> {
        let decoder = || Decoder::new(coding, Bounds::new(self.limits)).map_err(undecodable);
        if !self.is_small(&body) {
            let (decoder, rewriter) = (decoder()?, self.rewriter().await?);
            scrub::decoded_fields(headers);
            return Ok(body.decoding(decoder, rewriter));
        }
        let sent = body.collect(self.limits.response_timeout).await?;
        let most = self.limits.buffered_body.get();
        match decoded(decoder()?, sent.bytes(), most) {
            Ok(Some(text)) => {
                let (whole, tally) = self.whole(&text).await?;
                if tally.opened.is_empty() {
                    return Ok(sent.untouched(tally));
                }
                scrub::decoded_fields(headers);
                restate_length(headers, whole.len());
                Ok(sent.rewritten(Bytes::from(whole), tally))
            }
            Ok(None) => {
                let (decoder, rewriter) = (decoder()?, self.rewriter().await?);
                scrub::decoded_fields(headers);
                Ok(sent.untouched(Tally::default()).decoding(decoder, rewriter))
            }
            Err(too_much @ (Unreadable::TooLong(_) | Unreadable::TooDense(_))) => {
                Err(undecodable(too_much))
            }
            Err(_damaged) => Ok(sent.untouched(Tally::default())),
        }
    }

    fn is_small(&self, body: &OutgoingBody) -> bool {
        let most = self.limits.buffered_body.get() as u64;
        body.size_hint().exact().is_some_and(|length| length <= most)
    }

    /// For a body that streams, with every value that it may need.
    async fn rewriter(&self) -> Result<Rewriter, Denial> {
        let values = Arc::new(fetched(&self.opted, &self.kind).await?);
        let most = self.limits.buffered_body.get();
        Ok(Rewriter::new(self.finder.clone(), values, &self.kind, most))
    }

    async fn whole(&self, text: &[u8]) -> Result<(Vec<u8>, Tally), Denial> {
        let needed = needed(&self.finder, &self.opted, &self.kind, text)?;
        whole(&self.finder, needed, &self.kind, text, self.limits.buffered_body.get()).await
    }
}

/// A whole body decoded; none if that is more than `most` bytes.
fn decoded(mut decoder: Decoder, body: &[u8], most: usize) -> Result<Option<Vec<u8>>, Unreadable> {
    decoder.push(&Bytes::copy_from_slice(body));
    let mut text = Vec::new();
    while let Some(piece) = decoder.next()? {
        text.extend_from_slice(&piece);
        if text.len() > most {
            return Ok(None);
        }
    }
    decoder.finish()?;
    Ok(Some(text))
}

/// Of these secrets those whose tokens stand in a whole text.
pub(super) fn needed<'a>(
    finder: &Arc<TokenFinder>,
    opted: &[&'a SealedSecret],
    kind: &Kind,
    text: &[u8],
) -> Result<Vec<&'a SealedSecret>, Denial> {
    let rewriter = Rewriter::new(finder.clone(), Arc::new(markers(opted, kind)), kind, text.len());
    let found = rewriter.whole(text).map_err(unfit)?.1.opened;
    Ok(opted.iter().copied().filter(|secret| found.contains(&secret.bound.name)).collect())
}

/// A whole text with the tokens of these secrets opened, whose values are fetched; they add at most `most` bytes.
pub(super) async fn whole(
    finder: &Arc<TokenFinder>,
    needed: Vec<&SealedSecret>,
    kind: &Kind,
    text: &[u8],
    most: usize,
) -> Result<(Vec<u8>, Tally), Denial> {
    let values = Arc::new(fetched(&needed, kind).await?);
    let most = most.max(text.len());
    Rewriter::new(finder.clone(), values, kind, most).whole(text).map_err(unfit)
}

/// The secrets that may be opened in this place behind the head.
pub(super) fn opted_in<'a>(
    tokens: &Tokens<'a>,
    place: impl Fn(&Locations) -> bool,
) -> Vec<&'a SealedSecret> {
    if tokens.permit.scheme() == Scheme::Http {
        return Vec::new();
    }
    let permitted = tokens.permit.secrets().iter().filter(|bound| place(&bound.locations));
    permitted.filter_map(|bound| tokens.session.by_name(&bound.name)).collect()
}

/// Values of the secrets; a body that streams cannot wait for a source halfway.
async fn fetched(secrets: &[&SealedSecret], kind: &Kind) -> Result<Values, Denial> {
    let mut values = Values::default();
    for secret in secrets {
        let value = value_of(secret).await?;
        values.add(&secret.token, secret.bound.name.clone(), value.expose(), kind);
    }
    Ok(values)
}

/// Stands in for values where only the tokens are looked for.
fn markers(secrets: &[&SealedSecret], kind: &Kind) -> Values {
    let mut values = Values::default();
    for secret in secrets {
        values.add(&secret.token, secret.bound.name.clone(), b"", kind);
    }
    values
}

/// An encoded body that is refused; nothing of it was taken for the whole.
fn undecodable(unreadable: Unreadable) -> Denial {
    let (limit, detail) = match unreadable {
        Unreadable::TooLong(most) => (
            "limits.decodedBody",
            format!("the request body is longer than {most} bytes when it is decoded"),
        ),
        Unreadable::TooDense(ratio) => (
            "limits.decodedRatio",
            format!("the request body is more than {ratio} times as long when it is decoded"),
        ),
        Unreadable::Unknown
        | Unreadable::Stacked
        | Unreadable::Compressed
        | Unreadable::Charset
        | Unreadable::Damaged
        | Unreadable::Truncated => {
            let detail = "the request body cannot be decoded, and tokens are opened in it";
            let hint = "send it whole, or without Content-Encoding";
            return Denial::new(DenyReason::ProtocolNotAllowed, detail, hint);
        }
    };
    let hint = format!(
        "send it without Content-Encoding, or have an operator raise {limit} or take `body` out of the secret's `locations`"
    );
    Denial::new(DenyReason::LimitExceeded, detail, hint).with_status(413)
}

/// Whether the body stands in the signed chunks of `aws-chunked`, which not every client names in `Content-Encoding`.
fn is_aws_chunked(headers: &HeaderMap) -> bool {
    let mut hashes = headers.get_all("x-amz-content-sha256").iter();
    hashes.any(|hash| hash.as_bytes().starts_with(b"STREAMING-"))
}

fn unfit(unfit: Unfit) -> Denial {
    match unfit {
        Unfit::Form(name) => Denial::new(
            DenyReason::SecretUnavailable,
            format!("the value of {name} cannot stand in a body of this kind: it is not UTF-8"),
            "send it in another place, or have an operator encode the value",
        )
        .with_status(403),
        Unfit::TooMuch => tokens::too_much("limits.bufferedBody"),
    }
}

/// The map is rebuilt, never removed from: removal would reorder what stays.
fn drop_length(headers: &mut HeaderMap) {
    if headers.contains_key(CONTENT_LENGTH) {
        let old = std::mem::take(headers);
        for (name, value) in old.iter().filter(|(name, _)| **name != CONTENT_LENGTH) {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn restate_length(headers: &mut HeaderMap, length: usize) {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
}

/// Opens tokens in one body, piece by piece, in constant memory.
#[derive(Debug)]
enum Rewriter {
    Text(Text),
    Grpc(Grpc),
    Multipart(Box<Multipart>),
}

impl Rewriter {
    /// `most` is the longest gRPC message that is looked at, and how much the values of one piece may add, in bytes.
    fn new(finder: Arc<TokenFinder>, values: Arc<Values>, kind: &Kind, most: usize) -> Self {
        let text = |encoding| Text::new(finder, values, encoding, most);
        match kind {
            Kind::Text(encoding) => Self::Text(text(*encoding)),
            Kind::Grpc(encoding) => Self::Grpc(Grpc::new(text(*encoding), most)),
            Kind::Multipart(boundary) => {
                Self::Multipart(Box::new(Multipart::new(text(Encoding::Raw), boundary)))
            }
        }
    }

    /// Takes a piece, and appends what of it and of the pieces before is settled.
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
        match self {
            Self::Text(text) => text.push(data, out),
            Self::Grpc(grpc) => grpc.push(data, out),
            Self::Multipart(multipart) => multipart.push(data, out),
        }
    }

    /// The body has ended: appends what is left.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Unfit> {
        match self {
            Self::Text(text) => text.finish(out),
            Self::Grpc(grpc) => {
                grpc.finish(out);
                Ok(())
            }
            Self::Multipart(multipart) => multipart.finish(out),
        }
    }

    /// What was found so far, and not told before.
    fn tally(&mut self) -> Tally {
        match self {
            Self::Text(text) | Self::Grpc(Grpc { text, .. }) => std::mem::take(&mut text.tally),
            Self::Multipart(multipart) => std::mem::take(&mut multipart.text.tally),
        }
    }

    /// A whole body at once.
    fn whole(mut self, body: &[u8]) -> Result<(Vec<u8>, Tally), Unfit> {
        let mut out = Vec::with_capacity(body.len() + 256);
        self.push(body, &mut out)?;
        self.finish(&mut out)?;
        Ok((out, self.tally()))
    }
}

/// Notes what was found in a body, or in another place behind the head.
pub(super) fn note(exchange: &Exchange, tally: Tally, place: &str) {
    exchange.tokens_in_body.fetch_add(tally.passed, Ordering::Relaxed);
    if !tally.opened.is_empty() {
        exchange.opened(tally.opened, place);
    }
}

#[cfg(test)]
mod tests;
