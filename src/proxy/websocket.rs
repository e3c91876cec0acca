//! Step 10 for WebSocket: the handshake goes the usual path; bytes are relayed only after a validated 101 (RFC 6455 §4).

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use super::forward::{self, Answer, AnswerBody, Outgoing};
use super::h1::ExpectedResponse;
use super::http::{Rewound, Stream};
use super::pool::Upstreams;
use super::record::Record;
use super::revoke::StillAllowed;
use super::{Opened, scrub};
use crate::host::Destination;
use crate::policy::{Denial, DenyReason};

/// The upstream's half of an accepted WebSocket, and the record that ends with it.
pub(super) struct Upstream {
    io: scrub::Searched<TokioIo<hyper::upgrade::Upgraded>>,
    still_allowed: StillAllowed,
    record: Record,
}

/// Sends the handshake over a connection of its own. Whatever is not a valid 101 is an ordinary answer or a denial.
pub(super) async fn open(
    asked: &scrub::Asked<'_>,
    upstreams: Arc<Upstreams>,
    outgoing: Outgoing,
    still_allowed: StillAllowed,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Denial> {
    let proxy = &asked.via.client.proxy;
    let mut connection = upstreams.http1(proxy, asked.permit).await?;
    let Outgoing { mut request, destination, scheme, .. } = outgoing;
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().to_vec());
    forward::shape_h1(&mut request, &destination, scheme);
    let sent = tokio::time::timeout(
        proxy.limits.response_timeout,
        connection.send(request, ExpectedResponse::Upgrade),
    )
    .await;
    let mut response = match sent {
        Ok(Ok(response)) => response,
        Ok(Err(_failure)) => return Err(refused(&destination, "it closed the connection")),
        Err(_elapsed) => {
            return Err(super::connect::timed_out(&destination, "the WebSocket handshake"));
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let answer = Answer { response, lease: None, most_idle: 0, exchange: record.exchange() };
        return scrub::answer(asked, answer, still_allowed, record).await;
    }
    if !accepted(response.headers(), key.as_deref()) {
        return Err(refused(&destination, "its 101 does not answer this handshake"));
    }
    if !asked.permit.secrets().is_empty()
        && response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS)
    {
        return Err(refused(&destination, "its 101 has an extension that was not offered"));
    }
    let upgraded = hyper::upgrade::on(&mut response).await;
    let upgraded = upgraded.map_err(|_error| refused(&destination, "it ended after its 101"))?;
    let mut answer = scrub::switching(asked, response);
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    record.answered(101);
    let io = scrub::Searched::new(TokioIo::new(upgraded), asked.needles(), record.exchange());
    let upstream = Upstream { io, still_allowed, record: record.take() };
    asked.via.open(Opened::WebSocket(upstream));
    Ok(answer)
}

/// Relays frames both ways until one side ends, or the policies do not allow it any more.
pub(super) async fn relay<S: Stream>(mut io: Rewound<S>, upstream: Upstream) {
    let Upstream { io: mut upstream, mut still_allowed, mut record } = upstream;
    tokio::select! {
        moved = copy_bidirectional_with_sizes(&mut io, &mut upstream, RELAY_BUFFER, RELAY_BUFFER) => match moved {
            Ok((out, back)) => record.moved(out, back),
            Err(error) => tracing::debug!(%error, "a WebSocket ended"),
        },
        denial = still_allowed.denied() => record.denied(&denial),
    }
}

/// The buffer of each direction, in bytes.
const RELAY_BUFFER: usize = 16 * 1024;

/// RFC 6455 §4.1: `Upgrade`, `Connection` and `Sec-WebSocket-Accept` of the 101 must answer the request's key.
fn accepted(headers: &HeaderMap, key: Option<&[u8]>) -> bool {
    let Some(key) = key else { return false };
    let only = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    let upgrade = only(UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let connection = only(CONNECTION).is_some_and(|value| {
        value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
    });
    upgrade
        && connection
        && only(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept == accept_for(key))
}

/// The accept value for a key (RFC 6455 §1.3); SHA-1 is no security here, only the protocol.
fn accept_for(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(context.finish())
}

fn refused(destination: &Destination, why: &str) -> Denial {
    Denial::new(
        DenyReason::UpstreamUnreachable,
        format!("{destination} did not open the WebSocket: {why}"),
        "the policy allows it; check the upstream",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept_for(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
