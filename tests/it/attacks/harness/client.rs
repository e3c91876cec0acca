//! The sandbox's side: raw bytes to the proxy, tunnels with any server name, and HTTP/2 frames made by hand.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Bed;
use super::checks::WayIn;

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(8);

/// The fields of an HTTP/2 request, pseudo-fields included.
pub(crate) type Fields = Vec<(String, String)>;

/// An HTTP/1 answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// A denial of Tollgate's own: its status, and its reason wherever a client may look for it.
    #[track_caller]
    pub(crate) fn is_denial(&self, status: u16, reason: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let head = self.head.to_ascii_lowercase();
        assert!(head.contains(&format!("x-deny-reason: {reason}\r\n")), "{self:?}");
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["reason"], reason, "{self:?}");
    }
}

/// A connection on which HTTP/1 answers are read; everything that comes is noted.
pub(crate) struct Talk<S> {
    pub(crate) io: S,
    buffer: Vec<u8>,
    received: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// The same, byte by byte; the other end may hang up before the last one.
    pub(crate) async fn send_in_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.io.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The next answer; `None` if the connection ends before it.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some((answer, length)) = parse(&self.buffer) {
                drop(self.buffer.drain(..length));
                return Some(answer);
            }
            if self.more().await == 0 {
                return None;
            }
        }
    }

    /// The connection is closed, and nothing comes before.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.more().await == 0
    }

    /// Everything until the end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.buffer)
    }

    async fn more(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, self.io.read(&mut buffer)).await;
        // A reset is an end too.
        let read = read.unwrap_or_else(|_| unreachable!("the connection stays open")).unwrap_or(0);
        let bytes = buffer.get(..read).unwrap_or_default();
        self.buffer.extend_from_slice(bytes);
        self.received.lock().unwrap().extend_from_slice(bytes);
        read
    }
}

impl Talk<TcpStream> {
    /// After a CONNECT, which is answered with 200.
    pub(super) async fn opening(mut self, target: &str, fields: &str) -> Self {
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n");
        self.send(head.as_bytes()).await;
        let answer = self.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        self
    }
}

/// An answer with a declared length, or without a body.
fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(bytes.get(..head)?).into_owned();
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let lower = text.to_ascii_lowercase();
    assert!(!lower.contains("transfer-encoding"), "{text}");
    let declared = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = declared.map_or(0, |digits| digits.trim().parse().unwrap_or(0));
    let body = String::from_utf8_lossy(bytes.get(head..head + length)?).into_owned();
    Some((Answer { status, head: text, body }, head + length))
}

impl Bed {
    /// A connection to the explicit listener.
    pub(crate) async fn dial(&self) -> Talk<TcpStream> {
        self.dial_from(Ipv4Addr::LOCALHOST.into()).await
    }

    /// The same from this address.
    pub(super) async fn dial_from(&self, source: IpAddr) -> Talk<TcpStream> {
        let io = TcpSocket::new_v4().unwrap();
        io.bind((source, 0).into()).unwrap();
        let io = io.connect(self.server.explicit()[0]).await.unwrap();
        self.talk(io)
    }

    pub(crate) fn talk<S>(&self, io: S) -> Talk<S> {
        Talk { io, buffer: Vec::new(), received: self.received.clone() }
    }

    /// `EXPL:` the first answer to raw bytes on the explicit listener.
    pub(crate) async fn explicit(&self, bytes: impl AsRef<[u8]>) -> Answer {
        self.explicit_talk(bytes).await.answer().await.unwrap()
    }

    /// The connection after raw bytes on the explicit listener.
    pub(crate) async fn explicit_talk(&self, bytes: impl AsRef<[u8]>) -> Talk<TcpStream> {
        let bytes = self.expand(bytes.as_ref());
        let mut talk = self.dial().await;
        talk.send(&bytes).await;
        self.checks.tried(WayIn::Explicit, bytes);
        talk
    }

    /// An answered CONNECT.
    pub(crate) async fn open(&self, target: &str) -> Talk<TcpStream> {
        self.open_with(target, "").await
    }

    /// The same with more fields.
    pub(crate) async fn open_with(&self, target: &str, fields: &str) -> Talk<TcpStream> {
        self.dial().await.opening(target, fields).await
    }

    /// TLS inside a tunnel, under this server name.
    pub(crate) async fn tls(
        &self,
        target: &str,
        sni: &str,
        alpn: &[&str],
    ) -> io::Result<Talk<TlsStream<TcpStream>>> {
        let mut config = self.client_config();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        self.tls_with(target, sni, config).await
    }

