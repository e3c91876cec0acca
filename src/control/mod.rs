//! The operator's side: the API ([`api`]) and what watches over the process ([`health`]), each on a listener of its own on loopback.
//!
//! Never reachable through the proxy: the bound addresses are among the sockets that the dialler refuses. Connections, heads and waiting
//! are bounded as for any other peer.

pub mod api;
pub mod health;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::shutdown::Tasks;

/// A bound listener of the operator's.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// Connections at once.
const CONNECTIONS: usize = 64;
/// From the start of a connection, or the end of the last answer, to the end of a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a connection lives: nothing here is a stream.
const LIFETIME: Duration = Duration::from_secs(300);
/// The largest head.
const HEAD_BYTES: usize = 16 * 1024;
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

impl Bound {
    /// Binds; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address as bound.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until shutdown begins. A connection above the limit waits in the kernel's queue.
    pub async fn serve(self, router: Router, tasks: Tasks) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = tasks.closed() => return,
            };
            match accepted {
                Ok((tcp, _)) => {
                    let served = connection(tcp, router.clone(), tasks.clone());
                    drop(tasks.spawn(async move {
                        served.await;
                        drop(slot);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, listener = %self.address, "a connection could not be accepted");
                    tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
                }
            }
        }
    }
}

async fn connection(tcp: TcpStream, router: Router, tasks: Tasks) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
    let serving = builder.serve_connection(TokioIo::new(tcp), TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::time::timeout(LIFETIME, async {
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = tasks.closed() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    });
    match ended.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection of the operator's side broke"),
        Err(_elapsed) => tracing::debug!("a connection of the operator's side lived for too long"),
    }
}

/// An answer that no cache keeps.
fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<axum::body::Body>,
) -> axum::response::Response {
    let mut answer = axum::response::Response::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> axum::response::Response {
    match serde_json::to_vec(value) {
        Ok(body) => answer(status, "application/json", body),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", "")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Serves a router, sends bytes, and returns all that comes back before the connection closes.
    pub(super) async fn exchange(router: Router, request: &str) -> String {
        with_served(router, |address| async move { send(address, request).await }).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test's client")]
    async fn send(address: SocketAddr, request: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut read = String::new();
        tcp.read_to_string(&mut read).await.unwrap();
        read
    }

    async fn with_served<T, F: Future<Output = T>>(
        router: Router,
        client: impl FnOnce(SocketAddr) -> F,
    ) -> T {
        let (trigger, tasks) = Tasks::new();
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = bound.address();
        tasks.spawn(bound.serve(router, tasks.clone()));
        let read = client(address).await;
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, crate::shutdown::Drained::All);
        read
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let large = "a".repeat(HEAD_BYTES);
        let read = exchange(Router::new(), &format!("GET / HTTP/1.1\r\nx: {large}\r\n\r\n")).await;
        assert!(read.starts_with("HTTP/1.1 431"), "{read}");
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_hold_the_drain_up() {
        let (head, _open) = with_served(Router::new(), |address| async move {
            #[expect(clippy::disallowed_methods, reason = "a test's client")]
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            tcp.read_exact(&mut head).await.unwrap();
            (head, tcp)
        })
        .await;
        assert_eq!(&head, b"HTTP/1.1 404");
    }
}
