//! A real Tollgate in this process, on a free port, with everything that it says captured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::config::{Config, Overrides};
use tollgate::host::{Host, HostPattern, Port};
use tollgate::policies::LoadError;
use tollgate::policy::{OperatorRules, PolicySet};
use tollgate::secret::SourceSpec;
use tollgate::server::Server;

use super::recorded::Copy;
use super::upstream::Upstream;
use super::{DnsStub, Sandbox, authority, eventually, watch};

/// A running Tollgate. A test ends with [`Tollgate::finish`]; one that forgets fails.
pub(crate) struct Tollgate {
    server: Option<Server>,
    folder: tempfile::TempDir,
    upstreams: Vec<UpstreamView>,
    values: Values,
    watched: Mutex<Vec<Watched>>,
    seen: Copy,
    log_start: usize,
    expected_errors: Vec<String>,
    dns: DnsStub,
}

type UpstreamView = Box<dyn Fn() -> (u16, Vec<(Option<String>, Vec<u8>)>) + Send>;

/// A real value and where it may go.
struct Watched {
    value: Vec<u8>,
    hosts: Vec<HostPattern>,
}

/// Real values by the name that stands for them in policies.
#[derive(Default)]
struct Values(Mutex<BTreeMap<String, String>>);

impl Values {
    fn of(&self, name: &str) -> String {
        self.0.lock().unwrap().entry(name.to_owned()).or_insert_with(|| fresh_value(name)).clone()
    }

    /// Replaces every `$NAME`.
    fn fill(&self, policy: &str) -> String {
        let mut parts = policy.split('$');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end =
                part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
            text.push_str(&self.of(&part[..end]));
            text.push_str(&part[end..]);
        }
        text
    }
}

/// A value that no other test has.
pub(crate) fn fresh_value(name: &str) -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    let random: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("real-{}-{random}", name.to_ascii_lowercase())
}

/// A Tollgate that is described and not yet started.
pub(crate) struct Builder<'u> {
    policy: String,
    upstreams: Vec<&'u Upstream>,
    config: Value,
    sidecar: Option<String>,
    files: Vec<(String, String)>,
}

impl Tollgate {
    /// With this policy and these upstreams. A policy with one sandbox makes a sidecar; with several, sandboxes show credentials.
    pub(crate) async fn with(policy: &str, upstreams: &[&Upstream]) -> Self {
        Self::describe(policy, upstreams).start().await
    }

