//! Both ends of a WebSocket that carries one text message each way (RFC 6455): as much of it as a command needs that tries the proxy out.
//! Written apart from what the proxy reads and writes, so that the two are held against each other.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::{Builder, Parts};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::upstream::Respond;
use crate::cli::Failure;

/// The last frame of a text message, whole.
const TEXT: u8 = 0x81;
const MASKED: u8 = 0x80;
/// What stands in the place of a length that follows in two bytes.
const LONG: u8 = 126;

/// The fields of a client's handshake.
pub(in crate::cli) fn asking(request: Builder) -> Builder {
    request
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, STANDARD.encode(b"tollgateselftest"))
}

/// Sends a message, and waits for the one that answers it.
pub(super) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    let mut mask = [0; 4];
    aws_lc_rs::rand::fill(&mut mask).map_err(|_error| "no randomness")?;
    write(io, message, Some(mask)).await?;
    read(io, false).await
}

/// The 101 to a handshake; none to any other request.
pub(super) fn switching<B>(request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    let field = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let key = field(SEC_WEBSOCKET_KEY).filter(|_| field(UPGRADE) == Some(b"websocket"))?;
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(context.finish());
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, accept);
    answer.body(Full::default()).ok()
}

/// What follows the 101: the client's message is answered as a body would be.
pub(super) async fn serve(
    upgrade: OnUpgrade,
    head: Parts,
    respond: Respond,
) -> Result<(), Failure> {
    let mut io = TokioIo::new(upgrade.await?);
    let message = read(&mut io, true).await?;
    let answer = respond(&head, &Bytes::from(message)).into_body();
    let answer = answer.collect().await?.to_bytes();
    write(&mut io, &answer, None).await?;
    Ok(io.shutdown().await?)
}

async fn write<W: AsyncWrite + Unpin>(
    io: &mut W,
    message: &[u8],
    mask: Option<[u8; 4]>,
) -> Result<(), Failure> {
    let flag = if mask.is_some() { MASKED } else { 0 };
    let mut frame = vec![TEXT];
    match u8::try_from(message.len()) {
        Ok(short) if short < LONG => frame.push(flag | short),
        _ => {
            frame.push(flag | LONG);
            let length = u16::try_from(message.len()).map_err(|_error| "the message is long")?;
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(mask.into_iter().flatten());
    frame.extend(unmasked(message, mask.unwrap_or_default()));
    io.write_all(&frame).await?;
    Ok(io.flush().await?)
}

async fn read<R: AsyncRead + Unpin>(io: &mut R, from_client: bool) -> Result<Vec<u8>, Failure> {
    let (first, second) = (io.read_u8().await?, io.read_u8().await?);
    if first != TEXT || (second & MASKED != 0) != from_client {
        return Err("what came over the WebSocket is no text message".into());
    }
    let length = match second & !MASKED {
        LONG => usize::from(io.read_u16().await?),
        short if short < LONG => usize::from(short),
        _ => return Err("the message is long".into()),
    };
    let mut mask = [0; 4];
    if from_client {
        io.read_exact(&mut mask).await?;
    }
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
    Ok(unmasked(&message, mask).collect())
}

fn unmasked(message: &[u8], mask: [u8; 4]) -> impl Iterator<Item = u8> {
    message.iter().zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key)
}
