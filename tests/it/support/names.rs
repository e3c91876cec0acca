//! A client of the DNS responder: questions over UDP and TCP, whole or as bytes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::{SOON, Tollgate};

/// Asks one responder.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    address: SocketAddr,
}

/// How long silence lasts before it is believed.
const SILENCE: Duration = Duration::from_millis(300);

impl Names {
    /// The first responder of a Tollgate.
    pub(crate) fn of(tollgate: &Tollgate) -> Self {
        Self::at(tollgate.server().dns()[0])
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address }
    }

    /// The answer to a well-formed question, over UDP and over TCP: they say the same.
    pub(crate) async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.ask_message(&question(name, kind)).await
    }

    pub(crate) async fn ask_message(&self, question: &Message) -> Message {
        let bytes = question.to_vec().unwrap();
        let udp = self.udp(&bytes).await.expect("an answer over UDP");
        let tcp = self.tcp(&[bytes]).await;
        assert_eq!(tcp, std::slice::from_ref(&udp), "TCP says the same as UDP");
        let answer = Message::from_vec(&udp).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        answer
    }

    /// What comes back for a datagram, if anything does.
    pub(crate) async fn udp(&self, message: &[u8]) -> Option<Vec<u8>> {
        let socket = self.sent(message).await;
        let mut buffer = vec![0; 65_536];
        let length = tokio::time::timeout(SILENCE, socket.recv(&mut buffer)).await.ok()?.unwrap();
        buffer.truncate(length);
        Some(buffer)
    }

    /// A datagram on its way, and the socket at which its answer comes.
    pub(crate) async fn sent(&self, message: &[u8]) -> UdpSocket {
        let local: SocketAddr =
            if self.address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
        let socket = UdpSocket::bind(local).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(message).await.unwrap();
        socket
    }

    /// The answers to messages on one connection, until it is closed or all are answered.
    pub(crate) async fn tcp(&self, messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut stream = self.connect().await;
        for message in messages {
            let length = u16::try_from(message.len()).unwrap().to_be_bytes();
            drop(stream.write_all(&[&length[..], message].concat()).await);
        }
        let mut answers = Vec::new();
        while answers.len() < messages.len() {
            let Some(answer) = read(&mut stream).await else { break };
            answers.push(answer);
        }
        answers
    }

    #[expect(clippy::disallowed_methods, reason = "a client of the responder's own")]
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// One answer on a connection; none where it is closed.
pub(crate) async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let answer = async {
        let mut answer = vec![0; usize::from(stream.read_u16().await.ok()?)];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(SOON, answer).await.expect("an answer, or the end of the connection")
}

/// A question with RD, as stub resolvers send it.
pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The same with an OPT record.
pub(crate) fn with_edns(name: &str, kind: RecordType) -> Message {
    let mut message = question(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    message
}

/// The addresses of an answer, in their order.
pub(crate) fn addresses(answer: &Message) -> Vec<IpAddr> {
    let record = |record: &Record| record.data.ip_addr().expect("a record with an address");
    answer.answers.iter().map(record).collect()
}
