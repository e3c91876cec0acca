//! Step 5: TLS of the client ends here, with a leaf for exactly the decided host, minted after the decision and never before it.

use rustls::AlertDescription;
use tokio_rustls::server::TlsStream;

use super::accept::Wire;
use super::http::Rewound;
use super::tls::client_hello::{ClientHello, Sni};
use super::{Tunnel, destination};
use crate::policy::{Denial, DenyReason};

/// Reads the ClientHello, compares its name with the tunnel's, and goes on with the handshake; all under one deadline.
pub(super) async fn tls(
    io: Rewound<Wire>,
    tunnel: &Tunnel,
) -> Result<TlsStream<Rewound<Wire>>, Denial> {
    let limit = tunnel.client.proxy.limits.handshake_timeout;
    tokio::time::timeout(limit, handshake(io, tunnel)).await.unwrap_or_else(|_elapsed| {
        let detail = "the TLS handshake took too long";
        Err(Denial::new(DenyReason::LimitExceeded, detail, "").with_status(408))
    })
}

/// Whether the handshake settled on HTTP/2.
pub(super) fn speaks_h2(io: &TlsStream<Rewound<Wire>>) -> bool {
    io.get_ref().1.alpn_protocol() == Some(b"h2")
}

async fn handshake(io: Rewound<Wire>, tunnel: &Tunnel) -> Result<TlsStream<Rewound<Wire>>, Denial> {
    let hello = ClientHello::read(io).await.map_err(|error| broken(&error))?;
    let agreed = match hello.sni() {
        Sni::Name(name) => destination::agree_sni(Some(name), tunnel),
        Sni::Absent => destination::agree_sni(None, tunnel),
        Sni::Invalid => Err(invalid_name()),
    };
    if let Err(denial) = agreed {
        if let Err(error) = hello.refuse(AlertDescription::UnrecognisedName).await {
            tracing::debug!(%error, "an alert could not be sent");
        }
        return Err(denial);
    }
    let proxy = &tunnel.client.proxy;
    let leaves = if tunnel.refused.is_some() { &proxy.refusal_leaves } else { &proxy.leaves };
    let leaf = leaves.for_sandbox_host(tunnel.recognised.sandbox.id(), &tunnel.destination.host);
    let config = leaf.map_err(|error| {
        tracing::error!(%error, sandbox = %tunnel.recognised.sandbox.id(), "a leaf could not be minted");
        Denial::new(DenyReason::LimitExceeded, "no certificate could be made", "see Tollgate's log")
    })?;
    hello.accept(config).await.map_err(|error| broken(&error))
}

fn invalid_name() -> Denial {
    let detail = "the TLS server name is not a host name";
    Denial::new(DenyReason::HostMismatch, detail, "use a client that sends SNI (RFC 6066)")
}

fn broken(error: &std::io::Error) -> Denial {
    tracing::debug!(%error, "a TLS handshake with a client failed");
    Denial::new(
        DenyReason::ProtocolNotAllowed,
        format!("the TLS handshake failed: {error}"),
        "the client must trust Tollgate's authority (`tollgate ca show`) and speak TLS 1.2 or 1.3",
    )
}