    /// To change more than the policy before it starts.
    pub(crate) fn describe<'u>(policy: &str, upstreams: &[&'u Upstream]) -> Builder<'u> {
        Builder {
            policy: policy.to_owned(),
            upstreams: upstreams.to_vec(),
            config: json!({}),
            sidecar: None,
            files: Vec::new(),
        }
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// The temporary folder with configuration, policies and authority.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder().join("tollgate.yaml")
    }

    /// Tollgate's resolver: it knows no name until the test adds one.
    pub(crate) fn dns(&self) -> &DnsStub {
        &self.dns
    }

    /// The real value that stands for `$name` in policies.
    pub(crate) fn value(&self, name: &str) -> String {
        self.values.of(name)
    }

    /// Watches a value that is not written in the policy, and may go to these hosts only.
    pub(crate) fn watch(&self, value: &str, hosts: &[&str]) {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        self.watched.lock().unwrap().push(Watched { value: value.into(), hosts });
    }

    /// An ERROR line with this text is what the test is about.
    pub(crate) fn expect_error(&mut self, text: &str) {
        self.expected_errors.push(text.to_owned());
    }

    /// The client's side of a sandbox.
    pub(crate) fn sandbox(&self, id: &str) -> Sandbox {
        self.sandbox_of(self.server(), id)
    }

    /// The client's side of a sandbox of another server with the same files.
    pub(crate) fn sandbox_of(&self, server: &Server, id: &str) -> Sandbox {
        Sandbox::new(server, id, &self.folder().join("authority/ca.pem"), self.seen.clone())
    }

    /// Writes another policy and puts it into force.
    pub(crate) fn reload(&self, policy: &str) -> Result<(), LoadError> {
        std::fs::write(self.policy_file(), self.values.fill(policy)).unwrap();
        self.watch_policies();
        self.server().reload()
    }

    pub(crate) fn policy_file(&self) -> PathBuf {
        self.folder().join("policies/policy.yaml")
    }

    /// Audit events of requests and connections, once there are this many.
    pub(crate) async fn events(&self, at_least: usize) -> Vec<Value> {
        let file = self.folder().join("audit.jsonl");
        eventually(&format!("{at_least} audit events"), || {
            let events = read_events(&file);
            (events.len() >= at_least).then_some(events)
        })
        .await
    }

    /// The only audit event.
    pub(crate) async fn event(&self) -> Value {
        let mut events = self.events(1).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        events = self.events(events.len()).await;
        assert_eq!(events.len(), 1, "{events:#?}");
        events.remove(0)
    }

    /// What was logged since it started.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&watch::log_since(self.log_start)).into_owned()
    }

    /// Bytes that reached the sandbox, for clients that are not [`Sandbox`].
    pub(crate) fn sandbox_saw(&self, bytes: &[u8]) {
        self.seen.add(bytes);
    }

    /// Stops it, and asserts what must hold after every test. Returns the audit's events.
    pub(crate) async fn finish(mut self) -> Vec<Value> {
        self.watch_policies();
        let server = self.server.take().unwrap();
        server.shut_down().await;
        // The audit gathers for 20 ms before it writes.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.assert_audit_is_clean();
        self.assert_values_stayed_where_they_may_be();
        let log = watch::log_since(self.log_start);
        let expected = |line: &String| self.expected_errors.iter().any(|text| line.contains(text));
        let errors: Vec<_> =
            watch::errors_in(&log).into_iter().filter(|line| !expected(line)).collect();
        assert!(errors.is_empty(), "logged as ERROR: {errors:#?}");
        assert!(watch::panics().is_empty(), "panicked: {:#?}", watch::panics());
        read_events(&self.folder().join("audit.jsonl"))
    }

    fn assert_audit_is_clean(&self) {
        let bytes = std::fs::read(self.folder().join("audit.jsonl")).unwrap();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let text = String::from_utf8_lossy(line);
            assert!(serde_json::from_slice::<Value>(line).is_ok(), "no JSON in the audit: {text}");
            assert!(
                !line.iter().any(|byte| byte.is_ascii_control()),
                "a control byte in the audit: {text:?}"
            );
        }
    }

    fn assert_values_stayed_where_they_may_be(&self) {
        let audit = std::fs::read(self.folder().join("audit.jsonl")).unwrap();
        let (log, seen) = (watch::log_since(self.log_start), self.seen.bytes());
        for Watched { value, hosts } in self.watched.lock().unwrap().iter() {
            let name = String::from_utf8_lossy(value);
            for (where_, bytes) in
                [("the log", &log), ("the audit", &audit), ("what the sandbox received", &seen)]
            {
                if let Some(found) = watch::found_in(bytes, value) {
                    panic!("{name} is in {where_} as {found}");
                }
            }
            for view in &self.upstreams {
                let (port, connections) = view();
                for (sni, bytes) in connections {
                    let granted = sni.as_deref().is_some_and(|sni| {
                        let host = Host::parse(sni).unwrap();
                        let port = Port::parse(&port.to_string()).unwrap();
                        hosts.iter().any(|pattern| pattern.matches(&host, port))
                    });
                    if !granted && let Some(found) = watch::found_in(&bytes, value) {
                        panic!("{name} reached {sni:?} as {found}");
                    }
                }
            }
        }
    }

    /// Literal values of the policies, with the hosts that their secrets are bound to.
    fn watch_policies(&self) {
        let Some(set) = PolicySet::load(&[self.folder().join("policies")]).set else { return };
        let mut found: Vec<Watched> = Vec::new();
        for (_, entry) in set.sandboxes() {
            let Ok(policy) = set.effective(&entry.layers, &OperatorRules::default()) else {
                continue;
            };
            for secret in policy.secrets() {
                if let Some(SourceSpec::Value(value)) =
                    set.secret(&secret.store, &secret.name).map(|def| &def.source)
                {
                    found.push(Watched {
                        value: value.expose().to_vec(),
                        hosts: secret.hosts.clone(),
                    });
                }
            }
        }
        // Values that lost to a later layer's may go nowhere.
        for store in set.stores() {
            for def in store.secrets.values() {
                if let SourceSpec::Value(value) = &def.source {
                    found.push(Watched { value: value.expose().to_vec(), hosts: Vec::new() });
                }
            }
        }
        let mut watched = self.watched.lock().unwrap();
        for new in found {
            match watched.iter_mut().find(|known| known.value == new.value) {
                Some(known) => known.hosts.extend(new.hosts),
                None => watched.push(new),
            }
        }
    }
}

