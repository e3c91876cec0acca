//! Step 11: real values in the answer become sealed tokens; fields that would lead a client around the proxy go.

mod messages;
mod stream;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{
    ALT_SVC, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use http::response::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::Via;
use super::forward::{Answer, AnswerBody, Relayed, has_body};
use super::record::Record;
use super::revoke::StillAllowed;
use super::substitute::is_connection_field;
use crate::host::Destination;
use crate::policy::{Denial, DenyReason, RequestPermit};
use crate::secret::{Hide, Needles};
use crate::session::Session;

pub(super) use stream::Scrubber;

/// What the answer is an answer to.
pub(super) struct Asked<'a> {
    pub(super) via: &'a Arc<Via>,
    pub(super) session: &'a Session,
    pub(super) permit: &'a RequestPermit,
    pub(super) method: Method,
}

impl Asked<'_> {
    /// What to search for; nothing where no secret is bound.
    fn needles(&self) -> Option<Arc<Needles>> {
        if self.permit.secrets().is_empty() { None } else { self.session.needles() }
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
    clean_fields(&mut parts.headers);
    let Some(needles) = asked.needles() else {
        record.answered(parts.status.as_u16());
        return Ok(Response::from_parts(parts, AnswerBody::relayed(relayed, record.take())));
    };
    if parts.status == StatusCode::PARTIAL_CONTENT {
        return Err(not_searchable(asked.permit.destination()));
    }
    let hits = needles.scrub_headers(&mut parts.headers);
    relayed.exchange.scrubbed.fetch_add(hits, Ordering::Relaxed);
    record.answered(parts.status.as_u16());
    let whole = match search(asked, &parts, &relayed) {
        Search::Nothing => None,
        Search::Whole => Some(collect(asked.via, &mut relayed, &needles).await?),
        Search::Messages => {
            relayed.scrubber = Some(Scrubber::of_messages(needles));
            None
        }
        Search::Stream(hide) => {
            relayed.scrubber = Some(Scrubber::new(needles, hide));
            None
        }
    };
    let body = match whole {
        Some(body) => {
            restate_length(&mut parts.headers, &body);
            relayed.finish();
            AnswerBody::own(body, record.take())
        }
        None => AnswerBody::relayed(relayed, record.take()),
    };
    Ok(Response::from_parts(parts, body))
}

/// The head of a validated 101: there is no body, and what follows is not HTTP.
pub(super) fn switching(asked: &Asked<'_>, response: Response<Incoming>) -> Response<AnswerBody> {
    let (mut parts, _) = response.into_parts();
    clean_fields(&mut parts.headers);
    if let Some(needles) = asked.needles() {
        needles.scrub_headers(&mut parts.headers);
    }
    Response::from_parts(parts, AnswerBody::own(Bytes::new(), Record::none()))
}

/// How an answer's body is searched.
enum Search {
    /// It has ended.
    Nothing,
    /// At once, since its length is stated and small.
    Whole,
    /// Message by message.
    Messages,
    /// While it streams.
    Stream(Hide),
}

fn search(asked: &Asked<'_>, parts: &Parts, relayed: &Relayed) -> Search {
    if relayed.incoming.is_end_stream() {
        return Search::Nothing;
    }
    // A body that should not be there may come all the same, one that says it is encoded may not be, and both may have trailers.
    if !has_body(&asked.method, parts.status) || is_encoded(&parts.headers) {
        return Search::Stream(Hide::Mask);
    }
    match relayed.incoming.size_hint().exact() {
        _ if is_grpc(&parts.headers) => Search::Messages,
        Some(length) if length <= asked.via.client.proxy.limits.buffered_body.get() as u64 => {
            Search::Whole
        }
        Some(_) => Search::Stream(Hide::Mask),
        None => Search::Stream(Hide::Replace),
    }
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

fn restate_length(headers: &mut HeaderMap, body: &Bytes) {
    let length = HeaderValue::from(body.len());
    if headers.get(CONTENT_LENGTH).is_some_and(|stated| *stated != length) {
        headers.insert(CONTENT_LENGTH, length);
        drop_validators(headers);
    }
}

/// The fields of an answer without its connection's own, and without those that lead around the proxy.
///
/// `Alt-Svc` would send clients to QUIC, which is not carried.
pub(super) fn clean_fields(headers: &mut HeaderMap) {
    let leads_away = |name: &HeaderName| *name == ALT_SVC || is_connection_field(name);
    if !headers.keys().any(leads_away) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != CONTENT_LENGTH && *name != CONTENT_ENCODING)
        .collect();
    let old = std::mem::take(headers);
    headers.reserve(old.len());
    for (name, value) in old.iter().filter(|(name, _)| !leads_away(name) && !named.contains(name)) {
        headers.append(name.clone(), value.clone());
    }
}

/// A whole small body, searched.
async fn collect(via: &Via, relayed: &mut Relayed, needles: &Needles) -> Result<Bytes, Denial> {
    let mut whole = Vec::new();
    let mut single = None;
    loop {
        let frame = match tokio::time::timeout(
            via.client.proxy.limits.response_timeout,
            relayed.incoming.frame(),
        )
        .await
        {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => {
                return Err(Denial::new(
                    DenyReason::UpstreamUnreachable,
                    "the answer ended before its end",
                    "try again, if that does no harm",
                ));
            }
        };
        let Ok(data) = frame.into_data() else { break };
        match &single {
            None if whole.is_empty() => single = Some(data),
            _ => {
                whole.extend_from_slice(&single.take().unwrap_or_default());
                whole.extend_from_slice(&data);
            }
        }
        if relayed.incoming.is_end_stream() {
            break;
        }
    }
    let body = single.unwrap_or_else(|| Bytes::from(whole));
    if !needles.is_in(&body) {
        return Ok(body);
    }
    let mut clean = Vec::with_capacity(body.len());
    let (_, hits) = needles.hide(&body, body.len(), Hide::Replace, &mut clean);
    relayed.exchange.scrubbed.fetch_add(hits, Ordering::Relaxed);
    Ok(Bytes::from(clean))
}

/// A body that changed is not the entity that these fields describe.
fn drop_validators(headers: &mut HeaderMap) {
    const VALIDATORS: [&str; 5] =
        ["etag", "content-md5", "digest", "content-digest", "repr-digest"];
    if VALIDATORS.iter().any(|name| headers.contains_key(*name)) {
        let old = std::mem::take(headers);
        for (name, value) in old.iter().filter(|(name, _)| !VALIDATORS.contains(&name.as_str())) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// Encoded bodies are searched as they come, not decoded: the request asked for `identity`.
fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_ENCODING)
        .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// gRPC frames messages by length, so lengths may not change.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"))
}
