//! Step 11: real values in the answer become sealed tokens; fields that would lead a client around the proxy go.
//!
//! [`fields`] keeps the head true to the body, [`whole`] searches a small body before its head leaves, [`stream`] any other while it passes;
//! [`token_answer`] what a token endpoint gives out, [`websocket`] what follows a 101; [`decode`] makes encoded ones readable. An answer that cannot be searched is refused where a secret is bound.

mod decode;
mod fields;
mod messages;
mod pieces;
mod spelled;
mod stream;
mod token_answer;
mod websocket;
mod whole;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::ext::ReasonPhrase;

use super::Via;
use super::forward::{Answer, AnswerBody, Relayed, has_body};
use super::record::Record;
use super::revoke::StillAllowed;
use crate::host::Destination;
use crate::policy::{Denial, DenyReason, RequestPermit};
use crate::secret::{Hide, Needles, SealedToken};
use crate::session::Session;

pub(super) use decode::{Bounds, Coding, Decoder, Unreadable};
pub(super) use fields::decoded as decoded_fields;
pub use pieces::AnswerPieces;
pub(super) use stream::Scrubber;
pub(super) use websocket::Searched;

/// What the answer is an answer to.
pub(super) struct Asked<'a> {
    pub(super) via: &'a Arc<Via>,
    pub(super) session: &'a Arc<Session>,
    pub(super) permit: &'a RequestPermit,
    pub(super) method: Method,
    /// The request was signed here.
    pub(super) signed: bool,
    /// Where one of the sandbox's secrets is given out: what stands for the tokens in the answer.
    pub(super) seal_as: Option<&'a SealedToken>,
}

impl Asked<'_> {
    /// What to search for; nothing where no secret is bound.
    pub(super) fn needles(&self) -> Option<Arc<Needles>> {
        if self.permit.scrubs() { self.session.needles() } else { None }
    }

    /// Whose values are searched for in what follows a 101; nobody's where no secret is bound.
    pub(super) fn searched_for(&self) -> Option<Arc<Session>> {
        self.permit.scrubs().then(|| self.session.clone())
    }

    /// The longest body that is held whole.
    fn small(&self) -> usize {
        self.via.client.proxy.limits.buffered_body.get()
    }
}

/// The answer as the client gets it.
pub(super) async fn answer(
    asked: &Asked<'_>,
    answer: Answer,
    still_allowed: StillAllowed,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Denial> {
    let (mut parts, mut relayed) = relayed(answer, still_allowed);
    fields::clean(&mut parts.headers);
    if let Some(sealed) = asked.seal_as
        && has_body(&asked.method, parts.status)
    {
        return token_answer::answer(asked, parts, relayed, sealed, record).await;
    }
    let Some(needles) = asked.needles() else {
        record.answered(parts.status.as_u16());
        return Ok(Response::from_parts(parts, AnswerBody::relayed(relayed, record.take())));
    };
    let is_part = parts.status == StatusCode::PARTIAL_CONTENT;
    if is_part && !(asked.permit.admits_parts() && Coding::of(&parts.headers)?.is_none()) {
        return Err(not_searchable(asked.permit.destination()));
    }
    let searched = search(asked, &parts, &relayed, &needles)?;
    if Coding::of(&parts.headers).is_ok_and(|coding| coding.is_some()) {
        fields::decoded(&mut parts.headers);
    }
    drop_reason_phrase(&mut parts);
    let hits = needles.scrub_headers(&mut parts.headers);
    relayed.exchange.scrubbed.fetch_add(hits, Ordering::Relaxed);
    record.answered(parts.status.as_u16());
    match searched {
        Search::Nothing => {}
        Search::Stream(scrubber) => {
            if has_body(&asked.method, parts.status) {
                fields::rewritten(&mut parts.headers);
            } else {
                fields::may_be_rewritten(&mut parts.headers);
            }
            relayed.scrubber = Some(scrubber);
        }
        Search::Whole(scrubber) => {
            let exchange = relayed.exchange.clone();
            let before = exchange.scrubbed.load(Ordering::Relaxed);
            let body = whole::search(asked, &mut relayed, scrubber).await?;
            if exchange.scrubbed.load(Ordering::Relaxed) != before {
                fields::rewritten(&mut parts.headers);
            }
            if let Some(body) = body {
                fields::restate_length(&mut parts.headers, &body);
                let trailers = relayed.trailers.take();
                let body = AnswerBody::whole(body, trailers, record.take());
                return Ok(Response::from_parts(parts, body));
            }
        }
    }
    Ok(Response::from_parts(parts, AnswerBody::relayed(relayed, record.take())))
}

/// The head of a validated 101: there is no body, and what follows is not HTTP.
pub(super) fn switching(asked: &Asked<'_>, response: Response<Incoming>) -> Response<AnswerBody> {
    let (mut parts, _) = response.into_parts();
    fields::clean(&mut parts.headers);
    if let Some(needles) = asked.needles() {
        drop_reason_phrase(&mut parts);
        needles.scrub_headers(&mut parts.headers);
    }
    Response::from_parts(parts, AnswerBody::own(Bytes::new(), Record::none()))
}

/// Nobody reads it, and hyper has one for each status.
fn drop_reason_phrase(parts: &mut Parts) {
    parts.extensions.remove::<ReasonPhrase>();
}

/// How an answer's body is searched.
enum Search {
    /// It has ended.
    Nothing,
    /// At once, since its length is stated and small.
    Whole(Scrubber),
    /// While it streams.
    Stream(Scrubber),
}

fn search(
    asked: &Asked<'_>,
    parts: &Parts,
    relayed: &Relayed,
    needles: &Arc<Needles>,
) -> Result<Search, Denial> {
    if relayed.incoming.is_end_stream() {
        return Ok(Search::Nothing);
    }
    let scrubber = |hide| Scrubber::new(needles.clone(), hide, relayed.exchange.clone());
    // A body that should not be there may come all the same, and it may have trailers.
    let is_part = parts.status == StatusCode::PARTIAL_CONTENT;
    // A part's length is stated in two places.
    if is_part || !has_body(&asked.method, parts.status) {
        return Ok(Search::Stream(scrubber(Hide::Mask)));
    }
    let stated = relayed.incoming.size_hint().exact();
    // Why a signature is refused is told in a few lines, and must be looked at whole.
    let refused = asked.signed && stated.is_none() && parts.status.is_client_error();
    let is_small = refused || stated.is_some_and(|length| length <= asked.small() as u64);
    if !is_ascii_within(&parts.headers) {
        return Err(Unreadable::Charset.into());
    }
    if has_compressed_messages(&parts.headers) {
        return Err(Unreadable::Compressed.into());
    }
    let by_messages = is_grpc(&parts.headers);
    let hide = if by_messages { Hide::Mask } else { Hide::Replace };
    let scrubber = match Coding::of(&parts.headers)? {
        Some(coding) => {
            let bounds = Bounds::new(&asked.via.client.proxy.limits);
            scrubber(hide).decoding(Decoder::new(coding, bounds)?)
        }
        None if stated.is_some() && !is_small => scrubber(Hide::Mask),
        None => scrubber(hide),
    };
    Ok(match (by_messages, is_small) {
        (true, _) => Search::Stream(scrubber.by_messages()),
        (false, true) => Search::Whole(scrubber),
        (false, false) => Search::Stream(scrubber),
    })
}

fn relayed(answer: Answer, still_allowed: StillAllowed) -> (Parts, Relayed) {
    let Answer { response, lease, most_idle, exchange } = answer;
    let (parts, incoming) = response.into_parts();
    let relayed = Relayed {
        incoming,
        lease,
        most_idle,
        exchange,
        scrubber: None,
        trailers: None,
        still_allowed,
        ended: false,
    };
    (parts, relayed)
}

fn not_searchable(destination: &Destination) -> Denial {
    let detail = format!(
        "{destination} answered with a part that was not asked for, which cannot be searched for values"
    );
    Denial::new(DenyReason::UpstreamUnreachable, detail, "ask for the whole resource")
}

/// gRPC frames messages by length, so lengths may not change. The text form of gRPC-Web is base64, in which no length can be read.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let content_type = content_type.to_ascii_lowercase();
    content_type.starts_with(b"application/grpc")
        && !content_type.starts_with(b"application/grpc-web-text")
}

