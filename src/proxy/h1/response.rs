//! The guard in front of hyper's client: responses of an upstream.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::Context,
};

use super::{
    HeadLimits,
    body::Body,
    grammar::Framing,
    guard::{Guard, Step, Walk},
    refusal::ResponseRefusal,
    response_head::{AcceptedResponse, ResponseHead},
};

/// Stands in front of hyper's HTTP/1 client connection.
///
/// Whatever breaks a rule ends in an error of kind `InvalidData` that holds a [`ResponseRefusal`], and the connection
/// is dead: this includes bytes that answer no request, and bytes that arrive before the request was written. A stream
/// that ends inside a head or a body whose length was stated ends in `UnexpectedEof`.
///
/// Chunk extensions are refused, as in requests: servers do not send them, and parsers disagree about them.
pub type ResponseGuard<S> = Guard<S, ResponseWalk>;

impl<S> ResponseGuard<S> {
    /// Guards `io`. The hyper connection above must allow heads of `limits` at least.
    pub fn new(io: S, limits: HeadLimits) -> (Self, ResponseExpectations) {
        let expectations = ResponseExpectations::default();
        let walk = ResponseWalk {
            limits: limits.within_hyper(),
            at: At::Head(ResponseHead::default()),
            interim: 0,
            wrote: false,
            shared: Arc::clone(&expectations.shared),
        };
        (Self::with_walk(io, walk), expectations)
    }
}

/// What a response may be, by the request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedResponse {
    /// Any request but the others.
    Normal,
    /// A HEAD request: no body follows, whatever the head says.
    Head,
    /// A request with `Upgrade`: `101` is allowed, and what follows it is not HTTP.
    Upgrade,
}

/// What the sender of requests tells the guard of a connection. Clones speak of the same connection.
#[derive(Debug, Default, Clone)]
pub struct ResponseExpectations {
    shared: Arc<Shared>,
}

impl ResponseExpectations {
    /// Announces a request; called before hyper gets it, in order. Interim responses need no announcement.
    pub fn push(&self, expected: ExpectedResponse) {
        self.shared.lock().push_back(expected);
    }

    /// Why the connection was refused, if it was. A pool asks before it uses a connection again.
    pub fn refusal(&self) -> Option<ResponseRefusal> {
        self.shared.refusal.get().copied()
    }
}

#[derive(Debug, Default)]
struct Shared {
    expected: Mutex<VecDeque<ExpectedResponse>>,
    refusal: OnceLock<ResponseRefusal>,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<ExpectedResponse>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The walk over the responses of one connection.
#[derive(Debug)]
pub struct ResponseWalk {
    limits: HeadLimits,
    at: At,
    /// Interim responses to the running request.
    interim: u32,
    /// Whether anything was written since the last response ended: an answer cannot come before its request.
    wrote: bool,
    shared: Arc<Shared>,
}

#[derive(Debug)]
enum At {
    Head(ResponseHead),
    Body(Body),
    /// After `101`: not HTTP.
    Switched,
    Refused(ResponseRefusal),
}

impl Walk for ResponseWalk {
    fn walk(&mut self, bytes: &[u8]) -> Step {
        if bytes.is_empty() && !matches!(self.at, At::Refused(_)) {
            return Step::More;
        }
        match &self.at {
            At::Head(_) => self.walk_head(bytes),
            At::Body(_) => match self.walk_body(bytes) {
                Ok(taken) => Step::Pass(taken),
                Err(refusal) => Step::Fault(refusal.into()),
            },
            At::Switched => Step::Pass(bytes.len()),
            At::Refused(refusal) => Step::Fault((*refusal).into()),
        }
    }

    fn is_held(&self, _: &Context<'_>) -> bool {
        false
    }

    fn end(&self, unpassed: usize) -> io::Result<()> {
        match &self.at {
            At::Head(_) if unpassed > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            At::Body(Body::Length(_) | Body::Chunked(_)) => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            At::Head(_) | At::Body(Body::UntilClose) | At::Switched | At::Refused(_) => Ok(()),
        }
    }

