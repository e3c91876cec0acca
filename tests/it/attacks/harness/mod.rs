//! One Tollgate in this process under the policy P0, an upstream that notes every byte, and what must hold after every case.
//!
//! [`Bed::ended`] checks that no value got out (to an upstream that it is not granted to, to the sandbox, to the audit), that there is exactly
//! one audit event per decision, and what [`checks`] does.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::unreachable,
    clippy::disallowed_methods,
    reason = "a test's support fails the test, dials as a sandbox and spawns as an upstream"
)]

mod checks;
mod client;
pub(super) mod hello;
mod upstream;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;
use tempfile::TempDir;
use tollgate::config::{Config, Overrides};
use tollgate::server::Server;
use tollgate::shutdown::Drained;

pub(super) use client::{Fields, H2End, fields};
pub(super) use upstream::{Authority, Upstream, self_signed};

/// The real values, by name; all are of letters and digits, so that escaping does not change them.
const VALUES: [(&str, &str, &str); 3] = [
    ("KEY_A", "api.allowed.test", "realvalueAAAA4f1c9d0b7e"),
    ("KEY_B", "b.allowed.test", "realvalueBBBB8a2e6c5d3f"),
    ("KEY_E", "echo.allowed.test", "realvalueEEEE0d9b1f7a6c"),
];

/// Names that lead to the upstream, allowed or not.
const NAMES: [&str; 12] = [
    "api.allowed.test",
    "b.allowed.test",
    "open.allowed.test",
    "echo.allowed.test",
    "internal.allowed.test",
    "a.wild.test",
    "a.b.wild.test",
    "secret.wild.test",
    "evil.test",
    "fass.test",
    "xn--fa-hia.test",
    "localhost",
];

/// What differs from P0.
#[derive(Default)]
pub(super) struct Setup {
    /// More entries of the allowlist.
    pub(super) allow: &'static [&'static str],
    /// The allowlist, in place of P0's.
    pub(super) only: Option<&'static str>,
    /// The store's denylist.
    pub(super) deny: &'static [&'static str],
    /// `denials: inside`.
    pub(super) inside: bool,
    /// The name server.
    pub(super) resolver: Option<std::net::SocketAddr>,
    /// `sb-one` and `sb-two` share the listener and tell themselves apart by credentials.
    pub(super) two: bool,
}

/// The running parts of one case.
pub(super) struct Bed {
    pub(super) server: Server,
    pub(super) upstream: Upstream,
    folder: TempDir,
    /// Everything that the sandbox was sent.
    received: Arc<Mutex<Vec<u8>>>,
    checks: checks::Checks,
}

impl Bed {
    pub(super) async fn p0() -> Self {
        Self::with(Setup::default()).await
    }

    pub(super) async fn with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let upstream = Upstream::start().await;
        std::fs::write(folder.path().join("policy.yaml"), policy(&setup)).unwrap();
        let checks = checks::Checks::start().await;
        let roots = [upstream.authority.pem(), checks.upstream.authority.pem()].concat();
        std::fs::write(folder.path().join("roots.pem"), roots).unwrap();
        let file = folder.path().join("tollgate.yaml");
        let text = configuration(&setup, &upstream) + &checks.configuration();
        std::fs::write(&file, text).unwrap();
        let sandbox = (!setup.two).then(|| "sb-one".to_owned());
        let overrides = Overrides { sandbox, ..Overrides::default() };
        let config = Config::load(Some(&file), &overrides)
            .unwrap_or_else(|errors| unreachable!("{errors:?}"));
        let server = Server::start(&config).await.unwrap();
        Self { server, upstream, folder, received: Arc::default(), checks }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The sealed token of a secret, of the first sandbox.
    pub(super) fn token(&self, name: &str) -> String {
        let session = self.session("sb-one");
        session.by_name(&name.parse().unwrap()).unwrap().token.as_str().to_owned()
    }

    pub(super) fn session(&self, id: &str) -> Arc<tollgate::session::Session> {
        self.server.proxy().registry.get(id).unwrap().session().unwrap()
    }

    /// The bytes of a case: `{{TOK_A}}` becomes the sealed token of KEY_A.
    pub(super) fn expand(&self, text: &[u8]) -> Vec<u8> {
        let mut bytes = text.to_vec();
        for name in ["A", "B", "E"] {
            let mark = format!("{{{{TOK_{name}}}}}");
            while let Some(at) = memchr::memmem::find(&bytes, mark.as_bytes()) {
                let token = self.token(&format!("KEY_{name}"));
                drop(bytes.splice(at..at + mark.len(), token.into_bytes()));
            }
        }
        bytes
    }