    pub(crate) async fn tls_with(
        &self,
        target: &str,
        sni: &str,
        config: ClientConfig,
    ) -> io::Result<Talk<TlsStream<TcpStream>>> {
        self.tls_over(self.open(target).await, sni, config).await
    }

    pub(crate) async fn tls_over(
        &self,
        tunnel: Talk<TcpStream>,
        sni: &str,
        config: ClientConfig,
    ) -> io::Result<Talk<TlsStream<TcpStream>>> {
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tunnel.io);
        let tls = tokio::time::timeout(PATIENCE, tls).await.unwrap()?;
        Ok(self.talk(tls))
    }

    /// A client that trusts Tollgate's authority only.
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.folder().join("certs/ca.pem")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// `TUN(host:443):` the connection after raw bytes inside CONNECT and TLS.
    pub(crate) async fn inside(
        &self,
        host: &str,
        bytes: impl AsRef<[u8]>,
    ) -> Talk<TlsStream<TcpStream>> {
        let mut talk = self.tls(&format!("{host}:443"), host, &["http/1.1"]).await.unwrap();
        let bytes = self.expand(bytes.as_ref());
        talk.send(&bytes).await;
        self.checks.tried(WayIn::Tunnel(host.to_owned()), bytes);
        talk
    }

    /// The same, and its first answer.
    pub(crate) async fn tunnel(&self, host: &str, bytes: impl AsRef<[u8]>) -> Answer {
        self.inside(host, bytes).await.answer().await.unwrap()
    }

    /// `H2(sni=):` fields, each list as one request without a body; how each stream ended, in that order.
    pub(crate) async fn h2(&self, host: &str, requests: &[Fields]) -> Vec<H2End> {
        let mut talk = self.tls(&format!("{host}:443"), host, &["h2"]).await.unwrap();
        talk.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        let mut ends = Vec::new();
        for (stream, fields) in (1_u32..).step_by(2).zip(requests) {
            let block = encoded(self, fields);
            let length = u32::try_from(block.len()).unwrap().to_be_bytes();
            let mut frame = vec![length[1], length[2], length[3], 1, 0x5];
            frame.extend(stream.to_be_bytes());
            frame.extend(block);
            talk.send(&frame).await;
            ends.push(talk.h2_end(stream).await);
        }
        ends
    }
}

/// How an HTTP/2 stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum H2End {
    /// With an answer, whose body this is.
    Answer(String),
    /// With RST_STREAM or GOAWAY and this error code.
    Error(u32),
}

impl H2End {
    /// A denial of Tollgate's own.
    #[track_caller]
    pub(crate) fn is_denial(&self, status: u16, reason: &str) {
        let Self::Answer(body) = self else { unreachable!("{self:?}") };
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&problem["status"], &problem["reason"]), (&status.into(), &reason.into()));
    }

    /// Refused as malformed, below any request or by a 400.
    #[track_caller]
    pub(crate) fn is_malformed(&self) {
        const PROTOCOL_ERROR: u32 = 1;
        if *self != Self::Error(PROTOCOL_ERROR) {
            self.is_denial(400, "protocol_not_allowed");
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    async fn h2_end(&mut self, stream: u32) -> H2End {
        let mut body = Vec::new();
        loop {
            while self.buffer.len() < 9 {
                assert!(self.more().await > 0, "the connection ended without an answer");
            }
            let head: Vec<u8> = self.buffer.drain(..9).collect();
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            while self.buffer.len() < length {
                assert!(self.more().await > 0, "the connection ended within a frame");
            }
            let payload: Vec<u8> = self.buffer.drain(..length).collect();
            let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match (head[3], of) {
                (0, of) if of == stream => body.extend_from_slice(&payload),
                (3, of) if of == stream => {
                    return H2End::Error(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                }
                (7, 0) if payload[4..8] != [0; 4] => {
                    return H2End::Error(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                }
                _ => {}
            }
            // END_STREAM on HEADERS or DATA.
            if of == stream && matches!(head[3], 0 | 1) && head[4] & 1 == 1 {
                return H2End::Answer(String::from_utf8_lossy(&body).into_owned());
            }
        }
    }
}

/// The fields of a request.
pub(crate) fn fields(list: &[(&str, &str)]) -> Fields {
    list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A header block of literals without indexing or Huffman coding, so that nothing is corrected on the way.
fn encoded(bed: &Bed, fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let text = bed.expand(text.as_bytes());
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text);
        }
    }
    block
}
