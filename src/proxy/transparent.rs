//! Steps 2 to 4 for a redirected connection, which says neither who it is nor where it goes: both are read off it.
//!
//! The sandbox is the one of its address and listener. The name comes from SNI or Host and the port from the original destination, whose
//! address is never dialled: it is the name only of a client that gives none, and then only if the policy lists that very address. Refused
//! are unknown sandboxes, connections that were meant for a listener of our own, and what is neither TLS nor HTTP.

use std::sync::Arc;

use rustls::AlertDescription;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::accept::Wire;
use super::destination::Origin;
use super::http::Rewound;
use super::tls::client_hello::{ClientHello, Sni};
use super::{Client, Tunnel, Via, substitute, terminate};
use crate::host::{Destination, Host, Port};
use crate::introspect;
use crate::policy::{Denial, DenyReason, decide_connect};
use crate::session::{Recognised, Sandbox};

/// A connection whose sandbox is known.
pub(super) struct Arrived {
    client: Arc<Client>,
    /// Of the policies, taken before anything was decided.
    epoch: watch::Receiver<u64>,
    recognised: Recognised,
    /// The address as a name, and the port.
    original: Destination,
    /// Counts against the sandbox's connections.
    slot: OwnedSemaphorePermit,
}

/// A connection that ends before its first request, and what is known of it for the audit.
pub(super) struct Refused {
    pub(super) sandbox: Option<Arc<Sandbox>>,
    pub(super) destination: Option<Destination>,
    pub(super) denial: Denial,
}

/// Who it is, and what it was on its way to.
pub(super) fn arrive(client: &Arc<Client>, io: &Wire) -> Result<Arrived, Box<Refused>> {
    let epoch = client.proxy.registry.epoch();
    let original = original_destination(client, io);
    let shown = original.as_ref().ok().cloned();
    let refused =
        |sandbox, denial| Box::new(Refused { sandbox, destination: shown.clone(), denial });
    let recognised = recognise(client).map_err(|denial| refused(None, denial))?;
    let sandbox = &recognised.sandbox;
    let known = |denial| refused(Some(sandbox.clone()), denial);
    let original = original.map_err(known)?;
    let slot = sandbox.session().and_then(|_session| sandbox.connect()).map_err(known)?;
    Ok(Arrived { client: client.clone(), epoch, recognised, original, slot })
}

/// The connection with its ClientHello becomes a tunnel to the host that the hello names. The denial of a host is told inside TLS, as long
/// as the sandbox does not ask for that too often.
pub(super) async fn open_tls(
    arrived: Arrived,
    io: Rewound<Wire>,
) -> Result<(Tunnel, ClientHello<Rewound<Wire>>), Box<Refused>> {
    let read = terminate::read_hello(io, &arrived.client).await;
    let hello = read.map_err(|denial| arrived.refused(denial))?;
    let host = match hello.sni() {
        Sni::Name(host) => host.clone(),
        Sni::Absent => arrived.original.host.clone(),
        Sni::Invalid => {
            terminate::refuse(hello, AlertDescription::UnrecognisedName).await;
            return Err(arrived.refused(terminate::invalid_name()));
        }
    };
    let named = matches!(hello.sni(), Sni::Name(_));
    let destination = Destination { host, port: arrived.original.port };
    let refused = match arrived.decide(&destination, named) {
        Ok(()) => None,
        Err(denial) if arrived.recognised.sandbox.may_be_told() => Some(denial),
        Err(denial) => {
            terminate::refuse(hello, AlertDescription::AccessDenied).await;
            return Err(Box::new(Refused {
                destination: Some(destination),
                ..*arrived.refused(denial)
            }));
        }
    };
    Ok((arrived.into_tunnel(destination, refused), hello))
}

impl Arrived {
    /// Plain HTTP: each request names its host itself and is decided alone.
    pub(super) fn into_via(self) -> Via {
        let via = Via {
            origin: Origin::Transparent(self.original),
            recognised: Some(self.recognised),
            ..Via::outer(self.client)
        };
        via.keep_slot(self.slot);
        via
    }

    /// For the audit.
    pub(super) fn refused(&self, denial: Denial) -> Box<Refused> {
        Box::new(Refused {
            sandbox: Some(self.recognised.sandbox.clone()),
            destination: Some(self.original.clone()),
            denial,
        })
    }

    fn into_tunnel(self, destination: Destination, refused: Option<Denial>) -> Tunnel {
        Tunnel {
            requests_before: self.client.activity.requests(),
            client: self.client,
            epoch: self.epoch,
            recognised: self.recognised,
            destination,
            refused,
            protocol: PROTOCOL,
            _slot: self.slot,
        }
    }

    fn decide(&self, destination: &Destination, named: bool) -> Result<(), Denial> {
        let session = self.recognised.sandbox.session()?;
        if introspect::is_ours(&destination.host) {
            return Ok(());
        }
        let decided = decide_connect(session.policy(), destination).permit();
        decided.map_err(|denial| if named { denial } else { unnamed(denial, destination) })?;
        substitute::host(&session, destination)
    }
}

/// How such a connection is called in the audit.
pub(super) const PROTOCOL: &str = "transparent";

fn recognise(client: &Client) -> Result<Recognised, Denial> {
    let recognised = client.proxy.registry.recognise(client.caller(None))?;
    if client.has_moved() { Err(super::identify::moved()) } else { Ok(recognised) }
}

/// The original destination, unless it is a listener of our own: then nothing was redirected, or our own traffic was.
fn original_destination(client: &Client, io: &Wire) -> Result<Destination, Denial> {
    let original = match client.meant {
        Some(meant) => meant,
        None => io.original_destination(client.entrance.kind).map_err(|error| {
            tracing::debug!(%error, peer = %client.peer, "a connection has no original destination");
            not_redirected()
        })?,
    };
    if client.proxy.connector.is_own(original) {
        return Err(not_redirected());
    }
    let port = Port::try_from(original.port()).map_err(|_error| not_redirected())?;
    Ok(Destination { host: Host::from_ip(original.ip()), port })
}

fn not_redirected() -> Denial {
    Denial::new(
        DenyReason::AddressNotAllowed,
        "the connection was meant for a socket of Tollgate itself, or nothing redirected it",
        "connect to the host itself; this listener is for what the firewall redirects to it",
    )
}

/// Without a name only the address could be listed.
fn unnamed(denial: Denial, destination: &Destination) -> Denial {
    if denial.reason != DenyReason::HostNotAllowed {
        return denial;
    }
    Denial::new(
        DenyReason::HostNotAllowed,
        format!("the TLS handshake names no server, and no layer lists the address {destination}"),
        "use a client that sends SNI; a retry will not help",
    )
}
