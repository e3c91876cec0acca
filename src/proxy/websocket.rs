//! Step 10 for WebSocket: the handshake goes the usual path; bytes are relayed only after a validated 101 (RFC 6455 §4).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes,
};

use super::forward::{self, Answer, AnswerBody, Outgoing};
use super::frames::{self, Frames, Sender};
use super::h1::ExpectedResponse;
use super::http::{Rewound, Stream};
use super::pool::Upstreams;
use super::record::{Exchange, Record};
use super::revoke::StillAllowed;
use super::substitute::{Messages, Violation};
use super::{Opened, scrub, substitute};
use crate::host::Destination;
use crate::policy::{Denial, DenyReason};

/// The upstream's half of an accepted WebSocket, and the record that ends with it.
pub(super) struct Upstream {
    io: scrub::Searched<TokioIo<hyper::upgrade::Upgraded>>,
    /// What opens tokens in the client's messages, if any secret is opted into them.
    messages: Option<Messages>,
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
    if substitute::reads_messages(asked.permit)
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
    let exchange = record.exchange();
    let most = proxy.limits.buffered_body.get();
    let messages =
        Messages::of(asked.session, asked.permit, &still_allowed, exchange.clone(), most);
    let io = scrub::Searched::new(TokioIo::new(upgraded), asked.searched_for(), exchange);
    let upstream = Upstream { io, messages, still_allowed, record: record.take() };
    asked.via.open(Opened::WebSocket(Box::new(upstream)));
    Ok(answer)
}

/// Relays frames both ways until one side ends, or the policies do not allow it any more.
pub(super) async fn relay<S: Stream>(mut io: Rewound<S>, upstream: Upstream) {
    let Upstream { io: mut upstream, messages, mut still_allowed, mut record } = upstream;
    let exchange = record.exchange();
    let relayed = async {
        if let Some(messages) = messages {
            return Box::pin(relay_opened(io, upstream, messages, &exchange)).await;
        }
        let moved =
            copy_bidirectional_with_sizes(&mut io, &mut upstream, RELAY_BUFFER, RELAY_BUFFER);
        let (out, back) = moved.await?;
        exchange.moved(out, back);
        Ok(())
    };
    tokio::select! {
        ended = relayed => match ended {
            Ok(()) => {}
            Err(Ended::Broken(error)) => tracing::debug!(%error, "a WebSocket ended"),
            Err(Ended::Violated(violation)) => exchange.cut(violation.into()),
        },
        denial = still_allowed.denied() => record.denied(&denial),
    }
}

/// Relays with the tokens in the client's messages opened. A violation is told to both sides.
async fn relay_opened<C, U>(
    client: C,
    upstream: U,
    mut messages: Messages,
    exchange: &Exchange,
) -> Result<(), Ended>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let mut between = Some(Frames::of(Sender::Server));
    let ended = tokio::try_join!(
        send(&mut from_client, &mut to_upstream, &mut messages, exchange),
        send_back(&mut from_upstream, &mut to_client, &mut between, exchange),
    );
    if let Err(Ended::Violated(violation)) = &ended {
        let code = violation.code();
        let farewell = async {
            if between.is_some_and(|frames| frames.is_between()) {
                to_client.write_all(&frames::close(code, None)).await?;
            }
            to_client.shutdown().await?;
            to_upstream.write_all(&frames::close(code, Some([0; 4]))).await?;
            to_upstream.shutdown().await
        };
        if !matches!(tokio::time::timeout(FAREWELL, farewell).await, Ok(Ok(()))) {
            tracing::debug!("a side of a WebSocket did not wait for its end");
        }
    }
    ended.map(|_both| ())
}

/// The client's frames, until it ends.
async fn send<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    from: &mut R,
    to: &mut W,
    messages: &mut Messages,
    exchange: &Exchange,
) -> Result<(), Ended> {
    let mut room = vec![0; RELAY_BUFFER];
    let mut out = Vec::new();
    loop {
        let length = from.read(&mut room).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        let pushed = messages.push(room.get(..length).unwrap_or_default(), &mut out).await;
        to.write_all(&out).await?;
        to.flush().await?;
        exchange.out.fetch_add(out.len() as u64, Ordering::Relaxed);
        // A long message leaves a long buffer, which need not stay.
        out = Vec::new();
        pushed.map_err(Ended::Violated)?;
    }
}

/// The upstream's frames, until it ends. `between` follows what was written; it is none while it is not known.
async fn send_back<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    from: &mut R,
    to: &mut W,
    between: &mut Option<Frames>,
    exchange: &Exchange,
) -> Result<(), Ended> {
    let mut room = vec![0; RELAY_BUFFER];
    loop {
        let length = from.read(&mut room).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        let piece = room.get(..length).unwrap_or_default();
        let frames = between.take();
        to.write_all(piece).await?;
        to.flush().await?;
        *between = frames.and_then(|mut frames| {
            let followed = frames.follow(piece, 0, |_stretch| {});
            followed.is_ok().then_some(frames)
        });
        exchange.back.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Why a relay ended before both sides did.
enum Ended {
    Broken(std::io::Error),
    Violated(Violation),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error)
    }
}

/// How long a side may take to hear why its WebSocket ends.
const FAREWELL: Duration = Duration::from_secs(1);

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
