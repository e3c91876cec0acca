//! Step 12: one typed event per request, refused connection or credential event, as one JSON line.
//!
//! Apart from the logs: no filter drops it. Events are gathered and written by one thread; when its queue is full, requests wait rather than
//! go unrecorded. What a sandbox wrote stands in a quoted, bounded value.

mod denials;
mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde::Serialize;

use crate::policy::{Denial, DenyReason, PolicyDigest, RuleName};
use crate::secret::{SandboxId, SecretName};

pub use denials::{Denials, Refused};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A request, allowed or denied.
    Request,
    /// A connection that was refused before any request.
    Connection,
    /// A DNS question that was refused, or that names what the policy does not open.
    Dns,
    /// An attempt to use a credential where it is not bound: worth waking somebody.
    Alert,
    /// Policies were loaded, or refused.
    Policy,
}

/// Allowed or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The decision allowed it.
    Allow,
    /// The decision, or a later step, refused it.
    Deny,
}

impl Kind {
    /// As it is written.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Connection => "connection",
            Self::Dns => "dns",
            Self::Alert => "alert",
            Self::Policy => "policy",
        }
    }
}

impl Outcome {
    /// As it is written.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// One line of the audit. Fields hold what the sandbox sent before substitution.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Tollgate audit event")]
pub struct Event {
    /// When it began, RFC 3339 in UTC with microseconds.
    #[schemars(extend("format" = "date-time"))]
    #[serde(serialize_with = "microseconds")]
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// What the event is about.
    pub event: Kind,
    /// The sandbox, if it was recognised.
    #[serde(rename = "sandboxID", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub sandbox_id: Option<SandboxId>,
    /// Identifies the request; also in the answer's problem document.
    #[serde(rename = "requestID")]
    #[schemars(with = "String")]
    pub request_id: RequestId,
    /// The address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Arc<str>>,
    /// The canonical host, or what was sent in its place, bounded.
    #[serde(skip_serializing_if = "str::is_empty")]
    #[schemars(with = "String")]
    pub host: Arc<str>,
    /// The port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The method; of a DNS question its type, such as `A`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The path as sent, without the query, bounded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// How the client speaks: `http/1.0`, `http/1.1` or `h2`, with `+tls` inside TLS; `dns/udp` or `dns/tcp`. Before its first request: `connect`
    /// in a tunnel, `transparent` on a redirected connection, and left out where nothing is known yet.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub protocol: &'static str,
    /// Allowed or denied.
    pub verdict: Outcome,
    /// Why it was denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "reasons")]
    pub reason: Option<DenyReason>,
    /// The sentence of the denial.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub detail: Box<str>,
    /// What a DNS question was answered with: `sink`, `nodata`, `refused`, `malformed`, or `dropped`.
    #[serde(skip_serializing_if = "str::is_empty")]
    #[schemars(with = "String")]
    pub answer: &'static str,
    /// How many more DNS questions of this sandbox were denied within the minute, each counted and not written.
    #[serde(skip_serializing_if = "is_zero")]
    pub others: u64,
    /// The address that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
    /// The layer of that rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<Arc<str>>,
    /// The policy that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub policy_digest: Option<Digest>,
    /// The names of the secrets that were opened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub secrets: Vec<SecretName>,
    /// The places in which they were opened, such as `header:authorization`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    /// How many tokens of the request's body went on sealed, since they are not bound to it.
    #[serde(skip_serializing_if = "is_zero")]
    pub tokens_in_body: u64,
    /// How many misdirected tokens of the head went on sealed, since their store says `misdirected: forward`.
    #[serde(skip_serializing_if = "is_zero")]
    pub tokens_forwarded: u64,
    /// How many real values were hidden in the answer.
    #[serde(skip_serializing_if = "is_zero")]
    pub scrubbed: u64,
    /// The status that the client was answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Body bytes towards the upstream.
    pub bytes_out: u64,
    /// Body bytes towards the client.
    pub bytes_in: u64,
    /// Microseconds until the answer's head, and until its end.
    pub durations: Durations,
}

/// How long a request took, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Durations {
    /// Until the answer's head.
    pub head: u64,
    /// Until the last byte.
    pub total: u64,
}

/// A policy digest as text.
#[derive(Clone, Copy, Debug)]
pub struct Digest(pub PolicyDigest);

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The JSON Schema of one audit line.
#[must_use]
pub fn schema() -> serde_json::Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    generator.into_root_schema_for::<Event>().into()
}

