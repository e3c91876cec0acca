//! A small body of stated length is searched before its head leaves, so that the head can state the length that it gets.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::super::forward::Relayed;
use super::{Asked, Scrubber, spelled};
use crate::policy::{Denial, DenyReason};

/// The whole body with its values hidden; none if it did not stay small when it was decoded, and so streams on through `relayed`.
pub(super) async fn search(
    asked: &Asked<'_>,
    relayed: &mut Relayed,
    mut scrubber: Scrubber,
) -> Result<Option<Bytes>, Denial> {
    let mut body = collect(asked, relayed, &scrubber).await?;
    if asked.signed
        && let Some(kept) = spelled::dropped(&body, scrubber.needles())
    {
        body = Bytes::from(kept);
    }
    if !scrubber.decodes() && !scrubber.needles().is_in(&body) {
        relayed.finish();
        return Ok(Some(body));
    }
    scrubber.push(&body);
    scrubber.finish();
    let mut clean = Vec::with_capacity(body.len());
    while let Some(piece) = scrubber.next()? {
        clean.extend_from_slice(&piece);
        if scrubber.decodes() && clean.len() > asked.small() {
            scrubber.put_back(Bytes::from(clean));
            relayed.scrubber = Some(scrubber);
            relayed.finish();
            return Ok(None);
        }
    }
    relayed.finish();
    Ok(Some(Bytes::from(clean)))
}

/// The body as it came. Its trailers wait in `relayed`.
async fn collect(
    asked: &Asked<'_>,
    relayed: &mut Relayed,
    scrubber: &Scrubber,
) -> Result<Bytes, Denial> {
    let response_timeout = asked.via.client.proxy.limits.response_timeout;
    let mut first = Bytes::new();
    let mut joined = Vec::new();
    while !relayed.incoming.is_end_stream() {
        let frame = tokio::time::timeout(response_timeout, relayed.incoming.frame()).await;
        let frame = match frame {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return Err(ended_early()),
        };
        match frame.into_data() {
            Ok(data) if first.is_empty() => first = data,
            Ok(data) if first.len().max(joined.len()) + data.len() > asked.small() => {
                return Err(too_long());
            }
            Ok(data) => {
                if joined.is_empty() {
                    joined.extend_from_slice(&first);
                }
                joined.extend_from_slice(&data);
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                let hits = scrubber.trailers(&mut trailers);
                relayed.exchange.scrubbed.fetch_add(hits, Ordering::Relaxed);
                relayed.trailers = Some(trailers);
            }
        }
    }
    Ok(if joined.is_empty() { first } else { Bytes::from(joined) })
}

fn too_long() -> Denial {
    Denial::new(
        DenyReason::UpstreamUnreachable,
        "the upstream refused a signed request at a length that cannot be searched for values",
        "a retry will not help; an operator may raise limits.bufferedBody",
    )
}

fn ended_early() -> Denial {
    Denial::new(
        DenyReason::UpstreamUnreachable,
        "the answer ended before its end",
        "try again, if that does no harm",
    )
}
