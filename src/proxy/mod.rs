//! THE PATH of a request, one file per step.
//!
//! 1. [`accept`]: a listener takes the connection.
//! 2. [`identify`]: which sandbox is it?
//! 3. [`destination`]: CONNECT target, SNI and authority become one destination; [`transparent`]: so they do without a CONNECT.
//! 4. `policy::decide_connect`: may it be opened at all? The answer is a permit.
//! 5. [`terminate`] (with [`tls`]): a leaf for exactly that name; TLS ends here.
//! 6. [`http`]: HTTP/1 behind its strict reading ([`h1`]), HTTP/2, limits and time-outs.
//! 7. `policy::decide_request`: authority, method and path, for every request anew.
//! 8. [`substitute`]: sealed tokens become values, with that permit only; [`sign`]: signatures made with tokens become real ones.
//! 9. [`connect`] and [`pool`]: resolve once, check every answer, dial what was checked, through a corporate proxy ([`chain`])
//!    if there is one; or use a connection of the same sandbox again.
//! 10. [`forward`] (and [`websocket`], whose [`frames`] steps 8 and 11 read): send, stream both ways, trailers.
//! 11. [`scrub`]: values in the answer become sealed tokens.
//! 12. [`record`]: the audit event, whatever happened.
//!
//! Any step may end in [`deny`].

mod accept;
mod chain;
mod connect;
mod deny;
mod destination;
mod forward;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod h1;
mod http;
mod identify;
mod mark;
mod pool;
mod record;
mod revoke;
mod scrub;
mod seldom;
mod shared;
mod sign;
mod substitute;
mod terminate;
pub mod tls;
mod token_post;
mod transparent;
mod websocket;

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ::http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::host::{Destination, Scheme};
use crate::introspect;
use crate::policy::{Denial, decide_connect, decide_request};
use crate::session::Recognised;

pub use accept::{Callers, Client, Entrance, Kind, Listening};
pub use chain::{UpstreamProxy, is_user_and_password};
pub use connect::{Connector, ResolverError};
pub use forward::{AnswerBody, BodyCut};
pub use identify::proxy_credentials;
pub use mark::Mark;
pub use pool::Upstreams;
pub use scrub::AnswerPieces;
pub use shared::Proxy;
pub(crate) use substitute::sealed_in_name;
pub use substitute::{BodyPieces, OpenedAt, open_body, open_head};
pub use token_post::TokenPost;

use destination::Origin;
use http::After;
use record::Record;
use revoke::StillAllowed;
use seldom::seldom;
use tls::client_hello::ClientHello;

/// One accepted connection, from its first byte to its last.
async fn serve_connection(client: Arc<Client>, io: accept::Wire) {
    // One that is refused has no request that would wait.
    client.proxy.audit.admit().await;
    match client.entrance.kind {
        Kind::Explicit => serve_explicit(client, io).await,
        Kind::Redirected | Kind::Tproxy => {
            if let Err(refused) = serve_transparent(&client, io).await {
                refused.record(&client);
            }
        }
    }
}

/// A connection of a client that knows its proxy.
async fn serve_explicit(client: Arc<Client>, io: accept::Wire) {
    let outer = Arc::new(Via::outer(client));
    let _beyond = match outer.reserve() {
        Ok(beyond) => beyond,
        Err(denial) => return outer.client.refused(&denial),
    };
    match http::serve_h1(io, &outer).await {
        Some(After { opened: Opened::Tunnel(tunnel), io }) => {
            while_allowed(&tunnel, Box::pin(serve_opened(&tunnel, io))).await;
        }
        Some(After { opened: Opened::WebSocket(upstream), io }) => {
            websocket::relay(io, *upstream).await
        }
        None => {}
    }
}