fn reasons(_generator: &mut SchemaGenerator) -> schemars::Schema {
    let names: Vec<_> = DenyReason::ALL.iter().map(|reason| reason.as_str()).collect();
    json_schema!({ "type": "string", "enum": names })
}

fn microseconds<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Event {
    /// The longest text of a sandbox's that an event keeps, in bytes.
    pub const TEXT: usize = 1024;

    /// An allowed event at this moment, to be filled in.
    #[must_use]
    pub fn new(event: Kind) -> Self {
        Self {
            time: Timestamp::now(),
            event,
            sandbox_id: None,
            request_id: RequestId::random(),
            client: None,
            host: Arc::default(),
            port: None,
            method: String::new(),
            path: String::new(),
            protocol: "",
            verdict: Outcome::Allow,
            reason: None,
            detail: Box::default(),
            answer: "",
            others: 0,
            address: None,
            rule: None,
            layer: None,
            policy_digest: None,
            secrets: Vec::new(),
            locations: Vec::new(),
            tokens_in_body: 0,
            tokens_forwarded: 0,
            scrubbed: 0,
            status: None,
            bytes_out: 0,
            bytes_in: 0,
            durations: Durations::default(),
        }
    }

    /// Records a denial: reason, sentence, rule and layer; misuse of a credential makes the event an alert.
    pub fn deny(&mut self, denial: &Denial) {
        self.verdict = Outcome::Deny;
        self.reason = Some(denial.reason);
        self.detail.clone_from(&denial.detail);
        self.status = Some(denial.status());
        self.address = denial.address;
        self.rule(denial.rule.as_ref());
        if matches!(denial.reason, DenyReason::SecretMisdirected | DenyReason::SecretExposed) {
            self.event = Kind::Alert;
        }
    }

    /// Records the rule that decided, and its layer.
    pub fn rule(&mut self, rule: Option<&RuleName>) {
        self.rule = rule.map(RuleName::shared_text);
        self.layer = rule.map(RuleName::shared_layer);
    }

    /// About what the event takes while it waits, in bytes.
    fn weight(&self) -> usize {
        let places = self.locations.iter().map(String::len).sum::<usize>();
        size_of::<Self>() + self.method.len() + self.path.len() + self.detail.len() + places
    }
}

/// Cuts a sandbox's text to [`Event::TEXT`] bytes at a character boundary.
#[must_use]
pub fn bounded(text: &str) -> String {
    let end = (0..=Event::TEXT.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

/// 128 random bits that name a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId(u128);

impl RequestId {
    /// A fresh id: a random start per thread, then counted on, so that it costs no system call.
    #[must_use]
    pub fn random() -> Self {
        thread_local! {
            static NEXT: std::cell::Cell<u128> = const { std::cell::Cell::new(0) };
        }
        NEXT.with(|next| {
            let id = if next.get() == 0 {
                seed()
            } else {
                next.get().wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            };
            next.set(id);
            Self(id)
        })
    }
}

fn seed() -> u128 {
    let mut bytes = [0; 16];
    // Without randomness ids still differ within the process; nothing secret hangs on them.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes = [7; 16];
    }
    u128::from_ne_bytes(bytes)
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where events go. Cheap to clone; the last clone that is dropped writes what is left.
#[derive(Clone, Debug)]
pub struct Audit {
    observers: Arc<[Arc<dyn Observe>]>,
    shared: Arc<Shared>,
    _writer: Arc<Writer>,
}

/// Sees every event, at the moment at which it is recorded. It runs on the request's own task: it neither waits nor does I/O.
pub trait Observe: Send + Sync + std::fmt::Debug {
    /// Takes what it wants of the event.
    fn observe(&self, event: &Event);
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    room: tokio::sync::Notify,
    bound: usize,
    /// Lines that could not be written.
    lost: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    events: Vec<Event>,
    /// What they weigh together, in bytes.
    weight: usize,
    closed: bool,
}

#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Appends to a file, made with mode 0600; `-` is stdout. `bound` is the number of bytes that may wait to be written.
    pub fn open(path: &Path, bound: usize) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::to_writer(io::stdout(), bound);
        }
        Self::to_writer(append_private(path)?, bound)
    }

    /// Writes to anything.
    pub fn to_writer(out: impl Write + Send + 'static, bound: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            room: tokio::sync::Notify::new(),
            bound,
            lost: Counter::default(),
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || write_all(&of_thread, out))?;
        let writer = Arc::new(Writer { shared: shared.clone(), thread: Mutex::new(Some(thread)) });
        Ok(Self { observers: Arc::default(), shared, _writer: writer })
    }

    /// Counts the lines that could not be written, for instance to a full disk: the proxy goes on, and tells.
    #[must_use]
    pub fn lost(&self) -> Counter {
        self.shared.lost.clone()
    }

    /// The same, seen by these too.
    #[must_use]
    pub fn observed_by(mut self, observers: Vec<Arc<dyn Observe>>) -> Self {
        self.observers = observers.into();
        self
    }

    /// The only way to record an event.
    pub fn emit(&self, event: Event) {
        for observer in &*self.observers {
            observer.observe(&event);
        }
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = queue.events.is_empty();
        queue.weight += event.weight();
        queue.events.push(event);
        drop(queue);
        if was_empty {
            self.shared.wake.notify_one();
        }
    }

    /// Waits until there is room for another event. Called before a request is served.
    pub async fn admit(&self) {
        loop {
            let room = self.shared.room.notified();
            if self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).weight
                < self.shared.bound
            {
                return;
            }
            room.await;
        }
    }
}

