//! The guard in front of hyper's server: requests of a sandbox.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;

use super::{
    HeadLimits,
    body::Body,
    grammar::Framing,
    guard::{Guard, Step, Walk},
    refusal::{BodyRefusal, HeadRefusal},
    request_head::{AcceptedRequest, RequestHead},
};

/// Stands in front of hyper's HTTP/1 server.
///
/// A refused head reaches hyper as a last request that asks to close, so that its answer leaves in pipeline order;
/// [`RequestVerdicts::next`] tells the service. A body that breaks its framing ends in an error of kind `InvalidData`,
/// a stream that ends inside a head or body in `UnexpectedEof`.
///
/// After a CONNECT, or an `Upgrade` without a body, everything that follows is held back until
/// [`RequestVerdicts::resume`], or until the caller takes the connection from hyper and calls [`Guard::into_parts`].
/// An `Upgrade` with a body holds nothing: the service must not accept such an upgrade.
pub type RequestGuard<S> = Guard<S, RequestWalk>;

impl<S> RequestGuard<S> {
    /// Guards `io`. The hyper connection above must allow heads of `limits` at least.
    pub fn new(io: S, limits: HeadLimits) -> (Self, RequestVerdicts) {
        let verdicts = RequestVerdicts::default();
        let walk = RequestWalk {
            limits: limits.within_hyper(),
            at: At::Head(RequestHead::default()),
            shared: Arc::clone(&verdicts.shared),
        };
        (Self::with_walk(io, walk), verdicts)
    }
}

/// What the guard of a connection tells the service above hyper. Clones speak of the same connection.
#[derive(Debug, Default, Clone)]
pub struct RequestVerdicts {
    shared: Arc<Shared>,
}

impl RequestVerdicts {
    /// The verdict on the next request; called once for every request that hyper hands out, in order.
    ///
    /// # Errors
    /// Why this request was refused. It is the last one; what hyper shows of it is not what the client sent.
    pub fn next(&self) -> Result<(), HeadRefusal> {
        let request = self.shared.answered.fetch_add(1, Ordering::AcqRel) + 1;
        if request <= self.shared.accepted.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.shared.head_refusal.get().copied().unwrap_or(HeadRefusal::OutOfStep))
    }

    /// The CONNECT or upgrade that [`next`](Self::next) was last called for is not accepted: what follows it is the
    /// next request. Harmless for any other request.
    pub fn resume(&self) {
        let request = self.shared.answered.load(Ordering::Acquire);
        self.shared.resumed.fetch_max(request, Ordering::AcqRel);
        self.shared.waker.wake();
    }

    /// Why the body of the running request was cut, if it was.
    pub fn body_refusal(&self) -> Option<BodyRefusal> {
        self.shared.body_refusal.get().copied()
    }
}

/// Requests are numbered from 1 in the order of the connection.
#[derive(Debug, Default)]
struct Shared {
    /// So many heads were accepted.
    accepted: AtomicU64,
    /// So many requests reached the service.
    answered: AtomicU64,
    /// Up to this request, nothing is held any more.
    resumed: AtomicU64,
    waker: AtomicWaker,
    /// Why the head after the accepted ones was refused.
    head_refusal: OnceLock<HeadRefusal>,
    body_refusal: OnceLock<BodyRefusal>,
}

/// The walk over the requests of one connection.
#[derive(Debug)]
pub struct RequestWalk {
    limits: HeadLimits,
    at: At,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum At {
    Head(RequestHead),
    Body(Body),
    /// Behind this request, which may turn the connection into something else.
    Held(u64),
    Refused,
    Cut(BodyRefusal),
}

impl Walk for RequestWalk {
    fn walk(&mut self, bytes: &[u8]) -> Step {
        match &mut self.at {
            At::Head(head) => match head.walk(bytes, &self.limits) {
                Ok(None) => Step::More,
                Ok(Some(accepted)) => self.accept(&accepted, bytes),
                Err(refusal) => self.refuse(refusal),
            },
            At::Body(_) => match self.walk_body(bytes) {
                Ok(0) => Step::More,
                Ok(taken) => Step::Pass(taken),
                Err(refusal) => Step::Fault(refusal.into()),
            },
            At::Held(request) if *request > self.shared.resumed.load(Ordering::Acquire) => {
                Step::Hold
            }
            At::Held(_) => {
                self.at = At::Head(RequestHead::default());
                self.walk(bytes)
            }
            At::Refused => Step::Replace(REFUSED_REQUEST),
            At::Cut(refusal) => Step::Fault((*refusal).into()),
        }
    }

    fn is_held(&self, cx: &Context<'_>) -> bool {
        self.shared.waker.register(cx.waker());
        matches!(self.at, At::Held(request) if request > self.shared.resumed.load(Ordering::Acquire))
    }

    fn end(&self, unpassed: usize) -> io::Result<()> {
        match self.at {
            At::Body(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            At::Head(_) if unpassed > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            At::Head(_) | At::Held(_) | At::Refused | At::Cut(_) => Ok(()),
        }
    }

    fn note_write(&mut self) {}
}

impl RequestWalk {
    /// Lets the head pass, with what is there of the body.
    fn accept(&mut self, accepted: &AcceptedRequest, bytes: &[u8]) -> Step {
        let request = self.shared.accepted.fetch_add(1, Ordering::AcqRel) + 1;
        self.at = match accepted.body {
            _ if accepted.hold => At::Held(request),
            Framing::Unstated | Framing::Length(0) => At::Head(RequestHead::default()),
            Framing::Length(length) => At::Body(Body::Length(length)),
            Framing::Chunked => At::Body(Body::chunked()),
        };
        // A body that breaks its framing at once is cut at the next step, after the service has seen the head.
        let body = bytes.get(accepted.head_len..).unwrap_or_default();
        let taken = self.walk_body(body).unwrap_or(0);
        Step::Pass(accepted.head_len + taken)
    }

    fn walk_body(&mut self, bytes: &[u8]) -> Result<usize, BodyRefusal> {
        let At::Body(body) = &mut self.at else { return Ok(0) };
        match body.walk(bytes, &self.limits) {
            Ok(walked) => {
                if walked.ended {
                    self.at = At::Head(RequestHead::default());
                }
                Ok(walked.taken)
            }
            Err(refusal) => {
                self.at = At::Cut(refusal);
                self.shared.body_refusal.get_or_init(|| refusal);
                Err(refusal)
            }
        }
    }

    fn refuse(&mut self, refusal: HeadRefusal) -> Step {
        self.shared.head_refusal.get_or_init(|| refusal);
        self.at = At::Refused;
        Step::Replace(REFUSED_REQUEST)
    }
}

/// What hyper gets for a refused head. The name can never resolve, should a service forget to ask for the verdict.
const REFUSED_REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";
