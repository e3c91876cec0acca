//! Step 12: the audit event of one request, filled in along the path and written when the answer has ended, however it ended.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use http::{Request, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::substitute::OpenedAt;
use super::transparent::{self, Refused};
use super::{Client, Tunnel, Via};
use crate::audit::{Digest, Event, Kind, RequestId, bounded};
use crate::host::Destination;
use crate::policy::{Denial, DenyReason, RequestPermit, RuleName};
use crate::secret::SecretName;
use crate::session::{Sandbox, Session};

/// The event of one request. Emitted when it is dropped, by whoever holds it last.
#[derive(Debug)]
pub(super) struct Record {
    open: Option<Box<Open>>,
}

#[derive(Debug)]
struct Open {
    event: Event,
    began: Instant,
    client: Arc<Client>,
    /// Knows what must not be told of what the sandbox wrote.
    sandbox: Option<(Arc<Sandbox>, Arc<Session>)>,
    /// Whether the answer hides the values that the sandbox wrote.
    hides: bool,
    exchange: Arc<Exchange>,
}

/// What both directions of a request tell each other.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Body bytes towards the upstream.
    pub(super) out: AtomicU64,
    /// Body bytes towards the client.
    pub(super) back: AtomicU64,
    /// Real values hidden in the answer.
    pub(super) scrubbed: AtomicU64,
    /// The request body was sent to its end.
    pub(super) sent_whole: AtomicBool,
    /// The secrets that were opened behind the head of the request, each once for every place.
    pub(super) opened: Mutex<Vec<OpenedAt>>,
    /// Tokens of the request body that went on as they were.
    pub(super) tokens_in_body: AtomicU64,
    /// Misdirected tokens of the head that went on as they were.
    pub(super) tokens_forwarded: AtomicU64,
    /// Why the request body was cut, if the client or a rule cut it.
    pub(super) cut: OnceLock<Denial>,
}

impl Exchange {
    /// What a relay moved.
    pub(super) fn moved(&self, out: u64, back: u64) {
        self.out.store(out, Ordering::Relaxed);
        self.back.store(back, Ordering::Relaxed);
    }

    /// Notes the secrets that were opened behind the head.
    pub(super) fn opened(&self, secrets: Vec<SecretName>, place: &str) {
        let mut known = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets {
            let opened = OpenedAt { secret, place: place.to_owned() };
            if !known.contains(&opened) {
                known.push(opened);
            }
        }
    }

    /// Notes why the exchange is cut; the first reason stands.
    pub(super) fn cut(&self, denial: Denial) {
        if self.cut.set(denial).is_err() {
            tracing::debug!("an exchange was cut twice");
        }
    }
}

impl Record {
    /// A record of nothing, for an answer whose event is held by something else.
    pub(super) const fn none() -> Self {
        Self { open: None }
    }

    /// Begins the event of a request.
    pub(super) fn begin(via: &Via, request: &Request<Incoming>) -> Self {
        let mut event = Event::new(Kind::Request);
        event.client = Some(via.client.name.clone());
        request.method().as_str().clone_into(&mut event.method);
        request.uri().path().clone_into(&mut event.path);
        event.protocol = match request.version() {
            Version::HTTP_10 if via.protocol == "http/1.1" => "http/1.0",
            _ => via.protocol,
        };
        via.client.activity.began();
        let open = Open {
            event,
            began: Instant::now(),
            client: via.client.clone(),
            sandbox: None,
            hides: false,
            exchange: Arc::default(),
        };
        Self { open: Some(Box::new(open)) }
    }

    /// The event moves on; what stays behind records nothing.
    pub(super) fn take(&mut self) -> Self {
        Self { open: self.open.take() }
    }

    /// The sandbox and policy that were found.
    pub(super) fn session(&mut self, sandbox: &Arc<Sandbox>, session: &Arc<Session>) {
        if let Some(open) = &mut self.open {
            open.event.sandbox_id = Some(session.id().clone());
            open.event.policy_digest = Some(Digest(session.policy().digest()));
            open.sandbox = Some((sandbox.clone(), session.clone()));
        }
    }

    /// The destination that was read.
    pub(super) fn destination(&mut self, destination: &Destination) {
        self.edit(|event| {
            event.host = destination.host.shared();
            event.port = Some(destination.port.get());
        });
    }

    /// The rule that allowed.
    pub(super) fn rule(&mut self, rule: Option<&RuleName>) {
        self.edit(|event| event.rule(rule));
    }

    /// The permit that was given.
    pub(super) fn permit(&mut self, permit: &RequestPermit) {
        self.rule(permit.rule());
    }

    /// Secrets were opened.
    pub(super) fn opened(&mut self, opened: Vec<OpenedAt>) {
        self.edit(|event| add(event, opened));
    }

    /// A denial ended the request, and the answer will say so.
    ///
    /// What it hides of the values that the sandbox wrote confirms a guess. Where the reason does not say so anyway, that is counted here, and
    /// once so many were counted, nothing is compared any more.
    pub(super) fn denied(&mut self, denial: &Denial) {
        let Some(open) = &mut self.open else { return };
        open.event.deny(denial);
        let Some((sandbox, session)) = &open.sandbox else { return };
        open.hides =
            matches!(denial.reason, DenyReason::SecretExposed | DenyReason::SecretRequiresTls);
        if !open.hides && !sandbox.exposure().is_exhausted() {
            let told = [&*open.event.host, &*denial.detail, &*denial.hint];
            open.hides = told.iter().any(|text| session.holds_value(text));
            if open.hides {
                sandbox.exposure().count();
            }
        }
    }