/// A connection that was redirected here: what a CONNECT would say is read off its first bytes.
async fn serve_transparent(
    client: &Arc<Client>,
    io: accept::Wire,
) -> Result<(), Box<transparent::Refused>> {
    let arrived = transparent::arrive(client, &io)?;
    let first = destination::first_bytes(http::Rewound::new(io), client).await;
    match first.map_err(|denial| arrived.refused(denial))? {
        destination::First::Tls(io) => {
            let (tunnel, hello) = transparent::open_tls(arrived, io).await?;
            while_allowed(&tunnel, Box::pin(serve_tls(&tunnel, hello))).await;
        }
        destination::First::Http(io) => serve_inside(io, arrived.into_via()).await,
    }
    Ok(())
}

/// What follows an answered CONNECT, or a redirected ClientHello, for as long as the policies allow it.
async fn while_allowed(tunnel: &Tunnel, serving: impl Future<Output = Result<(), Denial>>) {
    let mut still_allowed = StillAllowed::tunnel(tunnel);
    tokio::select! {
        biased;
        ended = serving => tunnel.ended(ended),
        denial = seldom(still_allowed.denied()), if tunnel.refused.is_none() => tunnel.refused(&denial),
    }
}

/// TLS with a leaf for the tunnel's host, or plain HTTP; nothing else is carried.
async fn serve_opened(tunnel: &Tunnel, io: http::Rewound<accept::Wire>) -> Result<(), Denial> {
    match destination::first_bytes(io, &tunnel.client).await? {
        destination::First::Tls(io) => {
            let hello = terminate::read_hello(io, &tunnel.client).await?;
            serve_tls(tunnel, terminate::agree(hello, tunnel).await?).await
        }
        destination::First::Http(io) => {
            serve_inside(io, tunnel.via(Scheme::Http, "http/1.1")).await;
            Ok(())
        }
    }
}

/// TLS ends here; inside is HTTP/1 or HTTP/2.
async fn serve_tls(
    tunnel: &Tunnel,
    hello: ClientHello<http::Rewound<accept::Wire>>,
) -> Result<(), Denial> {
    let io = terminate::go_on(hello, tunnel).await?;
    if terminate::speaks_h2(&io) {
        http::serve_h2(io, Arc::new(tunnel.via(Scheme::Https, "h2+tls"))).await;
    } else {
        serve_inside(io, tunnel.via(Scheme::Https, "http/1.1+tls")).await;
    }
    Ok(())
}

/// HTTP/1 inside a tunnel, and the WebSocket that it may become.
async fn serve_inside<S: http::Stream>(io: S, via: Via) {
    let via = Arc::new(via);
    if let Some(After { opened: Opened::WebSocket(upstream), io }) = http::serve_h1(io, &via).await
    {
        websocket::relay(io, *upstream).await;
    }
}

/// One request: it is carried, or answered with the one denial that some step ended in. Either way it is recorded.
async fn serve_request(via: &Arc<Via>, request: Request<Incoming>) -> Response<AnswerBody> {
    via.client.proxy.audit.admit().await;
    let mut record = Record::begin(via, &request);
    let form = deny::Form::of(&request);
    let outcome = match via.accepted_by_strict_reading() {
        Ok(()) if request.method() == Method::CONNECT => open_tunnel(via, &request, &mut record),
        Ok(()) => carry(via, request, &mut record).await,
        Err(denial) => {
            record.unreadable();
            Err(denial)
        }
    };
    via.go_on_unless_opened();
    outcome.unwrap_or_else(|denial| deny::answer(&denial, form, via, record.take()))
}