impl Drop for Tollgate {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            panic!("a test ends with `tollgate.finish().await`");
        }
    }
}

impl Builder<'_> {
    /// Keys of `tollgate.yaml` that differ from the tests' own; objects are merged.
    pub(crate) fn config(mut self, config: Value) -> Self {
        merge(&mut self.config, config);
        self
    }

    /// All that reaches the listener is this sandbox, although the policy has several.
    pub(crate) fn sidecar(mut self, id: &str) -> Self {
        self.sidecar = Some(id.to_owned());
        self
    }

    /// A file beside the policy, such as a secret's.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    pub(crate) async fn start(self) -> Tollgate {
        let log_start = watch::start();
        let folder = tempfile::tempdir().unwrap();
        let dns = DnsStub::start().await;
        let values = Values::default();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        for (name, text) in &self.files {
            std::fs::write(policies.join(name), text).unwrap();
        }
        std::fs::write(policies.join("policy.yaml"), values.fill(&self.policy)).unwrap();
        std::fs::write(folder.path().join("upstreams.pem"), authority::pem()).unwrap();
        let mut config = self.base_config(folder.path(), &dns);
        merge(&mut config, self.config.clone());
        let file = folder.path().join("tollgate.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let overrides = Overrides { sandbox: self.only_sandbox(&policies), ..Overrides::default() };
        let config =
            Config::load(Some(&file), &overrides).unwrap_or_else(|errors| panic!("{errors:?}"));
        let server = Server::start(&config).await.unwrap();
        let upstreams = self.upstreams.iter().map(|upstream| {
            upstream.tollgate_started(&config.ca_dir);
            upstream.view()
        });
        let tollgate = Tollgate {
            upstreams: upstreams.collect(),
            server: Some(server),
            folder,
            values,
            watched: Mutex::default(),
            seen: Copy::default(),
            log_start,
            expected_errors: Vec::new(),
            dns,
        };
        tollgate.watch_policies();
        tollgate
    }

    fn base_config(&self, folder: &Path, dns: &DnsStub) -> Value {
        let mut connect_to = serde_json::Map::new();
        for upstream in &self.upstreams {
            for name in upstream.names() {
                connect_to.insert(
                    format!("{name}:{}", upstream.port()),
                    upstream.address().to_string().into(),
                );
            }
        }
        json!({
            "policies": ["policies"],
            "listen": { "explicit": ["127.0.0.1:0"] },
            "ca": { "dir": folder.join("authority") },
            "egress": { "allowPrivate": ["127.0.0.0/8"] },
            "upstream": {
                "roots": ["upstreams.pem"],
                "connectTo": connect_to,
                "resolver": [dns.address().to_string()],
            },
            "audit": { "file": "audit.jsonl" },
            "limits": { "drainTimeout": "300ms" },
        })
    }

    fn only_sandbox(&self, policies: &Path) -> Option<String> {
        if self.sidecar.is_some() {
            return self.sidecar.clone();
        }
        let loaded = PolicySet::load(&[policies.to_owned()]);
        let set =
            loaded.set.unwrap_or_else(|| panic!("the test's policy: {:#?}", loaded.diagnostics));
        let mut sandboxes =
            set.sandboxes().map(|(id, entry)| (id.to_string(), entry.sources.is_empty()));
        match (sandboxes.next(), sandboxes.next()) {
            (Some((id, true)), None) => Some(id),
            _ => None,
        }
    }
}

impl Upstream {
    fn view(&self) -> UpstreamView {
        let shared = self.share();
        Box::new(move || (shared.port(), shared.by_sni()))
    }
}

/// Puts the keys of one JSON object into another, at every level.
pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn read_events(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let events = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] != "policy").collect()
}