    fn note_write(&mut self) {
        self.wrote = true;
    }
}

impl ResponseWalk {
    fn walk_head(&mut self, bytes: &[u8]) -> Step {
        let expected = self.shared.lock().front().copied();
        let Some(expected) = expected.filter(|_| self.wrote) else {
            return self.refuse(ResponseRefusal::Unsolicited);
        };
        let At::Head(head) = &mut self.at else { return Step::More };
        match head.walk(bytes, &self.limits) {
            Ok(None) => Step::More,
            Ok(Some(accepted)) => self.accept(&accepted, expected, bytes),
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Lets the head pass, with what is there of the body.
    fn accept(
        &mut self,
        accepted: &AcceptedResponse,
        expected: ExpectedResponse,
        bytes: &[u8],
    ) -> Step {
        match accepted.status {
            101 if expected != ExpectedResponse::Upgrade => {
                return self.refuse(ResponseRefusal::UnexpectedSwitch);
            }
            101 => {
                self.shared.lock().pop_front();
                self.at = At::Switched;
                return Step::Pass(accepted.head_len);
            }
            100..=199 => return self.accept_interim(accepted),
            _ => {}
        }
        self.shared.lock().pop_front();
        let rest = bytes.get(accepted.head_len..).unwrap_or_default();
        self.at = match body_of(accepted, expected) {
            Some(body) => At::Body(body),
            None => self.after_response(rest),
        };
        // A body that breaks its framing at once is cut at the next step, after the head has passed.
        let taken =
            if matches!(self.at, At::Body(_)) { self.walk_body(rest).unwrap_or(0) } else { 0 };
        Step::Pass(accepted.head_len + taken)
    }

    fn accept_interim(&mut self, accepted: &AcceptedResponse) -> Step {
        self.interim += 1;
        if self.interim > MAX_INTERIM {
            return self.refuse(ResponseRefusal::TooManyInterim);
        }
        self.at = At::Head(ResponseHead::default());
        Step::Pass(accepted.head_len)
    }

    fn walk_body(&mut self, bytes: &[u8]) -> Result<usize, ResponseRefusal> {
        let At::Body(body) = &mut self.at else { return Ok(0) };
        match body.walk(bytes, &self.limits) {
            Ok(walked) => {
                if walked.ended {
                    self.at = self.after_response(bytes.get(walked.taken..).unwrap_or_default());
                }
                Ok(walked.taken)
            }
            Err(refusal) => {
                self.refuse(refusal.into());
                Err(refusal.into())
            }
        }
    }

    /// hyper does not pipeline: what came with the end of a response answers nothing, now or later.
    fn after_response(&mut self, surplus: &[u8]) -> At {
        self.interim = 0;
        self.wrote = false;
        if surplus.is_empty() {
            return At::Head(ResponseHead::default());
        }
        self.shared.refusal.get_or_init(|| ResponseRefusal::Unsolicited);
        At::Refused(ResponseRefusal::Unsolicited)
    }

    fn refuse(&mut self, refusal: ResponseRefusal) -> Step {
        self.shared.refusal.get_or_init(|| refusal);
        self.at = At::Refused(refusal);
        Step::Fault(refusal.into())
    }
}

/// RFC 9112 section 6.3; `None` when no byte of a body follows.
fn body_of(accepted: &AcceptedResponse, expected: ExpectedResponse) -> Option<Body> {
    if expected == ExpectedResponse::Head || matches!(accepted.status, 204 | 304) {
        return None;
    }
    match accepted.body {
        Framing::Length(0) => None,
        Framing::Length(length) => Some(Body::Length(length)),
        Framing::Chunked => Some(Body::chunked()),
        Framing::Unstated => Some(Body::UntilClose),
    }
}

/// Servers send one or two; a flood of them is not an answer.
const MAX_INTERIM: u32 = 32;
