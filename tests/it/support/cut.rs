//! I7 of the hostile cases: what is refused whole is refused in two pieces, and what is cut off is carried nowhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::SOON;

/// How an input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Of the first answer; nothing if none came.
    pub(crate) status: Option<u16>,
    /// The other end has closed, if that was waited for.
    pub(crate) closed: bool,
}

/// How much of an input is sent, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// All of it at once.
    Whole,
    /// So many bytes, and after a moment the rest.
    Two(usize),
    /// So many bytes, and the end of the stream.
    CutOff(usize),
}

/// Sends an input in every way, if it is refused whole: it is refused alike in two pieces, and has no success when it is cut off. Nothing
/// may be forwarded meanwhile, which `forwarded` counts.
pub(crate) async fn everywhere(
    what: &str,
    length: usize,
    forwarded: impl Fn() -> usize,
    send: impl AsyncFn(Piece) -> End,
) {
    let before = forwarded();
    let whole = send(Piece::Whole).await;
    if forwarded() != before || !whole.status.is_some_and(refuses) {
        return;
    }
    let (what, send) = (&what, &send);
    let places: Vec<_> = places_to_cut(length).collect();
    let every = places.len().div_ceil(IN_TWO).max(1);
    let each = async |(nth, cut): (usize, usize)| {
        let off = send(Piece::CutOff(cut)).await;
        assert!(off.closed, "cut off after {cut} and left open: {off:?}: {what}");
        assert!(!off.status.is_some_and(succeeds), "cut off after {cut}: {off:?}: {what}");
        if nth % every != 0 {
            return;
        }
        let two = send(Piece::Two(cut)).await;
        assert_eq!(two.status, whole.status, "in two pieces, cut at {cut}: {what}");
    };
    futures_util::stream::iter(places.into_iter().enumerate())
        .map(each)
        .buffer_unordered(AT_ONCE)
        .count()
        .await;
    assert_eq!(forwarded(), before, "something was forwarded of {what}");
}

const AT_ONCE: usize = 16;
/// So many of the places are tried in two pieces as well, about.
const IN_TWO: usize = 32;

/// From where all this is sent: a sidecar knows no address of its sandbox, and the audit's events can be told from the case's own.
pub(crate) const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// The address of a neighbour.
pub(crate) const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Whether an audit event is of the case itself.
pub(crate) fn is_of_the_case(event: &Value) -> bool {
    let client = event["client"].as_str().and_then(|client| client.parse::<SocketAddr>().ok());
    client.is_none_or(|client| ![SOURCE, NEIGHBOUR].contains(&client.ip()))
}

/// Every place in a short input, evenly spread ones in a longer one.
fn places_to_cut(length: usize) -> impl Iterator<Item = usize> {
    const EVERY_UP_TO: usize = 200;
    const SPREAD: usize = 64;
    let step = if length <= EVERY_UP_TO { 1 } else { length.div_ceil(SPREAD) };
    (1..length).step_by(step)
}

/// Sends so much of the input; what came back, to the end if it was cut off.
pub(crate) async fn send<S>(io: &mut S, bytes: &[u8], piece: Piece) -> (Vec<u8>, End)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    const A_MOMENT: Duration = Duration::from_millis(5);
    let (first, rest) = match piece {
        Piece::Whole => (bytes, &b""[..]),
        Piece::Two(at) => bytes.split_at(at),
        Piece::CutOff(at) => (&bytes[..at], &b""[..]),
    };
    // The other end may have closed: then the rest goes nowhere, which is as good.
    drop(io.write_all(first).await.and(io.flush().await));
    match piece {
        Piece::Whole => {}
        Piece::Two(_) => {
            tokio::time::sleep(A_MOMENT).await;
            drop(io.write_all(rest).await.and(io.flush().await));
        }
        Piece::CutOff(_) => drop(io.shutdown().await),
    }
    let to_the_end = matches!(piece, Piece::CutOff(_));
    let mut read = Vec::new();
    let all = async {
        while to_the_end || read.len() < STATUS {
            if io.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return true;
            }
        }
        false
    };
    // What is refused whole is refused at once; everything else is none of ours.
    let most = if piece == Piece::Whole { Duration::from_secs(2) } else { SOON };
    let closed = tokio::time::timeout(most, all).await.unwrap_or(false);
    let end = End { status: status_of(&read), closed };
    (read, end)
}

/// Bytes of an answer to the end of its status.
const STATUS: usize = "HTTP/1.1 200".len();

/// The status of the first answer.
fn status_of(bytes: &[u8]) -> Option<u16> {
    let start = std::str::from_utf8(bytes.get(..STATUS)?).ok()?;
    start.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok()
}

fn succeeds(status: u16) -> bool {
    status < 400
}

/// The request is at fault, not the upstream.
pub(crate) fn refuses(status: u16) -> bool {
    (400..500).contains(&status) || status == 505
}
