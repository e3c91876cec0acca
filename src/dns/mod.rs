//! The DNS responder: every host name leads to Tollgate itself, and nobody is asked.
//!
//! Every well-formed A or AAAA question of a known sandbox is answered with a sink address of Tollgate's own ([`Sinks`]), so there is no
//! tunnel through names and no rebinding, and who is denied still connects and reads why; names are resolved once, at dial
//! (`proxy::connect`). HTTPS and SVCB find no data. All else is refused: other types, classes and operations, names that are no host, senders
//! that are no sandbox, and, with `dns.denied: refused`, names that the policy does not open.
//!
//! A message takes these steps: [`question`] reads it, [`outcome`] answers it, [`answer`] writes it, [`record`] says what was refused; [`udp`]
//! and [`tcp`] carry it, on sockets of its own ([`listening`]) or of somebody else ([`serve_sandbox`]).

mod answer;
mod listening;
mod outcome;
mod question;
mod record;
mod sinks;
mod tcp;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::policy::Denial;
use crate::proxy::Proxy;
use crate::secret::SandboxId;
use crate::session::{Caller, Questions, Sandbox, Session};

pub use answer::Answer;
pub use listening::Sockets;
pub use question::{Fault, Question};
pub use sinks::Sinks;
pub use tcp::TcpSocket;
pub use udp::UdpSocket;

use record::{Asked, Records};

/// What a responder answers.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The addresses of every name.
    pub sinks: Sinks,
    /// What is said of a name that the policy does not open.
    pub denied: Denied,
}

/// What is said of a name that the policy does not open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denied {
    /// The sink, where the client then reads why it is denied.
    #[default]
    Sink,
    /// REFUSED, with an Extended DNS Error.
    Refused,
}

/// Whose questions come to a socket.
#[derive(Clone, Debug)]
pub enum Whose {
    /// Of the sandbox of the source address, or of the only one of a sidecar; of none but this one, if the listener has one of its own.
    Sender(Option<SandboxId>),
    /// All of this one: the socket stands in its own network namespace.
    Sandbox(Arc<Sandbox>),
}

/// Answers the questions that come to some sockets, until shutdown begins.
#[derive(Debug)]
pub struct Responder {
    proxy: Arc<Proxy>,
    settings: Settings,
    whose: Whose,
    records: Records,
    /// What all together may ask who are no sandbox.
    strangers: Questions,
}

impl Responder {
    /// A responder, with its task that writes summaries of what was refused.
    #[must_use]
    pub fn new(proxy: &Arc<Proxy>, settings: Settings, whose: Whose) -> Arc<Self> {
        let records = Records::new(proxy.audit.clone());
        let responder = Arc::new(Self {
            proxy: proxy.clone(),
            settings,
            whose,
            records,
            strangers: Questions::new(STRANGERS),
        });
        let summarising = responder.clone();
        drop(proxy.tasks.spawn(async move { summarising.summarise().await }));
        responder
    }

    /// Serves both kinds of sockets.
    pub fn serve(self: &Arc<Self>, udp: Vec<UdpSocket>, tcp: Vec<TcpSocket>) {
        for socket in udp {
            drop(self.proxy.tasks.spawn(socket.serve(self.clone())));
        }
        for listener in tcp {
            drop(self.proxy.tasks.spawn(listener.serve(self.clone())));
        }
    }

    /// The answer to one message, or none where silence is the answer.
    fn answer(&self, message: &[u8], peer: SocketAddr, carrier: Carrier) -> Option<Vec<u8>> {
        let sandbox = self.recognise(peer.ip());
        let questions = sandbox.as_ref().map_or(&self.strangers, |sandbox| sandbox.questions());
        if !questions.take() {
            return self.too_many(message, sandbox.as_deref(), peer, carrier);
        }
        let asked =
            Asked { sandbox: sandbox.as_ref().ok().map(|sandbox| sandbox.id()), peer, carrier };
        let question = match Question::read(message) {
            Ok(question) => question,
            Err(fault) => {
                self.proxy.questions.count(fault.as_str());
                self.records.fault(&asked, &fault);
                return fault.write();
            }
        };
        match sandbox.as_ref().map_err(Denial::clone).and_then(|sandbox| sandbox.session()) {
            Ok(session) => self.answer_known(&asked, &session, &question),
            Err(denial) => {
                let host = outcome::shown(&question);
                self.refuse(&asked, &question, host, &denial)
            }
        }
    }

    fn answer_known(
        &self,
        asked: &Asked<'_>,
        session: &Session,
        question: &Question,
    ) -> Option<Vec<u8>> {
        let outcome = outcome::of(session, question, &self.settings);
        self.proxy.questions.count(outcome.answer.as_str());
        if let Some(denial) = &outcome.denial {
            self.records.denied(asked, question, outcome.host, denial, outcome.answer.as_str());
        }
        outcome.answer.write(question)
    }

    fn refuse(
        &self,
        asked: &Asked<'_>,
        question: &Question,
        host: Arc<str>,
        denial: &Denial,
    ) -> Option<Vec<u8>> {
        let answer = Answer::Refused(None);
        self.proxy.questions.count(answer.as_str());
        self.records.denied(asked, question, host, denial, answer.as_str());
        answer.write(question)
    }

    /// Over its rate: a datagram is dropped, since its sender tries again later; on a connection the question is refused.
    fn too_many(
        &self,
        message: &[u8],
        sandbox: Result<&Sandbox, &Denial>,
        peer: SocketAddr,
        carrier: Carrier,
    ) -> Option<Vec<u8>> {
        let asked = Asked { sandbox: sandbox.ok().map(Sandbox::id), peer, carrier };
        let refused = Answer::Refused(None);
        let (answer, word) = match (carrier, Question::read(message)) {
            (Carrier::Udp, _) => (None, "dropped"),
            (Carrier::Tcp, Ok(question)) => (refused.write(&question), refused.as_str()),
            (Carrier::Tcp, Err(fault)) => (fault.write(), fault.as_str()),
        };
        self.proxy.questions.count(word);
        self.records.over_rate(&asked, word);
        answer
    }

    fn recognise(&self, source: IpAddr) -> Result<Arc<Sandbox>, Denial> {
        match &self.whose {
            Whose::Sandbox(sandbox) => Ok(sandbox.clone()),
            Whose::Sender(listener) => {
                let (source, listener) = (Some(source), listener.as_ref());
                let caller = Caller { source, listener, credentials: None };
                self.proxy.registry.recognise(caller).map(|recognised| recognised.sandbox)
            }
        }
    }

    async fn summarise(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(record::PERIOD) => self.records.summarise(),
                () = self.proxy.tasks.closed() => return self.records.summarise(),
            }
        }
    }
}

/// Questions in a second of all who are no sandbox.
const STRANGERS: u32 = 20;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Udp,
    Tcp,
}

/// Serves one sandbox on sockets that somebody else made, such as in its own network namespace: whatever comes there is its own.
pub fn serve_sandbox(
    proxy: &Arc<Proxy>,
    sandbox: &Arc<Sandbox>,
    settings: Settings,
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
) -> io::Result<()> {
    let udp = udp.into_iter().map(UdpSocket::from_std).collect::<io::Result<_>>()?;
    let tcp = tcp.into_iter().map(TcpSocket::from_std).collect::<io::Result<_>>()?;
    Responder::new(proxy, settings, Whose::Sandbox(sandbox.clone())).serve(udp, tcp);
    Ok(())
}