/// Whether the messages of Connect's streams are compressed; gRPC says so before each.
fn has_compressed_messages(headers: &HeaderMap) -> bool {
    let coding = |name: &HeaderName| name.as_str() == "connect-content-encoding";
    headers.iter().any(|(name, value)| coding(name) && value != "identity")
}

/// Whether ASCII is written as such in the charset of the answer. A client may ask for another (UTF-16, EBCDIC), and values are searched for
/// in bytes: a charset that is not known to keep ASCII is taken for one that does not.
fn is_ascii_within(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().all(|content_type| {
        let mut parameters = content_type.as_bytes().split(|&byte| byte == b';').skip(1);
        parameters.all(|parameter| {
            let parameter = parameter.to_ascii_lowercase();
            let mut parts = parameter.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
            if parts.next() != Some(b"charset") {
                return true;
            }
            let charset = parts.next().unwrap_or_default();
            keeps_ascii(charset.strip_prefix(b"\"").unwrap_or(charset))
        })
    })
}

/// By the names of the Encoding Standard and of IANA, of which the families begin alike; in lower case.
fn keeps_ascii(charset: &[u8]) -> bool {
    const FAMILIES: [&[u8]; 21] = [
        b"utf-8",
        b"utf8",
        b"us-ascii",
        b"ascii",
        b"binary",
        b"iso-8859-",
        b"iso8859-",
        b"iso_8859-",
        b"latin",
        b"windows-",
        b"cp125",
        b"x-cp125",
        b"koi8-",
        b"macintosh",
        b"gb2312",
        b"gbk",
        b"gb18030",
        b"big5",
        b"euc-",
        b"shift_jis",
        b"tis-620",
    ];
    FAMILIES.iter().any(|family| charset.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    #[test]
    fn charsets_in_which_ascii_is_something_else_are_told_apart() {
        for (content_type, searchable) in [
            ("application/json", true),
            ("text/html; charset=utf-8", true),
            ("text/html; charset=\"iso-8859-1\"; x=utf-16", true),
            ("application/json;charset=UTF-16", false),
            ("text/plain; charset=\"utf-16le\"", false),
            ("text/plain; a=b; Charset=utf-32", false),
            ("text/plain; charset=UTF-7", false),
            ("text/plain; charset = UTF-16", false),
            ("application/json;charset=IBM037", false),
            ("text/plain; charset=x-of-my-own", false),
            ("text/plain; charset=Windows-1252", true),
        ] {
            assert_eq!(is_ascii_within(&typed(content_type)), searchable, "{content_type}");
        }
    }

    #[test]
    fn only_what_has_lengths_is_read_by_messages() {
        for (content_type, by_messages) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc-web+proto", true),
            ("application/grpc-web-text", false),
            ("text/plain", false),
        ] {
            assert_eq!(is_grpc(&typed(content_type)), by_messages, "{content_type}");
        }
    }
}