    /// The head of the answer goes out with this status.
    pub(super) fn answered(&mut self, status: u16) {
        if let Some(open) = &mut self.open {
            open.event.status = Some(status);
            open.event.durations.head = micros(open.began);
        }
    }

    /// The head was refused: what hyper shows of it is not what the client sent.
    pub(super) fn unreadable(&mut self) {
        self.edit(|event| {
            event.method.clear();
            event.path.clear();
        });
    }

    /// The id that names the request to the client and in the audit.
    pub(super) fn id(&self) -> Option<RequestId> {
        self.open.as_ref().map(|open| open.event.request_id)
    }

    /// The sandbox, if it was recognised.
    pub(super) fn sandbox(&self) -> Option<&crate::secret::SandboxId> {
        self.open.as_ref().and_then(|open| open.event.sandbox_id.as_ref())
    }

    /// The canonical host, if one was read, as the sandbox may be told.
    pub(super) fn host(&self) -> Cow<'_, str> {
        self.told(self.open.as_ref().map_or("", |open| &*open.event.host))
    }

    /// A text that may hold what the sandbox wrote, as the sandbox may be told.
    pub(super) fn told<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(open) = &self.open else { return Cow::Borrowed(text) };
        match &open.sandbox {
            Some((_, session)) if open.hides => session.redacted(text),
            Some((_, session)) => session.without_tokens(text),
            None => Cow::Borrowed(text),
        }
    }

    /// The counters that both directions share.
    pub(super) fn exchange(&self) -> Arc<Exchange> {
        self.open.as_ref().map(|open| open.exchange.clone()).unwrap_or_default()
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Event)) {
        if let Some(open) = &mut self.open {
            edit(&mut open.event);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        open.event.bytes_out = open.exchange.out.load(Ordering::Relaxed);
        open.event.bytes_in = open.exchange.back.load(Ordering::Relaxed);
        open.event.scrubbed = open.exchange.scrubbed.load(Ordering::Relaxed);
        open.event.tokens_in_body = open.exchange.tokens_in_body.load(Ordering::Relaxed);
        open.event.tokens_forwarded = open.exchange.tokens_forwarded.load(Ordering::Relaxed);
        let opened = std::mem::take(
            &mut *open.exchange.opened.lock().unwrap_or_else(PoisonError::into_inner),
        );
        add(&mut open.event, opened);
        open.event.durations.total = micros(open.began);
        if let Some(denial) = open.exchange.cut.get() {
            let status = open.event.status;
            open.event.deny(denial);
            open.event.status = status;
        }
        let session = open.sandbox.as_ref().map(|(_, session)| &**session);
        tell_safely(&mut open.event, session);
        open.client.proxy.audit.emit(open.event);
        open.client.activity.ended();
    }
}

fn add(event: &mut Event, opened: Vec<OpenedAt>) {
    for OpenedAt { secret, place } in opened {
        if !event.secrets.contains(&secret) {
            event.secrets.push(secret);
        }
        event.locations.push(place);
    }
}

/// Hides tokens and values in what the sandbox wrote, and bounds it: in this order, or a value could be cut in two and its beginning stay.
fn tell_safely(event: &mut Event, session: Option<&Session>) {
    if let Some(Cow::Owned(clean)) = session.map(|session| session.redacted(&event.host)) {
        event.host = clean.into();
    }
    for text in [&mut event.method, &mut event.path] {
        if let Some(Cow::Owned(clean)) = session.map(|session| session.redacted(text)) {
            *text = clean;
        }
        if text.len() > Event::TEXT {
            *text = bounded(text);
        }
    }
    if let Some(Cow::Owned(clean)) = session.map(|session| session.redacted(&event.detail)) {
        event.detail = clean.into();
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Tunnel {
    /// Records that an opened tunnel was refused before its first request.
    pub(super) fn refused(&self, denial: &Denial) {
        let sandbox = Some(&*self.recognised.sandbox);
        refused(&self.client, sandbox, Some(&self.destination), self.protocol, denial);
    }
}

impl Client {
    /// Records that a connection was refused before anything was known of it but its address.
    pub(super) fn refused(&self, denial: &Denial) {
        refused(self, self.owner().map(|sandbox| &**sandbox), None, "", denial);
    }
}

impl Refused {
    /// Records it.
    pub(super) fn record(&self, client: &Client) {
        let Self { sandbox, destination, denial } = self;
        refused(client, sandbox.as_deref(), destination.as_ref(), transparent::PROTOCOL, denial);
    }
}

fn refused(
    client: &Client,
    sandbox: Option<&Sandbox>,
    destination: Option<&Destination>,
    protocol: &'static str,
    denial: &Denial,
) {
    let mut event = Event::new(Kind::Connection);
    event.client = Some(client.name.clone());
    event.sandbox_id = sandbox.map(|sandbox| sandbox.id().clone());
    if let Some(destination) = destination {
        event.host = destination.host.shared();
        event.port = Some(destination.port.get());
    }
    event.protocol = protocol;
    event.deny(denial);
    event.status = None;
    let session = sandbox.and_then(|sandbox| sandbox.session().ok());
    tell_safely(&mut event, session.as_deref());
    client.proxy.audit.emit(event);
}
