//! What a token endpoint gives a sandbox is sealed before it gets there: also a token that nobody here has seen before.
//!
//! A sandbox may ask the endpoint of one of its secrets itself. Whatever the answer calls an access, refresh or ID token, at any depth of its
//! JSON, becomes the sealed token of that secret, which opens to the value that Tollgate fetches. An answer of success that is not JSON, or too
//! long to be held whole, is refused.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Response;
use http::response::Parts;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde_json::Value;

use super::super::forward::{AnswerBody, Relayed};
use super::super::record::Record;
use super::decode::{Bounds, Coding, Decoder};
use super::{Asked, Scrubber, drop_reason_phrase, fields};
use crate::policy::{Denial, DenyReason};
use crate::secret::{Hide, SealedToken};

/// The fields that hold tokens (RFC 6749 §5.1, OpenID Connect Core §3.1.3.3).
const TOKENS: [&str; 3] = ["access_token", "refresh_token", "id_token"];

/// The answer with every token sealed as this one.
pub(super) async fn answer(
    asked: &Asked<'_>,
    mut parts: Parts,
    mut relayed: Relayed,
    sealed: &SealedToken,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Denial> {
    let body = whole(asked, &mut relayed, Coding::of(&parts.headers)?).await?;
    relayed.finish();
    let written = match serde_json::from_slice::<Value>(&body) {
        Ok(mut json) => {
            let replaced = seal(&mut json, sealed);
            relayed.exchange.scrubbed.fetch_add(replaced, Ordering::Relaxed);
            if replaced > 0 { Bytes::from(json.to_string()) } else { body }
        }
        Err(_) if body.is_empty() || !parts.status.is_success() => body,
        Err(_) => return Err(not_sealable(asked, "is not JSON")),
    };
    let written = scrubbed(asked, &mut parts, &relayed, written)?;
    if Coding::of(&parts.headers)?.is_some() {
        fields::decoded(&mut parts.headers);
    }
    drop_reason_phrase(&mut parts);
    fields::restate_length(&mut parts.headers, &written);
    record.answered(parts.status.as_u16());
    Ok(Response::from_parts(parts, AnswerBody::whole(written, None, record.take())))
}

/// Replaces every token, and counts them. The depth is bounded by the parser's.
fn seal(json: &mut Value, sealed: &SealedToken) -> u64 {
    match json {
        Value::Object(fields) => fields
            .iter_mut()
            .map(|(name, value)| {
                if value.is_string() && TOKENS.contains(&name.as_str()) {
                    *value = Value::from(sealed.as_str());
                    return 1;
                }
                seal(value, sealed)
            })
            .sum(),
        Value::Array(items) => items.iter_mut().map(|item| seal(item, sealed)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The values that are held, wherever else they stand.
fn scrubbed(
    asked: &Asked<'_>,
    parts: &mut Parts,
    relayed: &Relayed,
    body: Bytes,
) -> Result<Bytes, Denial> {
    let Some(needles) = asked.session.needles() else { return Ok(body) };
    let hits = needles.scrub_headers(&mut parts.headers);
    relayed.exchange.scrubbed.fetch_add(hits, Ordering::Relaxed);
    let mut scrubber = Scrubber::new(needles, Hide::Replace, relayed.exchange.clone());
    scrubber.push(&body);
    scrubber.finish();
    let mut clean = Vec::with_capacity(body.len());
    while let Some(piece) = scrubber.next()? {
        clean.extend_from_slice(&piece);
    }
    Ok(Bytes::from(clean))
}

/// The whole body, readable. Trailers are dropped: no token endpoint has any.
async fn whole(
    asked: &Asked<'_>,
    relayed: &mut Relayed,
    coding: Option<Coding>,
) -> Result<Bytes, Denial> {
    let limits = &asked.via.client.proxy.limits;
    let mut decoder = coding.map(|coding| Decoder::new(coding, Bounds::new(limits))).transpose()?;
    let mut body = Vec::new();
    while !relayed.incoming.is_end_stream() {
        let frame = tokio::time::timeout(limits.response_timeout, relayed.incoming.frame()).await;
        let data = match frame {
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return Err(not_sealable(asked, "ended before its end")),
        };
        match &mut decoder {
            None => body.extend_from_slice(&data),
            Some(decoder) => {
                decoder.push(&data);
                while let Some(piece) = decoder.next()? {
                    body.extend_from_slice(&piece);
                    bounded(asked, &body)?;
                }
            }
        }
        bounded(asked, &body)?;
    }
    if let Some(decoder) = decoder {
        decoder.finish()?;
    }
    Ok(Bytes::from(body))
}

fn bounded(asked: &Asked<'_>, body: &[u8]) -> Result<(), Denial> {
    if body.len() > asked.small() {
        return Err(not_sealable(asked, "is longer than limits.bufferedBody"));
    }
    Ok(())
}

fn not_sealable(asked: &Asked<'_>, why: &str) -> Denial {
    let destination = asked.permit.destination();
    let detail = format!("the answer of the token endpoint at {destination} {why}");
    let hint = "Tollgate fetches this token itself: use the secret's sealed token; what the endpoint answers is carried only as JSON";
    Denial::new(DenyReason::UpstreamUnreachable, detail, hint)
}
