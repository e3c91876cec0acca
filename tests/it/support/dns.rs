//! A name server on loopback that knows what the test tells it, and that no name has any other address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// The name server; UDP and TCP on one port.
pub(crate) struct DnsStub {
    address: SocketAddr,
    known: Arc<Known>,
}

#[derive(Default)]
struct Known {
    /// With the seconds for which they are good.
    answers: Mutex<BTreeMap<String, (Vec<IpAddr>, u8)>>,
    questions: Mutex<Vec<String>>,
}

impl DnsStub {
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = bind().await;
        Self::serve(udp, tcp)
    }

    /// On sockets that the test has bound, to one port.
    pub(crate) fn on(udp: std::net::UdpSocket, tcp: std::net::TcpListener) -> Self {
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        Self::serve(UdpSocket::from_std(udp).unwrap(), TcpListener::from_std(tcp).unwrap())
    }

    fn serve(udp: UdpSocket, tcp: TcpListener) -> Self {
        let address = udp.local_addr().unwrap();
        let known = Arc::new(Known::default());
        let of_udp = known.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
                if let Some(answer) = of_udp.answer(&buffer[..length]) {
                    drop(udp.send_to(&answer, peer).await);
                }
            }
        });
        let of_tcp = known.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let known = of_tcp.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; length.into()];
                        if stream.read_exact(&mut question).await.is_err() {
                            return;
                        }
                        let answer = known.answer(&question).unwrap_or_default();
                        let framed =
                            [&u16::try_from(answer.len()).unwrap().to_be_bytes()[..], &answer]
                                .concat();
                        drop(stream.write_all(&framed).await);
                    }
                });
            }
        });
        Self { address, known }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the name has these addresses, which nobody keeps.
    pub(crate) fn set(&self, name: &str, addresses: &[&str]) {
        self.set_for(0, name, addresses);
    }

    /// The same for so many seconds.
    pub(crate) fn set_for(&self, seconds: u8, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.known.answers.lock().unwrap().insert(name.to_owned(), (addresses, seconds));
    }

    /// The names that were asked for, with the type of record.
    pub(crate) fn questions(&self) -> Vec<String> {
        self.known.questions.lock().unwrap().clone()
    }
}

async fn bind() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

impl Known {
    /// RFC 1035 §4: the header, the question again, and one record per address.
    fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut at = 12;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels
                .push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
        let name = labels.join(".");
        self.questions.lock().unwrap().push(format!("{name} {kind}"));
        let answers = self.answers.lock().unwrap().get(&name).cloned();
        let code = if answers.is_some() { 0 } else { 3 };
        let (addresses, seconds) = answers.unwrap_or_default();
        let records: Vec<Vec<u8>> =
            addresses.into_iter().filter_map(|ip| record(kind, ip, seconds)).collect();
        let count = u8::try_from(records.len()).unwrap();
        let mut answer =
            vec![message[0], message[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
        answer.extend_from_slice(&message[12..at + 4]);
        answer.extend(records.concat());
        Some(answer)
    }
}

fn record(kind: u16, ip: IpAddr, seconds: u8) -> Option<Vec<u8>> {
    let (right, data) = match ip {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (28, ip.octets().to_vec()),
    };
    let length = u8::try_from(data.len()).unwrap();
    let head = [0xc0, 12, 0, right, 0, 1, 0, 0, 0, seconds, 0, length];
    (kind == u16::from(right)).then(|| [&head[..], &data].concat())
}
