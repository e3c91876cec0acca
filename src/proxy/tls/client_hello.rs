//! The first step of TLS with a client: read its ClientHello, so that the decision can be made before anything is answered.
//!
//! There is one parser, rustls's own: the name that is decided on is the name that the handshake goes on with. The bytes are kept, so that a
//! passthrough connection can be relayed from its first byte. Time limits are the caller's: one deadline around this and the rest.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::server::Acceptor;
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::host::Host;

/// A client that has said hello and waits for an answer. Dropping it closes the connection.
#[derive(Debug)]
pub struct ClientHello<IO> {
    start: StartHandshake<IO>,
    raw: Vec<u8>,
    sni: Sni,
}

/// The server name that a ClientHello asks for (RFC 6066 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// None, or an IP literal, which the extension does not allow and rustls reads as none.
    Absent,
    /// A name that is no canonical host. Refuse it.
    Invalid,
    /// A name.
    Name(Host),
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ClientHello<IO> {
    /// Reads a ClientHello, however it is cut into records. A malformed one is answered with an alert and is an error; rustls bounds its size.
    pub async fn read(io: IO) -> io::Result<Self> {
        let recorder = Recorder { io, raw: Vec::new() };
        let start = LazyConfigAcceptor::new(Acceptor::default(), recorder).await?;
        let sni = match start.client_hello().server_name() {
            None => Sni::Absent,
            Some(name) => match Host::parse(name) {
                Ok(host) if host.ip().is_none() => Sni::Name(host),
                Ok(_) | Err(_) => Sni::Invalid,
            },
        };
        let StartHandshake { accepted, io: Recorder { io, raw }, .. } = start;
        Ok(Self { start: StartHandshake::from_parts(accepted, io), raw, sni })
    }

    /// The name that the client asks for.
    #[must_use]
    pub const fn sni(&self) -> &Sni {
        &self.sni
    }

    /// The protocols that the client offers, in its order; none if it sends no ALPN.
    #[must_use]
    pub fn alpn(&self) -> Vec<Vec<u8>> {
        let hello = self.start.client_hello();
        hello.alpn().map(|offers| offers.map(<[u8]>::to_vec).collect()).unwrap_or_default()
    }

    /// Goes on with the handshake.
    pub async fn accept(self, config: Arc<ServerConfig>) -> io::Result<TlsStream<IO>> {
        self.start.into_stream(config).await
    }

    /// Ends the connection with a fatal alert, such as `access_denied`, in place of an answer.
    pub async fn refuse(self, alert: AlertDescription) -> io::Result<()> {
        const ALERT: u8 = 21;
        const TLS12: [u8; 2] = [3, 3];
        const FATAL: u8 = 2;
        let mut io = self.start.io;
        io.write_all(&[ALERT, TLS12[0], TLS12[1], 0, 2, FATAL, alert.into()]).await?;
        io.shutdown().await
    }

    /// Gives up TLS: every byte read so far, and the connection, to be relayed unopened.
    #[must_use]
    pub fn into_raw(self) -> (Vec<u8>, IO) {
        (self.raw, self.start.io)
    }
}

/// Keeps what is read through it.
struct Recorder<IO> {
    io: IO,
    raw: Vec<u8>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Recorder<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        this.raw.extend_from_slice(buf.filled().get(before..).unwrap_or_default());
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Recorder<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::proxy::tls::ca::CertificateAuthority;
    use crate::proxy::tls::leaf::{LeafConfigs, LeafMint};
    use crate::proxy::tls::provider;

    const PLACEHOLDER: &str = "api-allowed.test";