/// CONNECT: decided before any 200, opened after it.
fn open_tunnel(
    via: &Arc<Via>,
    request: &Request<Incoming>,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Denial> {
    let destination = destination::of_connect(via, request)?;
    record.destination(&destination);
    let epoch = via.client.proxy.registry.epoch();
    let recognised = via.recognise(request.headers())?;
    let session = recognised.sandbox.session()?;
    record.session(&recognised.sandbox, &session);
    let refused = if introspect::is_ours(&destination.host) {
        None
    } else {
        let permit = decide_connect(session.policy(), &destination).permit();
        match permit.and_then(|permit| substitute::host(&session, &destination).map(|()| permit)) {
            Ok(permit) => {
                record.rule(permit.rule());
                None
            }
            Err(denial) if via.client.proxy.denies_inside() => Some(denial),
            Err(denial) => return Err(denial),
        }
    };
    let tunnel = Tunnel::open(via, epoch, recognised, destination, refused)?;
    via.open(Opened::Tunnel(Box::new(tunnel)));
    Ok(forward::tunnel_opened(record.take()))
}

/// Every other request, step by step.
async fn carry(
    via: &Arc<Via>,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Response<AnswerBody>, Denial> {
    let proxy = &via.client.proxy;
    let epoch = proxy.registry.epoch();
    let recognised = via.recognise(request.headers())?;
    via.count(&recognised)?;
    let session = recognised.sandbox.session()?;
    record.session(&recognised.sandbox, &session);
    via.check_refused_inside(record)?;
    let target = destination::of_request(via, &request)?;
    record.destination(&target.destination);
    if introspect::is_ours(&target.destination.host) {
        return Ok(forward::own_answer(
            introspect::answer(proxy, &session, &request),
            record.take(),
        ));
    }
    let permit = decide_request(
        session.policy(),
        &target.destination,
        target.scheme,
        request.method(),
        target.path(),
    )
    .permit()?;
    record.permit(&permit);
    if destination::ends_here(&request) {
        return Ok(forward::own_answer(Response::new(bytes::Bytes::new()), record.take()));
    }
    let still_allowed = StillAllowed::request(epoch, &recognised, &permit, &request).on(via);
    let signing = sign::asked(&session, &permit, &recognised, via, &mut request)?;
    let asked = scrub::Asked {
        via,
        session: &session,
        permit: &permit,
        method: request.method().clone(),
        signed: signing.is_some(),
        seal_as: session.given_out_at(&target.destination, target.path()),
    };
    let mut outgoing =
        substitute::request(&session, &permit, &recognised, via, request, record).await?;
    if let Some(signing) = signing {
        outgoing = Box::pin(signing.sign(proxy, outgoing, record)).await?;
    }
    let upstreams = proxy.upstreams(&session);
    if outgoing.upgrades() {
        let opening = websocket::open(&asked, upstreams, outgoing, still_allowed, record);
        return Box::pin(opening).await;
    }
    let answer = forward::send(proxy, upstreams, &permit, outgoing, record).await?;
    scrub::answer(&asked, answer, still_allowed, record).await
}

/// One stretch of a connection in which every request has the same way in: the explicit listener, or the inside of a tunnel.
struct Via {
    client: Arc<Client>,
    origin: Origin,
    protocol: &'static str,
    /// Who opened the tunnel; on the explicit listener every request says so itself.
    recognised: Option<Recognised>,
    /// With `denials: inside`, the denial with which every request is answered.
    refused: Option<Denial>,
    /// The strict reading's verdicts; none for HTTP/2, which h2 reads strictly itself.
    verdicts: OnceLock<h1::RequestVerdicts>,
    /// What the connection becomes after the answer that is being written.
    opened: Mutex<Option<Opened>>,
    /// Counts an explicit connection that carries plain requests against its sandbox, from the first one on.
    slot: Mutex<Option<OwnedSemaphorePermit>>,
}

/// What an HTTP/1 connection becomes after a CONNECT or an Upgrade.
enum Opened {
    Tunnel(Box<Tunnel>),
    WebSocket(Box<websocket::Upstream>),
}

/// An answered CONNECT, or a redirected connection with TLS.
struct Tunnel {
    client: Arc<Client>,
    /// Of the policies, taken before it was decided.
    epoch: watch::Receiver<u64>,
    recognised: Recognised,
    destination: Destination,
    refused: Option<Denial>,
    /// How it is called in the audit before its first request.
    protocol: &'static str,
    /// How many requests its connection had begun before.
    requests_before: u32,
    /// Counts against the sandbox's connections until the tunnel ends.
    _slot: OwnedSemaphorePermit,
}

impl Tunnel {
    /// Keeps the connection's slot, or takes one of the sandbox's.
    fn open(
        via: &Via,
        epoch: watch::Receiver<u64>,
        recognised: Recognised,
        destination: Destination,
        refused: Option<Denial>,
    ) -> Result<Self, Denial> {
        let slot = via.take_slot().map_or_else(|| recognised.sandbox.connect(), Ok)?;
        let client = via.client.clone();
        Ok(Self {
            requests_before: client.activity.requests(),
            client,
            epoch,
            recognised,
            destination,
            refused,
            protocol: "connect",
            _slot: slot,
        })
    }

    /// Records what has no request to be recorded with.
    fn ended(&self, ended: Result<(), Denial>) {
        match ended {
            Err(denial) if self.untold().is_none() => self.refused(&denial),
            // The untold denial is recorded with the drop.
            Err(_) | Ok(()) => {}
        }
    }

    /// The denial that waits inside for a request, as long as none has come.
    fn untold(&self) -> Option<&Denial> {
        let heard = self.client.activity.requests() != self.requests_before;
        self.refused.as_ref().filter(|_| !heard)
    }

    /// The inside, once it is known what is spoken there.
    fn via(&self, scheme: Scheme, protocol: &'static str) -> Via {
        Via {
            origin: Origin::Tunnel { destination: self.destination.clone(), scheme },
            protocol,
            recognised: Some(self.recognised.clone()),
            refused: self.refused.clone(),
            ..Via::outer(self.client.clone())
        }
    }
}

impl Drop for Tunnel {
    /// However it ends, by a silent client's own hand or by being cut: what was denied is recorded.
    fn drop(&mut self) {
        if let Some(denial) = self.untold() {
            self.refused(denial);
        }
    }
}

impl Via {
    fn outer(client: Arc<Client>) -> Self {
        Self {
            client,
            origin: Origin::Explicit,
            protocol: "http/1.1",
            recognised: None,
            refused: None,
            verdicts: OnceLock::new(),
            opened: Mutex::new(None),
            slot: Mutex::default(),
        }
    }

    fn recognise(&self, headers: &::http::HeaderMap) -> Result<Recognised, Denial> {
        match &self.recognised {
            Some(recognised) => Ok(recognised.clone()),
            None => identify::recognise(&self.client, headers),
        }
    }

    /// An explicit connection from the address of a sandbox counts from its beginning. A few beyond the limit are heard, and told.
    fn reserve(&self) -> Result<Option<OwnedSemaphorePermit>, Denial> {
        let Some(owner) = self.client.owner() else { return Ok(None) };
        match owner.connect() {
            Ok(slot) => {
                self.keep_slot(slot);
                Ok(None)
            }
            Err(denial) => owner.hear_beyond().map(Some).ok_or(denial),
        }
    }

    /// A tunnel was counted when it was opened; an explicit connection counts with its first request at the latest.
    fn count(&self, recognised: &Recognised) -> Result<(), Denial> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if self.recognised.is_none() && slot.is_none() {
            *slot = Some(recognised.sandbox.connect()?);
        }
        Ok(())
    }

    fn keep_slot(&self, slot: OwnedSemaphorePermit) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot);
    }

    fn take_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn accepted_by_strict_reading(&self) -> Result<(), Denial> {
        self.verdicts.get().map_or(Ok(()), |verdicts| verdicts.next().map_err(deny::of_head))
    }

    fn check_refused_inside(&self, record: &mut Record) -> Result<(), Denial> {
        let Some(refused) = &self.refused else { return Ok(()) };
        if let Origin::Tunnel { destination, .. } = &self.origin {
            record.destination(destination);
        }
        Err(refused.clone())
    }

    /// Bytes behind a CONNECT or Upgrade that was not accepted are the next request.
    fn go_on_unless_opened(&self) {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if let Some(verdicts) = self.verdicts.get().filter(|_| !opened) {
            verdicts.resume();
        }
    }

    fn open(&self, opened: Opened) {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
    }

    fn take_opened(&self) -> Option<Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