/// Gathers for a moment, then writes once: a busy proxy wakes this thread fifty times a second, not once per request. The lines are made
/// here, many in a row, which costs half of what it costs between two requests.
fn write_all(shared: &Shared, mut out: impl Write) {
    const GATHER: std::time::Duration = std::time::Duration::from_millis(20);
    let mut events = Vec::new();
    let mut lines = Vec::new();
    loop {
        let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.events.is_empty() && !queue.closed {
            queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if !queue.closed {
            drop(queue);
            std::thread::sleep(GATHER);
            queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let closed = queue.closed;
        std::mem::swap(&mut queue.events, &mut events);
        queue.weight = 0;
        drop(queue);
        let made = events.len();
        events.drain(..).for_each(|event| line::append(&event, &mut lines));
        if let Err(error) = out.write_all(&lines).and_then(|()| out.flush()) {
            shared.lost.inc_by(made as u64);
            tracing::error!(%error, lines = made, "the audit cannot be written");
        }
        lines.clear();
        shared.room.notify_waiters();
        if closed {
            return;
        }
    }
}

fn append_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the audit's writer ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// Every field set, and every field left out that may be.
    pub(super) fn events() -> [Event; 2] {
        let mut full = Event::new(Kind::Request);
        full.sandbox_id = Some("sb-1".parse().unwrap());
        full.client = Some("127.0.0.1:9".into());
        full.host = "api.example.com".into();
        full.port = Some(443);
        full.method = "GET".to_owned();
        full.path = "/".to_owned();
        full.protocol = "h2+tls";
        full.deny(
            &Denial::new(DenyReason::SecretMisdirected, "no", "no").by(RuleName::operator("*")),
        );
        full.secrets = vec!["KEY".parse().unwrap()];
        full.locations = vec!["header:x-api-key".to_owned()];
        full.answer = "refused";
        full.others = 1;
        full.address = Some([10, 0, 0, 1].into());
        full.scrubbed = 1;
        full.tokens_in_body = 1;
        full.tokens_forwarded = 1;
        [full, Event::new(Kind::Policy)]
    }

    #[test]
    fn the_schema_names_exactly_the_fields_that_events_have() {
        let schema = schema();
        let properties = schema["properties"].as_object().unwrap();
        let required: BTreeSet<_> = schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        let [full, bare] = events().map(|event| serde_json::to_value(event).unwrap());
        let names =
            |event: &Value| event.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let known: BTreeSet<_> = properties.keys().cloned().collect();
        let optional = BTreeSet::from(["policyDigest".to_owned()]);
        assert_eq!(&known - &names(&full), optional, "{schema:#}");
        assert_eq!(
            names(&bare),
            required.iter().map(|&name| name.to_owned()).collect(),
            "{schema:#}"
        );
        assert!(properties.values().all(|field| field.get("description").is_some()), "{schema:#}");
    }

    #[test]
    fn observers_see_what_is_written() {
        let denials = Arc::new(Denials::default());
        let audit = Audit::to_writer(io::sink(), 1024).unwrap().observed_by(vec![denials.clone()]);
        let mut event = Event::new(Kind::Request);
        event.deny(&Denial::new(DenyReason::HostNotAllowed, "no", "no"));
        audit.emit(event);
        audit.emit(Event::new(Kind::Request));
        assert_eq!(denials.seen().0.len(), 1);
    }
}