    fn client_config(roots: RootCertStore) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"x".to_vec()];
        Arc::new(config)
    }

    /// A ClientHello of rustls.
    fn hello(name: &str) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client =
            ClientConnection::new(client_config(RootCertStore::empty()), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// A ClientHello whose name has been overwritten by one of the same length.
    fn hello_with_raw_name(name: &[u8]) -> Vec<u8> {
        assert_eq!(name.len(), PLACEHOLDER.len());
        let mut bytes = hello(PLACEHOLDER);
        let at = memchr::memmem::find(&bytes, PLACEHOLDER.as_bytes()).unwrap();
        bytes[at..at + name.len()].copy_from_slice(name);
        bytes
    }

    async fn read(bytes: Vec<u8>) -> (io::Result<Sni>, Vec<u8>) {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(&bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let sni = ClientHello::read(far).await.map(|hello| hello.sni().clone());
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        (sni, answer)
    }

    #[tokio::test]
    async fn the_name_is_canonical_and_the_bytes_are_kept() {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let bytes = hello_with_raw_name(b"API-Allowed.TEST");
        near.write_all(&bytes).await.unwrap();
        let hello = ClientHello::read(far).await.unwrap();
        assert_eq!(*hello.sni(), Sni::Name(Host::parse(PLACEHOLDER).unwrap()));
        assert_eq!(hello.alpn(), [b"h2".to_vec(), b"x".to_vec()]);
        let (raw, mut io) = hello.into_raw();
        assert_eq!(raw, bytes);
        near.write_all(b"rest").await.unwrap();
        let mut rest = [0; 4];
        io.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
    }

    #[tokio::test]
    async fn names_that_are_no_hosts_are_refused_or_invalid() {
        for name in [
            b"evil.test\0.a.tst",
            b"evil test.a.test",
            b"evil.test/.a.tst",
            b"\xc3\xbc.evil.abc.test",
            b".evil.test.a.tst",
            b"*.allowed.a.test",
            b"-pi-allowed.test",
            b"xn--.a.allow.tst",
            b"evil.test.127.01",
            b"u@evil.test.test",
        ] {
            let (sni, answer) = read(hello_with_raw_name(name)).await;
            match sni {
                Ok(sni) => assert_eq!(sni, Sni::Invalid, "{name:?}"),
                Err(_) => assert_eq!(answer.first(), Some(&21), "{name:?} got no alert"),
            }
        }
    }

    #[tokio::test]
    async fn an_address_as_name_is_no_name() {
        for name in [b"203.0.113.10\0\0\0\0", b"111.222.133.144\0"] {
            let (sni, _) = read(hello_with_raw_name(name)).await;
            assert!(!matches!(sni, Ok(Sni::Name(_))), "{sni:?}");
        }
        assert_eq!(read(hello("203.0.113.10")).await.0.unwrap(), Sni::Absent);
        let (sni, _) = read(hello_with_raw_name(b"111:222:133::144")).await;
        assert!(!matches!(sni, Ok(Sni::Name(_))), "{sni:?}");
    }

    #[tokio::test]
    async fn a_hello_in_records_of_one_byte_gives_the_same_name() {
        let whole = hello(PLACEHOLDER);
        let cut: Vec<u8> = whole[5..].iter().flat_map(|&byte| [22, 3, 1, 0, 1, byte]).collect();
        let (sni, _) = read(cut).await;
        assert_eq!(sni.unwrap(), Sni::Name(Host::parse(PLACEHOLDER).unwrap()));
    }

    #[tokio::test]
    async fn what_is_not_a_hello_ends_in_an_error() {
        let mut endless = Vec::new();
        while endless.len() < 100 * 1024 {
            endless.extend_from_slice(&[22, 3, 1, 64, 0]);
            let mut body = vec![0; 16 * 1024];
            if endless.len() == 5 {
                // A ClientHello of 16 MiB.
                body[..4].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
            }
            endless.extend_from_slice(&body);
        }
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
            vec![22, 3, 1, 0, 0],
            vec![22, 3, 1, 0, 1, 1],
            vec![0; 64],
            Vec::new(),
        ] {
            assert!(read(bytes.clone()).await.0.is_err(), "{bytes:?}");
        }
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let write = async {
            drop(near.write_all(&endless).await);
            drop(near.shutdown().await);
        };
        let (refused, ()) = tokio::join!(async { ClientHello::read(far).await.is_err() }, write);
        assert!(refused);
    }

    #[tokio::test]
    async fn the_handshake_goes_on_or_is_refused_with_the_alert() {
        let root = tempfile::tempdir().unwrap();
        let ca = Arc::new(CertificateAuthority::create(root.path()).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let mint = Arc::new(LeafMint::new(ca, 4).unwrap());
        let configs = LeafConfigs::new(mint, 4).unwrap();
        let connector = tokio_rustls::TlsConnector::from(client_config(roots));
        let name = ServerName::try_from("a.test").unwrap();

        let (near, far) = tokio::io::duplex(64 * 1024);
        let serve = async {
            let hello = ClientHello::read(far).await.unwrap();
            let Sni::Name(host) = hello.sni() else { panic!("no name") };
            let config = configs.for_sandbox_host(&"sb-1".parse().unwrap(), host).unwrap();
            hello.accept(config).await
        };
        let (client, server) = tokio::join!(connector.connect(name.clone(), near), serve);
        assert!(client.is_ok() && server.is_ok());

        let (near, far) = tokio::io::duplex(64 * 1024);
        let serve = async {
            ClientHello::read(far).await.unwrap().refuse(AlertDescription::AccessDenied).await
        };
        let (client, server) = tokio::join!(connector.connect(name, near), serve);
        server.unwrap();
        assert!(client.unwrap_err().to_string().contains("AccessDenied"));
    }
}
