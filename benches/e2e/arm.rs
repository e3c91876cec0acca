//! What stands between client and upstream, and how a client gets through it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use clap::ValueEnum;
use rustls::{ClientConfig, RootCertStore};

use crate::lab::{Lab, Process};
use crate::{Fault, tls, tollgate};

/// One way from client to upstream.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arm {
    /// No proxy.
    Direct,
    /// Bytes copied.
    Tcp,
    /// TLS terminated and originated again: the floor.
    Tls,
    /// The product.
    Tollgate,
}

/// The arm that the others are compared with.
pub(crate) const FLOOR: Arm = Arm::Tls;

/// An arm that is ready; dropping it ends its process.
pub(crate) struct Running {
    pub(crate) arm: Arm,
    pub(crate) target: Target,
    process: Option<Process>,
}

impl Running {
    pub(crate) fn start(arm: Arm, lab: &Lab) -> Result<Self, Fault> {
        let (process, address) = match arm {
            Arm::Direct => (None, lab.upstream()),
            Arm::Tcp => some(lab.relay("tcp-relay")?),
            Arm::Tls => some(lab.relay("tls-relay")?),
            Arm::Tollgate => some(tollgate::start(lab)?),
        };
        let target = match lab.sealed.get().filter(|_| arm == Arm::Tollgate) {
            Some(sealed) => Target::new(address, true, &sealed.token, &sealed.roots)?,
            None => {
                let roots = tls::roots(&tls::root_file(lab.dir()))?;
                Target::new(address, false, lab.credential(), &roots)?
            }
        };
        Ok(Self { arm, target, process })
    }

    /// The process whose CPU time counts; none where there is no proxy.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }
}

/// How the load reaches the upstream through an arm.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// Whether to ask for a tunnel by CONNECT first.
    pub(crate) tunnel: bool,
    /// What the client knows: the real value, or the sealed token.
    pub(crate) authorization: String,
    pub(crate) h1: Arc<ClientConfig>,
    pub(crate) h1_full: Arc<ClientConfig>,
    pub(crate) h2: Arc<ClientConfig>,
}

impl Target {
    fn new(
        address: SocketAddr,
        tunnel: bool,
        credential: &str,
        roots: &Arc<RootCertStore>,
    ) -> Result<Self, Fault> {
        let client = |alpn| tls::client(roots, tls::peer_provider(), alpn);
        Ok(Self {
            address,
            tunnel,
            authorization: format!("Bearer {credential}"),
            h1: Arc::new(client(tls::HTTP_1_1)?),
            h1_full: Arc::new(tls::without_resumption(client(tls::HTTP_1_1)?)),
            h2: Arc::new(client(tls::H2)?),
        })
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Tcp => "tcp relay",
            Self::Tls => "tls relay",
            Self::Tollgate => "tollgate",
        })
    }
}

fn some((process, address): (Process, SocketAddr)) -> (Option<Process>, SocketAddr) {
    (Some(process), address)
}
