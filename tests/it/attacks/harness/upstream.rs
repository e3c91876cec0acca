//! The upstream of every name: TLS or plain by the first byte, HTTP/1.1, and a note of every connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// One connection as the upstream saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connection {
    /// The server name, inside TLS.
    pub(crate) sni: Option<String>,
    /// A session was resumed.
    pub(crate) resumed: bool,
    /// Application bytes.
    pub(crate) bytes: Vec<u8>,
    /// Whole requests, each of which was answered.
    pub(crate) answered: usize,
    /// The peer has gone.
    pub(crate) ended: bool,
}

/// A certificate authority of the tests.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new(constrain: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        constrain(&mut params);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The authority that a certificate and a key in PEM make.
    pub(crate) fn from_pem(certificate: &str, key: &str) -> Self {
        let key = KeyPair::from_pem(key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(certificate, key).unwrap();
        Self { issuer, pem: certificate.to_owned() }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A leaf for the name.
    pub(crate) fn leaf(
        &self,
        name: &str,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Arc<CertifiedKey> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        edit(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        certified(leaf.der().clone(), &key)
    }
}

/// A certificate that vouches for itself.
pub(crate) fn self_signed(name: &str) -> Arc<CertifiedKey> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    certified(params.self_signed(&key).unwrap().der().clone(), &key)
}

fn certified(leaf: rustls::pki_types::CertificateDer<'static>, key: &KeyPair) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(vec![leaf], key))
}

/// What the upstream shows and says.
#[derive(Default)]
struct Conduct {
    certificate: Option<Arc<CertifiedKey>>,
    answer: Option<Vec<u8>>,
    /// Sent in place of a TLS handshake.
    instead: Option<&'static [u8]>,
}

/// A running upstream.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    seen: Arc<Mutex<Vec<Connection>>>,
    conduct: Arc<Mutex<Conduct>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let authority = Arc::new(Authority::new(|_| {}));
        let seen: Arc<Mutex<Vec<Connection>>> = Arc::default();
        let conduct: Arc<Mutex<Conduct>> = Arc::default();
        let resolver = Resolver { authority: authority.clone(), conduct: conduct.clone() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        let shared = (seen.clone(), conduct.clone());
        drop(tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let nth = {
                    let mut seen = shared.0.lock().unwrap();
                    seen.push(Connection::default());
                    seen.len() - 1
                };
                let note = Note { seen: shared.0.clone(), nth };
                drop(tokio::spawn(serve(tcp, tls.clone(), note, shared.1.clone())));
            }
        }));
        Self { address, authority, seen, conduct }
    }

    pub(crate) fn connections(&self) -> Vec<Connection> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until so many connections have ended.
    pub(crate) async fn ended(&self, connections: usize) {
        for _ in 0..300 {
            if self.connections().iter().filter(|one| one.ended).count() >= connections {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        unreachable!("connections stay open: {:?}", self.connections());
    }

    /// Whole requests on all connections.
    pub(crate) fn answered(&self) -> usize {
        self.seen.lock().unwrap().iter().map(|one| one.answered).sum()
    }

    /// All application bytes of all connections, as text.
    pub(crate) fn heard(&self) -> String {
        let bytes: Vec<u8> = self.connections().into_iter().flat_map(|one| one.bytes).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn present(&self, certificate: Arc<CertifiedKey>) {
        self.conduct.lock().unwrap().certificate = Some(certificate);
    }

    pub(crate) fn answer(&self, bytes: &[u8]) {
        self.conduct.lock().unwrap().answer = Some(bytes.to_vec());
    }

    pub(crate) fn say_instead_of_tls(&self, bytes: &'static [u8]) {
        self.conduct.lock().unwrap().instead = Some(bytes);
    }
}

struct Resolver {
    authority: Arc<Authority>,
    conduct: Arc<Mutex<Conduct>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.conduct.lock().unwrap().certificate.clone();
        shown.or_else(|| Some(self.authority.leaf(hello.server_name()?, |_| {})))
    }
}

struct Note {
    seen: Arc<Mutex<Vec<Connection>>>,
    nth: usize,
}

impl Note {
    fn edit(&self, edit: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.seen.lock().unwrap().get_mut(self.nth) {
            edit(connection);
        }
    }
}

async fn serve(mut tcp: TcpStream, tls: TlsAcceptor, note: Note, conduct: Arc<Mutex<Conduct>>) {
    let mut first = [0];
    if matches!(tcp.peek(&mut first).await, Ok(1)) {
        let instead = conduct.lock().unwrap().instead;
        if let Some(instead) = instead {
            drop(tcp.write_all(instead).await);
        } else if first != [0x16] {
            talk(tcp, &note, &conduct).await;
        } else if let Ok(tls) = tls.accept(tcp).await {
            let (_, session) = tls.get_ref();
            let sni = session.server_name().map(str::to_owned);
            let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
            note.edit(|seen| (seen.sni, seen.resumed) = (sni, resumed));
            talk(tls, &note, &conduct).await;
        }
    }
    note.edit(|seen| seen.ended = true);
}

/// Answers every request, as soon as its head and declared length are there.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, note: &Note, conduct: &Mutex<Conduct>) {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        while let Some(length) = whole(&waiting) {
            drop(waiting.drain(..length));
            note.edit(|seen| seen.answered += 1);
            let answer = conduct.lock().unwrap().answer.clone();
            let answer = answer
                .unwrap_or_else(|| b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec());
            if io.write_all(&answer).await.is_err() || io.flush().await.is_err() {
                return;
            }
        }
        match io.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                let bytes = buffer.get(..read).unwrap_or_default();
                waiting.extend_from_slice(bytes);
                note.edit(|seen| seen.bytes.extend_from_slice(bytes));
            }
        }
    }
}

/// The length of the first request, once it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(bytes.get(..head)?).to_ascii_lowercase();
    let declared = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = head + declared.map_or(0, |digits| digits.trim().parse().unwrap_or(0));
    (bytes.len() >= length).then_some(length)
}
