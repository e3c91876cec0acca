//! Questions on connections (RFC 7766): many on one, each after its length, answered in their order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::question::LONGEST;
use super::{Carrier, Responder};

/// A bound listener.
#[derive(Debug)]
pub struct TcpSocket {
    listener: TcpListener,
}

impl TcpSocket {
    /// Binds; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Takes a listener that somebody else bound.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: TcpListener::from_std(listener)? })
    }

    /// The address as bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until shutdown begins. A connection above the limit is closed at once; a failed accept is logged and the loop goes on.
    pub(super) async fn serve(self, responder: Arc<Responder>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = responder.proxy.tasks.closed() => return,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                    let served = responder.clone();
                    drop(responder.proxy.tasks.spawn(async move {
                        served.serve_connection(tcp, peer).await;
                        drop(slot);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "a DNS connection could not be accepted");
                    tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
                }
            }
        }
    }
}

/// DNS connections at once of all sandboxes on one listener.
const CONNECTIONS: usize = 1_024;
/// How long a connection may wait for a whole question, the first or the next, or for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

impl Responder {
    /// One connection, counted against its sandbox until it ends.
    async fn serve_connection(&self, mut tcp: TcpStream, peer: SocketAddr) {
        let sandbox = self.recognise(peer.ip());
        let questions = sandbox.as_ref().map_or(&self.strangers, |sandbox| sandbox.questions());
        let Some(_slot) = questions.connect() else { return };
        loop {
            let message = tokio::select! {
                read = within_patience(read(&mut tcp)) => read,
                () = self.proxy.tasks.closed() => return,
            };
            let Some(message) = message else { return };
            let Some(answer) = self.answer(&message, peer, Carrier::Tcp) else { return };
            if within_patience(write(&mut tcp, &answer)).await.is_none() {
                return;
            }
        }
    }
}

async fn within_patience<T>(step: impl Future<Output = io::Result<T>>) -> Option<T> {
    tokio::time::timeout(PATIENCE, step).await.ok()?.ok()
}

async fn read(tcp: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(tcp.read_u16().await?);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    tcp.read_exact(&mut message).await?;
    Ok(message)
}

/// Length and answer in one piece.
async fn write(tcp: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    tcp.write_all(&[&length.to_be_bytes(), answer].concat()).await
}
