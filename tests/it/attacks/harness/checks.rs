//! What is tried after every case: the same bytes in pieces (I7), and a sandbox that has nothing to do with it (I6).

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::client::Talk;
use super::{Bed, Upstream};
use crate::support::cut::{self, End, Piece};

/// The neighbour's host, and its store and sandbox in the policy.
const HOST: &str = "neighbour.test";
pub(super) const STORE: &str = "  apart:\n    egressAllowlist: [neighbour.test:443]\n";
/// On a sidecar's listener only its address tells another sandbox apart.
pub(super) const SANDBOX: &str = "  sb-apart: { secretStores: [apart], sources: [127.0.0.2] }\n";

/// Where raw bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WayIn {
    /// To the explicit listener.
    Explicit,
    /// Inside TLS inside a tunnel to this host.
    Tunnel(String),
}

/// What the case has tried, and what the neighbour has.
pub(super) struct Checks {
    /// The neighbour's own, whatever the case does to the other.
    pub(super) upstream: Upstream,
    tried: Mutex<Vec<(WayIn, Vec<u8>)>>,
}

impl Checks {
    pub(super) async fn start() -> Self {
        let upstream = Upstream::start().await;
        Self { upstream, tried: Mutex::default() }
    }

    /// Where the neighbour's host leads: one more line of `connectTo`.
    pub(super) fn configuration(&self) -> String {
        format!("    '{HOST}:443': '{}'\n", self.upstream.address)
    }

    pub(super) fn tried(&self, way: WayIn, bytes: Vec<u8>) {
        let mut tried = self.tried.lock().unwrap();
        if !tried.iter().any(|known| known.0 == way && known.1 == bytes) {
            tried.push((way, bytes));
        }
    }
}

impl Bed {
    /// I7, for all that was tried; see [`cut::everywhere`].
    pub(super) async fn cut_everywhere(&self) {
        let tried = std::mem::take(&mut *self.checks.tried.lock().unwrap());
        for (way, bytes) in &tried {
            let what = bytes.escape_ascii().to_string();
            let send = async |piece: Piece| match way {
                WayIn::Explicit => {
                    self.piece(self.dial_from(cut::SOURCE).await, bytes, piece).await
                }
                WayIn::Tunnel(host) => {
                    let again = self.dial_from(cut::SOURCE).await;
                    let tunnel = again.opening(&format!("{host}:443"), "").await;
                    let talk = self.tls_over(tunnel, host, self.client_config()).await;
                    self.piece(talk.unwrap(), bytes, piece).await
                }
            };
            cut::everywhere(&what, bytes.len(), || self.upstream.answered(), send).await;
        }
    }

    async fn piece<S>(&self, mut talk: Talk<S>, bytes: &[u8], piece: Piece) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (read, end) = cut::send(&mut talk.io, bytes, piece).await;
        self.received.lock().unwrap().extend_from_slice(&read);
        end
    }

    /// I6: a sandbox apart is served as if nothing had happened, and its upstream hears of nothing else.
    pub(super) async fn neighbour_is_served(&self) {
        const AT_ONCE: Duration = Duration::from_secs(5);
        let began = Instant::now();
        let near = self.dial_from(cut::NEIGHBOUR).await;
        let tunnel = near.opening(&format!("{HOST}:443"), "").await;
        let mut talk = self.tls_over(tunnel, HOST, self.client_config()).await.unwrap();
        let request = format!("GET /own HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        talk.send(request.as_bytes()).await;
        let answer = talk.answer().await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{answer:?}");
        assert!(began.elapsed() < AT_ONCE, "the neighbour waits for {:?}", began.elapsed());
        assert_eq!(self.checks.upstream.heard(), request);
    }
}
