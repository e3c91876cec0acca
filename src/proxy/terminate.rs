//! Step 5: TLS of the client ends here, with a leaf for exactly the decided host, minted after the decision and never before it.

use rustls::AlertDescription;
use tokio_rustls::server::TlsStream;

use super::accept::Wire;
use super::http::Rewound;
use super::tls::client_hello::{ClientHello, Sni};
use super::{Client, Tunnel, destination};
use crate::policy::{Denial, DenyReason};

/// Reads the ClientHello. It and the rest of the handshake have a deadline each.
pub(super) async fn read_hello(
    io: Rewound<Wire>,
    client: &Client,
) -> Result<ClientHello<Rewound<Wire>>, Denial> {
    let reading = ClientHello::read(io);
    let limit = client.proxy.limits.handshake_timeout;
    let read = tokio::time::timeout(limit, reading).await.map_err(|_elapsed| too_slow())?;
    read.map_err(|error| broken(&error))
}

/// Compares the hello's name with the tunnel's.
pub(super) async fn agree(
    hello: ClientHello<Rewound<Wire>>,
    tunnel: &Tunnel,
) -> Result<ClientHello<Rewound<Wire>>, Denial> {
    let agreed = match hello.sni() {
        Sni::Name(name) => destination::agree_sni(Some(name), tunnel),
        Sni::Absent => destination::agree_sni(None, tunnel),
        Sni::Invalid => Err(invalid_name()),
    };
    match agreed {
        Ok(()) => Ok(hello),
        Err(denial) => {
            refuse(hello, AlertDescription::UnrecognisedName).await;
            Err(denial)
        }
    }
}

/// Goes on with the handshake, with a leaf for the tunnel's host.
pub(super) async fn go_on(
    hello: ClientHello<Rewound<Wire>>,
    tunnel: &Tunnel,
) -> Result<TlsStream<Rewound<Wire>>, Denial> {
    let limit = tunnel.client.proxy.limits.handshake_timeout;
    let shaken = tokio::time::timeout(limit, handshake(hello, tunnel));
    shaken.await.unwrap_or_else(|_elapsed| Err(too_slow()))
}

/// Ends the connection with an alert.
pub(super) async fn refuse(hello: ClientHello<Rewound<Wire>>, alert: AlertDescription) {
    if let Err(error) = hello.refuse(alert).await {
        tracing::debug!(%error, "an alert could not be sent");
    }
}

/// Whether the handshake settled on HTTP/2.
pub(super) fn speaks_h2(io: &TlsStream<Rewound<Wire>>) -> bool {
    io.get_ref().1.alpn_protocol() == Some(b"h2")
}

async fn handshake(
    hello: ClientHello<Rewound<Wire>>,
    tunnel: &Tunnel,
) -> Result<TlsStream<Rewound<Wire>>, Denial> {
    let proxy = &tunnel.client.proxy;
    let leaves = if tunnel.refused.is_some() { &proxy.refusal_leaves } else { &proxy.leaves };
    let leaf = leaves.for_sandbox_host(tunnel.recognised.sandbox.id(), &tunnel.destination.host);
    let config = leaf.map_err(|error| {
        tracing::error!(%error, sandbox = %tunnel.recognised.sandbox.id(), "a leaf could not be minted");
        Denial::new(DenyReason::LimitExceeded, "no certificate could be made", "see Tollgate's log")
    })?;
    let _turn = tunnel.recognised.sandbox.handshake().await;
    hello.accept(config).await.map_err(|error| broken(&error))
}

pub(super) fn invalid_name() -> Denial {
    let detail = "the TLS server name is not a host name";
    Denial::new(DenyReason::HostMismatch, detail, "use a client that sends SNI (RFC 6066)")
}

fn too_slow() -> Denial {
    let detail = "the TLS handshake took too long";
    Denial::new(DenyReason::LimitExceeded, detail, "").with_status(408)
}

fn broken(error: &std::io::Error) -> Denial {
    tracing::debug!(%error, "a TLS handshake with a client failed");
    Denial::new(
        DenyReason::ProtocolNotAllowed,
        format!("the TLS handshake failed: {error}"),
        "the client must trust Tollgate's authority (`tollgate ca show`) and speak TLS 1.2 or 1.3",
    )
}
