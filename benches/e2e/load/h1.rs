//! The HTTP/1.1 client: requests built once, answers read just far enough to know they are right.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Meter;
use crate::Fault;
use crate::arm::Target;
use crate::workload::Workload;

const BUFFER: usize = 64 << 10;
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// How much of an answer that is no 200 is shown.
const SHOWN: usize = 600;

/// Sends the workload's request again and again over one connection.
pub(crate) async fn run(
    target: Target,
    workload: Workload,
    meter: Arc<Meter>,
) -> Result<(), Fault> {
    let request = workload.request(&target.authorization);
    let mut connection = Connection::open(&target, &target.h1, workload.host()).await?;
    loop {
        let started = Instant::now();
        connection.exchange(&request, &meter).await?;
        meter.operation(started);
    }
}

/// Opens a connection for each request; the whole of it is the operation.
pub(crate) async fn run_anew(
    target: Target,
    workload: Workload,
    meter: Arc<Meter>,
) -> Result<(), Fault> {
    let request = workload.request(&target.authorization);
    let resumes = workload != Workload::NewConnectionFull;
    let tls = if resumes { &target.h1 } else { &target.h1_full };
    loop {
        let started = Instant::now();
        let mut connection = Connection::open(&target, tls, workload.host()).await?;
        connection.exchange(&request, &meter).await?;
        connection.stream.shutdown().await?;
        meter.operation(started);
    }
}

/// One connection to the upstream, through whatever is in between.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(
        target: &Target,
        tls: &Arc<ClientConfig>,
        host: &'static str,
    ) -> Result<Self, Fault> {
        let stream = timeout(OPEN_LIMIT, open(target, tls, host)).await??;
        Ok(Self { stream, buffer: vec![0; BUFFER] })
    }

    /// Sends a request and reads its answer to the end.
    pub(crate) async fn exchange(&mut self, request: &[u8], meter: &Meter) -> Result<(), Fault> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let mut missing = self.read_head(meter).await?;
        while missing > 0 {
            let count = self.stream.read(&mut self.buffer).await?;
            if count == 0 {
                return Err("the answer ended within its body".into());
            }
            meter.received(count);
            missing = missing.checked_sub(count).ok_or("an answer longer than it says")?;
        }
        Ok(())
    }

    /// Reads the head of an answer; returns how much of its body has yet to come.
    async fn read_head(&mut self, meter: &Meter) -> Result<usize, Fault> {
        let mut filled = 0;
        loop {
            let rest = self.buffer.get_mut(filled..).filter(|rest| !rest.is_empty());
            let count = self.stream.read(rest.ok_or("a head above 64 KiB")?).await?;
            if count == 0 {
                return Err("the connection ended before an answer".into());
            }
            filled += count;
            let read = self.buffer.get(..filled).unwrap_or_default();
            if let Some((head, length)) = parse(read)? {
                meter.received(count);
                let missing = (head + length).checked_sub(filled);
                return Ok(missing.ok_or("an answer longer than it says")?);
            }
        }
    }
}

/// Opens the TLS connection alone, for any protocol.
pub(super) async fn open(
    target: &Target,
    tls: &Arc<ClientConfig>,
    host: &'static str,
) -> Result<TlsStream<TcpStream>, Fault> {
    let mut stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    if target.tunnel {
        ask_for_tunnel(&mut stream, host).await?;
    }
    let name = ServerName::try_from(host)?;
    Ok(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?)
}

async fn ask_for_tunnel(stream: &mut TcpStream, host: &str) -> Result<(), Fault> {
    let request = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the proxy closed the connection instead of answering CONNECT".into());
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let complete = response.parse(&answer)?.is_complete();
        if complete && response.code == Some(200) {
            return Ok(());
        }
        if complete || answer.len() > BUFFER {
            return Err(format!("CONNECT was answered: {}", shown(&answer)).into());
        }
    }
}

/// Lengths of head and body; `None` if the head is incomplete.
fn parse(read: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(read)? else { return Ok(None) };
    if response.code != Some(200) {
        return Err(format!("a request was answered: {}", shown(read)).into());
    }
    let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.ok_or("an answer without Content-Length")?;
    Ok(Some((head, std::str::from_utf8(length.value)?.parse()?)))
}

fn shown(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer.get(..SHOWN).unwrap_or(answer)).into_owned()
}