    /// Waits for as many events as there were decisions.
    pub(super) async fn events(&self, decisions: usize) -> Vec<Value> {
        for _ in 0..300 {
            let events = decisions_in(self.folder());
            if events.len() >= decisions {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let events = decisions_in(self.folder());
        assert!(events.len() >= decisions, "{decisions} decisions, {events:#?}");
        events
    }

    /// No upstream was connected to, so far.
    #[track_caller]
    pub(super) fn nothing_left(&self) {
        assert_eq!(self.upstream.connections(), [], "an upstream was connected to");
    }

    /// What must hold after every case; gives the audit events, one for each decision.
    pub(super) async fn ended(self, decisions: usize) -> Vec<Value> {
        drop(self.events(decisions).await);
        self.cut_everywhere().await;
        self.neighbour_is_served().await;
        let Self { server, upstream, folder, received, .. } = self;
        assert_eq!(server.shut_down().await, Drained::All, "a task stays");
        // The audit gathers for 20 ms; what came too much would be there then.
        tokio::time::sleep(Duration::from_millis(60)).await;
        let mut events = decisions_in(folder.path());
        events.retain(crate::support::cut::is_of_the_case);
        assert_eq!(events.len(), decisions, "one event per decision: {events:#?}");
        no_value_in(&std::fs::read(folder.path().join("audit.jsonl")).unwrap(), "the audit");
        no_value_in(&received.lock().unwrap(), "what the sandbox was sent");
        for connection in upstream.connections() {
            for (name, host, value) in VALUES {
                let granted = connection.sni.as_deref() == Some(host);
                let found = memchr::memmem::find(&connection.bytes, value.as_bytes()).is_some();
                assert!(granted || !found, "{name} went to {:?}", connection.sni);
            }
        }
        events
    }
}

/// The audit so far, without what is not a decision.
fn decisions_in(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("audit.jsonl")).unwrap_or_default();
    assert!(text.chars().all(|sign| sign == '\n' || !sign.is_control()), "a control character");
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let events = whole.map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] != "policy").collect()
}

/// Raw, hex, and base64 at each alignment in both alphabets; the values hold nothing that URLs or JSON escape.
fn no_value_in(bytes: &[u8], place: &str) {
    for (name, _, value) in VALUES {
        let mut forms =
            vec![value.to_owned(), value.bytes().map(|byte| format!("{byte:02x}")).collect()];
        for skip in 0..3 {
            let whole = value.get(skip..).unwrap_or_default();
            let whole = whole.get(..whole.len() / 3 * 3).unwrap_or_default();
            forms.extend([STANDARD_NO_PAD.encode(whole), URL_SAFE_NO_PAD.encode(whole)]);
        }
        for form in forms {
            assert!(memchr::memmem::find(bytes, form.as_bytes()).is_none(), "{name} in {place}");
        }
    }
}

fn policy(setup: &Setup) -> String {
    let mut allow = vec![r#""*.wild.test:443""#.to_owned()];
    allow.extend(NAMES.iter().take(5).map(|name| format!("{name}:443")));
    allow.extend(setup.allow.iter().map(|entry| format!("{entry:?}")));
    let allow = setup.only.map_or_else(|| allow.join(", "), str::to_owned);
    let mut text = format!("secretStores:\n  p0:\n    egressAllowlist: [{allow}]\n");
    if !setup.deny.is_empty() {
        text += &format!("    egressDenylist: {:?}\n", setup.deny);
    }
    if setup.only.is_none() {
        text += "    secrets:\n";
        for (name, host, value) in VALUES {
            let headers =
                if name == "KEY_A" { "authorization, x-api-key" } else { "authorization" };
            text += &format!(
                "      {name}: {{ from: {{ value: {value} }}, allowedHosts: [{host}], headers: [{headers}] }}\n"
            );
        }
    }
    text += &format!("  bare:\n    egressAllowlist: [{allow}]\n");
    text += checks::STORE;
    text += "sandboxes:\n  sb-one: { secretStores: [p0] }\n";
    text += checks::SANDBOX;
    if setup.two {
        text += "  sb-two: { secretStores: [bare] }\n";
    }
    text
}

fn configuration(setup: &Setup, upstream: &Upstream) -> String {
    let mut text = String::from(
        "policies: [policy.yaml]\nlisten: { explicit: ['127.0.0.1:0'] }\nca: { dir: certs }\naudit: { file: audit.jsonl }\n",
    );
    text += "egress: { allowPrivate: [127.0.0.0/8] }\n";
    text += "limits: { drainTimeout: 2s, connectTimeout: 3s, handshakeTimeout: 3s, headerTimeout: 5s }\n";
    if setup.inside {
        text += "denials: inside\n";
    }
    text += "upstream:\n  roots: [roots.pem]\n";
    let resolver = setup.resolver.unwrap_or_else(|| ([127, 0, 0, 1], 9).into());
    text += &format!("  resolver: ['{resolver}']\n  connectTo:\n");
    for name in NAMES {
        for port in [80, 443, 8443] {
            text += &format!("    '{name}:{port}': '{}'\n", upstream.address);
        }
    }
    text
}
